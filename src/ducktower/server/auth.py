"""Who is calling: credentials become a login, or one refusal that tells nothing of what was wrong with them.

Owns how an `authorization` header is read, and the rule which addresses may be served how. Must never read a request's
data.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import socket

from ..config import ServerConfig
from ..errors import Forbidden, InvalidArgument, Unauthenticated
from .logins import Login, Logins

__all__ = ["Authenticator", "check_address", "check_health_address"]

_USER_MAX = 256
"""A name travels in every session token, and headers are bounded."""
_HEADER_MAX = 4_096
"""Longest header that is looked at: none of ours is so long, and those that are good are remembered."""


class Authenticator:
    """Turns a header into a login. Safe from any thread."""

    def __init__(self, logins: Logins) -> None:
        self._logins = logins

    def asks(self) -> bool:
        """Whether callers must say who they are."""
        return self._logins.asks

    def login(self, authorization: str | None) -> Login:
        """Return who an `authorization` header speaks for. Raises Unauthenticated."""
        header = authorization or ""
        login = self._logins.known(header)
        if login is None:
            login = self._verified(header)
        return login

    def granted(self, grant_id: str, name: str) -> Login | None:
        """Return the login that a session's token goes back to; None when it is over."""
        return self._logins.granted(grant_id, name)

    def _verified(self, header: str) -> Login:
        if len(header) > _HEADER_MAX:
            raise Unauthenticated(f"the authorization has {len(header)} characters, the limit is {_HEADER_MAX}")
        name, token = _credentials(header)
        login = self._logins.open(name or "", header)
        if login is None:
            if not header:
                raise Unauthenticated("the server asks who calls: give a token")
            login = self._logins.verified(token, name, header)
        if login is None:
            raise Unauthenticated("the token or password is not good here, or not any more")
        return login


def _credentials(header: str) -> tuple[str | None, str]:
    """Return the user's name, None for a bearer, and the token."""
    if not header:
        return None, ""
    scheme, _, credentials = header.partition(" ")
    match scheme.lower():
        case "bearer":
            return None, credentials.strip()
        case "basic":
            return _user_and_password(credentials.strip())
        case _:
            raise Unauthenticated("the authorization is neither Basic nor Bearer")


def _user_and_password(credentials: str) -> tuple[str, str]:
    try:
        # Some drivers leave the padding out.
        text = base64.b64decode(credentials + "=" * (-len(credentials) % 4), validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise Unauthenticated("the Basic credentials are not base64 of user:password") from error
    user, colon, password = text.partition(":")
    if not colon:
        raise Unauthenticated("the Basic credentials are not base64 of user:password")
    if len(user) > _USER_MAX:
        raise Unauthenticated(f"the user's name has {len(user)} characters, the limit is {_USER_MAX}")
    return user, password


def check_address(config: ServerConfig, *, asks: bool, encrypts: bool) -> None:
    """Refuse an address that other machines reach unless there are tokens and TLS, or `insecure` says that it is meant.

    Raises Forbidden, or InvalidArgument for a host that cannot be resolved.
    """
    if _only_of_this_machine(config.host) or config.insecure:
        return
    missing = [
        what
        for what, there in (
            ("tokens (ducktower token create)", asks),
            ("TLS (--tls auto, or --tls-cert and --tls-key)", encrypts),
        )
        if not there
    ]
    if missing:
        raise Forbidden(
            f'host "{config.host}" can be reached by other machines: it needs {" and ".join(missing)}; '
            "add --insecure if it is meant without"
        )


def check_health_address(config: ServerConfig) -> None:
    """Refuse health checks on an address that other machines reach, unless `insecure` says that it is meant.

    Raises Forbidden, or InvalidArgument for a host that cannot be resolved.
    """
    if not _only_of_this_machine(config.health_host) and not config.insecure:
        raise Forbidden(
            f'health host "{config.health_host}" can be reached by other machines, and health checks know neither '
            "tokens nor TLS; add --insecure if it is meant"
        )


def _only_of_this_machine(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise InvalidArgument(f'host "{host}" cannot be resolved') from error
    addresses = {str(info[4][0]).split("%", 1)[0] for info in found}
    return all(ipaddress.ip_address(address).is_loopback for address in addresses)
