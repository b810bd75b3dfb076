"""A virtual environment for each peer, and for drawing plots, made once for each list of requirements.

`python -m benchmarks.peers.environments` makes them all.

Owns where they are. Must never touch the project's own environment.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

__all__ = ["python_of"]

_REQUIREMENTS = Path(__file__).with_name("requirements")
_PLACE = Path(__file__).parents[2] / ".peers"


def python_of(peer: str) -> Path:
    """Return the interpreter of a peer's environment, which is made when there is none for these requirements."""
    requirements = _REQUIREMENTS / f"{peer}.txt"
    place = _PLACE / f"{peer}-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]}"
    python = place / "bin" / "python"
    ready = place / "ready"
    if not ready.exists():
        uv = str(Path(sys.executable).with_name("uv"))
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(place)], check=True)
        subprocess.run(
            [uv, "pip", "install", "--quiet", "--python", str(python), "--requirement", str(requirements)], check=True
        )
        ready.touch()
    return python


if __name__ == "__main__":
    for requirements in sorted(_REQUIREMENTS.glob("*.txt")):
        print(f"{requirements.stem}: {python_of(requirements.stem)}")
