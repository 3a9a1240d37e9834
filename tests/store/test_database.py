"""Engines, transactions and migrations."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from threading import Thread
from typing import TYPE_CHECKING

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect, make_url, select, text

from newsletter.errors import DatabaseRefused, DatabaseUnavailable, SettingsError
from newsletter.store import schema, tables
from newsletter.store.database import Conflict, Database
from newsletter.store.types import DatabaseNow, ordered_id
from tests.support.tcp_proxy import CuttableWire

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.postgres import Cluster

MIGRATE = """
import sys
from newsletter.store.database import Database
print("ready", flush=True)
sys.stdin.readline()
print(Database(sys.argv[1]).upgrade())
"""


@pytest.fixture
def fresh(database_url: str) -> Iterator[Database]:
    """A database that was never migrated."""
    database = Database(database_url)
    yield database
    database.close()


def table_names(database: Database) -> set[str]:
    with database.read() as connection:
        return set(inspect(connection).get_table_names()) - {"alembic_version"}


class TestMigrations:
    """The schema is brought to this program's version, or the database is refused in words."""

    def test_an_empty_database_is_upgraded(self, fresh: Database):
        """A new database is migrated once; a second time there is nothing to do."""
        assert fresh.is_fresh()
        assert fresh.upgrade()
        assert not fresh.is_fresh()
        assert not fresh.upgrade()
        fresh.check()
        assert table_names(fresh) == set(tables.metadata.tables)

    def test_the_migrations_make_what_the_tables_say(self, fresh: Database):
        """Between a migrated database and `tables` there is no difference."""
        fresh.upgrade()
        with fresh.read() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, tables.metadata) == []

    def test_the_checks_and_partial_indexes_are_there(self, fresh: Database):
        """Every check and every index of `tables` is in the migrated database, conditions included."""
        fresh.upgrade()
        with fresh.read() as connection:
            inspector = inspect(connection)
            for table in tables.metadata.sorted_tables:
                checks = {str(check["name"]) for check in inspector.get_check_constraints(table.name)}
                wanted = {str(one.name) for one in table.constraints if str(one.name).startswith("ck_")}
                assert checks == wanted
                partial = {
                    index["name"]
                    for index in inspector.get_indexes(table.name)
                    if any(key.endswith("_where") for key in index.get("dialect_options", {}))
                }
                assert partial == {
                    index.name for index in table.indexes if index.dialect_options["sqlite"]["where"] is not None
                }

    def test_a_migrated_database_can_be_taken_back(self, fresh: Database):
        """Downgrading leaves an empty database, which can be migrated anew."""
        fresh.upgrade()
        with fresh._engine.connect() as connection:
            command.downgrade(schema.alembic_config(connection), "base")
            connection.commit()
        assert table_names(fresh) == set()
        assert fresh.upgrade()
        fresh.check()

    def test_a_fresh_database_is_refused_with_what_to_do(self, fresh: Database):
        """A program that only sends says that the database is empty, and how to fill it."""
        with pytest.raises(DatabaseRefused, match=r"is empty. Run `newsletter db upgrade` first\."):
            fresh.check()

    def test_a_newer_schema_is_refused(self, fresh: Database):
        """A database that a later program made is neither used nor changed, and the line says what to do."""
        fresh.upgrade()
        with fresh.write() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        for use in (fresh.check, fresh.upgrade):
            with pytest.raises(DatabaseRefused) as refused:
                use()
            assert "is newer than this program (schema 9999)" in str(refused.value)
            assert "\n" not in str(refused.value)
        with fresh.read() as connection:
            assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "9999"

    def test_an_older_schema_is_refused_until_it_is_upgraded(self, fresh: Database, monkeypatch: pytest.MonkeyPatch):
        """A database that an earlier program made is refused by `check`, with the command that mends it."""
        fresh.upgrade()
        later = [*schema.known_versions(), "9999"]
        monkeypatch.setattr("newsletter.store.schema.known_versions", lambda: later)
        with pytest.raises(DatabaseRefused, match=r"is older than this program. Run `newsletter db upgrade`\."):
            fresh.check()

    def test_the_names_of_the_migrations_say_which_versions_there_are(self):
        """What we take from the files' names is what Alembic reads in them, in its order."""
        script = ScriptDirectory.from_config(schema.alembic_config())
        history = [item.revision for item in script.walk_revisions()]
        assert schema.known_versions() == history[::-1]

    def test_processes_that_migrate_at_once_do_it_once(self, database_url: str, fresh: Database):
        """Of several processes that start on an empty database one migrates; the others wait and find it done."""
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", MIGRATE, database_url],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
        assert [process.stdout.readline() for process in processes if process.stdout] == ["ready\n"] * 3
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        said = [process.communicate(timeout=60) for process in processes]
        assert [process.returncode for process in processes] == [0, 0, 0], said
        assert sorted(out.strip() for out, _ in said) == ["False", "False", "True"]
        fresh.check()

    def test_a_migration_that_fails_leaves_nothing_behind(self, fresh: Database, monkeypatch: pytest.MonkeyPatch):
        """Where a migration breaks off, the database is as it was, and a second attempt succeeds."""
        with monkeypatch.context() as patch:
            # The last thing that the first migration does.
            patch.setattr("alembic.op.create_table", _failing_at("passed_step"))
            with pytest.raises(RuntimeError, match="out of luck"):
                fresh.upgrade()
        assert table_names(fresh) == set()
        assert fresh.upgrade()


