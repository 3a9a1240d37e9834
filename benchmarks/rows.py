"""Readers and their letters by the million, made by SQL inside the database.

Reader n, its subscription and its letters have ids that end in n and so ascend with it: every index grows at its
end, which makes ten million rows in minutes. Those chosen to be due lie evenly spread over the whole table.
"""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, bindparam, create_engine, text

from newsletter.store.tables import FILL_FACTOR
from newsletter.store.types import UtcDateTime

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.installation import Installation

_READER = "018f0000000040008000"
_SUBSCRIPTION = "018f0000000070008000"
_LETTER = "018f0000000070009000"
_NEW_LETTER = "019f00000000700090"
_A_WEEK = timedelta(days=7)


class Rows:
    """The rows of one installation."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._is_sqlite = installation.is_sqlite
        self._engine = create_engine(installation.database_url.replace("postgresql://", "postgresql+psycopg://", 1))
        self._readers = 0

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def fill(self, readers: int, *, due: bool = False, received: bool = False) -> None:
        """Add so many readers of the sequence to an installation that has none.

        Args:
            due: the first letter of each is due and not planned; else it is so at some second of the coming week.
            received: the first letter of each was accepted a week ago, and is a row of the ledger.
        """
        now = datetime.now(UTC)
        self._readers = readers
        first, joined, a_week_ago = self._installation.steps[0], now - 5 * _A_WEEK, now - _A_WEEK
        series = self._series(1, readers)
        last = (f"'{first}'", ":last") if received else ("NULL", "NULL")
        next_due = ":later" if due else self._within_a_week(":later")
        later = now - timedelta(minutes=1) if due else now + timedelta(hours=1)
        with self._making() as connection:
            if self._is_sqlite:
                # Without a journal, which would take as much of the disk as the rows themselves.
                connection.exec_driver_sql("PRAGMA journal_mode = OFF")
                connection.exec_driver_sql("PRAGMA cache_size = -500000")
            _run(connection, f"""
                INSERT INTO subscriber (id, address, address_key, timezone, weekday, at, created_at)
                {series} SELECT {self._id(_READER)}, 'reader-' || {self._hex()} || '@example.net',
                    'reader-' || {self._hex()} || '@example.net', 'Europe/Berlin', 3, '08:00', :joined FROM series
                """, joined=joined)  # fmt: skip
            _run(connection, f"""
                INSERT INTO subscription (id, subscriber_id, sequence_key, state, seen_revision, last_step, anchor,
                    last_letter_at, next_due_at, due_rule, created_at, confirmed_at)
                {series} SELECT {self._id(_SUBSCRIPTION)}, {self._id(_READER)}, '{self._installation.sequence}',
                    'active', 1, {last[0]}, {last[0]}, {last[1]}, {next_due}, 'slot', :joined, :joined FROM series
                """, joined=joined, later=later, **({"last": a_week_ago} if received else {}))  # fmt: skip
            if received:
                # Letters that were sent have grown into the room that their pages keep for that.
                self._set_fill_factor(connection, 100)
                self._add_received(connection, series, step=first, last=a_week_ago)
                self._set_fill_factor(connection, FILL_FACTOR)
        # With the connection its cache goes, too.
        self._engine.dispose()
        if self._is_sqlite:
            with self._engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        else:
            # PostgreSQL does this by itself before long; SQLite never does, so its plans are made without figures.
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("VACUUM ANALYZE")

    def _add_received(self, connection: Connection, series: str, *, step: str, last: datetime) -> None:
        _run(connection, f"""
            INSERT INTO delivery (id, kind, subscriber_id, subscription_id, sequence_key, round, step, state,
                received, due_at, next_try_at, attempt, epoch, revision, message_id, message_date, affirmation, posts,
                number, created_at, sent_at, closed_at, reply_code, reply_text, host)
            {series} SELECT {self._id(_LETTER)}, 'letter',
                {self._id(_READER)}, {self._id(_SUBSCRIPTION)}, '{self._installation.sequence}', 1, '{step}', 'sent',
                true, :last, :last, 1, 3, 1, '<' || {self._hex()} || '.{_LETTER}@example.com>', :last, 'go-slowly',
                '[]', 1, :last, :last, :last, 250, '2.0.0 Ok: queued as 4D2F1C0A7B', 'mx.example.net' FROM series
            """, last=last)  # fmt: skip

    def make_due(self, number: int, *, turn: int = 0, at: datetime | None = None) -> None:
        """Let so many subscriptions be due at an instant, or a minute ago; each turn chooses others."""
        with self._making() as connection:
            self._set_due(connection, number, turn=turn, due=at or datetime.now(UTC) - timedelta(minutes=1))

    def plan(self, number: int, *, step: int = 0, turn: int = 0) -> None:
        """Plan so many letters, due a minute ago; each turn chooses other readers."""
        now = datetime.now(UTC)
        identity = self._installation.steps[step]
        with self._making() as connection:
            self._set_due(connection, number, turn=turn, due=None)
            _run(connection, f"""
                INSERT INTO delivery (id, kind, subscriber_id, subscription_id, sequence_key, round, step,
                    state, due_at, next_try_at, created_at)
                {self._chosen(number, turn=turn)} SELECT {self._id(f"{_NEW_LETTER}{step:02x}")}, 'letter',
                    {self._id(_READER)},
                    {self._id(_SUBSCRIPTION)}, '{self._installation.sequence}', 1, '{identity}', 'planned', :due, :due,
                    :now FROM series
                """, due=now - timedelta(minutes=1), now=now)  # fmt: skip

    def forget_claimed(self) -> None:
        """Remove the letters that a measurement claimed and did not send."""
        with self._engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM delivery WHERE state IN ('claimed', 'handing_over')")

    def sent(self, *, since: datetime) -> tuple[int, datetime | None, datetime | None]:
        """How many letters were accepted after `since`, and the first and the last instant of that."""
        # By their ids, which are those of today: a ledger of millions is not read through for it.
        new = f"id >= '{_NEW_LETTER + '0' * 14}'"
        statement = text(f"SELECT count(*), min(sent_at), max(sent_at) FROM delivery WHERE {new} AND sent_at > :since")
        statement = statement.bindparams(bindparam("since", type_=UtcDateTime()))
        with self._engine.connect() as connection:
            row = connection.execute(statement, {"since": since}).one()
        return row[0], _instant(row[1]), _instant(row[2])

    def _set_due(self, connection: Connection, number: int, *, turn: int, due: datetime | None) -> None:
        chosen = f"{self._chosen(number, turn=turn)} SELECT {self._id(_SUBSCRIPTION)} FROM series"
        _run(connection, f"UPDATE subscription SET next_due_at = :due WHERE id IN ({chosen})", due=due)

    @contextmanager
    def _making(self) -> Iterator[Connection]:
        """A transaction that may be lost in a power cut: nobody was promised these rows."""
        with self._engine.connect() as connection:
            connection.exec_driver_sql(
                "PRAGMA synchronous = OFF" if self._is_sqlite else "SET synchronous_commit = off"
            )
            connection.commit()
            yield connection
            connection.commit()

    def _set_fill_factor(self, connection: Connection, percent: int) -> None:
        if not self._is_sqlite:
            connection.exec_driver_sql(f"ALTER TABLE delivery SET (fillfactor = {percent})")

    # The same words on both databases

    def _series(self, first: int, last: int) -> str:
        if self._is_sqlite:
            more = f"SELECT n + 1 FROM series WHERE n < {last}"
            return f"WITH RECURSIVE series(n) AS (SELECT {first} UNION ALL {more})"
        return f"WITH series(n) AS (SELECT generate_series({first}, {last}))"

    def _chosen(self, number: int, *, turn: int) -> str:
        stride = self._readers // number
        if turn >= stride:
            message = f"{self._readers} rows are too few for {number} letters in turn {turn + 1}; give more --rows."
            raise ValueError(message)
        counted = self._series(0, number - 1).replace("series", "counted", 1).replace("FROM series", "FROM counted")
        return f"{counted}, series(n) AS (SELECT n * {stride} + {turn + 1} FROM counted)"

    def _hex(self) -> str:
        return "printf('%012x', n)" if self._is_sqlite else "lpad(to_hex(n), 12, '0')"

    def _id(self, prefix: str) -> str:
        return f"'{prefix}' || {self._hex()}" if self._is_sqlite else f"CAST('{prefix}' || {self._hex()} AS uuid)"

    def _within_a_week(self, instant: str) -> str:
        seconds = f"n % {int(_A_WEEK.total_seconds())}"
        if self._is_sqlite:
            return f"strftime('%Y-%m-%d %H:%M:%f000', {instant}, '+' || ({seconds}) || ' seconds')"
        return f"CAST({instant} AS timestamptz) + make_interval(secs => {seconds})"


def _run(connection: Connection, statement: str, **instants: datetime | None) -> None:
    """Run a statement whose parameters are instants."""
    typed = [bindparam(name, type_=UtcDateTime()) for name in instants]
    values: dict[str, Any] = dict(instants)
    connection.execute(text(statement).bindparams(*typed), values)


def _instant(value: datetime | str | None) -> datetime | None:
    return datetime.fromisoformat(f"{value}+00:00") if isinstance(value, str) else value
