"""What was written down by a clock that was ahead, and is set right once the clock is."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, case, select, update

from newsletter.store.deliveries import LEAVING
from newsletter.store.subscriptions import Subscription, get_subscriptions
from newsletter.store.tables import delivery, subscription


def accepted_ahead(connection: Connection, *, of: datetime, limit: int) -> list[Subscription]:
    """Subscriptions whose last letter was accepted after an instant that has not come yet."""
    ahead = select(subscription.c.id).where(subscription.c.last_letter_at > of).limit(limit)
    return list(get_subscriptions(connection, set(connection.scalars(ahead))).values())


def bring_forward(connection: Connection, *, tried_after: datetime, now: datetime) -> int:
    """Let emails that wait for an instant too far ahead leave now, or at their own slot where that is yet to come.

    Returns:
        How many.
    """
    at = case((delivery.c.due_at > now, delivery.c.due_at), else_=now)
    waits = (LEAVING, delivery.c.next_try_at > tried_after, delivery.c.next_try_at > delivery.c.due_at)
    return connection.execute(update(delivery).where(*waits).values(next_try_at=at)).rowcount
