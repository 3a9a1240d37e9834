"""From the mail server's verdict to the ledger, and on to the subscription, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

import structlog

from newsletter.domain.delivery import Kind, Outcome, State
from newsletter.domain.retry import next_attempt
from newsletter.mail.base import Verdict
from newsletter.service import progression
from newsletter.service.editions import Editions
from newsletter.store import deliveries, events, handovers, subscriptions, suppressions
from newsletter.store.database import Connection
from newsletter.store.deliveries import Delivery
from newsletter.store.handovers import Answer
from newsletter.store.subscriptions import Subscriber, Subscription
from newsletter.tokens import TokenSigner

log = structlog.get_logger()


class Recorder:
    """Writes down what became of a handover.

    Args:
        resend_uncertain: a letter that got no answer is repeated once; otherwise it is held.
    """

    def __init__(self, *, editions: Editions, signer: TokenSigner, resend_uncertain: bool) -> None:
        self._editions = editions
        self._signer = signer
        self._resend_uncertain = resend_uncertain

    def record(
        self,
        connection: Connection,
        judged: Sequence[tuple[Delivery, Verdict]],
        *,
        now: datetime,
        seen: progression.Seen = progression.NOTHING_SEEN,
    ) -> None:
        """Write verdicts down. A row that is no longer ours is left as it is.

        Args:
            judged: at most one for each reader.
            seen: what is known of the letters' subscriptions from when they were composed.
        """
        # The readers' rows first and in their order, in every transaction that moves them: nothing deadlocks.
        known = _lock_letters(connection, [item for item, _ in judged])
        accepted: list[tuple[Delivery, Answer]] = []
        others: list[tuple[Delivery, Verdict]] = []
        for item, verdict in judged:
            if verdict.outcome is _ACCEPTED:
                accepted.append((item, _answer(verdict)))
            else:
                others.append((item, verdict))
        if accepted:
            self._accept(connection, accepted, known, now=now, seen=seen)
        if others:
            readers = subscriptions.lock_subscribers(connection, {item.subscriber_id for item, _ in others})
            for item, verdict in others:
                self._record_other(connection, item, verdict, readers.get(item.subscriber_id), now=now)

    def _record_other(
        self, connection: Connection, item: Delivery, verdict: Verdict, reader: Subscriber | None, *, now: datetime
    ) -> None:
        written = self._write(connection, item, verdict, reader, now=now)
        log.info(
            "delivery_judged",
            outcome=verdict.outcome.value,
            delivery=str(item.id),
            kind=item.kind.value,
            stage=verdict.stage,
            reply_code=verdict.reply_code,
            recorded=written,
        )

    def record_alone(self, connection: Connection, item: Delivery, verdict: Verdict, *, now: datetime) -> None:
        """Write a verdict down in the ledger only, where its subscription cannot be moved by it.

        What may have arrived is never sent again by itself; everything else is held.
        """
        answer = _answer(verdict)
        reason = "its subscription could not be moved"
        match verdict.outcome:
            case Outcome.ACCEPTED:
                handovers.record_accepted(connection, [(item, answer)], now=now)
            case Outcome.NO_ANSWER:
                handovers.record_doubt(connection, item, reason=reason, repeat=False, now=now, answer=answer)
            case _:
                handovers.hold(connection, item, believed=State.HANDING_OVER, reason=reason, answer=answer)

    def record_unanswered(
        self,
        connection: Connection,
        item: Delivery,
        *,
        reason: str,
        now: datetime,
        answer: Answer | None = None,
    ) -> State | None:
        """It was handed over and no answer came: repeated once, or held and then counted as received.

        Returns:
            UNCERTAIN or HELD; None where the row is no longer what `item` says.
        """
        known = _lock_letters(connection, [item])
        state = handovers.record_doubt(
            connection, item, reason=reason, repeat=self._resend_uncertain, now=now, answer=answer
        )
        if state is State.HELD:
            self._receive(connection, [item], known, now=now)
        return state

    def _accept(
        self,
        connection: Connection,
        accepted: Sequence[tuple[Delivery, Answer]],
        known: Mapping[UUID, tuple[Subscriber, Subscription]],
        *,
        now: datetime,
        seen: progression.Seen,
    ) -> None:
        written = handovers.record_accepted(connection, accepted, now=now)
        log.info("emails_accepted", count=len(written))
        received = [item for item, _ in accepted if len(written) == len(accepted) or item.id in written]
        self._receive(connection, received, known, now=now, seen=seen)

    def _write(
        self, connection: Connection, item: Delivery, verdict: Verdict, reader: Subscriber | None, *, now: datetime
    ) -> bool:
        answer = _answer(verdict)
        match verdict.outcome:
            case Outcome.DEFERRED:
                return self._defer(connection, item, answer, reader, now=now)
            case Outcome.ADDRESS_DEAD:
                return self._bury(connection, item, answer, reader, now=now)
            case Outcome.REFUSED | Outcome.RECIPIENT_REFUSED:
                reason = f"refused: {verdict.reply_text}"
                return handovers.hold(connection, item, believed=State.HANDING_OVER, reason=reason, answer=answer)
            case Outcome.UNAVAILABLE:
                return handovers.record_deferred(connection, item, answer, next_try_at=now, counts=False)
            case _:
                reason = f"no answer: {verdict.reply_text}"
                return self.record_unanswered(connection, item, reason=reason, now=now, answer=answer) is not None

    def _bury(
        self, connection: Connection, item: Delivery, answer: Answer, reader: Subscriber | None, *, now: datetime
    ) -> bool:
        written = handovers.record_failed(connection, item, answer, reason="the address is dead", now=now)
        if written and reader is not None:
            self._suppress(connection, reader, reason="address_dead", now=now)
        return written

    def _receive(
        self,
        connection: Connection,
        items: Sequence[Delivery],
        known: Mapping[UUID, tuple[Subscriber, Subscription]],
        *,
        now: datetime,
        seen: progression.Seen = progression.NOTHING_SEEN,
    ) -> None:
        letters = [item for item in items if item.kind is _LETTER]
        edition = self._editions.live(connection) if letters else None
        if edition is not None:
            progression.receive(connection, edition, known, letters, now=now, seen=seen)

    def _defer(
        self,
        connection: Connection,
        item: Delivery,
        answer: Answer,
        reader: Subscriber | None,
        *,
        now: datetime,
    ) -> bool:
        again_at = next_attempt(item.attempt + 1, now=now, seed=str(item.id))
        if again_at is not None:
            return handovers.record_deferred(connection, item, answer, next_try_at=again_at, counts=True)
        written = handovers.record_failed(connection, item, answer, reason="retries used up", now=now)
        record = subscriptions.get_subscription(connection, item.subscription_id) if item.subscription_id else None
        edition = self._editions.live(connection)
        if written and item.kind is Kind.LETTER and reader and record and edition:
            # Not received: the same step is next at the next slot, on the same row.
            progression.reschedule(connection, edition, reader, record, now=now)
        return written

    def _suppress(self, connection: Connection, reader: Subscriber, *, reason: str, now: datetime) -> None:
        """Nothing is sent to this address any more, until its reader confirms that they want letters."""
        address_hash = self._signer.hash_address(reader.address_key)
        suppressions.suppress(connection, address_hash=address_hash, reason=reason, now=now)
        deliveries.withdraw(
            connection,
            subscriber_id=reader.id,
            letters_only=False,
            reason="the address is suppressed",
            now=now,
        )
        for record in subscriptions.subscriptions_of(connection, reader.id):
            subscriptions.leave(connection, record)
        events.tell(connection, "suppressed", subscriber_id=reader.id, now=now, reason=reason)


# Looked up once: the member of an enumeration is found by a call of Python's.
_ACCEPTED, _LETTER = Outcome.ACCEPTED, Kind.LETTER


def _lock_letters(connection: Connection, items: Sequence[Delivery]) -> Mapping[UUID, tuple[Subscriber, Subscription]]:
    """The subscriptions of some letters with their readers, whose rows are kept until the transaction ends."""
    ids = {item.subscription_id for item in items if item.kind is _LETTER and item.subscription_id is not None}
    return subscriptions.with_readers(connection, ids, lock=True) if ids else {}


def _answer(verdict: Verdict) -> Answer:
    return Answer(verdict.reply_code, verdict.reply_text, verdict.host)
