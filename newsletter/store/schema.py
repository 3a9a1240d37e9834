"""Which schema a database has, and how it gets the newest.

Alembic is imported only where there is something to migrate: it takes longer to import than all the rest, and
every command looks at the version.
"""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

if TYPE_CHECKING:
    from alembic.config import Config

_MIGRATIONS = Path(__file__).parent / "migrations"


class Fit(Enum):
    """How a database's schema stands to this program."""

    FRESH = "fresh"  # never migrated
    OLDER = "older"
    CURRENT = "current"
    NEWER = "newer"  # made by a version of this program that we do not know


def version(connection: Connection) -> str | None:
    """The schema's version, or None where the database was never migrated."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return found


def known_versions() -> list[str]:
    """Every version that this program knows, the oldest first: each migration's file begins with its own."""
    return sorted(path.name.partition("_")[0] for path in (_MIGRATIONS / "versions").glob("[0-9]*.py"))


def judge(found: str | None) -> Fit:
    """How a schema of the version `found` stands to this program."""
    known = known_versions()
    if found is None:
        return Fit.FRESH
    if found not in known:
        return Fit.NEWER
    return Fit.CURRENT if found == known[-1] else Fit.OLDER


def migrate(connection: Connection) -> None:
    """Bring the schema to the newest version, inside the transaction that `connection` is in."""
    from alembic import command  # noqa: PLC0415  (see above)

    command.upgrade(alembic_config(connection), "head")


def alembic_config(connection: Connection | None = None) -> Config:
    """What Alembic has to know: where the migrations lie, and the connection that `env.py` runs them on."""
    from alembic.config import Config as AlembicConfig  # noqa: PLC0415  (see above)

    # By itself it would write for ever to what was standard output when it was imported.
    config = AlembicConfig(stdout=sys.stdout)
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    return config
