"""Prints `docs/commands.md` from the commands themselves: `python scripts/commands_reference.py > docs/commands.md`.

Owns the page's form. The text is that of `--help`, so that the two cannot disagree.
"""

import sys
from typing import Any

import typer.main

from ducktower.cli.app import app

HEAD = """# Commands

Every option can also be given as the environment variable beside it; what stands on the command line wins.
A command exits 0 when it did its work, 1 after one line `CODE: message` on stderr, 2 for bad usage, and 130
when Ctrl-C ended it half way. `DUCKTOWER_TRACEBACK=1` shows where an error came from.

This page is made from the commands by `scripts/commands_reference.py`.
"""


def reference() -> str:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return "\n".join([HEAD, *(section(*one) for one in flattened(commands))])


def flattened(commands: dict[str, Any]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, command in commands.items():
        below = getattr(command, "commands", None)
        found += [(name, command)] if below is None else [(f"{name} {of}", one) for of, one in below.items()]
    return found


def section(name: str, command: Any) -> str:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and one.name != "help"]
    usage = " ".join(["ducktower", name, "[OPTIONS]", *(argument_name(one) for one in arguments)])
    paragraphs = [" ".join(part.split()) for part in (command.help or "").split("\n\n")]
    lines = [f"## {name}\n", f"```\n{usage}\n```\n", *(f"{part}\n" for part in paragraphs)]
    lines += [f"- `{argument_name(one)}`: {text(one)}" for one in arguments]
    lines += ["", "| Option | Variable | Default | |", "|---|---|---|---|", *map(row, options), ""]
    return "\n".join(lines)


def argument_name(argument: Any) -> str:
    name = str(argument.metavar or argument.name.upper())
    return name if argument.required else f"[{name}]"


def row(option: Any) -> str:
    default = option.default
    if callable(default) or default is None or default is False or default == ():
        shown = ""
    else:
        shown = f"`{getattr(default, 'value', default)}`"
    return f"| `{option.opts[0]}` | `{option.envvar}` | {shown} | {text(option)} |"


def text(parameter: Any) -> str:
    return " ".join((parameter.help or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference())
