"""Who is calling. Today every caller is this machine's user, and the address decides who can call.

Owns the rule which addresses may be served without asking. Must never read a request's data.
"""

from __future__ import annotations

import ipaddress
import socket

from ..config import ServerConfig
from ..errors import Forbidden, InvalidArgument

__all__ = ["check_address"]


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
