"""The driver of a fleet: what its jobs do, whatever becomes of them, and that it stops within seconds."""

from __future__ import annotations

import time
from collections import Counter
from datetime import timedelta
from threading import Thread
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from newsletter import cluster
from newsletter.cluster import Cluster
from newsletter.service.planning import Planning
from newsletter.service.waking import LETTERS, SEND_LETTERS
from newsletter.store import jobs
from tests.support.building import House
from tests.support.smtp_server import Delay, SmtpServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("own_life_lines")
TUESDAY = "2026-11-24 09:00"
SECONDS = 60
"""More than anything here takes on a busy machine."""

SHORT = timedelta(seconds=3)


@pytest.fixture
def house(migrated_postgres_url: str, tmp_path: Path, post: SmtpServer) -> Iterator[House]:
    """The program with one published sequence, and business time at a slot at which five letters are due."""
    house = House(migrated_postgres_url, tmp_path, post=post, smtp_connections=2)
    house.sequence("trust", "one")
    house.publish()
    for number in range(5):
        house.reader(f"reader-{number}@example.org")
    house.at(TUESDAY)
    yield house
    house.close()


@pytest.fixture
def start(house: House) -> Iterator[Callable[[], Cluster]]:
    """Starts a process of a fleet, in a thread, and ends it."""
    running: list[tuple[Cluster, Thread]] = []

    def start_it() -> Cluster:
        process = Cluster(house.app, heartbeat=timedelta(seconds=1), stalled_after=SHORT)
        thread = Thread(target=process.run)
        thread.start()
        running.append((process, thread))
        return process

    yield start_it
    for process, _ in running:
        process.worker.stop.set()
    for _, thread in running:
        thread.join(SECONDS)
        assert not thread.is_alive()


def states(house: House) -> Counter[str]:
    return Counter(row["state"] for row in house.rows("delivery"))


def select(house: House, statement: str, **values: Any) -> list[Any]:
    with house.app.database.read() as connection:
        return [tuple(row) for row in connection.execute(text(statement), values)]


def do(house: House, statement: str, **values: Any) -> None:
    with house.app.database.write() as connection:
        connection.execute(text(statement), values)


def wait_until(condition: Callable[[], object]) -> None:
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until, "nothing of the kind happened"
        time.sleep(0.01)


def test_what_is_due_is_planned_and_sent_and_it_stops(house: House, post: SmtpServer, start):
    """Each letter leaves once; one process is one worker; stopping takes seconds and leaves nothing behind."""
    process = start()
    wait_until(lambda: states(house) == {"sent": 5})
    assert [row["id"] for row in house.rows("worker")] == [process.worker.id]
    began = time.monotonic()
    process.worker.stop.set()
    wait_until(lambda: house.rows("worker") == [])
    assert time.monotonic() - began < 10
    assert len(post.ledger) == 5
    wait_until(lambda: select(house, "SELECT * FROM procrastinate_workers") == [])
    assert select(house, "SELECT * FROM procrastinate_jobs WHERE status = 'doing'") == []


def test_jobs_that_run_twice_change_nothing(house: House, post: SmtpServer, start):
    """Ten jobs for letters that are sent already: they end, and the ledger is as it was."""
    start()
    wait_until(lambda: states(house) == {"sent": 5})
    before = house.rows("delivery"), house.rows("subscription"), house.rows("event")
    with house.app.database.write() as connection:
        assert jobs.defer(connection, SEND_LETTERS, queue=LETTERS, locks=map(str, range(10))) == 10
    wait_until(lambda: select(house, "SELECT * FROM procrastinate_jobs WHERE queue_name = :name", name=LETTERS) == [])
    assert (house.rows("delivery"), house.rows("subscription"), house.rows("event")) == before
    assert len(post.ledger) == 5


def test_a_long_run_is_watched_by_one_job_after_the_other(
    house: House, post: SmtpServer, start, monkeypatch: pytest.MonkeyPatch
):
    """A job ends after its longest time and defers the next one; the crew goes on and sends each letter once."""
    monkeypatch.setattr(cluster, "LONGEST_JOB", timedelta(seconds=0.1))
    post.script("dot", Delay(0.5))
    start()
    wait_until(lambda: states(house) == {"sent": 5})
    assert len(post.ledger) == 5


def test_the_job_of_a_lost_process_is_done_by_another(house: House, start):
    """A job that nobody is at any more is retried; where another one like it waits, it is dropped."""
    start()
    wait_until(lambda: states(house) == {"sent": 5})
    add = (
        "INSERT INTO procrastinate_jobs (queue_name, task_name, queueing_lock, status, scheduled_at)"
        " VALUES (:queue, :task, :lock, CAST(:status AS procrastinate_job_status), now() + CAST(:later AS interval))"
    )
    with capture_logs() as logs:
        for lock in ("alone", "twin"):
            do(house, add, queue=LETTERS, task=SEND_LETTERS, lock=lock, status="doing", later="0")
        do(house, add, queue=LETTERS, task=SEND_LETTERS, lock="twin", status="todo", later="1 hour")
        left = "SELECT queueing_lock, status FROM procrastinate_jobs WHERE queueing_lock IN ('alone', 'twin')"
        wait_until(lambda: select(house, left) == [("twin", "todo")])
    assert SEND_LETTERS in {line["task"] for line in logs if line["event"] == "stalled_job_retried"}


def test_it_outlives_its_connections(house: House, post: SmtpServer, start):
    """Every connection cut, as a restart of the database does: it comes back by itself, and letters leave."""
    process = start()
    wait_until(lambda: states(house) == {"sent": 5})
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
    with psycopg.connect(**house.app.database.driver_arguments()) as connection:
        connection.execute(f"{cut} AND pid <> pg_backend_pid()")
    house.reader("later@example.org", slot="tue 09:00")
    house.later(weeks=1)
    wait_until(lambda: states(house) == {"sent": 6})
    assert not process.worker.stop.is_set()


def test_a_failing_plan_holds_up_nobody(house: House, post: SmtpServer, start, monkeypatch: pytest.MonkeyPatch):
    """Whatever planning raises is logged, and what people wait for leaves."""
    monkeypatch.setattr(Planning, "plan_due", lambda *_, **__: 1 // 0)
    with capture_logs() as logs:
        start()
        house.ask("new@example.org")
        wait_until(lambda: states(house) == {"sent": 1})
        wait_until(lambda: any(line["event"] == "tick_failed" and line["tick"] == "plan" for line in logs))
