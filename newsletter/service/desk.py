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
from newsletter.domain.delivery import DeliveryId, Kind
from newsletter.domain.progress import Place
from newsletter.errors import DatabaseUnavailable, RelayUnavailable
from newsletter.fibres import BLOCKING, Signal, Waiting
from newsletter.mail.base import Envelope, Stage, Verdict, verdict_of
from newsletter.service.composing import Composed, Composer, Material
from newsletter.service.editions import Editions
from newsletter.service.pacing import Claim, Pacing
from newsletter.service.recording import Recorder
from newsletter.service.returning import Returning
from newsletter.store import handovers, switches
from newsletter.store.database import Connection, Database
from newsletter.store.deliveries import Delivery
from newsletter.store.handovers import Leaving
from newsletter.store.subscriptions import Subscriber, Subscription

log = structlog.get_logger()

CLAIM_BATCH = 200
"""Rows a desk claims at a time."""

BYTES_WITHIN = timedelta(seconds=2)
"""Bytes start this soon after the handover commit, or it is renewed with the same checks."""

_SELDOM, _OFTEN, _SOON = timedelta(seconds=0.1), timedelta(seconds=0.5), timedelta(seconds=1)
"""Where the pace says that there is no more: it is asked again after so long at least, and at most; and what is worth
to be waited for."""


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
    returning: Returning
    pacing: Pacing
    skip_late: bool = False

    def count_due(self, *, now: datetime) -> int:
        """How many emails are due and not closed."""
        with self.database.read() as connection:
            return handovers.count_due(connection, now=now)

    def is_done(self, *, now: datetime) -> bool:
        """Whether nothing is due, and nothing waits only for its turn at a destination."""
        return self.count_due(now=now) == 0 and not self.pacing.somebody_queues()

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
        # By delivery: to whom it is on its way.
        self._recipients: dict[DeliveryId, str] = {}
        # What the database could not be told when it was away.
        self._unreleased: list[Delivery] = []
        # Whether a claim may have been committed of which no answer came.
        self._claim_in_doubt = False
        # In monotonic seconds: nothing is claimed before, because the pace says so.
        self._claims_from = 0.0
        self._more_comes_soon = False

    @property
    def stock(self) -> int:
        """How many emails are claimed and not given out."""
        return len(self._stock)

    @property
    def more_comes_soon(self) -> bool:
        """Whether it is the pace that says there is no more for now, and will say something else within a second."""
        return self._more_comes_soon

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
                is_last = self._attending == 0
                if is_last:
                    self._unreleased += self._stock
                    self._stock.clear()
                    self._seen.clear()
                    self._recipients.clear()
            if is_last:
                self._find_stranded()
            self._release()

    def has_work(self) -> bool:
        """Whether anything is due; what is found is claimed."""
        with self._mutex:
            if self._stock:
                return True
        return self._may_claim() and self._waiting.elsewhere(self._look_for_work)

    def _look_for_work(self) -> bool:
        while self._may_claim():
            with self._in_doubt(), self._office.database.write() as connection:
                claim = self._claim(connection)
            self._take_in(claim)
            if claim.items:
                return True
            if claim.more_after != timedelta():
                break
        return False

    def tell_unavailable(self, error: RelayUnavailable) -> None:
        """The mail server let no conversation begin; where it wants less from us, it is given less."""
        verdict = verdict_of(Stage.OPEN, error.reply_code, error.reply_text, host="")
        if verdict.slow_down:
            self._waiting.elsewhere(lambda: self._learn([("", verdict)]))

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
        self._office.returning.release([handed.item], now=now)
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
        # The handover of some may have been committed all the same; no byte has left.
        self._office.returning.release(items, now=self._clock.now())
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
        self._find_stranded()
        self._release()
        judged = [each for visit in visits for each in visit.judged]
        wanting = [visit for visit in visits if visit.wants]
        while True:
            now = self._clock.now()
            ready = [] if self._stop.is_set() else self._make_ready(len(wanting), now=now)
            handed, refused = self._commit(judged, ready, more=len(wanting) > 0, now=now)
            self._hear(judged)
            self._recipients |= {each.item.id: each.envelope.recipient for each in handed}
            judged = []
            for visit, each in zip(wanting, handed, strict=False):
                visit.handed = each
            wanting = wanting[len(handed) :]
            for item in refused:
                self._office.returning.put_back(item, now=now)
            if not wanting or not self._stock or self._stop.is_set():
                return

    def _hear(self, judged: Sequence[tuple[Delivery, Verdict]]) -> None:
        told = [(self._recipients.pop(item.id, None), verdict) for item, verdict in judged]
        if told and self._office.pacing.is_news(verdict for _, verdict in judged):
            self._learn([(to.rpartition("@")[2], verdict) for to, verdict in told if to is not None])

    @contextmanager
    def _in_doubt(self) -> Iterator[None]:
        """While something may be claimed: where the commit's answer is lost, nobody knows whether it was."""
        try:
            yield
        except BaseException:
            self._claim_in_doubt = True
            raise

    def _find_stranded(self) -> None:
        """What was claimed without our knowledge goes back: its lease lives, so nobody else would ever take it.

        Only while no email is on its way from the stock to a lane.
        """
        if not self._claim_in_doubt:
            return
        with self._office.database.read() as connection:
            claimed = handovers.claimed_by(connection, self._worker, letters=self._letters)
        with self._mutex:
            known = {item.id for item in (*self._stock, *self._unreleased)}
            self._unreleased += [item for item in claimed if item.id not in known]
        self._claim_in_doubt = False

    def _take(self, number: int) -> list[Delivery]:
        with self._mutex:
            return [self._stock.popleft() for _ in range(min(number, len(self._stock)))]

    def _claim(self, connection: Connection) -> Claim:
        """Claim what may leave now; the last thing in a transaction."""
        return self._office.pacing.claim(
            connection, owner=self._worker, letters=self._letters, limit=CLAIM_BATCH, now=self._clock.now()
        )

    def _may_claim(self) -> bool:
        if self._stop.is_set():
            return False
        return not self._claims_from or time.monotonic() >= self._claims_from

    def _take_in(self, claim: Claim | None) -> None:
        """Keep what was claimed, and to what the pace says, once it is committed."""
        if claim is None:
            return
        with self._mutex:
            self._stock.extend(claim.items)
        after = claim.more_after
        self._more_comes_soon = after is not None and after <= _SOON
        # Not for each single letter's turn; and not too late to see that an operator has set things right.
        self._claims_from = time.monotonic() + min(max(after, _SELDOM), _OFTEN).total_seconds() if after else 0.0

    def _learn(self, verdicts: Sequence[tuple[str, Verdict]]) -> None:
        """Let the pace hear what the mail server said; it is recorded already, and losing this is harmless."""
        try:
            self._office.pacing.learn(verdicts)
        except DatabaseUnavailable as error:
            log.warning("pace_not_learned", reason=str(error))
        except Exception:
            # Others have letters in hand that have to leave now.
            log.exception("pace_not_learned")

    def _make_ready(self, number: int, *, now: datetime) -> list[tuple[Delivery, Composed]]:
        """The next so many emails of the stock, composed; what cannot be is held, what must not leave put back."""
        ready: list[tuple[Delivery, Composed]] = []
        while len(ready) < number and (items := self._take(number - len(ready))):
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
        if self._office.pacing.keeps_back(reader, letters=self._letters):
            return None
        return self._office.composer.compose(connection, material, item, now=now)

    def _comes_too_late(self, item: Delivery, reader: Subscriber, *, now: datetime) -> bool:
        """Whether a letter is behind its slot and this is no hour, or no week, to send it."""
        if item.kind is not Kind.LETTER or not is_late(item.due_at, now=now):
            return False
        return self._office.skip_late or waking_from(now, reader.slot.timezone) > now

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
                granted, claim = self._transact(judged, leaving, more=more, now=now)
            except DatabaseUnavailable:
                raise
            except Exception:
                # One reader who cannot be moved must not keep the verdicts on all others from being written.
                if not judged:
                    raise
                log.exception("verdicts_not_recorded", count=len(judged))
                for item, verdict in judged:
                    self._record_alone(item, verdict, now=now)
                granted, claim = self._transact([], leaving, more=more, now=now)
        except Exception:
            with self._mutex:
                self._unreleased += [item for item, _ in ready]
            raise
        self._take_in(claim)
        handed = [Handed(item=item, composed=made, committed_at=began) for item, made in ready if item.id in granted]
        for item, _ in judged:
            if item.subscription_id is not None:
                self._seen.pop(item.subscription_id, None)
        self._seen |= {each.composed.seen[0].id: each.composed.seen for each in handed if each.composed.seen}
        return handed, [item for item, _ in ready if item.id not in granted]

    def _transact(
        self, judged: list[tuple[Delivery, Verdict]], leaving: list[Leaving], *, more: bool, now: datetime
    ) -> tuple[set[DeliveryId], Claim | None]:
        if not judged and not leaving and not (more and not self._stock and self._may_claim()):
            return set(), None
        with self._in_doubt(), self._office.database.write() as connection:
            for batch in _one_a_reader(judged):
                self._office.recorder.record(connection, batch, now=now, seen=self._seen)
            granted = handovers.hand_over(connection, leaving, now=now) if leaving else set()
            # Ahead of the need: what is claimed here costs no commit of its own.
            wanted = more and len(self._stock) < len(leaving) + 1 and self._may_claim()
            return granted, self._claim(connection) if wanted else None

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
