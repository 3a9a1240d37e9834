"""What one worker has claimed and not given out yet, and what of it goes back."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from threading import Event, Lock

from newsletter.clock import Clock
from newsletter.service.office import Office
from newsletter.service.pacing import Claim
from newsletter.store import handovers
from newsletter.store.database import Connection
from newsletter.store.deliveries import Delivery

CLAIM_BATCH = 200
"""Rows that are claimed at a time."""

_EMPTY_FOR = timedelta(seconds=0.05)
"""Nothing was due: many lanes that end their work at the same time need not all look."""

_SELDOM, _OFTEN, _SOON = timedelta(seconds=0.1), timedelta(seconds=0.5), timedelta(seconds=1)
"""Where the pace says that there is no more: it is asked again after so long at least, and at most; and what is worth
to be waited for."""


class Stock:
    """Claimed emails, letters or what people wait for. Threads may share it.

    Args:
        worker: the id under which it claims.
        stop: set when the process is to end: nothing more is claimed.
        kept: what was taken from here and kept for somebody.
    """

    def __init__(
        self,
        office: Office,
        *,
        worker: str,
        letters: bool,
        clock: Clock,
        stop: Event,
        kept: Callable[[], Iterable[Delivery]] = tuple,
    ) -> None:
        self._office = office
        self._worker = worker
        self._letters = letters
        self._clock = clock
        self._stop = stop
        self._kept = kept
        self._mutex = Lock()
        self._items: deque[Delivery] = deque()
        # What the database could not be told when it was away.
        self._unreleased: list[Delivery] = []
        # Whether a claim may have been committed of which no answer came.
        self._is_in_doubt = False
        # In monotonic seconds: nothing is claimed before, because the pace says so.
        self._claims_from = 0.0
        # In monotonic seconds: until then nothing is due, as far as anybody here knows.
        self._empty_until = 0.0
        self.more_comes_soon = False

    def __len__(self) -> int:
        """How many emails are there to be given out."""
        return len(self._items)

    def may_claim(self) -> bool:
        """Whether there is any sense in claiming now."""
        if self._stop.is_set():
            return False
        return time.monotonic() >= max(self._claims_from, self._empty_until)

    def look_anew(self) -> None:
        """Something may be due again: somebody begins to work here, or gave back what may leave at once."""
        self._empty_until = 0.0

    def claim(self, connection: Connection) -> Claim:
        """Claim what may leave now; the last thing in a transaction. `take_in` it when that is committed."""
        return self._office.pacing.claim(
            connection, owner=self._worker, letters=self._letters, limit=CLAIM_BATCH, now=self._clock.now()
        )

    @contextmanager
    def in_doubt(self) -> Iterator[None]:
        """While something may be claimed: where the commit's answer is lost, nobody knows whether it was."""
        try:
            yield
        except BaseException:
            self._is_in_doubt = True
            raise

    def take_in(self, claim: Claim | None) -> None:
        """Keep what was claimed, and to what the pace says, once it is committed."""
        if claim is None:
            return
        with self._mutex:
            self._items.extend(claim.items)
        after = claim.more_after
        if not claim.items and after is None:
            self._empty_until = time.monotonic() + _EMPTY_FOR.total_seconds()
        self.more_comes_soon = after is not None and after <= _SOON
        # Not for each single letter's turn; and not too late to see that an operator has set things right.
        self._claims_from = time.monotonic() + min(max(after, _SELDOM), _OFTEN).total_seconds() if after else 0.0

    def look_for_work(self) -> bool:
        """Claim, in transactions of its own; whether anything was found."""
        while self.may_claim():
            with self.in_doubt(), self._office.database.write() as connection:
                claim = self.claim(connection)
            self.take_in(claim)
            if claim.items:
                return True
            if claim.more_after != timedelta():
                break
        return False

    def take(self, number: int) -> list[Delivery]:
        """The next so many, to be given out."""
        with self._mutex:
            return [self._items.popleft() for _ in range(min(number, len(self._items)))]

    def return_untouched(self, items: Sequence[Delivery]) -> None:
        """What was taken and is not needed yet; it is the next again."""
        with self._mutex:
            self._items.extendleft(reversed(items))

    def give_back(self, items: Sequence[Delivery]) -> None:
        """Emails of which certainly no byte has left; the database is told by the next `release`."""
        with self._mutex:
            self._unreleased += items

    def clear(self) -> None:
        """Give back all that is there."""
        with self._mutex:
            self._unreleased += self._items
            self._items.clear()

    @property
    def owes(self) -> bool:
        """Whether the database has to be told of anything."""
        return bool(self._unreleased) or self._is_in_doubt

    def release(self, *, is_complete: bool) -> None:
        """Tell the database what is given back.

        Args:
            is_complete: no email is on its way from here to a lane, so that what is claimed, not here and not kept
                was claimed without our knowledge. It goes back, too: its lease lives, and nobody else would take it.
        """
        if self._is_in_doubt and is_complete:
            self._find_stranded()
        with self._mutex:
            items = list(self._unreleased)
        if not items:
            return
        # The handover of some may have been committed all the same; no byte has left.
        self._office.returning.release(items, now=self._clock.now())
        self.look_anew()
        told = {item.id for item in items}
        with self._mutex:
            self._unreleased = [item for item in self._unreleased if item.id not in told]

    def _find_stranded(self) -> None:
        with self._office.database.read() as connection:
            claimed = handovers.claimed_by(connection, self._worker, letters=self._letters)
        with self._mutex:
            known = {item.id for item in (*self._items, *self._unreleased, *self._kept())}
            self._unreleased += [item for item in claimed if item.id not in known]
        self._is_in_doubt = False
