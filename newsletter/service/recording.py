"""From the mail server's verdict to the ledger, and on to the subscription, in one transaction."""

from __future__ import annotations

from datetime import datetime

import structlog

from newsletter.domain.delivery import Kind, Outcome, State
from newsletter.domain.retry import next_attempt
from newsletter.mail.base import Verdict
from newsletter.service import progression
from newsletter.service.editions import Editions
from newsletter.store import deliveries, handovers, subscriptions
from newsletter.store.database import Connection
from newsletter.store.deliveries import Delivery
from newsletter.store.handovers import Answer
from newsletter.store.subscriptions import Subscriber
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

    def record(self, connection: Connection, item: Delivery, verdict: Verdict, *, now: datetime) -> bool:
        """Write a verdict down. False where the row is no longer ours, and then nothing is changed."""
        # The reader's row first, in every transaction that moves them: nothing deadlocks.
        reader = subscriptions.get_subscriber(connection, item.subscriber_id, lock=True)
        answer = Answer(code=verdict.reply_code, text=verdict.reply_text, host=verdict.host)
        written = self._write(connection, item, verdict, answer, reader, now=now)
        log.info(
            "delivery_judged",
            outcome=verdict.outcome.value,
            delivery=str(item.id),
            kind=item.kind.value,
            stage=verdict.stage,
            reply_code=verdict.reply_code,
            recorded=written,
        )
        return written

    def record_alone(self, connection: Connection, item: Delivery, verdict: Verdict, *, now: datetime) -> bool:
        """Write a verdict down in the ledger only, where its subscription cannot be moved by it.

        What may have arrived is never sent again by itself; everything else is held.
        """
        answer = Answer(code=verdict.reply_code, text=verdict.reply_text, host=verdict.host)
        reason = "its subscription could not be moved"
        match verdict.outcome:
            case Outcome.ACCEPTED:
                return handovers.record_accepted(connection, item, answer, now=now)
            case Outcome.NO_ANSWER:
                state = handovers.record_doubt(connection, item, reason=reason, repeat=False, now=now, answer=answer)
                return state is not None
            case _:
                return handovers.hold(connection, item, believed=State.HANDING_OVER, reason=reason, answer=answer)

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
        reader = subscriptions.get_subscriber(connection, item.subscriber_id, lock=True)
        state = handovers.record_doubt(
            connection, item, reason=reason, repeat=self._resend_uncertain, now=now, answer=answer
        )
        if state is State.HELD:
            self._receive(connection, item, reader, now=now)
        return state

    def _write(
        self, connection: Connection, item: Delivery, verdict: Verdict, answer: Answer, reader: Subscriber | None, *,
        now: datetime,
    ) -> bool:  # fmt: skip
        match verdict.outcome:
            case Outcome.ACCEPTED:
                return self._accept(connection, item, answer, reader, now=now)
            case Outcome.DEFERRED:
                return self._defer(connection, item, answer, reader, now=now)
            case Outcome.ADDRESS_DEAD:
                return self._bury(connection, item, answer, reader, now=now)
            case Outcome.REFUSED | Outcome.RECIPIENT_REFUSED:
                reason = f"refused: {verdict.reply_text}"
                return handovers.hold(connection, item, believed=State.HANDING_OVER, reason=reason, answer=answer)
            case Outcome.UNAVAILABLE:
                return handovers.record_deferred(connection, item, answer, next_try_at=now, counts=False)
            case Outcome.NO_ANSWER:
                reason = f"no answer: {verdict.reply_text}"
                return self.record_unanswered(connection, item, reason=reason, now=now, answer=answer) is not None

    def _accept(
        self, connection: Connection, item: Delivery, answer: Answer, reader: Subscriber | None, *, now: datetime
    ) -> bool:
        written = handovers.record_accepted(connection, item, answer, now=now)
        if written:
            self._receive(connection, item, reader, now=now)
        return written

    def _bury(
        self, connection: Connection, item: Delivery, answer: Answer, reader: Subscriber | None, *, now: datetime
    ) -> bool:
        written = handovers.record_failed(connection, item, answer, reason="the address is dead", now=now)
        if written and reader is not None:
            self._suppress(connection, reader, reason="address_dead", now=now)
        return written

    def _receive(self, connection: Connection, item: Delivery, reader: Subscriber | None, *, now: datetime) -> None:
        edition = self._editions.live(connection)
        if item.kind is Kind.LETTER and reader is not None and edition is not None:
            progression.receive(connection, edition, reader, item, now=now)

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
        subscriptions.suppress(connection, address_hash=address_hash, reason=reason, now=now)
        deliveries.withdraw(
            connection,
            subscriber_id=reader.id,
            letters_only=False,
            reason="the address is suppressed",
            now=now,
        )
        for record in subscriptions.subscriptions_of(connection, reader.id):
            subscriptions.leave(connection, record)
        subscriptions.tell(connection, "suppressed", subscriber_id=reader.id, now=now, reason=reason)
