"""The `ducktower` command: what the commands are called, and how each of them ends.

Owns the one place where an error becomes a line on stderr and an exit status. Must never show a traceback
for what a user can cause, nor import what a single command needs: `--help` has to be quick.
"""

from __future__ import annotations

import math
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any, NoReturn

import typer
import typer.core

from ..errors import DucktowerError, InternalError
from . import backup, demo, execute, ingest, query, recover, serve, status, token, write_read
from .terminal import error_line, leave, one_line

__all__ = ["app", "main", "run"]

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
TRACEBACK_VARIABLE = "DUCKTOWER_TRACEBACK"


class _Commands(typer.core.TyperGroup):
    """Ends a command quietly when whoever reads its output has left, and at once on Ctrl-C."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # `ducktower query ... | head`: the reader has what it wanted. Python would complain at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            leave(0)
        except KeyboardInterrupt:
            leave(EXIT_INTERRUPTED)
        return result


class _Command(typer.core.TyperCommand):
    """Takes no number that is none, nor an endless one: `nan` is neither below a limit nor above it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        left: list[str] = super().parse_args(ctx, args)
        parameter: Any
        for parameter in self.params:
            value = ctx.params.get(parameter.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise typer.BadParameter(f"{value:g} is no finite number", ctx=ctx, param=parameter)
        return left


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="A control tower for DuckDB: one server owns the file, any number of processes write and read it.",
    epilog=f"Every option can be given as the environment variable named beside it. {TRACEBACK_VARIABLE}=1 "
    "shows where an error came from.",
)
app.command("serve", cls=_Command)(serve.command)
app.command("write", cls=_Command)(write_read.write_command)
app.command("read", cls=_Command)(write_read.read_command)
app.command("demo", cls=_Command)(demo.command)
app.command("query", cls=_Command)(query.command)
app.command("execute", cls=_Command)(execute.command)
app.command("ingest", cls=_Command)(ingest.command)
app.command("tables", cls=_Command)(status.tables_command)
app.command("health", cls=_Command)(status.health_command)
app.command("backup", cls=_Command)(backup.backup_command)
app.command("restore", cls=_Command)(backup.restore_command)
app.command("recover", cls=_Command)(recover.command)
app.add_typer(token.app, name="token")


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it with the flag's value
    if wanted:
        typer.echo(f"ducktower {version('ducktower')}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version and exit."),
    ] = False,
) -> None:
    """Read the options that stand before the command."""


def run() -> NoReturn:
    """Run the command of this process, and end it."""
    status = main()
    if status:
        # A thread of Arrow's may be reading a file ahead through Python: when Python ends meanwhile, the process
        # aborts.
        leave(status)
    sys.exit(0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 for a failure, 2 for bad usage, 130 after Ctrl-C.

    Arguments:
        arguments: what follows `ducktower` on the command line; that of this process when None.
    """
    # gRPC would tell of each TLS handshake that fails on stderr, beside our one line.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        result = app(
            args=list(sys.argv[1:] if arguments is None else arguments),
            prog_name="ducktower",
            standalone_mode=False,
        )
    except typer.TyperException as error:
        return _bad_usage(error)
    except DucktowerError as error:
        return _failed(error)
    except (typer.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except OSError as error:
        return _failed(InternalError(str(error)))
    except Exception as error:  # a defect of ours: still one line, as the user can do nothing with a traceback
        return _failed(InternalError(f"{type(error).__name__}: {error}"))
    return result if isinstance(result, int) else 0


def _failed(error: DucktowerError) -> int:
    if os.environ.get(TRACEBACK_VARIABLE):
        traceback.print_exc()
    typer.echo(error_line(error), err=True)
    return EXIT_FAILED


def _bad_usage(error: typer.TyperException) -> int:
    message = one_line(error.format_message()).replace("Value error, ", "")
    if message:  # without one it was a call for help, which has been given
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "ducktower"
        typer.echo(f"INVALID_ARGUMENT: {message.rstrip('.')} (see `{command} --help`)", err=True)
    return EXIT_USAGE
