"""The story of each subscriber: what happened, and why."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, insert, select

from newsletter.domain.subscription import SubscriberId, SubscriptionId
from newsletter.store.tables import event


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened to a subscriber, and why."""

    subscriber_id: SubscriberId
    subscription_id: SubscriptionId | None
    at: datetime
    kind: str
    detail: dict[str, Any]


def tell(
    connection: Connection,
    kind: str,
    *,
    subscriber_id: SubscriberId,
    subscription_id: SubscriptionId | None = None,
    now: datetime,
    **detail: Any,  # noqa: ANN401  (whatever JSON holds)
) -> None:
    """Add one event to a subscriber's story."""
    connection.execute(
        insert(event).values(
            subscriber_id=subscriber_id, subscription_id=subscription_id, at=now, kind=kind, detail=detail
        )
    )


def story(connection: Connection, subscriber_id: UUID, *, limit: int = 200) -> list[Event]:
    """The newest events of one subscriber, in the order they happened."""
    rows = connection.execute(
        select(event).where(event.c.subscriber_id == subscriber_id).order_by(event.c.id.desc()).limit(limit)
    )
    events = [
        Event(
            subscriber_id=row.subscriber_id,
            subscription_id=row.subscription_id,
            at=row.at,
            kind=row.kind,
            detail=row.detail or {},
        )
        for row in rows
    ]
    return events[::-1]
