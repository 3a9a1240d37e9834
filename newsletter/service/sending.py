"""From a planned row to the mail server: claim, render, hand over; `recording` writes the verdict down.

A `Lane` is one thread with one connection. Nothing it does depends on another lane: the ledger's conditional
writes order them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Event

import structlog

from newsletter.clock import Clock
from newsletter.domain.cadence import is_late, waking_from
from newsletter.domain.delivery import Kind, Outcome, State
from newsletter.domain.subscription import State as SubscriptionState
from newsletter.errors import AddressError, DatabaseUnavailable, RelayUnavailable, RenderError
from newsletter.mail.base import Mailer, Verdict
from newsletter.service import progression
from newsletter.service.composing import Composed, Composer
from newsletter.service.editions import Edition, Editions
from newsletter.service.recording import Recorder
from newsletter.store import handovers, subscriptions, switches
from newsletter.store.database import Connection, Database
from newsletter.store.deliveries import Delivery
from newsletter.store.handovers import Answer
from newsletter.store.subscriptions import Subscriber

log = structlog.get_logger()

CLAIM_BATCH = 20
"""Rows a lane holds at a time: few, so that a lane that dies strands few and stopping is quick."""

BYTES_WITHIN = timedelta(seconds=2)
"""Bytes start this soon after the handover commit, or it is renewed with the same checks."""

_RECORD_PAUSES_SECONDS = (0.1, 0.3, 1.0, 3.0, 6.0)
_LONGEST_PAUSE_SECONDS = 30.0
_MOST_DOUBLINGS = 6
_NO_ANSWER = Answer(code=None, text="", host="")


@dataclass(frozen=True, kw_only=True)
class Sending:
    """What every lane of a worker shares.

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