def _failing_at(last: str):
    from alembic import op

    usual = op.create_table

    def create_table(name: str, *more: object, **options: object) -> object:
        if name == last:
            message = "out of luck"
            raise RuntimeError(message)
        return usual(name, *more, **options)

    return create_table


class TestRefusals:
    """A database address that cannot work is named in one line."""

    @pytest.mark.parametrize(
        ("url", "words"),
        [
            ("nonsense", "is no database address"),
            ("", "is no database address"),
            ("mysql://localhost/news", "mysql is not supported"),
            ("mongodb://localhost/news", "mongodb is not supported"),
        ],
    )
    def test_an_address_of_something_else_is_refused(self, url: str, words: str):
        """What is neither SQLite nor PostgreSQL is refused, with what to write."""
        with pytest.raises(SettingsError) as refused:
            Database(url)
        assert words in str(refused.value)
        assert "sqlite:///" in str(refused.value)

    @pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg2"])
    def test_every_name_of_postgresql_is_understood(self, scheme: str):
        """Whichever driver an address names, ours is used."""
        database = Database(f"{scheme}://nobody:secret@127.0.0.1:1/news")
        assert database.url.drivername == "postgresql+psycopg"
        assert not database.is_sqlite

    def test_a_server_that_is_not_there_is_told_without_the_password(self):
        """A database that cannot be reached is refused in one line that holds no password."""
        database = Database("postgresql://nobody:hush-hush@127.0.0.1:1/news?connect_timeout=2")
        for use in (database.is_fresh, database.check, database.upgrade):
            with pytest.raises(DatabaseRefused) as refused:
                use()
            assert "cannot be used" in str(refused.value)
            assert "hush-hush" not in str(refused.value)
            assert "\n" not in str(refused.value)

    def test_a_file_that_cannot_be_made_is_told(self, tmp_path: Path):
        """A SQLite file in a folder that is not there is refused in one line."""
        with pytest.raises(
            DatabaseRefused, match=r"cannot be used: unable to open database file\. .*its folder exists"
        ):
            Database(f"sqlite:///{tmp_path}/no/such/folder/newsletter.db").upgrade()

    def test_a_file_that_is_no_database_is_told(self, tmp_path: Path):
        """A file of something else is refused in one line, and not touched."""
        path = tmp_path / "letter.txt"
        path.write_text("Dear Maria, " * 1000)
        with pytest.raises(DatabaseRefused, match=r"cannot be used: file is not a database\. .*restore a backup"):
            Database(f"sqlite:///{path}").upgrade()
        assert path.read_text() == "Dear Maria, " * 1000


