"""What wakes a fleet: jobs that come to be with the letters they are for, and the tables that they lie in."""

from __future__ import annotations

import importlib.util
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from alembic import command
from sqlalchemy import inspect, text

from newsletter.errors import DatabaseRefused, SettingsError
from newsletter.service import waking
from newsletter.service.waking import LETTERS, SEND_LETTERS, Waking
from newsletter.store import jobs, schema
from newsletter.store.database import Database
from newsletter.store.schema import Fit
from tests.support.building import House
from tests.support.smtp_server import SmtpServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TUESDAY = "2026-11-24 09:00"


@pytest.fixture
def database(migrated_postgres_url: str) -> Iterator[Database]:
    """A PostgreSQL database in which no fleet ever ran."""
    database = Database(migrated_postgres_url)
    yield database
    database.close()


@pytest.fixture
def house(migrated_postgres_url: str, tmp_path: Path) -> Iterator[House]:
    """The program on a database that carries a fleet of one worker; five letters are due at the slot."""
    house = House(migrated_postgres_url, tmp_path, post=SmtpServer(), mail_url=f"maildir:{tmp_path}")
    house.app.waking.prepare()
    house.app.rescuing.enrol("one", host="here")
    house.sequence("trust", "one")
    house.publish()
    for number in range(5):
        house.reader(f"reader-{number}@example.org")
    house.at(TUESDAY)
    yield house
    house.close()


def select(database: Database, statement: str) -> list[Any]:
    with database.read() as connection:
        return list(connection.scalars(text(statement)))


def do(database: Database, statement: str) -> None:
    with database.write() as connection:
        connection.execute(text(statement))


def version(database: Database) -> Fit:
    with database.read() as connection:
        return jobs.fit(connection)


class TestWaking:
    """Jobs are made in the transaction that makes letters due, and never more than there is work for."""

    WAITING = "SELECT queueing_lock FROM procrastinate_jobs WHERE status = 'todo' ORDER BY 1"

    def plan(self, house: House) -> int:
        return house.app.planning.plan_due(
            now=house.now, announce=lambda connection: house.app.waking.wake_with(connection, now=house.now)
        )

    def test_letters_and_the_job_for_them_come_together(self, house: House):
        """Five letters are planned for one worker: one job. Nothing was due before: none."""
        assert house.app.waking.wake(now=house.now) == 0
        assert self.plan(house) == 5
        assert select(house.app.database, self.WAITING) == [f"{LETTERS}-0"]

    def test_neither_comes_alone(self, house: House):
        """The transaction fails after the job was made: no letter and no job."""

        def fail(connection: Any) -> None:
            assert house.app.waking.wake_with(connection, now=house.now) == 1
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            house.app.planning.plan_due(now=house.now, announce=fail)
        assert house.rows("delivery") == []
        assert select(house.app.database, self.WAITING) == []

    def test_a_waiting_job_gets_no_twin(self, house: House):
        """However often somebody wakes, one job waits for one worker."""
        self.plan(house)
        assert [house.app.waking.wake(now=house.now) for _ in range(3)] == [0, 0, 0]
        assert len(select(house.app.database, self.WAITING)) == 1

    def test_who_is_a_moment_later_makes_none_and_loses_nothing(self, house: House):
        """Two wake at once: one job; the other's transaction goes on with what else it wrote."""
        self.plan(house)
        do(house.app.database, "DELETE FROM procrastinate_jobs")
        late: list[int] = []

        def wake_later() -> None:
            with house.app.database.write() as connection:
                # It looked before the other's job was committed.
                late.append(jobs.defer(connection, SEND_LETTERS, queue=LETTERS, locks=[f"{LETTERS}-0"]))
                connection.execute(text("UPDATE subscriber SET country = 'AT'"))

        with house.app.database.write() as connection:
            assert house.app.waking.wake_with(connection, now=house.now) == 1
            thread = Thread(target=wake_later)
            thread.start()
            thread.join(0.5)
        thread.join(60)
        assert late == [0]
        assert {row["country"] for row in house.rows("subscriber")} == {"AT"}
        assert len(select(house.app.database, self.WAITING)) == 1

    def test_no_more_are_woken_than_there_is_work_for(self, house: House, monkeypatch: pytest.MonkeyPatch):
        """Five letters, two to a batch: two workers are woken twice, five workers three times."""
        monkeypatch.setattr(waking, "CLAIM_BATCH", 2)
        house.app.rescuing.enrol("two", host="there")
        assert self.plan(house) == 5
        assert len(select(house.app.database, self.WAITING)) == 2
        for name in ("three", "four", "five"):
            house.app.rescuing.enrol(name, host="there")
        assert house.app.waking.wake(now=house.now) == 1
        assert len(select(house.app.database, self.WAITING)) == 3

    def test_nobody_is_woken_while_sending_is_stopped(self, house: House):
        """Stopped: no job. Started again: one."""
        house.plan()
        house.app.overseeing.stop(now=house.now)
        assert house.app.waking.wake(now=house.now) == 0
        house.app.overseeing.start(now=house.now)
        assert house.app.waking.wake(now=house.now) == 1


