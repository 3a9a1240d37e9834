"""Destinations and their rates"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from newsletter.store.types import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "destination",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("free_at", UtcDateTime(), nullable=True),
        sa.Column("queued_until", UtcDateTime(), nullable=True),
        sa.Column("level", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("slowed_until", UtcDateTime(), nullable=True),
        sa.Column("refusals", sa.Integer(), server_default="0", nullable=False),
        sa.Column("closures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("opened_at", UtcDateTime(), nullable=True),
        sa.Column("retry_at", UtcDateTime(), nullable=True),
        sa.Column("tried_at", UtcDateTime(), nullable=True),
        sa.Column("changed_at", UtcDateTime(), nullable=True),
        sa.Column("reply", sa.Text(), server_default="", nullable=False),
        sa.CheckConstraint("level BETWEEN 0 AND 8", name=op.f("ck_destination_level")),
        sa.CheckConstraint("(opened_at IS NULL) = (retry_at IS NULL)", name=op.f("ck_destination_retry_at")),
        sa.CheckConstraint("opened_at IS NULL OR refusals >= 5", name=op.f("ck_destination_opened_at")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_destination")),
    )
    with op.batch_alter_table("destination", schema=None) as batch_op:
        batch_op.create_index(
            "ix_destination_troubled",
            ["name"],
            unique=False,
            postgresql_where=sa.text("level > 0 OR refusals > 0"),
            sqlite_where=sa.text("level > 0 OR refusals > 0"),
        )

    op.create_table(
        "warm_up",
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("local_date", sa.Date(), nullable=False),
        sa.Column("sent", sa.Integer(), nullable=False),
        sa.CheckConstraint("day >= 1", name=op.f("ck_warm_up_day")),
        sa.CheckConstraint("sent >= 0", name=op.f("ck_warm_up_sent")),
        sa.PrimaryKeyConstraint("plan", name=op.f("pk_warm_up")),
    )
    with op.batch_alter_table("worker", schema=None) as batch_op:
        batch_op.add_column(sa.Column("connections", sa.Integer(), server_default="0", nullable=False))


def downgrade() -> None:
    """Take back."""
    with op.batch_alter_table("worker", schema=None) as batch_op:
        batch_op.drop_column("connections")

    op.drop_table("warm_up")
    with op.batch_alter_table("destination", schema=None) as batch_op:
        batch_op.drop_index("ix_destination_troubled")

    op.drop_table("destination")
