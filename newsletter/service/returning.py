"""Claimed emails that do not leave: each goes back to wait, is held or is withdrawn, and another may leave instead.

No byte of any of them has left. The pace comes last in each transaction, see `store.destinations`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog

from newsletter.domain.cadence import is_late, waking_from
from newsletter.domain.delivery import Kind, State
from newsletter.domain.subscription import State as SubscriptionState
from newsletter.errors import AddressError, RenderError
from newsletter.service import progression
from newsletter.service.composing import gap_before, step_of
from newsletter.service.editions import Edition, Editions
from newsletter.service.pacing import Pacing
from newsletter.store import events, handovers, subscriptions, switches
from newsletter.store.database import Connection, Database
from newsletter.store.deliveries import Delivery
from newsletter.store.handovers import Answer
from newsletter.store.subscriptions import Subscriber

log = structlog.get_logger()

_NO_ANSWER = Answer(code=None, text="", host="")


@dataclass(frozen=True, kw_only=True)
class Returning:
    """Takes back what was claimed.

    Attributes:
        skip_late: a letter more than two hours behind its slot is not sent; that week passes.
    """

    database: Database
    editions: Editions
    pacing: Pacing
    skip_late: bool

    def release(self, items: Sequence[Delivery], *, now: datetime) -> None:
        """Let others have them at once, whether their handover was committed or not."""
        with self.database.write() as connection:
            handovers.release_claimed(connection, items)
            for item in items:
                handovers.record_deferred(connection, item, _NO_ANSWER, next_try_at=now, counts=False)
            self.pacing.give_back(connection, len(items), now=now)

    def hold(self, item: Delivery, error: Exception, *, now: datetime) -> None:
        """It cannot be rendered: the operator has to look at it."""
        foreseen = isinstance(error, RenderError | AddressError)
        reason = f"cannot be rendered: {error if foreseen else type(error).__name__}"
        with self.database.write() as connection:
            handovers.hold(connection, item, believed=State.CLAIMED, reason=reason)
            self.pacing.give_back(connection, 1, now=now)
        log.warning("delivery_held", delivery=str(item.id), reason=reason, exc_info=None if foreseen else error)

    def put_back(self, item: Delivery, *, now: datetime) -> None:
        """Something forbids a claimed email to leave now: find out what, and set right when or whether it may."""
        with self.database.write() as connection:
            reader = subscriptions.get_subscriber(connection, item.subscriber_id, lock=True)
            edition = self.editions.live(connection)
            may_line_up = False
            if not switches.switch_is_on(connection, switches.SENDING) or edition is None:
                handovers.release_claimed(connection, [item])
            elif reader is not None and self.pacing.keeps_back(reader, letters=item.kind is Kind.LETTER):
                may_line_up = True
            elif item.kind is not Kind.LETTER or reader is None:
                if reader is None or not handovers.still_wanted(connection, item):
                    handovers.withdraw_claimed(connection, item, reason="not wanted any more", now=now)
                else:
                    # The lease was lost for a moment; whoever has one may send it.
                    handovers.release_claimed(connection, [item])
            else:
                self._put_back_letter(connection, edition, reader, item, now=now)
            self.pacing.give_back(connection, 1, now=now)
            if may_line_up and reader is not None and not self.pacing.line_up(connection, item, reader, now=now):
                handovers.release_claimed(connection, [item])

    def _put_back_letter(
        self, connection: Connection, edition: Edition, reader: Subscriber, item: Delivery, *, now: datetime
    ) -> None:
        record = subscriptions.get_subscription(connection, item.subscription_id) if item.subscription_id else None
        if record is None or record.state is not SubscriptionState.ACTIVE:
            handovers.withdraw_claimed(connection, item, reason="not wanted any more", now=now)
            return
        reason = None
        step = step_of(edition, item)
        if step is None:
            reason = "the step is gone"
        elif is_late(item.due_at, now=now) and self.skip_late:
            reason = "late, and that week passes"
        elif record.last_letter_at and now - record.last_letter_at < gap_before(step, reader):
            reason = "too soon after the last letter"
        if reason is None:
            # Late outside waking hours; or the lease was lost, and somebody else may have it at once.
            late = is_late(item.due_at, now=now)
            leaves_from = waking_from(now, reader.slot.timezone) if late else None
            handovers.release_claimed(connection, [item], next_try_at=leaves_from)
        elif handovers.withdraw_claimed(connection, item, reason=reason, now=now):
            events.tell(
                connection,
                "moved",
                subscriber_id=reader.id,
                subscription_id=record.id,
                now=now,
                reason=reason,
            )
            progression.reschedule(connection, edition, reader, record, now=now)
