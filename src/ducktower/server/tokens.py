"""Session tokens: signed, so that one can be handed out before its session exists, and none can be made up.

    ducktower.<base64 of "id issued grant name">.<base64 of the signature>

A session's token is worth no more than what its client logged in with: it names that grant, and is refused with it.

Owns the key, which lives as long as the server, and what the tokens seen lately say. Must never decide whether a
session is over.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass

__all__ = ["Token", "Tokens"]

_PREFIX = "ducktower."
_ID_BYTES = 18
_SIGNATURE_BYTES = 16
_READ_MAX = 4_096
"""Tokens whose content is remembered: a client shows the same one with each of its calls."""


@dataclass(frozen=True, slots=True)
class Token:
    """What a token says."""

    session_id: str
    issued: float
    grant_id: str
    """Empty where nobody is asked."""
    name: str


class Tokens:
    """Issues and reads the tokens of one server; safe from any thread."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._read: dict[str, Token] = {}  # only tokens of ours; changed by one dict operation at a time

    @staticmethod
    def ours(text: str) -> bool:
        """Whether a bearer token is one of a Ducktower server, this one or another."""
        return text.startswith(_PREFIX)

    def issue(self, grant_id: str, name: str) -> tuple[Token, str]:
        """Return a token for a new session of whoever has that grant, or of a name that nobody is asked for."""
        token = Token(secrets.token_urlsafe(_ID_BYTES), int(time.time()), grant_id, name)
        body = f"{token.session_id} {token.issued} {grant_id} {name}".encode(errors="replace")
        return token, f"{_PREFIX}{_encoded(body)}.{_encoded(self._signature(body))}"

    def read(self, text: str) -> Token | None:
        """Return what a token of this server says; None for any other text."""
        token = self._read.get(text)
        if token is None:
            token = self._verified(text)
            if token is not None:
                if len(self._read) >= _READ_MAX:
                    self._read.clear()
                self._read[text] = token
        return token

    def _verified(self, text: str) -> Token | None:
        try:
            _, body, signature = text.split(".")
            decoded = _decoded(body)
            if not hmac.compare_digest(_decoded(signature), self._signature(decoded)):
                return None
        except (ValueError, binascii.Error):
            return None
        session_id, issued, grant_id, name = decoded.decode().split(" ", 3)
        return Token(session_id, float(issued), grant_id, name)

    def _signature(self, body: bytes) -> bytes:
        # Keyed BLAKE2 is a signature by itself, and takes a tenth of an HMAC's time: each first call gets a token.
        return hashlib.blake2b(body, key=self._key, digest_size=_SIGNATURE_BYTES).digest()


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4))
