"""The desk where claimed emails are given out to lanes and their verdicts come back: the ledger's side of sending.

Many lanes send at the same time, and each letter is promised two commits of its own: "handing over" before its
first byte, "accepted" as soon as the answer is there. A commit costs as much as a letter, so lanes share them:
one lane at a time is the clerk and serves, in one transaction, everybody who came while the one before was at
work. Nobody waits for a batch to fill.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from threading import Event, Lock
from typing import TypeVar

from newsletter.clock import Clock
from newsletter.errors import RelayUnavailable
from newsletter.fibres import BLOCKING, Signal, Waiting
from newsletter.mail.base import Stage, verdict_of
from newsletter.service.office import Handed, Judged, Office, Seat
from newsletter.service.rounds import Rounds
from newsletter.service.stock import Stock
from newsletter.store import handovers
from newsletter.store.deliveries import Delivery
from newsletter.store.handovers import Leaving

T = TypeVar("T")

BYTES_WITHIN = timedelta(seconds=2)
"""Bytes start this soon after the handover commit, or it is renewed with the same checks."""


@dataclass(eq=False)
class _Visit:
    """A lane at the desk. `served` is set when it is done, or when it is its turn to be the clerk."""

    seat: Seat
    judged: list[Judged]
    wants: bool
    served: Signal
    is_done: bool = False
    error: BaseException | None = None


class Desk:
    """One worker's desk for letters, or for what people wait for. Lanes may visit it from any thread.

    Args:
        worker: the id under which it claims.
        letters: whether it gives out letters, or what people wait for.
        clock: business time, looked at for each round.
        stop: set when the process is to end: nothing more is given out.
        waiting: how its visitors wait.
    """

    def __init__(
        self,
        office: Office,
        *,
        worker: str,
        letters: bool,
        clock: Clock,
        stop: Event,
        waiting: Waiting = BLOCKING,
    ) -> None:
        self._office = office
        self._clock = clock
        self._stop = stop
        self._waiting = waiting
        self._seats: set[Seat] = set()
        self._stock = Stock(office, worker=worker, letters=letters, clock=clock, stop=stop, kept=self._kept)
        self._rounds = Rounds(office, self._stock, letters=letters, clock=clock, stop=stop, waiting=waiting)
        self._mutex = Lock()
        self._queue: list[_Visit] = []
        self._has_clerk = False

    @property
    def stock(self) -> int:
        """How many emails are claimed and not given out."""
        return len(self._stock)

    @property
    def more_comes_soon(self) -> bool:
        """Whether it is the pace that says there is no more for now, and will say something else within a second."""
        return self._stock.more_comes_soon

    def _kept(self) -> list[Delivery]:
        with self._mutex:
            return [seat.ready.item for seat in self._seats if seat.ready is not None]

    @contextmanager
    def attended(self) -> Iterator[Seat]:
        """While a lane is at work; what is left when the last one goes is given back, so that nothing waits."""
        seat = Seat()
        with self._mutex:
            if not self._seats:
                self._stock.look_anew()
            self._seats.add(seat)
        try:
            self._release(is_complete=False)
            yield seat
        finally:
            with self._mutex:
                self._seats.remove(seat)
                is_last = not self._seats
            if seat.ready is not None:
                self._stock.return_untouched([seat.ready.item])
            if is_last:
                self._stock.clear()
            self._release(is_complete=is_last)
            if is_last:
                self._rounds.close()

    def _release(self, *, is_complete: bool) -> None:
        if self._stock.owes:
            self._at_the_database(lambda: self._stock.release(is_complete=is_complete))

    def has_work(self) -> bool:
        """Whether anything is due; what is found is claimed."""
        if len(self._stock):
            return True
        return self._stock.may_claim() and self._at_the_database(self._stock.look_for_work)

    def tell_unavailable(self, error: RelayUnavailable) -> None:
        """The mail server let no conversation begin; where it wants less from us, it is given less."""
        verdict = verdict_of(Stage.OPEN, error.reply_code, error.reply_text, host="")
        if verdict.slow_down:
            self._at_the_database(lambda: self._rounds.learn([("", verdict)]))

    def exchange(self, seat: Seat, judged: Sequence[Judged], *, wants: bool) -> Handed | None:
        """Have verdicts recorded and, where `wants`, get the next email: one whose handover is committed.

        Where the seat looks ahead, it is told what comes after that one, too.

        Returns:
            None where nothing is due, or where none is wanted.

        Raises:
            DatabaseUnavailable: come again with the same verdicts; one that was recorded already changes nothing.
        """
        visit = _Visit(seat, list(judged), wants, self._waiting.signal())
        seat.handed = None
        with self._mutex:
            self._queue.append(visit)
            is_clerk, self._has_clerk = not self._has_clerk, True
        if is_clerk:
            # Who has come at the same time is served in the same round.
            self._waiting.give_way()
        else:
            visit.served.wait()
        if not visit.is_done:
            self._be_clerk()
        if visit.error is not None:
            raise visit.error
        return seat.handed

    def renew(self, handed: Handed) -> Handed | None:
        """Commit a handover once more, with the same checks, because its bytes did not leave at once.

        Returns:
            None where it must not leave any more; then it was given back.
        """
        return self._at_the_database(lambda: self._renew(handed))

    def _renew(self, handed: Handed) -> Handed | None:
        now, began = self._clock.now(), time.monotonic()
        leaving = Leaving(item=handed.item, handover=handed.composed.handover, min_gap=handed.composed.min_gap)
        with self._office.database.write() as connection:
            if handovers.hand_over(connection, [leaving], now=now, renew=True):
                return handed._replace(committed_at=began)
        self._office.returning.release([handed.item], now=now)
        self._stock.look_anew()
        return None

    def return_unsent(self, item: Delivery) -> None:
        """Give back an email of which certainly no byte has left; later, where the database is away."""
        self._stock.give_back([item])

    def _at_the_database(self, call: Callable[[], T]) -> T:
        """Make a call that is nearly all SQL.

        SQLite works in this very thread, and to change threads for each of its statements takes longer than it
        does. A server works beside us: meanwhile other lanes go on.
        """
        return call() if self._office.database.is_sqlite else self._waiting.elsewhere(call)

    # The clerk

    def _be_clerk(self) -> None:
        """Serve everybody who is there, and name the next clerk among those who have come meanwhile."""
        with self._mutex:
            visits, self._queue = self._queue, []
        try:
            self._at_the_database(lambda: self._serve(visits))
        except BaseException as error:  # noqa: BLE001  (each lane raises it in its own thread)
            for visit in visits:
                visit.error = error
        with self._mutex:
            heir = self._queue[0] if self._queue else None
            self._has_clerk = heir is not None
        for visit in visits:
            visit.is_done = True
            visit.served.set()
        if heir is not None:
            heir.served.set()

    def _serve(self, visits: list[_Visit]) -> None:
        judged = [each for visit in visits for each in visit.judged]
        self._rounds.serve(judged, [visit.seat for visit in visits if visit.wants])