class TestTransactions:
    """A transaction is whole or nothing, and two writers wait for each other."""

    def test_what_raises_is_undone(self, database: Database):
        """Nothing of a transaction stays when it ends with an error."""

        def fail_half_way() -> None:
            with database.write() as connection:
                connection.execute(tables.switch.insert().values(name="a", is_on=False, at=datetime.now(UTC)))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail_half_way()
        with database.read() as connection:
            assert connection.execute(select(tables.switch)).all() == []

    def test_writers_that_read_first_wait_for_each_other(self, database: Database):
        """Sixteen threads that read a row and write it back lose no update and meet no error."""
        with database.write() as connection:
            connection.execute(tables.step_name.insert().values(sequence_key="trust", name="count", identity="0"))
        faults: list[Exception] = []

        def count_up() -> None:
            try:
                for _ in range(5):
                    with database.write() as connection:
                        now = connection.scalar(select(tables.step_name.c.identity).with_for_update())
                        connection.execute(tables.step_name.update().values(identity=str(int(now or 0) + 1)))
            except Exception as error:  # noqa: BLE001
                faults.append(error)

        threads = [Thread(target=count_up) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert faults == []
        with database.read() as connection:
            assert connection.scalar(select(tables.step_name.c.identity)) == "80"

    def test_a_reader_waits_for_no_writer(self, database: Database):
        """While somebody writes, others read what was before."""
        with database.write() as writing:
            writing.execute(tables.switch.insert().values(name="sending", is_on=False, at=datetime.now(UTC)))
            with database.read() as reading:
                assert reading.execute(select(tables.switch)).all() == []

    def test_a_broken_key_is_a_conflict(self, database: Database):
        """The same key twice raises `Conflict`."""
        values = {"key_id": "abc123", "last_signed_at": datetime.now(UTC)}
        with database.write() as connection:
            connection.execute(tables.signing_key.insert().values(values))
        with pytest.raises(Conflict), database.write() as connection:
            connection.execute(tables.signing_key.insert().values(values))

    def test_a_file_that_somebody_holds_for_long_is_unavailable(
        self, migrated_sqlite_url: str, monkeypatch: pytest.MonkeyPatch
    ):
        """A SQLite file that stays locked raises `DatabaseUnavailable`."""
        monkeypatch.setattr("newsletter.store.engines._BUSY_TIMEOUT_MS", 50)
        holder, other = Database(migrated_sqlite_url), Database(migrated_sqlite_url)
        with closing(holder), closing(other), holder.write(), pytest.raises(DatabaseUnavailable), other.write():
            pass

    def test_sqlite_keeps_what_was_answered(self, migrated_sqlite_url: str):
        """SQLite syncs every commit, keeps foreign keys, waits for locks, and overwrites what is deleted."""
        with closing(Database(migrated_sqlite_url)) as database, database.read() as connection:
            found = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete", "busy_timeout")
            }
        assert found == {
            "journal_mode": "wal",
            "synchronous": 2,
            "foreign_keys": 1,
            "secure_delete": 1,
            "busy_timeout": 30_000,
        }

    @pytest.mark.parametrize(("options", "patience"), [("", "30s"), ("?tcp_user_timeout=7000", "7s")])
    def test_a_silent_side_is_given_up(self, postgres_cluster: Cluster, options: str, patience: str):
        """PostgreSQL ends a transaction in which nothing happens for a minute; we end a connection without an answer.

        What the operator's own address says of it counts.
        """
        with CuttableWire(postgres_cluster.socket_path) as wire:
            url = make_url(postgres_cluster.create_database()).set(host="127.0.0.1", port=wire.port, query={})
            database = Database(url.render_as_string(hide_password=False) + options)
            with database.read() as connection:
                assert connection.scalar(text("SHOW idle_in_transaction_session_timeout")) == "1min"
                driver = connection.connection.driver_connection
                assert driver is not None
                found = driver.info.get_parameters()
                assert f"{int(found['tcp_user_timeout']) // 1000}s" == patience
                assert found["keepalives_idle"] == "15"
            database.close()

    def test_a_connection_that_broke_is_replaced(self, postgres_cluster: Cluster):
        """After PostgreSQL was away, the next transaction connects anew."""
        database = Database(postgres_cluster.create_database())
        database.upgrade()
        with database.read() as connection:
            assert connection.scalar(text("SELECT 1")) == 1
        postgres_cluster.crash()
        with pytest.raises(DatabaseUnavailable), database.read() as connection:
            connection.execute(text("SELECT 1"))
        postgres_cluster.start()
        with database.read() as connection:
            assert connection.scalar(text("SELECT 1")) == 1
        database.close()

    def test_closing_twice_is_fine(self, migrated_sqlite_url: str):
        """A database may be closed twice, and used again after."""
        database = Database(migrated_sqlite_url)
        database.close()
        database.close()
        database.check()
        database.close()


