"""A named writer's term: from when a program began to write for it, in open streams, until another one resumed it.

What a program that died had on its way may still be queued when the next one asks how far it came. So whoever resumes
ends the term of the one before: its streams queue nothing more, and what is queued is waited for.

Owns the terms. Must never answer a write: that is the ledger's.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator

from ..errors import InvalidArgument

__all__ = ["Term", "Terms"]


class Term:
    """Shared by the open streams of one writer."""

    def __init__(self, key: tuple[str, str]) -> None:
        self.key = key
        """The principal's name and the writer's."""
        self._lock = threading.Lock()  # held while a write is queued; guards _over
        self._over = False

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep the term from ending within the block. Raises InvalidArgument when it is over."""
        with self._lock:
            if self._over:
                raise InvalidArgument(f'writer "{self.key[1]}" was resumed by another client; nothing was stored')
            yield

    def end(self) -> None:
        """Let nothing more be queued."""
        with self._lock:
            self._over = True


class Terms:
    """Safe from any thread. A term is forgotten with its last stream."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _terms
        self._terms: weakref.WeakValueDictionary[tuple[str, str], Term] = weakref.WeakValueDictionary()

    def current(self, key: tuple[str, str]) -> Term:
        """Return the writer's term, which begins when there is none."""
        with self._lock:
            term = self._terms.get(key)
            if term is None:
                term = self._terms[key] = Term(key)
            return term

    def end(self, key: tuple[str, str]) -> None:
        """End the writer's term, if one is under way; the next stream begins another."""
        with self._lock:
            term = self._terms.pop(key, None)
        if term is not None:
            term.end()
