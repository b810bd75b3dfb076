"""Who is calling. Today nobody is asked, and the address decides who can call.

Owns the rule which addresses may be served without asking, and what credentials are worth. Must never read a
request's data.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import socket

from ..config import ServerConfig
from ..errors import Forbidden, InvalidArgument, Unauthenticated

__all__ = ["Authenticator", "check_address"]

_USER_MAX = 256
"""A name travels in every session token, and headers are bounded."""


class Authenticator:
    """Turns credentials into a principal: a name. There are no users yet, so all are accepted, and none too.

    A server that knows its users replaces these three methods.
    """

    def nobody(self) -> str:
        """Return the principal of a caller without credentials. Raises Unauthenticated where one must have them."""
        return ""

    def password(self, user: str, _password: str) -> str:
        """Return the principal of a user. Raises Unauthenticated."""
        return user

    def bearer(self, _token: str) -> str:
        """Return the principal that a token stands for. Raises Unauthenticated."""
        return ""

    def principal(self, authorization: str | None) -> str:
        """Return who an `authorization` header speaks for. Raises Unauthenticated when it cannot be read."""
        if not authorization:
            return self.nobody()
        scheme, _, credentials = authorization.partition(" ")
        match scheme.lower():
            case "bearer":
                return self.bearer(credentials.strip())
            case "basic":
                return self.password(*_user_and_password(credentials.strip()))
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


def check_address(config: ServerConfig) -> None:
    """Refuse an address that other machines reach, unless `insecure` says that this is meant.

    Raises Forbidden, or InvalidArgument for a host that cannot be resolved.
    """
    try:
        found = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise InvalidArgument(f'host "{config.host}" cannot be resolved') from error
    addresses = {str(info[4][0]).split("%", 1)[0] for info in found}
    if config.insecure or all(ipaddress.ip_address(address).is_loopback for address in addresses):
        return
    raise Forbidden(
        f'host "{config.host}" can be reached by other machines and callers are not asked who they are; '
        "add --insecure if that is meant"
    )
