"""The desk where claimed emails are given out to lanes and their verdicts come back: the ledger's side of sending.

Many lanes send at the same time, and each letter is promised two commits of its own: "handing over" before its
first byte, "accepted" as soon as the answer is there. A commit costs as much as a letter, so lanes share them:
one lane at a time is the clerk and serves, in one transaction, everybody who came while the one before was at
work. Nobody waits for a batch to fill.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Event, Lock
from uuid import UUID

import structlog

from newsletter.clock import Clock
from newsletter.domain.cadence import is_late, waking_from
from newsletter.domain.delivery import DeliveryId, Kind, State
from newsletter.domain.progress import Place
from newsletter.domain.subscription import State as SubscriptionState
from newsletter.errors import AddressError, DatabaseUnavailable, RenderError
from newsletter.fibres import BLOCKING, Signal, Waiting
from newsletter.mail.base import Envelope, Verdict
from newsletter.service import progression
from newsletter.service.composing import Composed, Composer, Material, step_of
from newsletter.service.editions import Edition, Editions
from newsletter.service.recording import Recorder
from newsletter.store import handovers, subscriptions, switches
from newsletter.store.database import Connection, Database
from newsletter.store.deliveries import Delivery
from newsletter.store.handovers import Answer, Leaving
from newsletter.store.subscriptions import Subscriber, Subscription

log = structlog.get_logger()

CLAIM_BATCH = 200
"""Rows a desk claims at a time."""

BYTES_WITHIN = timedelta(seconds=2)
"""Bytes start this soon after the handover commit, or it is renewed with the same checks."""

_NO_ANSWER = Answer(code=None, text="", host="")


@dataclass(frozen=True, kw_only=True)
class Office:
    """What every desk works with.

    Attributes:
        skip_late: a letter more than two hours behind its slot is not sent; that week passes.
    """

    database: Database
    editions: Editions
    composer: Composer
    recorder: Recorder
    skip_late: bool = False

    def count_due(self, *, now: datetime) -> int:
        """How many emails are due and not closed."""
        with self.database.read() as connection:
            return handovers.count_due(connection, now=now)

    def is_stopped(self) -> bool:
        """Whether the operator stopped all sending."""
        with self.database.read() as connection:
            return not switches.switch_is_on(connection, switches.SENDING)


@dataclass(frozen=True, kw_only=True)
class Handed:
    """An email whose handover is committed. Its bytes leave at once, or it is renewed or returned.

    Attributes:
        committed_at: monotonic seconds, just before the commit.
    """

    item: Delivery
    composed: Composed
    committed_at: float

    @property
    def envelope(self) -> Envelope:
        """What goes to the mail server."""
        return self.composed.envelope


@dataclass(eq=False)
class _Visit:
    """A lane at the desk. `served` is set when it is done, or when it is its turn to be the clerk."""

    judged: list[tuple[Delivery, Verdict]]
    wants: bool
    served: Signal
    is_done: bool = False
    handed: Handed | None = None
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
        self._worker = worker
        self._letters = letters
        self._clock = clock
        self._stop = stop
        self._waiting = waiting
        self._mutex = Lock()
        self._queue: list[_Visit] = []
        self._has_clerk = False
        self._stock: deque[Delivery] = deque()
        self._attending = 0
        # By subscription: what the letters on their way were composed from.
        self._seen: dict[UUID, tuple[Subscription, Place]] = {}
        # What the database could not be told when it was away.
        self._unreleased: list[Delivery] = []

    @property
    def stock(self) -> int:
        """How many emails are claimed and not given out."""
        return len(self._stock)

    @contextmanager
    def attended(self) -> Iterator[None]:
        """While a lane is at work; what is left when the last one goes is given back, so that nothing waits."""
        with self._mutex:
            self._attending += 1
        try:
            self._release()
            yield
        finally:
            with self._mutex:
                self._attending -= 1
                if self._attending == 0:
                    self._unreleased += self._stock
                    self._stock.clear()
                    self._seen.clear()
            self._release()

    def has_work(self) -> bool:
        """Whether anything is due; what is found is claimed."""
        with self._mutex:
            if self._stock:
                return True
        return not self._stop.is_set() and self._waiting.elsewhere(self._look_for_work)

    def _look_for_work(self) -> bool:
        with self._office.database.write() as connection:
            found = self._claim(connection)
        with self._mutex:
            self._stock.extend(found)
        return bool(found)

    def exchange(self, judged: Sequence[tuple[Delivery, Verdict]], *, wants: bool) -> Handed | None:
        """Have verdicts recorded and, where `wants`, get the next email: one whose handover is committed.

        Returns:
            None where nothing is due, or where none is wanted.

        Raises:
            DatabaseUnavailable: nothing was recorded; come again with the same verdicts.
        """
        visit = _Visit(judged=list(judged), wants=wants, served=self._waiting.signal())
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
        return visit.handed

    def renew(self, handed: Handed) -> Handed | None:
        """Commit a handover once more, with the same checks, because its bytes did not leave at once.

        Returns:
            None where it must not leave any more; then it was given back.
        """
        return self._waiting.elsewhere(lambda: self._renew(handed))

    def _renew(self, handed: Handed) -> Handed | None:
        now, began = self._clock.now(), time.monotonic()
        leaving = Leaving(item=handed.item, handover=handed.composed.handover, min_gap=handed.composed.min_gap)
        with self._office.database.write() as connection:
            if handovers.hand_over(connection, [leaving], now=now, renew=True):
                return Handed(item=handed.item, composed=handed.composed, committed_at=began)
            handovers.record_deferred(connection, handed.item, _NO_ANSWER, next_try_at=now, counts=False)
        return None

    def return_unsent(self, item: Delivery) -> None:
        """Give back an email of which certainly no byte has left; later, where the database is away."""
        with self._mutex:
            self._unreleased.append(item)

    def _release(self) -> None:
        """Tell the database what is given back."""
        with self._mutex:
            items = list(self._unreleased)
        if items:
            self._waiting.elsewhere(lambda: self._tell_released(items))

    def _tell_released(self, items: Sequence[Delivery]) -> None:
        with self._office.database.write() as connection:
            handovers.release_claimed(connection, items)
            for item in items:
                # Its handover may have been committed all the same; no byte has left.
                handovers.record_deferred(connection, item, _NO_ANSWER, next_try_at=self._clock.now(), counts=False)
        told = {item.id for item in items}
        with self._mutex:
            self._unreleased = [item for item in self._unreleased if item.id not in told]

    # The clerk

    def _be_clerk(self) -> None:
        """Serve everybody who is there, and name the next clerk among those who have come meanwhile."""
        with self._mutex:
            visits, self._queue = self._queue, []
        try:
            self._waiting.elsewhere(lambda: self._serve(visits))
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
        self._release()
        judged = [each for visit in visits for each in visit.judged]
        wanting = [visit for visit in visits if visit.wants]
        while True:
            now = self._clock.now()
            ready = [] if self._stop.is_set() else self._make_ready(len(wanting), now=now)
            handed, refused = self._commit(judged, ready, more=len(wanting) > 0, now=now)
            judged = []
            for visit, each in zip(wanting, handed, strict=False):
                visit.handed = each
            wanting = wanting[len(handed) :]
            for item in refused:
                self._put_back(item, now=now)
            if not wanting or not self._stock or self._stop.is_set():
                return

    def _take(self, number: int) -> list[Delivery]:
        with self._mutex:
            return [self._stock.popleft() for _ in range(min(number, len(self._stock)))]

    def _claim(self, connection: Connection) -> list[Delivery]:
        return handovers.claim_due(
            connection, owner=self._worker, letters=self._letters, now=self._clock.now(), limit=CLAIM_BATCH
        )

    def _make_ready(self, number: int, *, now: datetime) -> list[tuple[Delivery, Composed]]:
        """The next so many emails of the stock, composed; what cannot be is held, what must not leave put back."""
        ready: list[tuple[Delivery, Composed]] = []
        while len(ready) < number and (items := self._take(number - len(ready))):
            composed, forbidden, faulty = self._compose(items, now=now)
            ready += composed
            for item in forbidden:
                self._put_back(item, now=now)
            for item, error in faulty:
                self._hold(item, error)
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
                material = None if edition is None else Material.read(connection, edition, items)
                for item in items:
                    try:
                        made = None if material is None else self._compose_one(connection, material, item, now=now)
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
            with self._mutex:
                self._unreleased += items
            raise
        return composed, forbidden, faulty

    def _compose_one(
        self, connection: Connection, material: Material, item: Delivery, *, now: datetime
    ) -> Composed | None:
        reader = material.readers.get(item.subscriber_id)
        if reader is None or self._comes_too_late(item, reader, now=now):
            return None
        return self._office.composer.compose(connection, material, item, now=now)

    def _comes_too_late(self, item: Delivery, reader: Subscriber, *, now: datetime) -> bool:
        """Whether a letter is behind its slot and this is no hour, or no week, to send it."""
        if item.kind is not Kind.LETTER or not is_late(item.due_at, now=now):
            return False
        return self._office.skip_late or waking_from(now, reader.slot.timezone) > now

    def _hold(self, item: Delivery, error: Exception) -> None:
        foreseen = isinstance(error, RenderError | AddressError)
        reason = f"cannot be rendered: {error if foreseen else type(error).__name__}"
        with self._office.database.write() as connection:
            handovers.hold(connection, item, believed=State.CLAIMED, reason=reason)
        log.warning("delivery_held", delivery=str(item.id), reason=reason, exc_info=None if foreseen else error)

    def _commit(
        self, judged: list[tuple[Delivery, Verdict]], ready: list[tuple[Delivery, Composed]], *, more: bool,
        now: datetime,
    ) -> tuple[list[Handed], list[Delivery]]:  # fmt: skip
        """Record, hand over, and claim what is next, in one transaction.

        Returns:
            What is handed over, and what must not leave.
        """
        leaving = [Leaving(item=item, handover=made.handover, min_gap=made.min_gap) for item, made in ready]
        began = time.monotonic()
        try:
            try:
                granted, found = self._transact(judged, leaving, more=more, now=now)
            except DatabaseUnavailable:
                raise
            except Exception:
                # One reader who cannot be moved must not keep the verdicts on all others from being written.
                if not judged:
                    raise
                log.exception("verdicts_not_recorded", count=len(judged))
                for item, verdict in judged:
                    self._record_alone(item, verdict, now=now)
                granted, found = self._transact([], leaving, more=more, now=now)
        except Exception:
            with self._mutex:
                self._unreleased += [item for item, _ in ready]
            raise
        with self._mutex:
            self._stock.extend(found)
        handed = [Handed(item=item, composed=made, committed_at=began) for item, made in ready if item.id in granted]
        for item, _ in judged:
            if item.subscription_id is not None:
                self._seen.pop(item.subscription_id, None)
        self._seen |= {each.composed.seen[0].id: each.composed.seen for each in handed if each.composed.seen}
        return handed, [item for item, _ in ready if item.id not in granted]

    def _transact(
        self, judged: list[tuple[Delivery, Verdict]], leaving: list[Leaving], *, more: bool, now: datetime
    ) -> tuple[set[DeliveryId], list[Delivery]]:
        if not judged and not leaving and not (more and not self._stock):
            return set(), []
        with self._office.database.write() as connection:
            for batch in _one_a_reader(judged):
                self._office.recorder.record(connection, batch, now=now, seen=self._seen)
            granted = handovers.hand_over(connection, leaving, now=now) if leaving else set()
            # Ahead of the need: what is claimed here costs no commit of its own.
            wanted = more and len(self._stock) < len(leaving) + 1 and not self._stop.is_set()
            return granted, self._claim(connection) if wanted else []

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

    def _put_back(self, item: Delivery, *, now: datetime) -> None:
        """Something forbids a claimed email to leave now: find out what, and set right when or whether it may."""
        with self._office.database.write() as connection:
            reader = subscriptions.get_subscriber(connection, item.subscriber_id, lock=True)
            edition = self._office.editions.live(connection)
            if not switches.switch_is_on(connection, switches.SENDING) or edition is None:
                handovers.release_claimed(connection, [item])
            elif item.kind is not Kind.LETTER or reader is None:
                if reader is None or not handovers.still_wanted(connection, item):
                    handovers.withdraw_claimed(connection, item, reason="not wanted any more", now=now)
                else:
                    # The lease was lost for a moment; whoever has one may send it.
                    handovers.release_claimed(connection, [item])
            else:
                self._put_back_letter(connection, edition, reader, item, now=now)

    def _put_back_letter(
        self, connection: Connection, edition: Edition, reader: Subscriber, item: Delivery, *, now: datetime
    ) -> None:
        record = subscriptions.get_subscription(connection, item.subscription_id) if item.subscription_id else None
        if record is None or record.state is not SubscriptionState.ACTIVE:
            handovers.withdraw_claimed(connection, item, reason="not wanted any more", now=now)
            return
        composer, reason = self._office.composer, None
        if step_of(edition, item) is None:
            reason = "the step is gone"
        elif is_late(item.due_at, now=now) and self._office.skip_late:
            reason = "late, and that week passes"
        elif record.last_letter_at and now - record.last_letter_at < composer.gap_before(edition, reader, item):
            reason = "too soon after the last letter"
        if reason is None:
            # Late outside waking hours; or the lease was lost, and somebody else may have it at once.
            late = is_late(item.due_at, now=now)
            leaves_from = waking_from(now, reader.slot.timezone) if late else None
            handovers.release_claimed(connection, [item], next_try_at=leaves_from)
        elif handovers.withdraw_claimed(connection, item, reason=reason, now=now):
            subscriptions.tell(
                connection,
                "moved",
                subscriber_id=reader.id,
                subscription_id=record.id,
                now=now,
                reason=reason,
            )
            progression.reschedule(connection, edition, reader, record, now=now)


def _one_a_reader(judged: list[tuple[Delivery, Verdict]]) -> Iterator[list[tuple[Delivery, Verdict]]]:
    """In batches in which no reader comes twice: what one verdict makes of them, the next has to find."""
    rest = judged
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
