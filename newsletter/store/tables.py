"""The schema. Unique keys and checks make the illegal impossible, on both databases."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    Date,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    false,
    text,
)

from newsletter.domain import delivery as deliveries
from newsletter.domain import subscription as subscriptions
from newsletter.store.types import UtcDateTime

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _one_of(column: str, values: Iterable[StrEnum]) -> str:
    # SQLite makes a table of a longer IN list, each time that a row is written.
    return " OR ".join(f"{column} = '{value}'" for value in values)


_json = JSON(none_as_null=True)

subscriber = Table(
    "subscriber",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("address", Text, nullable=False),
    Column("address_key", Text, nullable=False, unique=True),
    Column("timezone", String(64), nullable=False),
    Column("weekday", SmallInteger, nullable=False),
    Column("at", String(5), nullable=False),
    Column("pace", SmallInteger, nullable=False, server_default="1"),
    Column("country", String(2)),
    Column("discreet", Boolean, nullable=False, server_default=false()),
    Column("paused_until", Date),
    Column("link_generation", SmallInteger, nullable=False, server_default="1"),
    Column("created_at", UtcDateTime, nullable=False),
    CheckConstraint("weekday BETWEEN 0 AND 6", name="weekday"),
    CheckConstraint("length(at) = 5", name="at"),
    CheckConstraint("pace BETWEEN 1 AND 8", name="pace"),
)

subscription = Table(
    "subscription",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("subscriber_id", Uuid, ForeignKey("subscriber.id", ondelete="CASCADE"), nullable=False),
    Column("sequence_key", String(60), nullable=False),
    Column("state", String(8), nullable=False),
    Column("round", Integer, nullable=False, server_default="1"),
    Column("last_step", String(80)),  # the identity last received, kept over rounds, for people to read
    Column("anchor", String(80)),  # the same within this round; passing by is judged by it
    Column("seen_revision", Integer, nullable=False, server_default="0"),
    Column("next_due_at", UtcDateTime),
    Column("due_rule", String(20)),
    Column("last_letter_at", UtcDateTime),
    Column("resumed_at", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
    Column("confirmed_at", UtcDateTime),
    UniqueConstraint("subscriber_id", "sequence_key"),
    CheckConstraint(_one_of("state", subscriptions.State), name="state"),
    CheckConstraint("next_due_at IS NULL OR state IN ('active', 'paused')", name="due"),
    CheckConstraint("round >= 1", name="round"),
    CheckConstraint("state = 'pending' OR confirmed_at IS NOT NULL OR state = 'left'", name="confirmed"),
    Index("ix_subscription_due", "next_due_at", "id", postgresql_where=text("next_due_at IS NOT NULL"),
          sqlite_where=text("next_due_at IS NOT NULL")),
    Index("ix_subscription_unconfirmed", "created_at", postgresql_where=text("confirmed_at IS NULL"),
          sqlite_where=text("confirmed_at IS NULL")),
)  # fmt: skip

passed_step = Table(
    "passed_step",
    metadata,
    Column("subscription_id", Uuid, ForeignKey("subscription.id", ondelete="CASCADE"), primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("step", String(80), primary_key=True),
)

OPEN = "kind = 'letter' AND closed_at IS NULL"
"""A letter that its subscription waits for.

