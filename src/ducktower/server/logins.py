"""Who has proved who it is: the token file in memory, and the thread that notices its changes.

A login is what a call has instead of credentials. It is over as soon as its token is revoked, replaced or expired;
whoever holds one asks `login.over`, which costs nothing.

Owns the tokens as they are now, the headers that were verified, and that thread. Must never read a request.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ..engine import LOCAL, Principal
from ..errors import InvalidArgument
from .token_file import Grant, TokenFile, parts_of

__all__ = ["END_SECONDS", "NOBODY", "Login", "Logins", "Tenure"]

log = logging.getLogger(__name__)

_KNOWN_MAX = 4_096
"""Headers that are remembered as verified: a client shows the same one with each of its calls."""

END_SECONDS = 10.0


@dataclass(slots=True, eq=False)
class Tenure:
    """For how long a token is good: shared by all logins that it gave."""

    grant_id: str = ""
    over_since: float | None = None  # monotonic; set once, by the thread that notices
    calls: int = 0  # in flight; guarded by the lock of Admission


@dataclass(frozen=True, slots=True, eq=False)
class Login:
    """A principal, and the token it came from; none when nobody is asked."""

    principal: Principal
    tenure: Tenure

    @property
    def over(self) -> bool:
        """Whether the token was revoked or has expired since."""
        return self.tenure.over_since is not None


NOBODY = Login(Principal(role="reader"), Tenure(over_since=0.0))
"""Whoever was refused."""


@dataclass(slots=True, eq=False)
class _Book:
    """The tokens at one time. It is never changed, but replaced, with what was verified against it."""

    grants: dict[str, Grant]
    logins: dict[str, Login]  # by the id of their grant
    seen: tuple[int, ...] | None
    open_tenure: Tenure | None  # while nobody is asked
    known: dict[str, Login] = field(default_factory=dict)  # headers; changed by one dict operation at a time


class Logins:
    """Safe from any thread. Without a token file nobody is asked; with one, also an empty one, everybody is.

    `ended` is called by the noticing thread when some are over, and again at each look for `END_SECONDS`: what began
    just before may still be there.
    """

    def __init__(self, file: TokenFile | None, look_seconds: float, ended: Callable[[], None]) -> None:
        """Read the file. Raises InvalidArgument when it is there and cannot be used."""
        self._file = file
        self._look_seconds = look_seconds
        self._ended = ended
        self._book = self._read(None)  # replaced by the noticing thread alone
        self._end_until = 0.0  # of that thread: until when to end what is over
        self._failing = False  # of that thread: whether the file could not be read lately
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def asks(self) -> bool:
        """Whether callers must say who they are."""
        return self._book.open_tenure is None

    def start(self) -> None:
        """Begin to look for changes."""
        if self._file is not None:
            self._thread = threading.Thread(target=self._run, name="ducktower-tokens", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def known(self, header: str) -> Login | None:
        """Return the login that a header was verified for; what is over is forgotten with its book."""
        return self._book.known.get(header)

    def open(self, name: str, header: str) -> Login | None:
        """Return the login of somebody who is not asked, under whatever name; None when everybody is asked."""
        book = self._book
        if book.open_tenure is None:
            return None
        login = Login(Principal(name), book.open_tenure)
        self._remember(book, header, login)
        return login

    def verified(self, text: str, name: str | None, header: str) -> Login | None:
        """Return the login of a token, shown as the password of `name` if there is one; None when it is not good."""
        parts = parts_of(text)
        book = self._book
        grant = book.grants.get(parts.id) if parts is not None else None
        # All refusals take the same way, and tell the same: nothing of which part was wrong.
        if parts is None or grant is None or not grant.matches(parts.secret) or grant.expired(time.time()):
            return None
        if name is not None and name != grant.name:
            return None
        login = book.logins[grant.id]
        self._remember(book, header, login)
        return login

    def granted(self, grant_id: str, name: str) -> Login | None:
        """Return the login behind a session's token; None when it is over."""
        book = self._book
        if grant_id:
            return book.logins.get(grant_id)
        if book.open_tenure is None:
            return None
        return Login(Principal(name), book.open_tenure)

    def lives(self, principal: Principal) -> bool:
        """Whether a principal, this very object, is that of a login which is not over, or of this process itself."""
        book = self._book
        if principal is LOCAL or book.open_tenure is not None:
            return True
        return any(login.principal is principal for login in book.logins.values())

    @staticmethod
    def _remember(book: _Book, header: str, login: Login) -> None:
        if len(book.known) >= _KNOWN_MAX:
            book.known.clear()
        book.known[header] = login  # of that book: one that was replaced meanwhile is never asked again

    # -- noticing -------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing.wait(self._look_seconds):
            try:
                self._look()
                if time.monotonic() < self._end_until:
                    self._ended()
            except Exception:
                log.exception("cannot look after the tokens")

    def _look(self) -> None:
        assert self._file is not None  # noqa: S101 - else there is no thread
        old = self._book
        now = time.time()
        if self._file.look() == old.seen and not any(old.grants[one].expired(now) for one in old.logins):
            return
        try:
            new = self._read(old)
            self._failing = False
        except InvalidArgument as error:
            # Half an edit by hand must not throw everybody out; what expires meanwhile still does.
            if not self._failing:
                log.error("%s; the tokens stay what they were", error)  # noqa: TRY400 - the text says all
            self._failing = True
            new = self._without_expired(old)
        self._book = new
        kept = {id(login.tenure) for login in new.logins.values()}
        over = [login.tenure for login in old.logins.values() if id(login.tenure) not in kept]
        if old.open_tenure is not None and new.open_tenure is None:
            over.append(old.open_tenure)
        for tenure in over:
            tenure.over_since = time.monotonic()
        if over:
            log.info("%d tokens are over", len(over))
            self._end_until = time.monotonic() + END_SECONDS

    def _read(self, old: _Book | None) -> _Book:
        """Return the file's tokens that are good now; those that were good before keep their logins."""
        if self._file is None:
            return _Book({}, {}, None, Tenure())
        seen = self._file.look()  # first: a change during the read is noticed the next time
        if seen is None and (old is None or old.open_tenure is not None):
            return old or _Book({}, {}, None, Tenure())
        # A file that is gone opens nothing: whoever can remove it could not let himself in before either.
        return self._book_of(self._file.read(), seen, old)

    def _without_expired(self, old: _Book) -> _Book:
        return self._book_of(list(old.grants.values()), old.seen, old)

    @staticmethod
    def _book_of(grants: list[Grant], seen: tuple[int, ...] | None, old: _Book | None) -> _Book:
        now = time.time()
        good = {grant.id: grant for grant in grants if not grant.expired(now)}
        logins = {}
        for grant in good.values():
            same = old is not None and old.grants.get(grant.id) == grant
            login = old.logins.get(grant.id) if old is not None and same else None
            logins[grant.id] = login or Login(grant.principal, Tenure(grant.id))
        return _Book(good, logins, seen, None)