class TestTypes:
    """An instant is aware and comes back as it went."""

    @pytest.mark.parametrize(
        "instant",
        [
            datetime(2026, 11, 23, 11, 0, tzinfo=UTC),
            datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=1))),
            datetime(1999, 12, 31, 23, 59, 59, 999999, tzinfo=timezone(timedelta(hours=-11))),
        ],
    )
    def test_an_instant_comes_back_as_it_went(self, database: Database, instant: datetime):
        """Whatever its zone, an instant is read back as the same instant, in UTC, to the microsecond."""
        with database.write() as connection:
            connection.execute(tables.switch.insert().values(name="a", is_on=True, at=instant))
        with database.read() as connection:
            found = connection.scalar(select(tables.switch.c.at))
        assert found == instant
        assert found is not None
        assert found.utcoffset() == timedelta()

    def test_a_naive_instant_is_refused(self, database: Database):
        """A time without a zone never reaches the database."""
        naive = datetime(2026, 11, 23, 11, 0)  # noqa: DTZ001  (the fault under test)
        with pytest.raises(Exception, match="has no zone"), database.write() as connection:
            connection.execute(tables.switch.insert().values(name="a", is_on=True, at=naive))

    def test_instants_compare_in_the_database_as_they_do_here(self, database: Database):
        """The database orders instants by time, whatever their zone and however many digits they have."""
        instants = [
            datetime(2026, 11, 23, 11, 0, tzinfo=UTC) + timedelta(microseconds=microseconds)
            for microseconds in (0, 1, 999_999, 1_000_000, 60_000_000)
        ]
        with database.write() as connection:
            for at, instant in enumerate(reversed(instants)):
                connection.execute(tables.switch.insert().values(name=str(at), is_on=True, at=instant))
        with database.read() as connection:
            column = tables.switch.c.at
            assert list(connection.scalars(select(column).order_by(column))) == instants
            assert list(connection.scalars(select(column).where(column < instants[2]).order_by(column))) == instants[:2]

    @pytest.mark.parametrize("shift", [timedelta(), timedelta(seconds=90), timedelta(hours=-1, milliseconds=5)])
    def test_the_databases_clock_is_the_real_one(self, database: Database, shift: timedelta):
        """The database's own clock can be shifted, stored and compared."""
        with database.write() as connection:
            connection.execute(
                tables.worker.insert().values(
                    id="w", host="here", lease_until=DatabaseNow(shift), started_at=DatabaseNow()
                )
            )
        with database.read() as connection:
            found = connection.execute(select(tables.worker)).one()
            assert abs(found.lease_until - found.started_at - shift) < timedelta(seconds=1)
            assert abs(found.started_at - datetime.now(UTC)) < timedelta(seconds=20)
            past = connection.scalar(select(tables.worker.c.lease_until < DatabaseNow()))
        assert bool(past) == (shift <= timedelta())

    def test_new_ids_sort_by_the_time_they_were_made(self):
        """An id made later sorts later, and is a version 7 UUID."""
        made = []
        for _ in range(3):
            made.append(ordered_id())
            until = datetime.now(UTC) + timedelta(milliseconds=2)
            while datetime.now(UTC) < until:
                pass
        assert made == sorted(made)
        assert {one.version for one in made} == {7}
        assert len({ordered_id() for _ in range(1000)}) == 1000


def test_a_program_without_psycopg_says_which_package_is_missing(monkeypatch: pytest.MonkeyPatch):
    """Without the driver, a PostgreSQL address is refused with the package to install."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.setattr("newsletter.store.engines.create_engine", create_engine)
    with pytest.raises(SettingsError, match=r"install `newsletter\[postgres\]`"):
        Database("postgresql://localhost/news")
