"""A migrated database on both engines, and valid records with defaults."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from sqlalchemy import select, update

from newsletter.domain.cadence import Slot
from newsletter.domain.delivery import Kind
from newsletter.domain.subscription import State
from newsletter.store import deliveries, handovers, subscriptions, tables, workers
from newsletter.store.database import Database
from newsletter.store.deliveries import Delivery
from newsletter.store.handovers import Answer, Handover, Leaving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from newsletter.store.database import Connection
    from newsletter.store.subscriptions import Subscriber, Subscription

NOW = datetime(2026, 11, 23, 11, 0, tzinfo=UTC)
SLOT = Slot(weekday=1, at=time(9), timezone="Europe/Berlin")
LEASE = timedelta(seconds=60)
GAP = timedelta(hours=120)
YES = Answer(code=250, text="2.0.0 Taken", host="mail.example")


def closed_at(values: dict[str, Any]) -> datetime | None:
    """When a row of the ledger with these values was closed, or None where it is open."""
    return NOW if values.get("received") or values.get("state") in {"failed", "withdrawn"} else None


@dataclass(frozen=True)
class Store:
    """The database, and the shortest way to a record in it."""

    database: Database

    def subscriber(self, address: str | None = None) -> Subscriber:
        """Somebody new."""
        address = address or f"{uuid4().hex}@example.org"
        with self.database.write() as connection:
            return subscriptions.add_subscriber(
                connection, address=address, address_key=address, slot=SLOT, country=None, discreet=False, now=NOW
            )

    def subscription(
        self,
        reader: Subscriber | None = None,
        sequence: str = "trust",
        *,
        state: State = State.ACTIVE,
        due: datetime | None = None,
    ) -> Subscription:
        """A subscription, of somebody new unless a reader is given."""
        reader = reader or self.subscriber()
        with self.database.write() as connection:
            return subscriptions.add_subscription(
                connection,
                subscriber_id=reader.id,
                sequence_key=sequence,
                state=state,
                seen_revision=1,
                next_due_at=due,
                now=NOW,
            )

    def letter(self, record: Subscription | None = None, *, step: str = "one", due: datetime = NOW) -> Delivery:
        """A planned letter."""
        record = record or self.subscription()
        with self.database.write() as connection:
            letter = deliveries.Letter(
                subscriber_id=record.subscriber_id,
                subscription_id=record.id,
                sequence_key=record.sequence_key,
                round=1,
                step=step,
                due_at=due,
                next_try_at=due,
            )
            assert deliveries.plan_letters(connection, [letter], now=NOW) == 1
        return self.delivery_of(record, step)

    def notice(self, kind: Kind = Kind.CONFIRMATION, record: Subscription | None = None) -> Delivery:
        """A planned email that is no letter."""
        record = record or self.subscription(state=State.PENDING)
        with self.database.write() as connection:
            identifier = deliveries.plan_notice(
                connection,
                kind,
                dedup_key=uuid4().hex,
                subscriber_id=record.subscriber_id,
                subscription_id=record.id,
                payload={},
                now=NOW,
            )
        assert identifier is not None
        return self.delivery(identifier)

    def worker(self, name: str = "worker-1", *, lease: timedelta = LEASE) -> str:
        """A worker with a lease."""
        with self.database.write() as connection:
            workers.enrol_worker(connection, name, host="here", lease=lease)
        return name

    def claim(self, worker: str = "worker-1", *, letters: bool = True, limit: int = 100) -> list[Delivery]:
        """What a worker can claim."""
        with self.database.write() as connection:
            return handovers.claim_due(connection, owner=worker, letters=letters, now=NOW, limit=limit)

    def hand_over(self, item: Delivery, *, now: datetime = NOW, renew: bool = False) -> bool:
        """Whether a claimed letter may leave; it is handed over then."""
        handover = Handover(revision=1, message_id=f"<{item.id}@example.org>", message_date=now)
        with self.database.write() as connection:
            leaving = Leaving(item=item, handover=handover, min_gap=GAP)
            return bool(handovers.hand_over(connection, [leaving], now=now, renew=renew))

    def handed_over(self, record: Subscription | None = None) -> Delivery:
        """A letter that worker-1 is handing over."""
        self.letter(record)
        (item,) = self.claim()
        assert self.hand_over(item)
        return item

    def delivery(self, identifier: Any) -> Delivery:
        """A row of the ledger, as it is now."""
        with self.database.read() as connection:
            found = deliveries.get_delivery(connection, identifier)
        assert found is not None
        return found

    def delivery_of(self, record: Subscription, step: str) -> Delivery:
        """The letter of a step."""
        with self.database.read() as connection:
            items = deliveries.deliveries_of(connection, record.subscriber_id)
        (found,) = [item for item in items if (item.subscription_id, item.step) == (record.id, step)]
        return found

    def set(self, table: str, identifier: Any, **values: Any) -> None:
        """Change a row past all rules but those of the schema."""
        named = tables.metadata.tables[table]
        if table == "delivery" and {"state", "received"} & values.keys():
            values = {"closed_at": closed_at(values), **values}
        with self.database.write() as connection:
            connection.execute(update(named).where(named.c.id == identifier).values(values))

    def write(self) -> Any:
        """A writing transaction."""
        return self.database.write()

    def read(self) -> Any:
        """A reading transaction."""
        return self.database.read()

    def count(self, table: str) -> int:
        """How many rows."""
        with self.database.read() as connection:
            return len(connection.execute(select(tables.metadata.tables[table])).all())


@pytest.fixture
def database(migrated_url: str) -> Iterator[Database]:
    """A database with the whole schema and nothing in it."""
    database = Database(migrated_url)
    yield database
    database.close()


@pytest.fixture
def store(database: Database) -> Store:
    """The same, with a shorthand for records."""
    return Store(database)


def do(store: Store, write: Any, *arguments: Any, **named: Any) -> Any:
    """One write in a transaction of its own."""
    with store.write() as connection:
        return write(connection, *arguments, **named)


def look(store: Store, read: Any, *arguments: Any, **named: Any) -> Any:
    """One look in a transaction of its own."""
    with store.read() as connection:
        return read(connection, *arguments, **named)


def rows_of(connection: Connection, table: str) -> list[Any]:
    """All rows of a table."""
    return list(connection.execute(select(tables.metadata.tables[table])))
