"""Options that several commands share, and the client that the connection options describe.

Owns their names, environment variables and defaults. Must never import the client before a command runs.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import DEFAULT_PORT

if TYPE_CHECKING:
    from ..client import FlightClient

__all__ = ["DEFAULT_URL", "Connection", "connected", "duration", "rate_of"]

DEFAULT_URL = f"grpc://127.0.0.1:{DEFAULT_PORT}"

_PANEL = "Connection"
_RETRY_SECONDS = 2.0
_ARGUMENT = "connection"
_PER_SECOND_MIN, _PER_SECOND_MAX = 1e-9, 1e9  # and of seconds from one to the next
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"(\d{1,9})([smhdw])")


def _option(flag: str, variable: str, text: str) -> Any:
    return typer.Option(flag, envvar=variable, help=text, rich_help_panel=_PANEL)


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the server is, who the caller is, and why to trust the two. Each field is an option of a command."""

    url: Annotated[str, _option("--url", "DUCKTOWER_URL", "Where the server listens.")] = DEFAULT_URL
    token: Annotated[
        str | None,
        _option(
            "--token",
            "DUCKTOWER_TOKEN",
            "Who you are, to the server; `@FILE` reads it from a file. Other users of this machine see the command "
            "line, but not the variable.",
        ),
    ] = None
    tls_ca: Annotated[
        Path | None,
        _option("--tls-ca", "DUCKTOWER_TLS_CA", "PEM file of the authority that signed the server's certificate."),
    ] = None
    tls_fingerprint: Annotated[
        str | None,
        _option("--tls-fingerprint", "DUCKTOWER_TLS_FINGERPRINT", "SHA-256 of the one certificate to trust."),
    ] = None
    tls_client_cert: Annotated[
        Path | None,
        _option("--tls-client-cert", "DUCKTOWER_TLS_CLIENT_CERT", "PEM file of your own certificate, if asked for."),
    ] = None
    tls_client_key: Annotated[
        Path | None, _option("--tls-client-key", "DUCKTOWER_TLS_CLIENT_KEY", "PEM file of its private key.")
    ] = None

    def client(self, *, retry_seconds: float = _RETRY_SECONDS) -> FlightClient:
        """Return a client, which tries again for so long by itself."""
        from ..client import connect

        return connect(
            self.url,
            token=self._secret(),
            tls_ca=self.tls_ca,
            tls_fingerprint=self.tls_fingerprint,
            tls_client_cert=self.tls_client_cert,
            tls_client_key=self.tls_client_key,
            retry_seconds=retry_seconds,
        )

    def _secret(self) -> str | None:
        if self.token is None or not self.token.startswith("@"):
            return self.token
        try:
            return Path(self.token[1:]).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise typer.BadParameter(f"--token names a file that cannot be read: {self.token[1:]}") from error


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a connection, which it takes as one argument, `connection`."""
    options = list(inspect.signature(Connection, eval_str=True).parameters.values())
    own = [one for one in inspect.signature(command, eval_str=True).parameters.values() if one.name != _ARGUMENT]
    arguments = [one for one in own if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    keywords = [one for one in own if one.kind is inspect.Parameter.KEYWORD_ONLY]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        connection = Connection(**{option.name: given.pop(option.name) for option in options})
        command(**given, connection=connection)

    as_keywords = [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in options]
    run.__signature__ = inspect.Signature([*arguments, *as_keywords, *keywords])  # type: ignore[attr-defined]
    return run


def rate_of(rate: str | None, every: float | None, *, default: float | None, flag: str = "--rate") -> float | None:
    """Return how often a second, from `--rate`, or `flag`, and `--every`; None is as fast as possible.

    Raises:
        typer.BadParameter: both were given, or one is no number above 0, or nothing that a clock can keep.
    """
    if rate is not None and every is not None:
        raise typer.BadParameter("give --rate or --every, not both")
    if every is not None:
        if not _PER_SECOND_MIN <= every <= _PER_SECOND_MAX:
            raise typer.BadParameter(
                f"--every must be between {_PER_SECOND_MIN:g} and {_PER_SECOND_MAX:g} seconds, not {every:g}"
            )
        return 1 / every
    if rate is None:
        return default
    if rate == "max":
        return None
    try:
        value = float(rate)
    except ValueError:
        value = 0.0
    if not _PER_SECOND_MIN <= value <= _PER_SECOND_MAX:
        raise typer.BadParameter(
            f"{flag} must be `max` or a number from {_PER_SECOND_MIN:g} to {_PER_SECOND_MAX:g}, not {rate!r}"
        )
    return value


def duration(text: str, flag: str, example: str) -> int:
    """Return the seconds of a number with a unit: s, m, h, d or w.

    Raises:
        typer.BadParameter: the text is none, or stands for no time at all.
    """
    found = _DURATION.fullmatch(text)
    if found is None or not int(found[1]):
        raise typer.BadParameter(f"{flag} must be a number and s, m, h, d or w, such as {example}, not {text!r}")
    return int(found[1]) * _SECONDS[found[2]]
