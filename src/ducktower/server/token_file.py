"""The token file: who may call, in which role, until when. Only hashes of the secrets are in it.

    {"version": 1, "tokens": [{"id", "name", "role", "tables", "created", "expires", "hash"}, ...]}

A token is `dtk_<id>_<secret>`. Its secret is 256 random bits, which nobody finds by trying, however fast the hash: so
a plain BLAKE2 of it is kept, and no slow password hash, whose time each new connection would pay.

Owns the file's form, and that a change replaces it as a whole: a reader sees the old file or the new one. Must never
keep a secret, nor know who is connected.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

from ..engine import Principal, Role
from ..errors import InvalidArgument

__all__ = ["Grant", "TokenFile", "TokenParts", "parts_of"]

_VERSION = 1
_MODE = 0o600
_PREFIX = "dtk"
_ID_BYTES = 5
_SECRET_BYTES = 32
_FILE_BYTES_MAX = 16 * 1024 * 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_ROLES: tuple[str, ...] = get_args(Role)


class TokenParts(NamedTuple):
    """What a token's text says: which grant it claims, and the proof."""

    id: str
    secret: str


@dataclass(frozen=True, slots=True)
class Grant:
    """One token as the file knows it."""

    id: str
    name: str
    role: Role
    tables: tuple[str, ...]
    created: float
    """In seconds since 1970."""
    expires: float | None
    hash: str

    @property
    def principal(self) -> Principal:
        """Return who holds the token."""
        return Principal(self.name, self.role, self.tables)

    def expired(self, now: float) -> bool:
        """Whether its time is over."""
        return self.expires is not None and self.expires <= now

    def matches(self, secret: str) -> bool:
        """Whether a secret is this token's, in a time that tells nothing of it."""
        return hmac.compare_digest(_hash(secret), self.hash)


class TokenFile:
    """The file at `path`, which may be missing. Several processes may change it at once."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def exists(self) -> bool:
        """Whether there is a file: then callers are asked who they are, also when it holds no token."""
        return self.path.exists()

    def look(self) -> tuple[int, ...] | None:
        """Return what changes with the file's content, at the cost of one `stat`; None while there is none."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode

    def read(self) -> list[Grant]:
        """Return the tokens, none when there is no file.

        Raises InvalidArgument for a file of another form, or one that other users may write.
        """
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                    raise InvalidArgument(f'token file "{self.path}" may be written by other users; chmod 600 it')
                raw = file.read(_FILE_BYTES_MAX + 1)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InvalidArgument(f'token file "{self.path}" cannot be read: {error.strerror}') from error
        try:
            return _grants(raw)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InvalidArgument(f'token file "{self.path}" is no token file of Ducktower') from error

    def create(
        self,
        name: str,
        role: str,
        tables: tuple[str, ...] = (),
        expires: float | None = None,
        *,
        replace: bool = False,
    ) -> tuple[Grant, str]:
        """Add a token and return it with its text, which is told here and nowhere again.

        Raises InvalidArgument when `name` has a token that is not over, unless it is to be replaced.
        """
        if not _NAME.fullmatch(name):
            raise InvalidArgument(f'name "{name}" is not 1 to 64 letters, digits and ._@+-, of which the first is none')
        if role not in _ROLES:
            raise InvalidArgument(f'role "{role}" is none of {", ".join(_ROLES)}')
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        grant_id = secrets.token_hex(_ID_BYTES)
        grant = Grant(grant_id, name, role, tuple(tables), time.time(), expires, _hash(secret))  # type: ignore[arg-type]  # it is one of them

        def add(grants: list[Grant]) -> list[Grant]:
            if not replace and any(one.name == name and not one.expired(grant.created) for one in grants):
                raise InvalidArgument(f'"{name}" has a token already; revoke it or replace it')
            return [*(one for one in grants if one.name != name), grant]

        self._change(add)
        return grant, f"{_PREFIX}_{grant_id}_{secret}"

    def revoke(self, name: str) -> None:
        """Take the token of `name` away. Raises InvalidArgument when there is none."""

        def take(grants: list[Grant]) -> list[Grant]:
            left = [one for one in grants if one.name != name]
            if len(left) == len(grants):
                raise InvalidArgument(f'"{name}" has no token')
            return left

        self._change(take)

    def _change(self, change: Callable[[list[Grant]], list[Grant]]) -> None:
        with self._locked():
            grants = change(self.read())
            tokens = [asdict(one) for one in grants]
            _replace(self.path, json.dumps({"version": _VERSION, "tokens": tokens}, indent=1).encode() + b"\n")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from changing the file meanwhile: what locks is its folder, which is never replaced."""
        try:
            folder = os.open(self.path.parent, os.O_RDONLY)
        except OSError as error:
            raise InvalidArgument(f'folder "{self.path.parent}" cannot be opened: {error.strerror}') from error
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)


def parts_of(text: str) -> TokenParts | None:
    """Return the parts of a token's text; None for any other text."""
    prefix, _, rest = text.partition("_")
    grant_id, _, secret = rest.partition("_")
    return TokenParts(grant_id, secret) if prefix == _PREFIX and grant_id and secret else None


def _hash(secret: str) -> str:
    return hashlib.blake2b(secret.encode(errors="replace"), digest_size=32).hexdigest()


def _grants(raw: bytes) -> list[Grant]:
    if len(raw) > _FILE_BYTES_MAX:
        raise ValueError("too large")
    body = json.loads(raw)
    if body["version"] != _VERSION:
        raise ValueError("another version")
    return [_grant(one) for one in body["tokens"]]


def _grant(one: dict[str, Any]) -> Grant:
    texts = (one["id"], one["name"], one["hash"], *one["tables"])
    if not all(isinstance(text, str) for text in texts) or one["role"] not in _ROLES:
        raise ValueError("not a token")
    expires = None if one["expires"] is None else float(one["expires"])
    return Grant(one["id"], one["name"], one["role"], tuple(one["tables"]), float(one["created"]), expires, one["hash"])


def _replace(path: Path, content: bytes) -> None:
    """Put a file of mode 0600 in the place of `path`, durably, as a whole."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600 by itself
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), _MODE)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise InvalidArgument(f'token file "{path}" cannot be written: {error.strerror}') from error
