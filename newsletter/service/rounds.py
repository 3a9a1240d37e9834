"""One round at a desk: verdicts recorded, emails composed and handed over, and more claimed, in one transaction."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from threading import Event
from uuid import UUID

import structlog

from newsletter.clock import Clock
from newsletter.domain.cadence import is_late, waking_from
from newsletter.domain.delivery import Kind
from newsletter.domain.progress import Place
from newsletter.errors import DatabaseUnavailable
from newsletter.fibres import Waiting
from newsletter.mail.base import Verdict
from newsletter.service.composing import Composed, Ingredients
from newsletter.service.editions import Edition
from newsletter.service.office import Handed, Judged, Office, Ready, Seat
from newsletter.service.pacing import Claim
from newsletter.service.stock import Stock
from newsletter.store import handovers
from newsletter.store.database import Connection, Line
from newsletter.store.deliveries import Delivery
from newsletter.store.handovers import Leaving
from newsletter.store.subscriptions import Subscriber, Subscription

log = structlog.get_logger()

_LETTER = Kind.LETTER  # looked up once: the member of an enumeration is found by a call of Python's


_FRESH_FOR = timedelta(seconds=1)
"""What was composed longer ago is composed anew before it is handed over."""


class Rounds:
    """The rounds of one desk, one after the other.

    Args:
        letters: whether it sends letters, or what people wait for.
        stop: set when the process is to end: nothing more is handed over.
        waiting: how to wait for the disk.
    """

    def __init__(
        self, office: Office, stock: Stock, *, letters: bool, clock: Clock, stop: Event, waiting: Waiting
    ) -> None:
        self._office = office
        self._stock = stock
        self._letters = letters
        self._clock = clock
        self._stop = stop
        self._waiting = waiting
        self._line = Line()

    def close(self) -> None:
        """Let go of the database until the next round."""
        self._line.close()

    def serve(self, judged: list[Judged], seats: Sequence[Seat]) -> None:
        """Record verdicts, and hand over an email to each seat, or to fewer where fewer are due.

        Raises:
            DatabaseUnavailable: come again with the same verdicts; one that was recorded already changes nothing.
        """
        self._stock.release(is_complete=True)
        spare: deque[Ready] = deque()
        try:
            self._serve(judged, seats, spare)
        except Exception:
            # Whatever was handed over: nobody is told of it, and no byte has left.
            handed = [seat.handed.item for seat in seats if seat.handed is not None]
            self._stock.give_back([*handed, *(ready.item for ready in spare)])
            for seat in seats:
                seat.handed = None
            raise
        self._look_ahead(seats, spare)

    def _serve(self, judged: list[Judged], seats: Sequence[Seat], spare: deque[Ready]) -> None:
        """Until each seat has an email, or none is left; `spare` is what is composed and no seat's yet."""
        lacking = list(seats)
        while True:
            now = self._clock.now()
            if not self._stop.is_set():
                self._make_ready(lacking, spare, now=now)
            leaving = [] if self._stop.is_set() else [seat for seat in lacking if seat.ready is not None]
            refused = self._commit(judged, leaving, more=bool(lacking), now=now)
            self._hear(judged)
            judged = []
            for item in refused:
                self._office.returning.put_back(item, now=now)
            lacking = [seat for seat in lacking if seat.handed is None]
            if not lacking or not (spare or len(self._stock)) or self._stop.is_set():
                return

    def _look_ahead(self, seats: Sequence[Seat], spare: deque[Ready]) -> None:
        """Keep for each seat what comes next there."""
        for seat in seats:
            if spare and seat.looks_ahead and seat.handed is not None and seat.ready is None:
                seat.ready = spare.popleft()
        if spare:
            self._stock.return_untouched([ready.item for ready in spare])

    def learn(self, verdicts: Sequence[tuple[str, Verdict]]) -> None:
        """Let the pace hear what the mail server said; it is recorded already, and losing this is harmless."""
        try:
            self._office.pacing.learn(verdicts)
        except DatabaseUnavailable as error:
            log.warning("pace_not_learned", reason=str(error))
        except Exception:
            # Others have letters in hand that have to leave now.
            log.exception("pace_not_learned")

    def _hear(self, judged: Sequence[Judged]) -> None:
        if judged and self._office.pacing.is_news(verdict for _, verdict in judged):
            self.learn([(handed.envelope.recipient.rpartition("@")[2], verdict) for handed, verdict in judged])

    def _make_ready(self, seats: Sequence[Seat], spare: deque[Ready], *, now: datetime) -> None:
        """Have an email composed for each seat, and for those that look ahead another one, which goes to `spare`.

        What cannot be composed is held, what must not leave put back.
        """
        fresh_from = time.monotonic() - _FRESH_FOR.total_seconds()
        for seat in seats:
            if seat.ready is not None and seat.ready.composed_at < fresh_from:
                # Their reader may have wished for something else meanwhile.
                stale, seat.ready = seat.ready, None
                seat.ready = next(iter(self._compose([stale.item], now=now)), None)
        wanted = sum((seat.ready is None) + seat.looks_ahead for seat in seats)
        while len(spare) < wanted and (items := self._stock.take(wanted - len(spare))):
            spare += self._compose(items, now=now)
        for seat in seats:
            if seat.ready is None and spare:
                seat.ready = spare.popleft()

    def _compose(self, items: list[Delivery], *, now: datetime) -> list[Ready]:
        composed_at = time.monotonic()
        try:
            with self._office.database.read(line=self._line) as connection:
                tried = self._try_each(connection, items, now=now)
            composed: list[Ready] = []
            for item, made in zip(items, tried, strict=True):
                if isinstance(made, Exception):
                    self._office.returning.hold(item, made, now=now)
                elif made is None:
                    self._office.returning.put_back(item, now=now)
                else:
                    composed.append(Ready(item, made, composed_at))
        except Exception:
            # No byte has left: they go back as soon as the database can be told.
            self._stock.give_back(items)
            raise
        return composed

    def _try_each(
        self, connection: Connection, items: list[Delivery], *, now: datetime
    ) -> list[Composed | Exception | None]:
        """Each of some emails; None for what must not leave, and an error that keeps one from being composed."""
        tried: list[Composed | Exception | None] = []
        edition = self._office.editions.live(connection)
        known = Ingredients.gather(connection, edition, items)
        for item, needed in zip(items, known, strict=True):
            try:
                made = None
                if edition is not None and needed is not None:
                    made = self._compose_one(connection, edition, item, needed, now=now)
                tried.append(made)
            except DatabaseUnavailable:
                raise
            except Exception as error:  # noqa: BLE001
                # Whatever is wrong with this letter, the others go on.
                tried.append(error)
        return tried

    def _compose_one(
        self, connection: Connection, edition: Edition, item: Delivery, needed: Ingredients, *, now: datetime
    ) -> Composed | None:
        if self._comes_too_late(item, needed.reader, now=now):
            return None
        if self._office.pacing.keeps_back(needed.reader, letters=self._letters):
            return None
        return self._office.composer.compose(connection, edition, item, needed, now=now)

    def _comes_too_late(self, item: Delivery, reader: Subscriber, *, now: datetime) -> bool:
        """Whether a letter is behind its slot and this is no hour, or no week, to send it."""
        if item.kind is not _LETTER or not is_late(item.due_at, now=now):
            return False
        return self._office.skip_late or waking_from(now, reader.slot.timezone) > now

    def _commit(self, judged: list[Judged], seats: Sequence[Seat], *, more: bool, now: datetime) -> list[Delivery]:
        """Record, hand over what is ready at some seats, and claim what is next, in one transaction.

        Returns:
            What must not leave.
        """
        ready = [seat.ready for seat in seats if seat.ready is not None]
        for seat in seats:
            seat.ready = None
        leaving = [Leaving(item, made.handover, made.min_gap) for item, made, _ in ready]
        began = time.monotonic()
        try:
            granted, claim = self._transact(judged, leaving, more=more, now=now)
        except Exception:
            self._stock.give_back([item for item, _, _ in ready])
            raise
        self._stock.take_in(claim)
        refused: list[Delivery] = []
        for seat, (item, made, _) in zip(seats, ready, strict=True):
            if item.id in granted:
                seat.handed = Handed(item, made, began)
            else:
                refused.append(item)
        return refused

    def _transact(
        self, judged: list[Judged], leaving: list[Leaving], *, more: bool, now: datetime
    ) -> tuple[set[UUID], Claim | None]:
        """The transaction; a verdict that cannot be recorded with the others is recorded alone."""
        try:
            return self._transact_together(judged, leaving, more=more, now=now)
        except DatabaseUnavailable:
            raise
        except Exception:
            # One reader who cannot be moved must not keep the verdicts on all others from being written.
            if not judged:
                raise
            log.exception("verdicts_not_recorded", count=len(judged))
        for each, verdict in judged:
            self._record_alone(each.item, verdict, now=now)
        return self._transact_together([], leaving, more=more, now=now)

    def _transact_together(
        self, judged: list[Judged], leaving: list[Leaving], *, more: bool, now: datetime
    ) -> tuple[set[UUID], Claim | None]:
        stock = self._stock
        if not judged and not leaving and not (more and not len(stock) and stock.may_claim()):
            return set(), None
        seen: dict[UUID, tuple[Subscription, Place]] = {
            each.composed.seen[0].id: each.composed.seen for each, _ in judged if each.composed.seen
        }
        write = self._office.database.write(line=self._line, settle=self._waiting.elsewhere)
        with stock.in_doubt(), write as connection:
            for batch in _one_a_reader([(each.item, verdict) for each, verdict in judged]):
                self._office.recorder.record(connection, batch, now=now, seen=seen)
            granted = handovers.hand_over(connection, leaving, now=now) if leaving else set()
            # Ahead of the need: what is claimed here costs no commit of its own.
            wanted = more and len(stock) < len(leaving) + 1 and stock.may_claim()
            return granted, stock.claim(connection) if wanted else None

    def _record_alone(self, item: Delivery, verdict: Verdict, *, now: datetime) -> None:
        try:
            with self._office.database.write() as connection:
                self._office.recorder.record(connection, [(item, verdict)], now=now)
        except DatabaseUnavailable:
            raise
        except Exception:
            log.exception("subscription_not_moved", delivery=str(item.id), outcome=verdict.outcome.value)
            with self._office.database.write() as connection:
                self._office.recorder.record_alone(connection, item, verdict, now=now)


def _one_a_reader(judged: list[tuple[Delivery, Verdict]]) -> Iterator[list[tuple[Delivery, Verdict]]]:
    """In batches in which no reader comes twice: what one verdict makes of them, the next has to find."""
    rest = judged
    if judged and len({item.subscriber_id for item, _ in judged}) == len(judged):
        yield judged
        return
    while rest:
        batch: dict[object, tuple[Delivery, Verdict]] = {}
        later = []
        for each in rest:
            if each[0].subscriber_id in batch:
                later.append(each)
            else:
                batch[each[0].subscriber_id] = each
        yield list(batch.values())
        rest = later
