"""Compile the protocol's .proto files into the descriptor set and the type stubs beside them.

python scripts/flight_sql_messages.py            write them
python scripts/flight_sql_messages.py --check    compare, and exit 1 when they are out of date
"""

from __future__ import annotations

import re
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent.parent
HOME = ROOT / "src" / "ducktower" / "protocol" / "flight_sql"
PROTOS = ("flight.proto", "flight_sql.proto")
STUBS = {"flight_pb2.pyi": "flight_messages.pyi", "flight_sql_pb2.pyi": "messages.pyi"}


def compiled() -> dict[str, str | bytes]:
    """Return what the compiler makes of the .proto files, by the name of the file that it belongs into."""
    with tempfile.TemporaryDirectory() as directory:
        made = Path(directory)
        arguments = [
            "protoc",
            f"--proto_path={HOME}",
            f"--proto_path={resources.files('grpc_tools') / '_proto'}",
            f"--descriptor_set_out={made / 'descriptors.binpb'}",
            f"--pyi_out={made}",
            *PROTOS,
        ]
        if protoc.main(arguments) != 0:
            raise SystemExit(1)
        files: dict[str, str | bytes] = {"descriptors.binpb": (made / "descriptors.binpb").read_bytes()}
        for theirs, ours in STUBS.items():
            files[ours] = "# Made by scripts/flight_sql_messages.py.\n" + tidied((made / theirs).read_text())
        return files


def tidied(stub: str) -> str:
    """Return a stub without what changes from one compiler to the next, and with every type argument."""
    stub = re.sub(r"^# .*\n", "", stub, flags=re.MULTILINE)
    return re.sub(r"\b_Mapping\]", "_Mapping[str, object]]", stub)


def main() -> int:
    stale = []
    for name, made in compiled().items():
        path = HOME / name
        there = (path.read_bytes() if isinstance(made, bytes) else path.read_text()) if path.exists() else None
        if there != made:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_bytes(made if isinstance(made, bytes) else made.encode())
                print(f"wrote {path.relative_to(ROOT)}")
    if stale and "--check" in sys.argv:
        print(f"out of date: {', '.join(stale)}; run `make proto`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
