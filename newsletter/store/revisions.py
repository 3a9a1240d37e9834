"""What was published: immutable snapshots, numbered from 1; the last one is live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, and_, delete, func, insert, select, text, update
from sqlalchemy.sql.elements import ColumnElement

from newsletter.domain.progress import Outline
from newsletter.domain.subscription import State
from newsletter.store.prepared import Prepared
from newsletter.store.statements import insert_or_nothing
from newsletter.store.tables import passed_step, revision, signing_key, step_name, subscription

# Built once: it runs for each group of letters.
_LIVE = Prepared(select(func.max(revision.c.number)), lambda row: int(row[0] or 0))

_PUBLISH_LOCK = 0x7075626C  # "publ": one publication at a time


@dataclass(frozen=True, kw_only=True)
class RevisionHead:
    """All of a revision but its content. `retimed_at`: when every reader it affects was re-timed."""

    number: int
    published_at: datetime
    note: str | None
    digest: str
    retimed_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How many open subscriptions of a sequence last received one step (None: before the first letter)."""

    anchor: str | None
    count: int


def lock_publishing(connection: Connection) -> None:
    """Let no other publication begin before this transaction ends; SQLite's write lock does that anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _PUBLISH_LOCK})


def live_number(connection: Connection) -> int:
    """The number of the live revision; 0 while nothing is published."""
    return _LIVE.fetch(connection, {})[0]


def get_head(connection: Connection, number: int) -> RevisionHead | None:
    """What is known of a revision."""
    row = connection.execute(select(*_HEAD).where(revision.c.number == number)).one_or_none()
    return None if row is None else RevisionHead(**row._mapping)


def list_heads(connection: Connection, *, limit: int = 50) -> list[RevisionHead]:
    """The newest revisions, the newest first."""
    rows = connection.execute(select(*_HEAD).order_by(revision.c.number.desc()).limit(limit))
    return [RevisionHead(**row._mapping) for row in rows]


def get_snapshot(connection: Connection, number: int) -> str:
    """The content of a revision, as JSON.

    Raises:
        KeyError: there is no such revision.
    """
    snapshot: str | None = connection.scalar(select(revision.c.snapshot).where(revision.c.number == number))
    if snapshot is None:
        raise KeyError(number)
    return snapshot


def outlines(connection: Connection) -> dict[str, list[Outline]]:
    """By sequence: its order in every revision that has it, the oldest first."""
    found: dict[str, list[Outline]] = {}
    rows = connection.execute(select(revision.c.number, revision.c.outlines).order_by(revision.c.number))
    for row in rows:
        for key, outline in row.outlines.items():
            found.setdefault(key, []).append(
                Outline(
                    revision=row.number,
                    steps=tuple(outline["steps"]),
                    deliver_late=frozenset(outline["deliver_late"]),
                )
            )
    return found


def add_revision(
    connection: Connection,
    *,
    number: int,
    digest: str,
    snapshot: str,
    outlines: Mapping[str, Outline],
    note: str | None,
    now: datetime,
) -> None:
    """Make a revision live, for every worker at once."""
    plain = {
        key: {"steps": list(outline.steps), "deliver_late": sorted(outline.deliver_late)}
        for key, outline in outlines.items()
    }
    connection.execute(
        insert(revision).values(
            number=number, published_at=now, note=note, digest=digest, outlines=plain, snapshot=snapshot
        )
    )


def set_retimed(connection: Connection, number: int, *, now: datetime) -> None:
    """Everybody whom a revision affects has been re-timed."""
    connection.execute(update(revision).where(revision.c.number == number).values(retimed_at=now))


def untimed(connection: Connection) -> list[int]:
    """The revisions whose re-timing was not finished, the oldest first."""
    return list(
        connection.scalars(select(revision.c.number).where(revision.c.retimed_at.is_(None)).order_by(revision.c.number))
    )


def step_names(connection: Connection) -> dict[tuple[str, str], str]:
    """By sequence and step key: the identity that the key last stood for."""
    rows = connection.execute(select(step_name))
    return {(row.sequence_key, row.name): row.identity for row in rows}


def save_step_names(connection: Connection, names: Mapping[tuple[str, str], str]) -> None:
    """Write which identities step keys stand for from now on."""
    for (sequence_key, name), identity in names.items():
        connection.execute(delete(step_name).where(step_name.c.sequence_key == sequence_key, step_name.c.name == name))
        connection.execute(insert(step_name).values(sequence_key=sequence_key, name=name, identity=identity))


def standings(connection: Connection, sequence_keys: Sequence[str]) -> dict[str, list[Standing]]:
    """How many people stand where in some sequences, those who have left or never confirmed left out."""
    columns = [subscription.c.sequence_key, subscription.c.anchor]
    statement = (
        select(*columns, func.count().label("people"))
        .where(_is_open(sequence_keys))
        .group_by(*columns)
        .order_by(*columns)
    )
    found: dict[str, list[Standing]] = {key: [] for key in sequence_keys}
    for row in connection.execute(statement):
        found[row.sequence_key].append(Standing(anchor=row.anchor, count=row.people))
    return found


def passed_by(connection: Connection, sequence_keys: Sequence[str]) -> dict[tuple[str, str], int]:
    """By sequence and step: how many of the same people it has passed by in their present round."""
    columns = [subscription.c.sequence_key, passed_step.c.step]
    present = and_(passed_step.c.subscription_id == subscription.c.id, passed_step.c.round == subscription.c.round)
    statement = (
        select(*columns, func.count().label("people"))
        .join(passed_step, present)
        .where(_is_open(sequence_keys))
        .group_by(*columns)
    )
    return {(row.sequence_key, row.step): row.people for row in connection.execute(statement)}


def note_signing_key(connection: Connection, key_id: str, *, now: datetime) -> None:
    """Remember that links are signed with a key, and when last."""
    if not insert_or_nothing(connection, signing_key, {"key_id": key_id, "last_signed_at": now}):
        connection.execute(update(signing_key).where(signing_key.c.key_id == key_id).values(last_signed_at=now))


def signing_keys(connection: Connection) -> dict[str, datetime]:
    """Every key that ever signed a link, and when last."""
    return {row.key_id: row.last_signed_at for row in connection.execute(select(signing_key))}


def _is_open(sequence_keys: Sequence[str]) -> ColumnElement[bool]:
    states = [State.ACTIVE, State.PAUSED, State.WAITING]
    return and_(subscription.c.sequence_key.in_(sequence_keys), subscription.c.state.in_(states))


_HEAD = [
    revision.c.number,
    revision.c.published_at,
    revision.c.note,
    revision.c.digest,
    revision.c.retimed_at,
]
