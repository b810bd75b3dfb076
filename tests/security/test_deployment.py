"""What docs/security.md and packaging/ say of running it: behind nginx, as a service, in a container.

Each where its tool is there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pyarrow as pa
import pytest

import ducktower
from support.certificates import Authority
from support.waiting import until

ROOT = Path(__file__).parent.parent.parent
EXPOSURE_MAX = 20
"""In tenths, of systemd's 100."""

LESS = "client_max_body_size 1k; " + " ".join(
    f"{name}_timeout 1s;" for name in ("client_body", "send", "grpc_read", "grpc_send")
)
"""nginx's defaults, made small: what the page's block does not set itself fails in seconds, not after a minute."""
PAUSE_SECONDS = 3


def free_port() -> int:
    """Return a port that nobody listens on."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Whether somebody does."""
    with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port), timeout=1)):
        return True
    return False


@pytest.fixture
def proxied(closed: ducktower.FlightServer, authority: Authority, tmp_path: Path) -> Iterator[str]:
    """Run nginx before the server as the page says, with TLS of its own; return where it is."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")  # not in everybody's PATH
    if program is None:
        pytest.skip("nginx is not installed")
    page = (ROOT / "docs" / "security.md").read_text()
    found = re.search(r"```\n(server \{.*?\n\})\n```", page, re.DOTALL)
    assert found is not None
    port, pair = free_port(), authority.signed()
    server = found[1]
    for said, meant in (
        ("listen 443", f"listen 127.0.0.1:{port}"),
        ("/etc/nginx/server.crt", str(pair.certificate)),
        ("/etc/nginx/server.key", str(pair.key)),
        ("127.0.0.1:8815", f"127.0.0.1:{closed.port}"),
    ):
        assert said in server
        server = server.replace(said, meant)
    kept = "".join(
        f"{what}_temp_path {tmp_path}/{what};" for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = tmp_path / "nginx.conf"
    config.write_text(
        f"daemon off; pid {tmp_path}/nginx.pid; error_log stderr; worker_processes 1; events {{}}\n"
        f"http {{ access_log off; {kept} {LESS}\n{server}\n}}\n"
    )
    with (tmp_path / "nginx.log").open("wb") as log:
        nginx = subprocess.Popen([program, "-p", str(tmp_path), "-c", str(config)], stderr=log)
    try:
        until(lambda: nginx.poll() is not None or listens(port), "nginx")
        assert nginx.poll() is None, (tmp_path / "nginx.log").read_text()
        yield f"grpc+tls://localhost:{port}"
    finally:
        nginx.terminate()
        nginx.wait(30)


def test_behind_nginx(proxied: str, owner: str, authority: Authority) -> None:
    """Small and large writes, results, open streams, errors, and the refusal of who has no token."""
    with ducktower.connect(proxied, token=owner, tls_ca=authority.file) as client:
        client.ingest("t", pa.table({"n": range(2_000_000)}), mode="create")
        assert client.query("FROM t").num_rows == 2_000_000
        with client.appender("t") as rows:
            for number in range(1_500):
                rows.append({"n": number})
        assert client.execute("DELETE FROM t WHERE n >= 1500").rows == 1_998_500
        assert client.query("SELECT count(*) AS n FROM t")["n"].to_pylist() == [3_000]
        with pytest.raises(ducktower.TableNotFound, match="no_such"):
            client.query("FROM no_such")
    with (
        ducktower.connect(proxied, token="dtk_a_b", tls_ca=authority.file) as stranger,
        pytest.raises(ducktower.Unauthenticated),
    ):
        stranger.health()


def test_streams_that_pause_behind_nginx(proxied: str, owner: str, authority: Authority) -> None:
    """An open stream, an upload and a result, whose clients do nothing for longer than nginx would wait by itself."""
    with ducktower.connect(proxied, token=owner, tls_ca=authority.file) as client:
        batch = pa.record_batch({"n": range(1_000_000)})

        def pausing() -> Iterator[pa.RecordBatch]:
            yield batch
            time.sleep(PAUSE_SECONDS)
            yield batch

        assert client.ingest("t", pa.RecordBatchReader.from_batches(batch.schema, pausing()), mode="create")
        with client.appender("t") as rows:
            rows.append({"n": -1})
            rows.flush()
            time.sleep(PAUSE_SECONDS)
            rows.append({"n": -2})
        assert client.execute("UPDATE t SET n = -3 WHERE n = -2").rows == 1
        result = client.reader("SELECT repeat('x', 100) AS x FROM t")
        read = result.read_next_batch().num_rows
        time.sleep(PAUSE_SECONDS)
        assert read + sum(batch.num_rows for batch in result) == 2_000_002
        slow = "SELECT count(*) AS n FROM range(600_000_000) AS r(i) WHERE i % 3 = 1"  # the server is silent, too
        assert client.query(slow)["n"].to_pylist() == [200_000_000]


def test_the_unit(tmp_path: Path) -> None:
    """systemd understands it, and finds little that it leaves open."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "ducktower.service"
    command = Path(sys.executable).parent / "ducktower"
    text = (ROOT / "packaging" / "ducktower.service").read_text()
    assert "/opt/ducktower/bin/ducktower serve" in text
    unit.write_text(text.replace("/opt/ducktower/bin/ducktower serve", f"{command} serve"))
    for asked in (["verify", str(unit)], ["security", "--offline=true", f"--threshold={EXPOSURE_MAX}", str(unit)]):
        told = subprocess.run(["systemd-analyze", *asked], capture_output=True, text=True, check=False)
        assert told.returncode == 0, told.stdout + told.stderr
        assert "Unknown" not in told.stderr