class TestTables:
    """The tables of the jobs are made where a fleet begins, upgraded by the operator, and touched by nobody else."""

    def test_the_first_process_makes_them(self, database: Database):
        """Fresh, then current; a second time nothing is done."""
        assert version(database) is Fit.FRESH
        for _ in range(2):
            Waking(database=database).prepare()
            assert version(database) is Fit.CURRENT
        assert not Waking(database=database).upgrade()

    def test_two_that_begin_at_once_make_them_once(self, database: Database, migrated_postgres_url: str):
        """Both come up, and the tables are there."""
        other = Database(migrated_postgres_url)
        failures: list[BaseException] = []

        def prepare(one: Database) -> None:
            try:
                Waking(database=one).prepare()
            except BaseException as error:  # noqa: BLE001
                failures.append(error)

        threads = [Thread(target=prepare, args=(one,)) for one in (database, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        other.close()
        assert failures == []
        assert version(database) is Fit.CURRENT

    def test_upgrading_where_no_fleet_ran_makes_none(self, database: Database):
        """`db upgrade` on an installation of one machine leaves no table that it does not need."""
        assert not Waking(database=database).upgrade()
        assert version(database) is Fit.FRESH

    def test_older_ones_wait_for_the_operator(self, database: Database):
        """A worker refuses them and says what to do; `db upgrade` applies what is missing, one after the other."""
        with database.migrating() as connection:
            known = jobs._migrations()
            for name in known[:-5]:
                jobs.migrate(connection, name)
                connection.commit()
        assert version(database) is Fit.OLDER
        with pytest.raises(DatabaseRefused, match=r"older than this program.*`newsletter db upgrade`"):
            Waking(database=database).prepare()
        assert Waking(database=database).upgrade()
        assert version(database) is Fit.CURRENT
        Waking(database=database).prepare()
        with database.write() as connection:
            assert jobs.defer(connection, SEND_LETTERS, queue=LETTERS, locks=["one"]) == 1

    def test_newer_ones_are_refused(self, database: Database):
        """Made by a version that is not installed here: neither used nor changed."""
        Waking(database=database).prepare()
        do(database, "COMMENT ON TABLE procrastinate_jobs IS 'newsletter: 99.00.00_01_of_tomorrow'")
        for use in (Waking(database=database).prepare, Waking(database=database).upgrade):
            with pytest.raises(DatabaseRefused, match="made by a newer version of Procrastinate"):
                use()

    def test_another_program_s_are_left_alone(self, database: Database):
        """Tables that we did not make: one clear line."""
        Waking(database=database).prepare()
        do(database, "COMMENT ON TABLE procrastinate_jobs IS NULL")
        for use in (Waking(database=database).prepare, Waking(database=database).upgrade):
            with pytest.raises(DatabaseRefused, match="of another program"):
                use()

    def test_our_own_migrations_take_no_notice_of_them(self, database: Database):
        """Alembic finds no difference between our schema and a database in which theirs lie beside it."""
        Waking(database=database).prepare()
        database.check()
        with database.write() as connection:
            assert "procrastinate_jobs" in inspect(connection).get_table_names()
            command.check(schema.alembic_config(connection))

    def test_sqlite_is_refused(self, migrated_sqlite_url: str):
        """One line that says what to set, and that one machine needs none of it."""
        database = Database(migrated_sqlite_url)
        with pytest.raises(SettingsError, match=r"needs PostgreSQL: set NEWSLETTER_DATABASE_URL=postgresql://"):
            Waking(database=database).prepare()
        assert not Waking(database=database).upgrade()
        database.close()

    def test_the_extra_is_asked_for(self, database: Database, monkeypatch: pytest.MonkeyPatch):
        """Procrastinate is not installed: one line that says what to install; upgrading needs none of it."""
        monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
        with pytest.raises(SettingsError, match=r"install `newsletter\[postgres\]`"):
            Waking(database=database).prepare()
        assert not Waking(database=database).upgrade()
