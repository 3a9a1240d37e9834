"""How subscribers go for good."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, and_, delete, exists

from newsletter.domain.subscription import SubscriberId
from newsletter.store.remains import leave_mark
from newsletter.store.subscriptions import Subscription
from newsletter.store.tables import delivery, subscriber, subscription


def erase_subscriber(connection: Connection, identifier: SubscriberId) -> None:
    """Remove the subscriber and everything that hangs on them."""
    connection.execute(delete(subscriber).where(subscriber.c.id == identifier))
    leave_mark(connection)


def erase_subscription(connection: Connection, record: Subscription, *, before: datetime) -> bool:
    """Remove one subscription that was never confirmed, and the subscriber where it was their only one.

    Args:
        before: it is spared where it was asked for again since then.

    Returns:
        Whether it went.
    """
    unconfirmed = and_(subscription.c.confirmed_at.is_(None), subscription.c.created_at < before)
    gone = connection.execute(delete(subscription).where(subscription.c.id == record.id, unconfirmed)).rowcount == 1
    others = exists().where(subscription.c.subscriber_id == record.subscriber_id)
    if gone:
        theirs = and_(delivery.c.subscriber_id == record.subscriber_id, delivery.c.subscription_id == record.id)
        connection.execute(delete(delivery).where(theirs))
        connection.execute(delete(subscriber).where(subscriber.c.id == record.subscriber_id, ~others))
        leave_mark(connection)
    return gone