This and `OWNED` are said without `state`: whenever that changes, SQLite takes a row out of an index that asks for it
and puts it in again, and the state of a letter changes three times on its way.
"""

WAITS_FOR = "CASE WHEN state IN ('planned', 'uncertain') THEN 'turn' WHEN state = 'held' THEN 'operator' END"
"""What a row waits for. The indexes ask for this and not for the state, which changes once more while it waits for
nothing: PostgreSQL then writes such a row where it stands, and into no index."""

WAITING_TO_LEAVE = "waits_for = 'turn'"
HELD = "waits_for = 'operator'"
FOR_PEOPLE = "kind <> 'letter' AND waits_for = 'turn'"
HAS_KEY = "dedup_key IS NOT NULL"
HAS_DETAILS = "reply_text IS NOT NULL OR host IS NOT NULL OR payload IS NOT NULL"
OWNED = "owner IS NOT NULL"

FILL_FACTOR = 80
"""Percent of a page of the ledger that new letters take: a letter grows on its way, and stays on its page."""

delivery = Table(
    "delivery",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("kind", String(20), nullable=False),
    Column("dedup_key", Text),  # of what is no letter; a letter is known by its subscription, round and step
    Column("subscriber_id", Uuid, ForeignKey("subscriber.id", ondelete="CASCADE"), nullable=False),
    Column("subscription_id", Uuid),  # one of the subscriber's; no foreign key, which would want an index of its own
    Column("sequence_key", String(60)),
    Column("round", Integer),
    Column("step", String(80)),
    Column("state", String(12), nullable=False),
    Column("waits_for", String(8), Computed(WAITS_FOR, persisted=True)),
    Column("received", Boolean, nullable=False, server_default=false()),
    Column("due_at", UtcDateTime, nullable=False),
    Column("next_try_at", UtcDateTime, nullable=False),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("doubts", SmallInteger, nullable=False, server_default="0"),  # handovers that got no answer
    Column("epoch", Integer, nullable=False, server_default="0"),
    Column("owner", String(80)),
    Column("handing_over_at", UtcDateTime),  # by the database's clock
    Column("revision", Integer),
    Column("message_id", Text),
    Column("message_date", UtcDateTime),
    Column("affirmation", String(80)),
    Column("posts", _json),
    Column("number", Integer),
    Column("payload", _json),
    Column("created_at", UtcDateTime, nullable=False),
    Column("sent_at", UtcDateTime),
    Column("closed_at", UtcDateTime),
    Column("reply_code", Integer),
    Column("reply_text", Text),
    Column("host", Text),
    Column("reason", Text),
    CheckConstraint(_one_of("kind", deliveries.Kind), name="kind"),
    CheckConstraint(_one_of("state", deliveries.State), name="state"),
    CheckConstraint("(state = 'sent') = (sent_at IS NOT NULL)", name="sent_at"),
    CheckConstraint(f"(state IN ('claimed', 'handing_over')) = ({OWNED})", name="owner"),
    CheckConstraint(
        "(closed_at IS NOT NULL) = (received OR state = 'failed' OR state = 'withdrawn')", name="closed_at"
    ),
    CheckConstraint("(state = 'handing_over') = (handing_over_at IS NOT NULL)", name="handing_over_at"),
    CheckConstraint("NOT received OR state = 'sent' OR (state = 'held' AND doubts > 0)", name="received"),
    CheckConstraint("state <> 'sent' OR received", name="sent_is_received"),
    CheckConstraint("state <> 'uncertain' OR doubts = 1", name="repeated_once"),
    CheckConstraint("doubts BETWEEN 0 AND 2", name="doubts"),
    CheckConstraint(
        "kind <> 'letter' OR (subscription_id IS NOT NULL AND round IS NOT NULL AND step IS NOT NULL"
        " AND sequence_key IS NOT NULL)",
        name="letter",
    ),
    CheckConstraint("(kind = 'letter') = (dedup_key IS NULL)", name="dedup_key"),
    UniqueConstraint("subscriber_id", "subscription_id", "round", "step"),  # finds what is one reader's, too
    Index("uq_delivery_dedup_key", "dedup_key", unique=True, postgresql_where=text(HAS_KEY),
          sqlite_where=text(HAS_KEY)),
    Index("uq_delivery_open", "subscription_id", unique=True, postgresql_where=text(OPEN), sqlite_where=text(OPEN)),
    Index("ix_delivery_leaving", "next_try_at", "id", postgresql_where=text(WAITING_TO_LEAVE),
          sqlite_where=text(WAITING_TO_LEAVE)),
    Index("ix_delivery_owned", "owner", postgresql_where=text(OWNED), sqlite_where=text(OWNED)),
    Index("ix_delivery_held", "id", postgresql_where=text(HELD), sqlite_where=text(HELD)),
    Index("ix_delivery_for_people", "next_try_at", "id", postgresql_where=text(FOR_PEOPLE),
          sqlite_where=text(FOR_PEOPLE)),
    Index("ix_delivery_details", "closed_at", postgresql_where=text(HAS_DETAILS), sqlite_where=text(HAS_DETAILS)),
    postgresql_with={"fillfactor": FILL_FACTOR},
)  # fmt: skip

event = Table(
    "event",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("subscriber_id", Uuid, ForeignKey("subscriber.id", ondelete="CASCADE"), nullable=False),
    Column("subscription_id", Uuid, ForeignKey("subscription.id", ondelete="CASCADE")),
    Column("at", UtcDateTime, nullable=False),
    Column("kind", String(40), nullable=False),
    Column("detail", _json),
    Index("ix_event_subscriber", "subscriber_id", "id"),
    Index("ix_event_subscription", "subscription_id"),
)

suppression = Table(
    "suppression",
    metadata,
    Column("address_hash", String(80), primary_key=True),
    Column("reason", String(40), nullable=False),
    Column("at", UtcDateTime, nullable=False),
)

notice = Table(
    "notice",
    metadata,
    Column("address_hash", String(80), primary_key=True),
    Column("local_date", Date, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Index("ix_notice_at", "at"),
)

revision = Table(
    "revision",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("published_at", UtcDateTime, nullable=False),
    Column("note", Text),
    Column("digest", String(64), nullable=False),
    Column("outlines", _json, nullable=False),
    Column("snapshot", Text, nullable=False),
    Column("retimed_at", UtcDateTime),
    CheckConstraint("number >= 1", name="number"),
)

step_name = Table(
    "step_name",
    metadata,
    Column("sequence_key", String(60), primary_key=True),
    Column("name", String(60), primary_key=True),
    Column("identity", String(80), nullable=False),
)

worker = Table(
    "worker",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("host", Text, nullable=False),
    Column("lease_until", UtcDateTime, nullable=False),  # by the database's clock
    Column("started_at", UtcDateTime, nullable=False),
    Column("connections", Integer, nullable=False, server_default="0"),  # that it has, or may open
)

TROUBLED = "level > 0 OR refusals > 0"

destination = Table(
    "destination",
    metadata,
    Column("name", String(255), primary_key=True),  # a recipient's domain, or "relay": the mail server itself
    # All instants are those of the database's clock.
    Column("free_at", UtcDateTime),
    Column("queued_until", UtcDateTime),
    Column("level", SmallInteger, nullable=False, server_default="0"),
    Column("slowed_until", UtcDateTime),
    Column("refusals", Integer, nullable=False, server_default="0"),
    Column("closures", Integer, nullable=False, server_default="0"),
    Column("opened_at", UtcDateTime),
    Column("retry_at", UtcDateTime),
    Column("tried_at", UtcDateTime),
    Column("changed_at", UtcDateTime),
    Column("reply", Text, nullable=False, server_default=""),
    CheckConstraint("level BETWEEN 0 AND 8", name="level"),
    CheckConstraint("(opened_at IS NULL) = (retry_at IS NULL)", name="retry_at"),
    CheckConstraint("opened_at IS NULL OR refusals >= 5", name="opened_at"),
    Index("ix_destination_troubled", "name", postgresql_where=text(TROUBLED), sqlite_where=text(TROUBLED)),
)  # fmt: skip

warm_up = Table(
    "warm_up",
    metadata,
    Column("plan", Text, primary_key=True),
    Column("day", Integer, nullable=False),  # the first is 1
    Column("local_date", Date, nullable=False),
    Column("sent", Integer, nullable=False),
    CheckConstraint("day >= 1", name="day"),
    CheckConstraint("sent >= 0", name="sent"),
)

switch = Table(
    "switch",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("is_on", Boolean, nullable=False),
    Column("at", UtcDateTime, nullable=False),
)

signing_key = Table(
    "signing_key",
    metadata,
    Column("key_id", String(20), primary_key=True),
    Column("last_signed_at", UtcDateTime, nullable=False),
)
