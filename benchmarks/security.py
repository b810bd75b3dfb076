"""What it costs to be asked who one is: one-row writes with a token and a role, and over TLS, beside the open server.

Owns these figures. Must never give the writers more than the role that they need.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ducktower

from .figures import Bench, Figure, expect_rows
from .load import SCHEMA, TABLE, Load, Outcome, one_row, running, stored_rows
from .processes import serving

__all__ = ["security"]

CLIENTS = 16


def security(bench: Bench) -> list[Figure]:
    """One-row DoPut by 16 clients: open, with a writer's token, and the same over TLS; in turns."""
    title = f"one-row DoPut, {CLIENTS} clients"
    base = Figure(name="base_open", title=f"{title}, open server", unit="rows/s")
    token = Figure(
        name="token",
        title=f"{title}, token of a writer",
        unit="rows/s",
        base_title=base.title,
        base=base.values,
        target=0.9,
    )
    tls = Figure(name="tls", title=f"{title}, token and TLS", unit="rows/s", base_title=base.title, base=base.values)
    for _ in range(bench.scale.rounds):
        for figure, closed, flags in ((base, False, ()), (token, True, ()), (tls, True, ("--tls", "auto"))):
            outcome = _load(bench, *flags, closed=closed)
            figure.record(outcome)
    return [base, token, tls]


def _load(bench: Bench, *flags: str, closed: bool) -> Outcome:
    with tempfile.TemporaryDirectory(dir=bench.directory) as place:
        path = Path(place) / "small.duckdb"
        owner, writer = (_token(path, "owner"), _token(path, "writer")) if closed else ("", "")
        with serving(path, *flags, *bench.flags) as server:
            certificate = _certificate(path) if flags else ""
            connection: dict[str, Any] = {
                "token": owner or None,
                "tls_ca": _kept(path, certificate) if certificate else None,
            }
            with ducktower.connect(server.url, **connection) as client:
                client.create_table(TABLE, SCHEMA)
                client.ingest(TABLE, one_row(0))  # the first write of a server makes its plan
            load = Load(
                kind="put",
                url=server.url,
                clients=CLIENTS,
                seconds=bench.scale.seconds,
                processes=bench.scale.processes,
                token=writer,
                tls_certificate=certificate,
            )
            with running(load) as outcome:
                done = outcome()
            expect_rows("one-row DoPut", done.count + 1, stored_rows(server.url, **connection))
    return done


def _token(database: Path, role: str) -> str:
    """Make a token as an operator does."""
    command = [str(Path(sys.executable).with_name("ducktower")), "token", "create", role, "--role", role]
    made = subprocess.run([*command, "--database", str(database)], check=True, capture_output=True, text=True)
    return made.stdout.split()[-1]


def _certificate(database: Path) -> str:
    """Return the certificate that the server made for itself: what follows its key."""
    text = database.with_name(f"{database.name}.tls").read_text()
    return text[text.index("-----BEGIN CERTIFICATE-----") :]


def _kept(database: Path, certificate: str) -> str:
    path = database.with_name("certificate.pem")
    path.write_text(certificate)
    return str(path)
