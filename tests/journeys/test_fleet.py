"""A fleet: several hosts on one PostgreSQL, each a `newsletter cluster worker`."""

from __future__ import annotations

import re
import sys
import time

import pytest
from sqlalchemy import text

from newsletter.store.database import Database
from tests.faults.comparison import compare
from tests.journeys.books import Books
from tests.journeys.conftest import CROWD, FEW, MONDAY, THURSDAY, OpenBooks, OpenProgram, SeededDatabase
from tests.support.program import Program, Running
from tests.support.smtp_server import Delay, Hang, SmtpServer

CONNECTIONS = 2

IMPATIENT = """
from datetime import timedelta

from newsletter.bootstrap import configure_logging, open_app
from newsletter.cli.session import stopping
from newsletter.cluster import Cluster
from newsletter.settings import load_settings

configure_logging(json=False)
with stopping() as stop:
    Cluster(open_app(load_settings()), stop=stop, heartbeat=timedelta(seconds=1), stalled_after=timedelta(seconds=3)).run()
"""  # noqa: E501
"""A host whose silence is noticed after three seconds instead of thirty."""


def start_impatient(program: Program, number: int) -> Running:
    host = Running(
        [sys.executable, "-c", IMPATIENT],
        folder=program.folder / "home",
        environment=program._environment({}, None),
        name=f"impatient-{number}",
    )
    program._running.append(host)
    return host


def wait_until_all_work(program: Program, hosts: list[Running]) -> None:
    for host in hosts:
        host.wait_for(lambda host=host: "worker_started" in host.log)


def rows(program: Program, statement: str) -> list[tuple]:
    database = Database(str(program.settings["database_url"]), pool_size=1)
    with database.write() as connection:
        result = connection.execute(text(statement))
        found = [tuple(row) for row in result] if result.returns_rows else []
    database.close()
    return found


def watch_jobs(program: Program) -> None:
    """Have the database itself note every job that is deferred from now on."""
    rows(program, "CREATE TABLE job_noted (task text, planned_for bigint)")
    rows(
        program,
        "CREATE FUNCTION note_job() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO job_noted VALUES (NEW.task_name, (NEW.args ->> 'timestamp')::bigint); RETURN NEW; END $$",
    )
    rows(program, "CREATE TRIGGER note_job AFTER INSERT ON procrastinate_jobs FOR EACH ROW EXECUTE FUNCTION note_job()")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_hosts_share_a_crowd_and_plan_once(
    seeded_postgres: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks, smtp_server: SmtpServer
):
    """Each letter leaves once, from both; each time of planning is one job for both; SIGTERM ends them with 0."""
    program = open_program(seeded_postgres(CROWD), smtp_connections=CONNECTIONS)
    program.set_clock(MONDAY)
    books = open_books(program)
    hosts = [program.start("cluster", "worker"), program.start("cluster", "worker", "--processes", "2")]
    wait_until_all_work(program, hosts)
    watch_jobs(program)
    began = time.time()
    smtp_server.script("dot", Delay(0.02))
    program.set_clock(THURSDAY)
    hosts[0].wait_for(lambda: books.count("sent") == CROWD)

    assert len({(received.recipient, received.message_id) for received in smtp_server.ledger}) == CROWD
    assert len(smtp_server.ledger) == CROWD
    # One host alone would have had half of these.
    assert len({received.connection for received in smtp_server.ledger}) >= 2 * CONNECTIONS

    plans = "SELECT planned_for FROM job_noted WHERE task = 'newsletter:plan' AND planned_for > {}"
    # The first five seconds are left out: a host that joins looks back at the last time before it came.
    hosts[0].wait_for(lambda: len(rows(program, plans.format(began + 5))) >= 2)
    planned = [planned_for for (planned_for,) in rows(program, plans.format(began + 5))]
    assert len(planned) == len(set(planned))
    assert [planned_for % 5 for planned_for in planned] == [0] * len(planned)

    assert [host.terminate() for host in hosts] == [0, 0]
    assert rows(program, "SELECT id FROM worker UNION ALL SELECT id::text FROM procrastinate_workers") == []
    assert rows(program, "SELECT * FROM procrastinate_jobs WHERE status = 'doing'") == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_host_that_is_killed_loses_nothing_and_its_job_is_retried(
    seeded_postgres: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks, smtp_server: SmtpServer
):
    """SIGKILL with letters in hand: everything arrives, every double is flagged, and no job stays with the dead."""
    program = open_program(seeded_postgres(CROWD), smtp_connections=CONNECTIONS)
    program.set_clock(MONDAY)
    books = open_books(program)
    hosts = [start_impatient(program, number) for number in range(2)]
    wait_until_all_work(program, hosts)
    smtp_server.script("dot", Delay(0.05))
    program.set_clock(THURSDAY)
    hosts[0].wait_for(lambda: len(smtp_server.ledger) > 20 and in_hand(books, hosts[0]))
    hosts[0].kill()
    smtp_server.forget_scripts()
    hosts[1].wait_for(lambda: books.count("sent") == CROWD)

    found = compare(smtp_server, books)
    assert (found.lost, found.unflagged, found.held) == ([], [], 0)
    assert 0 < len([row for row in books.deliveries() if row.doubts > 0]) <= CONNECTIONS
    # The killed host was at a job that nobody finished: another host does it, and finds nothing to do.
    hosts[1].wait_for(lambda: re.search(r"stalled_job_retried.*task=newsletter:send-letters", hosts[1].log))
    hosts[1].wait_for(lambda: not rows(program, "SELECT * FROM procrastinate_jobs WHERE queue_name LIKE '%letters'"))
    assert compare(smtp_server, books) == found
    assert hosts[1].terminate() == 0


def in_hand(books: Books, host: Running) -> int:
    """How many letters a host is handing over, by the books."""
    return sum(row.owner.endswith(f"-{host.pid}") for row in books.deliveries(state="handing_over"))


@pytest.mark.covered
def test_what_people_wait_for_never_waits_behind_letters(
    seeded_postgres: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks, smtp_server: SmtpServer
):
    """All lanes for letters are stuck: a confirmation leaves all the same. SIGTERM gives back what did not leave."""
    program = open_program(seeded_postgres(FEW), smtp_connections=1)
    program.set_clock(THURSDAY)
    books = open_books(program)
    smtp_server.script("mail", Hang(), times=1)
    host = program.start("cluster", "worker")
    host.wait_for(lambda: books.count("handing_over") == 1)
    program.do("subscribers", "add", "new@example.org")
    host.wait_for(lambda: books.count("sent") == 1)

    assert [received.recipient for received in smtp_server.ledger] == ["new@example.org"]
    assert books.count("handing_over") == 1
    smtp_server.drop_connections()
    assert host.terminate() == 0
    assert books.count("claimed", "handing_over") == 0
    assert books.count("planned", "sent") == FEW + 1
    assert rows(program, "SELECT id FROM worker") == []


def test_a_fleet_is_refused_on_sqlite(seeded_sqlite: SeededDatabase, open_program: OpenProgram):
    """One clear line that says what to set, and code 1."""
    refused = open_program(seeded_sqlite(1)).command("cluster", "worker")
    assert refused.code == 1
    assert refused.problem.startswith("A fleet needs PostgreSQL: set NEWSLETTER_DATABASE_URL=postgresql://")
    assert len(refused.problem.splitlines()) == 1
