"""The first schema"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from newsletter.store.types import UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "notice",
        sa.Column("address_hash", sa.String(length=80), nullable=False),
        sa.Column("local_date", sa.Date(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("address_hash", "local_date", name=op.f("pk_notice")),
    )
    with op.batch_alter_table("notice", schema=None) as batch_op:
        batch_op.create_index("ix_notice_at", ["at"], unique=False)

    op.create_table(
        "revision",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("published_at", UtcDateTime(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("outlines", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("snapshot", sa.Text(), nullable=False),
        sa.Column("retimed_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint("number >= 1", name=op.f("ck_revision_number")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_revision")),
    )
    op.create_table(
        "signing_key",
        sa.Column("key_id", sa.String(length=20), nullable=False),
        sa.Column("last_signed_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_signing_key")),
    )
    op.create_table(
        "step_name",
        sa.Column("sequence_key", sa.String(length=60), nullable=False),
        sa.Column("name", sa.String(length=60), nullable=False),
        sa.Column("identity", sa.String(length=80), nullable=False),
        sa.PrimaryKeyConstraint("sequence_key", "name", name=op.f("pk_step_name")),
    )
    op.create_table(
        "subscriber",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("address_key", sa.Text(), nullable=False),
        sa.Column("timezone", sa.String(length=64), nullable=False),
        sa.Column("weekday", sa.SmallInteger(), nullable=False),
        sa.Column("at", sa.String(length=5), nullable=False),
        sa.Column("pace", sa.SmallInteger(), server_default="1", nullable=False),
        sa.Column("country", sa.String(length=2), nullable=True),
        sa.Column("discreet", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("paused_until", sa.Date(), nullable=True),
        sa.Column("link_generation", sa.SmallInteger(), server_default="1", nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("length(at) = 5", name=op.f("ck_subscriber_at")),
        sa.CheckConstraint("pace BETWEEN 1 AND 8", name=op.f("ck_subscriber_pace")),
        sa.CheckConstraint("weekday BETWEEN 0 AND 6", name=op.f("ck_subscriber_weekday")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subscriber")),
        sa.UniqueConstraint("address_key", name=op.f("uq_subscriber_address_key")),
    )
    op.create_table(
        "suppression",
        sa.Column("address_hash", sa.String(length=80), nullable=False),
        sa.Column("reason", sa.String(length=40), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("address_hash", name=op.f("pk_suppression")),
    )
    op.create_table(
        "switch",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("is_on", sa.Boolean(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_switch")),
    )
    op.create_table(
        "worker",
        sa.Column("id", sa.String(length=80), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("lease_until", UtcDateTime(), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_worker")),
    )
    op.create_table(
        "subscription",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("subscriber_id", sa.Uuid(), nullable=False),
        sa.Column("sequence_key", sa.String(length=60), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("round", sa.Integer(), server_default="1", nullable=False),
        sa.Column("last_step", sa.String(length=80), nullable=True),
        sa.Column("anchor", sa.String(length=80), nullable=True),
        sa.Column("seen_revision", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_due_at", UtcDateTime(), nullable=True),
        sa.Column("due_rule", sa.String(length=20), nullable=True),
        sa.Column("last_letter_at", UtcDateTime(), nullable=True),
        sa.Column("resumed_at", UtcDateTime(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("confirmed_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint("next_due_at IS NULL OR state IN ('active', 'paused')", name=op.f("ck_subscription_due")),
        sa.CheckConstraint(
            "state = 'pending' OR confirmed_at IS NOT NULL OR state = 'left'", name=op.f("ck_subscription_confirmed")
        ),
        sa.CheckConstraint(
            "state = 'pending' OR state = 'active' OR state = 'paused' OR state = 'waiting' OR state = 'finished' OR state = 'left'",
            name=op.f("ck_subscription_state"),
        ),
        sa.CheckConstraint("round >= 1", name=op.f("ck_subscription_round")),
        sa.ForeignKeyConstraint(
            ["subscriber_id"], ["subscriber.id"], name=op.f("fk_subscription_subscriber_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subscription")),
        sa.UniqueConstraint("subscriber_id", "sequence_key", name=op.f("uq_subscription_subscriber_id_sequence_key")),
    )
    with op.batch_alter_table("subscription", schema=None) as batch_op:
        batch_op.create_index(
            "ix_subscription_due",
            ["next_due_at", "id"],
            unique=False,
            postgresql_where=sa.text("next_due_at IS NOT NULL"),
            sqlite_where=sa.text("next_due_at IS NOT NULL"),
        )
        batch_op.create_index(
            "ix_subscription_unconfirmed",
            ["created_at"],
            unique=False,
            postgresql_where=sa.text("confirmed_at IS NULL"),
            sqlite_where=sa.text("confirmed_at IS NULL"),
        )

    op.create_table(
        "delivery",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("dedup_key", sa.Text(), nullable=True),
        sa.Column("subscriber_id", sa.Uuid(), nullable=False),
        sa.Column("subscription_id", sa.Uuid(), nullable=True),
        sa.Column("sequence_key", sa.String(length=60), nullable=True),
        sa.Column("round", sa.Integer(), nullable=True),
        sa.Column("step", sa.String(length=80), nullable=True),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column(
            "waits_for",
            sa.String(length=8),
            sa.Computed(
                "CASE WHEN state IN ('planned', 'uncertain') THEN 'turn' WHEN state = 'held' THEN 'operator' END",
                persisted=True,
            ),
            nullable=True,
        ),
        sa.Column("received", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("due_at", UtcDateTime(), nullable=False),
        sa.Column("next_try_at", UtcDateTime(), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("doubts", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("epoch", sa.Integer(), server_default="0", nullable=False),
        sa.Column("owner", sa.String(length=80), nullable=True),
        sa.Column("handing_over_at", UtcDateTime(), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=True),
        sa.Column("message_id", sa.Text(), nullable=True),
        sa.Column("message_date", UtcDateTime(), nullable=True),
        sa.Column("affirmation", sa.String(length=80), nullable=True),
        sa.Column("posts", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("number", sa.Integer(), nullable=True),
        sa.Column("payload", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("sent_at", UtcDateTime(), nullable=True),
        sa.Column("closed_at", UtcDateTime(), nullable=True),
        sa.Column("reply_code", sa.Integer(), nullable=True),
        sa.Column("reply_text", sa.Text(), nullable=True),
        sa.Column("host", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(state = 'handing_over') = (handing_over_at IS NOT NULL)", name=op.f("ck_delivery_handing_over_at")
        ),
        sa.CheckConstraint("(state = 'sent') = (sent_at IS NOT NULL)", name=op.f("ck_delivery_sent_at")),
        sa.CheckConstraint("(kind = 'letter') = (dedup_key IS NULL)", name=op.f("ck_delivery_dedup_key")),
        sa.CheckConstraint(
            "(closed_at IS NOT NULL) = (received OR state = 'failed' OR state = 'withdrawn')",
            name=op.f("ck_delivery_closed_at"),
        ),
        sa.CheckConstraint(
            "(state IN ('claimed', 'handing_over')) = (owner IS NOT NULL)", name=op.f("ck_delivery_owner")
        ),
        sa.CheckConstraint(
            "NOT received OR state = 'sent' OR (state = 'held' AND doubts > 0)", name=op.f("ck_delivery_received")
        ),
        sa.CheckConstraint(
            "kind <> 'letter' OR (subscription_id IS NOT NULL AND round IS NOT NULL AND step IS NOT NULL AND sequence_key IS NOT NULL)",
            name=op.f("ck_delivery_letter"),
        ),
        sa.CheckConstraint(
            "kind = 'letter' OR kind = 'confirmation' OR kind = 'already_subscribed' OR kind = 'link' OR kind = 'rehearsal'",
            name=op.f("ck_delivery_kind"),
        ),
        sa.CheckConstraint("state <> 'sent' OR received", name=op.f("ck_delivery_sent_is_received")),
        sa.CheckConstraint("state <> 'uncertain' OR doubts = 1", name=op.f("ck_delivery_repeated_once")),
        sa.CheckConstraint(
            "state = 'planned' OR state = 'claimed' OR state = 'handing_over' OR state = 'sent' OR state = 'failed' OR state = 'held' OR state = 'uncertain' OR state = 'withdrawn'",
            name=op.f("ck_delivery_state"),
        ),
        sa.CheckConstraint("doubts BETWEEN 0 AND 2", name=op.f("ck_delivery_doubts")),
        sa.ForeignKeyConstraint(
            ["subscriber_id"], ["subscriber.id"], name=op.f("fk_delivery_subscriber_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery")),
        sa.UniqueConstraint(
            "subscriber_id",
            "subscription_id",
            "round",
            "step",
            name=op.f("uq_delivery_subscriber_id_subscription_id_round_step"),
        ),
        postgresql_with={"fillfactor": 80},
    )
    with op.batch_alter_table("delivery", schema=None) as batch_op:
        batch_op.create_index(
            "ix_delivery_details",
            ["closed_at"],
            unique=False,
            postgresql_where=sa.text("reply_text IS NOT NULL OR host IS NOT NULL OR payload IS NOT NULL"),
            sqlite_where=sa.text("reply_text IS NOT NULL OR host IS NOT NULL OR payload IS NOT NULL"),
        )
        batch_op.create_index(
            "ix_delivery_for_people",
            ["next_try_at", "id"],
            unique=False,
            postgresql_where=sa.text("kind <> 'letter' AND waits_for = 'turn'"),
            sqlite_where=sa.text("kind <> 'letter' AND waits_for = 'turn'"),
        )
        batch_op.create_index(
            "ix_delivery_held",
            ["id"],
            unique=False,
            postgresql_where=sa.text("waits_for = 'operator'"),
            sqlite_where=sa.text("waits_for = 'operator'"),
        )
        batch_op.create_index(
            "ix_delivery_leaving",
            ["next_try_at", "id"],
            unique=False,
            postgresql_where=sa.text("waits_for = 'turn'"),
            sqlite_where=sa.text("waits_for = 'turn'"),
        )
        batch_op.create_index(
            "ix_delivery_owned",
            ["owner"],
            unique=False,
            postgresql_where=sa.text("owner IS NOT NULL"),
            sqlite_where=sa.text("owner IS NOT NULL"),
        )
        batch_op.create_index(
            "uq_delivery_dedup_key",
            ["dedup_key"],
            unique=True,
            postgresql_where=sa.text("dedup_key IS NOT NULL"),
            sqlite_where=sa.text("dedup_key IS NOT NULL"),
        )
        batch_op.create_index(
            "uq_delivery_open",
            ["subscription_id"],
            unique=True,
            postgresql_where=sa.text("kind = 'letter' AND closed_at IS NULL"),
            sqlite_where=sa.text("kind = 'letter' AND closed_at IS NULL"),
        )

    op.create_table(
        "event",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("subscriber_id", sa.Uuid(), nullable=False),
        sa.Column("subscription_id", sa.Uuid(), nullable=True),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("detail", sa.JSON(none_as_null=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["subscriber_id"], ["subscriber.id"], name=op.f("fk_event_subscriber_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["subscription_id"], ["subscription.id"], name=op.f("fk_event_subscription_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event")),
    )
    with op.batch_alter_table("event", schema=None) as batch_op:
        batch_op.create_index("ix_event_subscriber", ["subscriber_id", "id"], unique=False)
        batch_op.create_index("ix_event_subscription", ["subscription_id"], unique=False)

    op.create_table(
        "passed_step",
        sa.Column("subscription_id", sa.Uuid(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("step", sa.String(length=80), nullable=False),
        sa.ForeignKeyConstraint(
            ["subscription_id"], ["subscription.id"], name=op.f("fk_passed_step_subscription_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("subscription_id", "round", "step", name=op.f("pk_passed_step")),
    )


def downgrade() -> None:
    """Take back."""
    op.drop_table("passed_step")
    with op.batch_alter_table("event", schema=None) as batch_op:
        batch_op.drop_index("ix_event_subscription")
        batch_op.drop_index("ix_event_subscriber")

    op.drop_table("event")
    with op.batch_alter_table("delivery", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_delivery_open",
            postgresql_where=sa.text("kind = 'letter' AND closed_at IS NULL"),
            sqlite_where=sa.text("kind = 'letter' AND closed_at IS NULL"),
        )
        batch_op.drop_index(
            "uq_delivery_dedup_key",
            postgresql_where=sa.text("dedup_key IS NOT NULL"),
            sqlite_where=sa.text("dedup_key IS NOT NULL"),
        )
        batch_op.drop_index(
            "ix_delivery_owned",
            postgresql_where=sa.text("owner IS NOT NULL"),
            sqlite_where=sa.text("owner IS NOT NULL"),
        )
        batch_op.drop_index(
            "ix_delivery_leaving",
            postgresql_where=sa.text("waits_for = 'turn'"),
            sqlite_where=sa.text("waits_for = 'turn'"),
        )
        batch_op.drop_index(
            "ix_delivery_held",
            postgresql_where=sa.text("waits_for = 'operator'"),
            sqlite_where=sa.text("waits_for = 'operator'"),
        )
        batch_op.drop_index(
            "ix_delivery_for_people",
            postgresql_where=sa.text("kind <> 'letter' AND waits_for = 'turn'"),
            sqlite_where=sa.text("kind <> 'letter' AND waits_for = 'turn'"),
        )
        batch_op.drop_index(
            "ix_delivery_details",
            postgresql_where=sa.text("reply_text IS NOT NULL OR host IS NOT NULL OR payload IS NOT NULL"),
            sqlite_where=sa.text("reply_text IS NOT NULL OR host IS NOT NULL OR payload IS NOT NULL"),
        )

    op.drop_table("delivery")
    with op.batch_alter_table("subscription", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_subscription_unconfirmed",
            postgresql_where=sa.text("confirmed_at IS NULL"),
            sqlite_where=sa.text("confirmed_at IS NULL"),
        )
        batch_op.drop_index(
            "ix_subscription_due",
            postgresql_where=sa.text("next_due_at IS NOT NULL"),
            sqlite_where=sa.text("next_due_at IS NOT NULL"),
        )

    op.drop_table("subscription")
    op.drop_table("worker")
    op.drop_table("switch")
    op.drop_table("suppression")
    op.drop_table("subscriber")
    op.drop_table("step_name")
    op.drop_table("signing_key")
    op.drop_table("revision")
    with op.batch_alter_table("notice", schema=None) as batch_op:
        batch_op.drop_index("ix_notice_at")

    op.drop_table("notice")
