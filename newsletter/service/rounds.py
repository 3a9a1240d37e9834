"""One round at a desk: verdicts recorded, emails composed and handed over, and more claimed, in one transaction."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import datetime
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
from newsletter.service.office import Handed, Judged, Office
from newsletter.service.pacing import Claim
from newsletter.service.stock import Stock
from newsletter.store import handovers
from newsletter.store.database import Connection
from newsletter.store.deliveries import Delivery
from newsletter.store.handovers import Leaving
from newsletter.store.subscriptions import Subscriber, Subscription

log = structlog.get_logger()

_LETTER = Kind.LETTER  # looked up once: the member of an enumeration is found by a call of Python's


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

    def serve(self, judged: list[Judged], number: int) -> list[Handed]:
        """Record verdicts, and hand over so many emails, or fewer where fewer are due.

        Raises:
            DatabaseUnavailable: nothing was recorded.
        """
        self._stock.release(is_complete=True)
        served: list[Handed] = []
        while True:
            now, wanted = self._clock.now(), number - len(served)
            ready = [] if self._stop.is_set() else self._make_ready(wanted, now=now)
            handed, refused = self._commit(judged, ready, more=wanted > 0, now=now)
            self._hear(judged)
            judged = []
            served += handed
            for item in refused:
                self._office.returning.put_back(item, now=now)
            if len(served) == number or not len(self._stock) or self._stop.is_set():
                return served

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

    def _make_ready(self, number: int, *, now: datetime) -> list[tuple[Delivery, Composed]]:
        """The next so many emails of the stock, composed; what cannot be is held, what must not leave put back."""
        ready: list[tuple[Delivery, Composed]] = []
        while len(ready) < number and (items := self._stock.take(number - len(ready))):
            composed, forbidden, faulty = self._compose(items, now=now)
            ready += composed
            for item in forbidden:
                self._office.returning.put_back(item, now=now)
            for item, error in faulty:
                self._office.returning.hold(item, error, now=now)
        return ready

    def _compose(
        self, items: list[Delivery], *, now: datetime
    ) -> tuple[list[tuple[Delivery, Composed]], list[Delivery], list[tuple[Delivery, Exception]]]:
        composed: list[tuple[Delivery, Composed]] = []
        forbidden: list[Delivery] = []
        faulty: list[tuple[Delivery, Exception]] = []
        try:
            with self._office.database.read() as connection:
                edition = self._office.editions.live(connection)
                known = Ingredients.gather(connection, edition, items)
                for item, needed in zip(items, known, strict=True):
                    try:
                        made = None
                        if edition is not None and needed is not None:
                            made = self._compose_one(connection, edition, item, needed, now=now)
                    except DatabaseUnavailable:
                        raise
                    except Exception as error:  # noqa: BLE001
                        # Whatever is wrong with this letter, the others go on.
                        faulty.append((item, error))
                        continue
                    if made is None:
                        forbidden.append(item)
                    else:
                        composed.append((item, made))
        except Exception:
            # No byte has left: they go back as soon as the database can be told.
            self._stock.give_back(items)
            raise
        return composed, forbidden, faulty

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

    def _commit(
        self, judged: list[Judged], ready: list[tuple[Delivery, Composed]], *, more: bool,
        now: datetime,
    ) -> tuple[list[Handed], list[Delivery]]:  # fmt: skip
        """Record, hand over, and claim what is next, in one transaction.

        Returns:
            What is handed over, and what must not leave.
        """
        leaving = [Leaving(item, made.handover, made.min_gap) for item, made in ready]
        began = time.monotonic()
        try:
            try:
                granted, claim = self._transact(judged, leaving, more=more, now=now)
            except DatabaseUnavailable:
                raise
            except Exception:
                # One reader who cannot be moved must not keep the verdicts on all others from being written.
                if not judged:
                    raise
                log.exception("verdicts_not_recorded", count=len(judged))
                for each, verdict in judged:
                    self._record_alone(each.item, verdict, now=now)
                granted, claim = self._transact([], leaving, more=more, now=now)
        except Exception:
            self._stock.give_back([item for item, _ in ready])
            raise
        self._stock.take_in(claim)
        if len(granted) == len(ready):
            return [Handed(item, made, began) for item, made in ready], []
        handed = [Handed(item, made, began) for item, made in ready if item.id in granted]
        return handed, [item for item, _ in ready if item.id not in granted]

    def _transact(
        self, judged: list[Judged], leaving: list[Leaving], *, more: bool, now: datetime
    ) -> tuple[set[UUID], Claim | None]:
        stock = self._stock
        if not judged and not leaving and not (more and not len(stock) and stock.may_claim()):
            return set(), None
        seen: dict[UUID, tuple[Subscription, Place]] = {
            each.composed.seen[0].id: each.composed.seen for each, _ in judged if each.composed.seen
        }
        with stock.in_doubt(), self._office.database.write(settle=self._waiting.elsewhere) as connection:
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
