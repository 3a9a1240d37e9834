"""Runs the migrations on the connection that `Database.upgrade` hands over."""

from __future__ import annotations

from alembic import context

from newsletter.store.tables import metadata


def include_name(name: str | None, kind: str, _parents: object) -> bool:
    """Leave out the tables of Procrastinate, which has migrations of its own: see `store.jobs`."""
    return not (kind == "table" and name is not None and name.startswith("procrastinate_"))


connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    include_name=include_name,
    render_as_batch=True,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