def test_the_container_file(tmp_path: Path) -> None:
    """Without a container: its environment, command, check of health and stop, with a folder as volume."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
    *_, stage = re.split(r"^FROM .*\n", text, flags=re.MULTILINE)
    said = dict(line.split(maxsplit=1) for line in stage.splitlines() if line and not line.startswith("#"))
    folder, port, health = tmp_path / "data", free_port(), free_port()
    folder.mkdir(mode=0o700)
    assert said["VOLUME"] == said["WORKDIR"] == "/data"
    assert said["EXPOSE"] == "8815"
    assert said["STOPSIGNAL"] == "SIGTERM"
    assert said["ENV"].count("/data/") == 1
    settings = dict(one.split("=") for one in said["ENV"].replace("/data", str(folder)).split())
    assert settings["DUCKTOWER_HOST"] == "0.0.0.0"  # this test listens on the loopback
    assert settings["DUCKTOWER_HEALTH_PORT"] in said["HEALTHCHECK"]
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("DUCKTOWER_")},
        **settings,
    }
    programs = Path(sys.executable).parent
    (command,) = json.loads(said["ENTRYPOINT"])
    command = command.replace("/opt/ducktower/bin", str(programs))
    run = [command, *json.loads(said["CMD"])]
    refused = subprocess.run(run, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert refused.returncode == 1
    assert "tokens" in refused.stderr
    made = subprocess.run(
        [command, "token", "create", "ada", "--role", "owner"], env=env, capture_output=True, text=True, check=True
    )
    env |= {"DUCKTOWER_HOST": "127.0.0.1", "DUCKTOWER_PORT": str(port), "DUCKTOWER_HEALTH_PORT": str(health)}
    check = json.loads(said["HEALTHCHECK"].partition("CMD")[2])
    check = [
        one.replace("/opt/ducktower/bin/python", sys.executable).replace(settings["DUCKTOWER_HEALTH_PORT"], str(health))
        for one in check
    ]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(run, env=env, cwd=folder, stdout=subprocess.PIPE, stderr=log)
    try:
        assert server.stdout is not None
        assert server.stdout.readline().startswith(b"ready grpc+tls://")
        subprocess.run(check, check=True, timeout=60)
        certificate = next(folder.glob("*.tls")).read_text()
        ours = tmp_path / "ca.crt"
        ours.write_text(certificate[certificate.index("-----BEGIN CERTIFICATE") :])
        url, token = f"grpc+tls://localhost:{port}", made.stdout.strip()
        with ducktower.connect(url, token=token, tls_ca=str(ours)) as client:
            assert client.health()["status"] == "serving"
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
        assert subprocess.run(check, check=False, capture_output=True, timeout=60).returncode != 0
    finally:
        server.kill()
        server.wait(30)
        if server.stdout is not None:
            server.stdout.close()