class Lane:
    """Sends on one connection, in one thread.

    Args:
        worker: the id under which it claims.
        letters: whether it carries letters, or what people wait for.
        clock: business time, looked at for each email.
        stop: set when the process is to end: the letter in hand is finished, the rest is given back.
    """

    def __init__(
        self,
        sending: Sending,
        *,
        worker: str,
        letters: bool,
        open_mailer: Callable[[], Mailer],
        clock: Clock,
        stop: Event,
    ) -> None:
        self._sending = sending
        self._database = sending.database
        self._worker = worker
        self._letters = letters
        self._mailer = open_mailer()
        self._clock = clock
        self._stop = stop
        self._troubles = 0
        self._rest_until = 0.0
        # What the database could not be told when it was away.
        self._unreleased: list[Delivery] = []
        self._unrecorded: list[tuple[Delivery, Verdict]] = []

    def send_due(self) -> int:
        """Send until nothing is due, the mail server is away, or `stop` is set.

        Returns:
            How many were accepted.
        """
        self._catch_up()
        accepted = 0
        while not self._stop.is_set() and time.monotonic() >= self._rest_until:
            with self._database.write() as connection:
                batch = handovers.claim_due(
                    connection,
                    owner=self._worker,
                    letters=self._letters,
                    now=self._clock.now(),
                    limit=CLAIM_BATCH,
                )
            if not batch:
                break
            accepted += self._send_batch(batch)
        return accepted

    def close(self) -> None:
        """Hang up."""
        self._mailer.close()

    def _send_batch(self, batch: list[Delivery]) -> int:
        accepted = 0
        waiting = list(batch)
        try:
            while waiting and not self._stop.is_set():
                self._mailer.open()
                outcome = self._send_one(waiting.pop(0))
                accepted += outcome is Outcome.ACCEPTED
                if outcome in (Outcome.UNAVAILABLE, Outcome.NO_ANSWER):
                    # Also where the letter is in doubt: a server that hangs up on every letter would otherwise
                    # put a whole list in doubt within minutes.
                    self._rest("the conversation broke off")
                    break
                if outcome is not None:
                    self._troubles = 0
        except RelayUnavailable as error:
            # Nothing was handed over: the attempt does not count, and nobody is to blame.
            self._rest(str(error))
        finally:
            self._unreleased += waiting
            self._catch_up()
        return accepted

    def _catch_up(self) -> None:
        """Tell the database what it could not be told before."""
        self._record_all()
        if self._unreleased:
            with self._database.write() as connection:
                handovers.release_claimed(connection, self._unreleased)
                for item in self._unreleased:
                    # Its handover may have been committed all the same; no byte has left.
                    handovers.record_deferred(connection, item, _NO_ANSWER, next_try_at=self._clock.now(), counts=False)
            self._unreleased = []

    def _rest(self, reason: str) -> None:
        self._troubles += 1
        # Bounded before it is doubled: an outage of a night would make a number that no float can hold.
        pause = min(0.5 * 2 ** min(self._troubles - 1, _MOST_DOUBLINGS), _LONGEST_PAUSE_SECONDS)
        self._rest_until = time.monotonic() + pause
        log.warning("relay_unavailable", reason=reason, pause_seconds=pause)

    def _send_one(self, item: Delivery) -> Outcome | None:
        """One email from claim to record; None where it did not leave."""
        try:
            ready = self._make_ready(item, now=self._clock.now())
        except Exception:
            # No byte has left: it goes back as soon as the database can be told.
            self._unreleased.append(item)
            raise
        if ready is None:
            return None
        # From here on bytes may have left: the row is never given back, only judged by the verdict.
        self._unrecorded.append((item, self._mailer.send(ready.envelope)))
        return self._record()

    def _make_ready(self, item: Delivery, *, now: datetime) -> Composed | None:
        """Render an email and commit that it is being handed over; None where it must not leave now."""
        try:
            composed = self._compose(item, now=now)
        except DatabaseUnavailable:
            raise
        except Exception as error:
            # Whatever is wrong with this letter, the others go on.
            foreseen = isinstance(error, RenderError | AddressError)
            reason = f"cannot be rendered: {error if foreseen else type(error).__name__}"
            with self._database.write() as connection:
                handovers.hold(connection, item, believed=State.CLAIMED, reason=reason)
            log.warning("delivery_held", delivery=str(item.id), reason=reason, exc_info=not foreseen)
            return None
        if composed is None or not self._hand_over(item, composed, now=now):
            self._put_back(item, now=now)
            return None
        return composed

    def _compose(self, item: Delivery, *, now: datetime) -> Composed | None:
        with self._database.read() as connection:
            reader = subscriptions.get_subscriber(connection, item.subscriber_id)
            edition = self._sending.editions.live(connection)
            if reader is None or edition is None or self._comes_too_late(item, reader, now=now):
                return None
            return self._sending.composer.compose(connection, edition, reader, item, now=now)

    def _comes_too_late(self, item: Delivery, reader: Subscriber, *, now: datetime) -> bool:
        """Whether a letter is behind its slot and this is no hour, or no week, to send it."""
        if item.kind is not Kind.LETTER or not is_late(item.due_at, now=now):
            return False
        return self._sending.skip_late or waking_from(now, reader.slot.timezone) > now

    def _hand_over(self, item: Delivery, composed: Composed, *, now: datetime) -> bool:
        """Commit "handing over"; once more with the same checks where that took so long that things may differ."""
        renew = False
        while True:
            began = time.monotonic()
            with self._database.write() as connection:
                granted = handovers.hand_over(
                    connection, item, composed.handover, now=now, min_gap=composed.min_gap, renew=renew
                )
            if granted and time.monotonic() - began <= BYTES_WITHIN.total_seconds():
                return True
            if not granted and renew:
                # No byte has left, so the row goes back to wait and is judged anew.
                with self._database.write() as connection:
                    handovers.record_deferred(connection, item, _NO_ANSWER, next_try_at=now, counts=False)
            if not granted:
                return False
            renew = True

    def _put_back(self, item: Delivery, *, now: datetime) -> None:
        """Something forbids a claimed email to leave now: find out what, and set right when or whether it may."""
        with self._database.write() as connection:
            reader = subscriptions.get_subscriber(connection, item.subscriber_id, lock=True)
            edition = self._sending.editions.live(connection)
            if not switches.switch_is_on(connection, switches.SENDING) or edition is None:
                handovers.release_claimed(connection, [item])
            elif item.kind is not Kind.LETTER or reader is None:
                if reader is None or not handovers.still_wanted(connection, item, now=now):
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
        composer, reason = self._sending.composer, None
        if composer.step_of(edition, item) is None:
            reason = "the step is gone"
        elif is_late(item.due_at, now=now) and self._sending.skip_late:
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

    def _record(self) -> Outcome:
        """Write the verdict down; a database that is away for a moment must not make a double of it."""
        outcome = self._unrecorded[-1][1].outcome
        for pause in _RECORD_PAUSES_SECONDS:
            try:
                self._record_all()
            except DatabaseUnavailable:
                time.sleep(pause)
            else:
                return outcome
        self._record_all()
        return outcome

    def _record_all(self) -> None:
        while self._unrecorded:
            item, verdict = self._unrecorded[0]
            recorder, now = self._sending.recorder, self._clock.now()
            try:
                with self._database.write() as connection:
                    recorder.record(connection, item, verdict, now=now)
            except DatabaseUnavailable:
                raise
            except Exception:
                # One reader who cannot be moved must not keep the verdicts on all others from being written.
                log.exception("subscription_not_moved", delivery=str(item.id), outcome=verdict.outcome.value)
                with self._database.write() as connection:
                    recorder.record_alone(connection, item, verdict, now=now)
            del self._unrecorded[0]
