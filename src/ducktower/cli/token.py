"""`ducktower token`: who may call a server, in which role, until when.

Owns how a token is described and shown, once. Must never print a secret a second time, nor write it anywhere.
"""

from __future__ import annotations

import datetime
import json
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import duration
from .terminal import one_line

if TYPE_CHECKING:
    from ..server.token_file import Grant, TokenFile

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="Say who may call a server, in which role, until when. A running server notices within a second.",
)


class RoleName(StrEnum):
    """What a token allows."""

    reader = "reader"
    writer = "writer"
    owner = "owner"


_Name = Annotated[str, typer.Argument(metavar="NAME", help="Who: letters, digits and ._@+-")]
_File = Annotated[
    Path | None,
    typer.Option("--token-file", envvar="DUCKTOWER_TOKEN_FILE", help="The file. [default: DATABASE.tokens]"),
]
_Database = Annotated[
    str | None,
    typer.Option("--database", envvar="DUCKTOWER_DATABASE", help="The DuckDB file beside which the tokens are."),
]


@app.command("create")
def create_command(
    name: _Name,
    *,
    role: Annotated[
        RoleName,
        typer.Option(
            envvar="DUCKTOWER_TOKEN_ROLE",
            help="`reader` asks, `writer` also adds, changes and deletes rows, `owner` may do everything.",
        ),
    ],
    expires: Annotated[
        str | None,
        typer.Option(
            envvar="DUCKTOWER_TOKEN_EXPIRES",
            help="For how long it is good: a number and s, m, h, d or w. [default: until it is revoked]",
            metavar="30d",
        ),
    ] = None,
    tables: Annotated[
        list[str] | None,
        typer.Option(
            envvar="DUCKTOWER_TOKEN_TABLES",
            help="Limit it to tables like this, `*` and `?` standing for any letters: `TABLE` or `SCHEMA.TABLE`. "
            "Give it once for each pattern, or with commas between them. [default: every table]",
        ),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", envvar="DUCKTOWER_TOKEN_REPLACE", help="End the token that NAME has, and make anew."),
    ] = False,
    token_file: _File = None,
    database: _Database = None,
) -> None:
    """Make a token and print it, once: only a hash is kept.

    It is a bearer token, and the password of user NAME.
    """
    patterns = [part.strip() for one in tables or () for part in one.split(",")]
    if not all(patterns):
        raise typer.BadParameter("--tables has an empty pattern")
    until = None if expires is None else time.time() + duration(expires, "--expires", "30d")
    file = _file(token_file, database)
    _, text = file.create(name, role.value, tuple(patterns), until, replace=replace)
    typer.echo(f"a token for {name} ({role}) is in {file.path}; it is shown here and nowhere again", err=True)
    typer.echo(text)


@app.command("list")
def list_command(
    *,
    as_json: Annotated[
        bool, typer.Option("--json", envvar="DUCKTOWER_TOKEN_JSON", help="Print one JSON array.")
    ] = False,
    token_file: _File = None,
    database: _Database = None,
) -> None:
    """List the tokens: who, in which role, for which tables, until when."""
    now = time.time()
    grants = _file(token_file, database).read()
    if as_json:
        typer.echo(json.dumps([_described(grant, now) for grant in grants]))
        return
    rows = [["NAME", "ROLE", "TABLES", "CREATED", "EXPIRES"]]
    for grant in grants:
        until = "never" if grant.expires is None else "expired" if grant.expired(now) else _time(grant.expires)
        row = [grant.name, grant.role, " ".join(grant.tables) or "*", _time(grant.created), until]
        rows.append([one_line(cell) for cell in row])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


@app.command("revoke")
def revoke_command(name: _Name, *, token_file: _File = None, database: _Database = None) -> None:
    """Take the token of NAME away. A running server ends what goes on with it within seconds."""
    _file(token_file, database).revoke(name)
    typer.echo(f"the token of {name} is revoked", err=True)


def _file(token_file: Path | None, database: str | None) -> TokenFile:
    if token_file is None and (database is None or database == ":memory:"):
        raise typer.BadParameter("say which server: --database FILE or --token-file FILE")
    from ..server.token_file import TokenFile

    return TokenFile(token_file if token_file is not None else f"{database}.tokens")


def _described(grant: Grant, now: float) -> dict[str, object]:
    return {
        "name": grant.name,
        "role": grant.role,
        "tables": list(grant.tables),
        "created": _time(grant.created),
        "expires": None if grant.expires is None else _time(grant.expires),
        "expired": grant.expired(now),
    }


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
