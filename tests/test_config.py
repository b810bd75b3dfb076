"""Settings: checked by name, with a unit in each."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest

import ducktower
from ducktower.config import EngineConfig, ServerConfig

LIMITS = [
    (kind, field.name)
    for kind in (EngineConfig, ServerConfig)
    for field in fields(kind)
    if field.name.endswith(("_max", "_seconds", "_bytes"))
]


@pytest.mark.parametrize(("kind", "name"), LIMITS, ids=[name for _, name in LIMITS])
@pytest.mark.parametrize("value", [0, -1, float("nan"), "5"])
def test_a_limit_must_be_above_zero(kind: type, name: str, value: object) -> None:
    """A limit of nothing, or that is no number, is refused when it is given, and the refusal names it."""
    with pytest.raises(ducktower.InvalidArgument, match=name):
        kind(**{name: value})


@pytest.mark.parametrize("seconds", [float("inf"), 1e300, 1e10])
def test_a_time_is_one_that_a_clock_can_keep(seconds: float) -> None:
    """A time past that would fail where it is waited for; no limit is said with None."""
    with pytest.raises(ducktower.InvalidArgument, match="drain_seconds must be at most 1000000000"):
        ServerConfig(drain_seconds=seconds)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_must_exist(port: int) -> None:
    """A port outside 0 to 65535 is refused by name."""
    with pytest.raises(ducktower.InvalidArgument, match="port must be between"):
        ServerConfig(port=port)


def test_no_time_limit_is_said_with_none() -> None:
    """The one limit that may be absent is absent with None."""
    assert EngineConfig(query_timeout_seconds=None).query_timeout_seconds is None


def test_settings_cannot_change_under_a_running_server() -> None:
    """A configuration is a value."""
    with pytest.raises(FrozenInstanceError):
        EngineConfig().group_writes_max = 1  # type: ignore[misc]


def test_numbers_say_their_unit() -> None:
    """Every number's name ends in what it counts."""
    plain = {"threads", "port", "insecure", "external_access", "one_core"}
    for kind in (EngineConfig, ServerConfig):
        for field in fields(kind):
            if isinstance(field.default, (int, float)) and field.name not in plain:
                assert field.name.endswith(
                    (
                        "_bytes_max",
                        "writers_max",
                        "connections_max",
                        "_outcomes_max",
                        "_chars_max",
                        "_bytes_min",
                        "_bytes",
                        "_writes_max",
                        "_in_flight_max",
                        "_columns_max",
                        "_kept_max",
                        "plans_max",
                        "_seconds",
                        "sessions_max",
                        "cursors_max",
                        "prepared_max",
                        "waiting_max",
                    )
                )


def test_an_unknown_setting_is_refused_by_name(tmp_path: object) -> None:
    """A misspelt setting of `serve` does not pass silently."""
    with pytest.raises(ducktower.InvalidArgument, match='"group_writes_maxx" does not exist'):
        ducktower.serve(group_writes_maxx=3)
