"""The engine's nouns: where rows go, and what a caller gets back.

Owns no behaviour beyond checking itself. Must never import DuckDB: the queue is tested without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from ..errors import DucktowerError, InvalidArgument, TimedOut
from .shares import Share

__all__ = [
    "MODES",
    "Claim",
    "Divided",
    "Executed",
    "Mode",
    "Named",
    "Outcome",
    "PlanKey",
    "Receipt",
    "SlowWrite",
    "Target",
    "Write",
]

Mode = Literal["append", "create", "replace", "create_append", "upsert"]
_NAME_MAX = 1_000
MODES: tuple[str, ...] = get_args(Mode)


class Receipt(NamedTuple):
    """What a durable write is answered with: the rows it stored and the number of its commit."""

    rows: int
    commit: int


class Named(NamedTuple):
    """What a client calls a write that may be sent again: a name of its own, and a number that counts from 1."""

    writer: str
    sequence: int


class Claim(NamedTuple):
    """What makes a write repeatable: whose it is, which of its writer's, and what tells its content from another's."""

    principal: str
    writer: str
    sequence: int
    fingerprint: int | None
    """None until the content has arrived."""

    @property
    def key(self) -> tuple[str, str]:
        """The writer among those of everybody."""
        return self.principal, self.writer


class Executed(NamedTuple):
    """What a statement did: rows changed (-1 when DuckDB does not count), its commit, returned rows."""

    rows: int
    commit: int
    table: Any  # pyarrow.Table | None


class SlowWrite(TimedOut):
    """This write takes longer than a group may; it was not stored, and can be by itself."""


class Divided(NamedTuple):
    """What became of the parts of a write that could not be stored as a whole, in their order."""

    outcomes: list[Receipt | DucktowerError]


Outcome: TypeAlias = Receipt | DucktowerError | Divided


@dataclass(frozen=True, slots=True)
class Target:
    """The table that rows are meant for, and how they meet what is there."""

    table: str
    schema: str = "main"
    mode: Mode = "append"
    key: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.table or not self.schema:
            raise InvalidArgument("a table and its schema need a name of at least one character")
        for name in (self.table, self.schema, *self.key):
            if len(name) > _NAME_MAX:
                raise InvalidArgument(f"a name has {len(name)} characters, the limit is {_NAME_MAX}")
        if self.mode not in MODES:
            raise InvalidArgument(f"mode {self.mode!r} is none of {', '.join(MODES)}")
        if self.mode == "upsert" and not self.key:
            raise InvalidArgument("mode 'upsert' needs `key`: the columns that tell which row is meant")
        if self.mode != "upsert" and self.key:
            raise InvalidArgument(f"`key` goes with mode 'upsert', not with {self.mode!r}")

    @property
    def label(self) -> str:
        """The name as a person would write it."""
        return self.table if self.schema == "main" else f"{self.schema}.{self.table}"


class PlanKey:
    """A target and the Arrow schema of the rows: writes of one key can share one insert.

    Its hash is computed once, because the committing thread looks it up for every write of a group.
    """

    __slots__ = ("_hash", "schema", "target")

    def __init__(self, target: Target, schema: Any) -> None:
        self.target = target
        self.schema = schema  # pyarrow.Schema, without metadata of its own
        self._hash = hash((target, schema))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, PlanKey) and self.target == other.target and self.schema == other.schema


def _nobody(outcome: Outcome) -> None:
    """Take the outcome of a part: it goes into `Divided`."""


@dataclass(slots=True)
class Write:
    """Rows that succeed or fail together, on their way through the commit queue.

    Or, with `parts`, several such writes that came as one batch: they travel and are stored as one for as long as
    all goes well, and are told apart when it does not.
    """

    key: PlanKey
    batches: list[Any]  # list[pyarrow.RecordBatch]
    rows: int
    nbytes: int
    done: Callable[[Outcome], None]
    """Called once, by the committing thread, after COMMIT returned or the write failed. Must not block."""
    parts: tuple[int, ...] = ()
    """Rows of each write of a batch that carries several; one batch then."""
    share: Share | None = None
    """Whose it is, of those who have a share of the queue."""
    claims: tuple[Claim, ...] = ()
    """One for each write that it is, with sequences that follow on from each other; none without a writer."""

    @property
    def count(self) -> int:
        """How many writes it is."""
        return len(self.parts) or 1

    def divided(self) -> list[Write]:
        """Return the parts as writes of their own; their outcomes are the business of whoever divided."""
        start, found = 0, []
        for number, rows in enumerate(self.parts):
            piece = self.batches[0].slice(start, rows)
            claims = self.claims[number : number + 1]
            found.append(Write(self.key, [piece], rows, piece.nbytes, _nobody, claims=claims))
            start += rows
        return found
