"""One total for memory: what there is, how it is shared out, and what an overload of it ends with."""

from __future__ import annotations

from pathlib import Path

import pytest

import ducktower
from ducktower.config import MIB, EngineConfig, ServerConfig
from ducktower.server.memory import available_bytes, shared_out

GIB = 1024 * MIB


def group(root: Path, lines: str, **limits: str) -> Path:
    """Write down control groups as Linux shows them: the process's, and the limits of groups by their paths."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(lines)
    for path, text in limits.items():
        file = root / "sys/fs/cgroup" / path.replace("__", "/").replace("_max", ".max").replace("_limit", ".limit")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


class TestAvailable:
    """`available_bytes`: the machine's memory, or what control groups leave of it."""

    def test_without_groups_it_is_the_machines(self, tmp_path: Path) -> None:
        """Where there is no file that says less, all of it."""
        whole = available_bytes(tmp_path)
        assert whole > 100 * MIB
        assert available_bytes() <= whole

    def test_a_group_and_those_above_it_count(self, tmp_path: Path) -> None:
        """The smallest of all levels; `max` is no limit."""
        root = group(tmp_path, "0::/a/b\n", a__b__memory_max="max\n", a__memory_max="70000000\n", memory_max="90000000")
        assert available_bytes(root) == 70_000_000

    def test_within_a_container_the_group_is_the_root(self, tmp_path: Path) -> None:
        """There the path may be one that only the host has."""
        root = group(tmp_path, "0::/../elsewhere\n", memory_max="80000000\n")
        assert available_bytes(root) == 80_000_000

    def test_the_older_kind(self, tmp_path: Path) -> None:
        """One controller of several; without a limit it shows a number larger than any machine."""
        lines = "4:cpu,memory:/x\n3:pids:/x\n"
        root = group(tmp_path / "limited", lines, memory__x__memory_limit_in_bytes="60000000\n")
        assert available_bytes(root) == 60_000_000
        root = group(tmp_path / "free", lines, memory__x__memory_limit_in_bytes="9223372036854771712\n")
        assert available_bytes(root) == available_bytes(tmp_path)


def parts(engine: EngineConfig, server: ServerConfig) -> int:
    """Return DuckDB's part and our byte limits together."""
    assert engine.memory_limit is not None
    return (
        int(engine.memory_limit.removesuffix("B"))
        + engine.queue_bytes_max
        + engine.arriving_bytes_max
        + server.results_waiting_bytes_max
    )


class TestSharedOut:
    """`shared_out`: limits lowered until everything fits."""

    @pytest.mark.parametrize("total", [384 * MIB, GIB, 16 * GIB, 200 * GIB])
    def test_all_parts_stay_within_the_total(self, total: int) -> None:
        """DuckDB gets the larger part, and each buffer some."""
        engine, server = shared_out(EngineConfig(memory_bytes_max=total), ServerConfig())
        assert total / 3 < parts(engine, server) < total
        assert int((engine.memory_limit or "").removesuffix("B")) > parts(engine, server) / 2
        assert engine.queue_bytes_max >= 8 * MIB
        assert engine.group_bytes_max <= engine.queue_bytes_max
        assert engine.large_writes_in_flight_max >= 1

    def test_limits_are_lowered_and_never_raised(self) -> None:
        """With plenty everything stays as it was given."""
        given = EngineConfig(memory_bytes_max=200 * GIB, queue_bytes_max=5 * MIB, large_writes_in_flight_max=3)
        engine, server = shared_out(given, ServerConfig())
        assert engine.queue_bytes_max == 5 * MIB
        assert engine.large_writes_in_flight_max == 3
        assert engine.arriving_bytes_max == EngineConfig().arriving_bytes_max
        assert server == ServerConfig()

    def test_a_limit_for_duckdb_stays(self) -> None:
        """Alone it is all that is limited, as before there was a total; beside one it is in place of DuckDB's part."""
        alone = EngineConfig(memory_limit="3GB")
        assert shared_out(alone, ServerConfig()) == (alone, ServerConfig())
        engine, _ = shared_out(EngineConfig(memory_limit="300MB", memory_bytes_max=GIB), ServerConfig())
        assert engine.memory_limit == "300MB"
        assert engine.queue_bytes_max < EngineConfig().queue_bytes_max

    def test_by_default_it_is_a_part_of_what_there_is(self) -> None:
        """Nothing given means 80 % of the memory that is available."""
        engine, server = shared_out(EngineConfig(), ServerConfig())
        assert parts(engine, server) < max(available_bytes() * 0.8, 384 * MIB)

    def test_a_total_without_room_is_refused(self) -> None:
        """Also when a server is to start with it."""
        with pytest.raises(ducktower.InvalidArgument, match="memory_bytes_max must be at least 384 MiB"):
            ducktower.serve(memory_bytes_max=100 * MIB)
