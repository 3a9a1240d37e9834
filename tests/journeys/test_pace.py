"""The pace, from outside: how fast letters come in at the mail server, on how many connections, and when none come.

By the mail server's own clock, from before the first worker is started: on a busy machine letters are later, and never
earlier.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import ClassVar

import pytest

from newsletter.bootstrap import open_app
from newsletter.clock import FixedClock
from newsletter.service.subscribing import SignUp
from newsletter.settings import Settings
from tests.journeys.conftest import FEW, MONDAY, THURSDAY, OpenBooks, OpenProgram, SeededDatabase
from tests.journeys.content import SERIES
from tests.support.program import SECRET_KEY, Program
from tests.support.smtp_server import Delay, Reply, Session, SmtpServer

READERS = 120
RATE = 30
BURST_SECONDS = 0.25
SLOW = "slow.example"


@contextmanager
def clock_runs(program: Program) -> Iterator[None]:
    """Business time runs on from Thursday, as fast as any."""
    began = time.monotonic()
    program.set_clock(THURSDAY)
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.02):
            program.set_clock(THURSDAY + timedelta(seconds=time.monotonic() - began))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def drain_with(program: Program, workers: int) -> float:
    """Let some workers send all that is due; when they were started, by the machine's monotonic clock."""
    began = time.monotonic()
    with ThreadPoolExecutor(workers) as pool:
        done = [pool.submit(program.command, "worker", "--drain", seconds=120) for _ in range(workers)]
    assert [each.result().code for each in done] == [0] * workers
    return began


def most(rate: float, seconds: float) -> float:
    """How many letters may have come after so long."""
    return rate * seconds * 1.1 + rate * BURST_SECONDS + 1


@pytest.mark.parametrize(
    ("engine", "workers"), [("sqlite", 1), pytest.param("postgres", 2, marks=pytest.mark.postgres)]
)
def test_a_rate_is_kept_by_all_workers_together(
    engine: str, workers: int, request: pytest.FixtureRequest, open_program: OpenProgram, smtp_server: SmtpServer
):
    """At every letter that comes in: no more of them than the rate allows since the workers were started."""
    seeded: SeededDatabase = request.getfixturevalue(f"seeded_{engine}")
    program = open_program(seeded(READERS), send_rate=f"{RATE}/second")
    program.set_clock(THURSDAY)
    began = drain_with(program, workers)
    came = [received.monotonic - began for received in smtp_server.ledger]
    assert len(came) == len({received.recipient for received in smtp_server.ledger}) == READERS
    assert [number for number, seconds in enumerate(sorted(came), 1) if number > most(RATE, seconds)] == []
    # Not a letter a tick, or a burst a tick: a machine that is ten times too busy would still do it.
    assert max(came) - min(came) < 10 * READERS / RATE


def test_letters_to_one_domain_take_turns_and_draining_waits_for_them(
    seeded_database: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks, smtp_server: SmtpServer
):
    """Two a second to one domain, whose letters `worker --drain` does not leave behind; the others need not wait."""
    rate, slow = 2, 6
    url = seeded_database(FEW)
    add_readers(url, *(f"reader-{number}@{SLOW}" for number in range(slow)))
    program = open_program(url, send_rate=f"{SLOW}={rate}/second")
    books = open_books(program)
    with clock_runs(program):
        began = drain_with(program, 1)
    assert books.count("sent") == len(smtp_server.ledger) == FEW + slow
    came = sorted(each.monotonic - began for each in smtp_server.ledger if each.recipient.endswith(SLOW))
    assert [number for number, seconds in enumerate(came, 1) if number > most(rate, seconds)] == []


@pytest.mark.parametrize(
    ("stage", "reply", "name"),
    [
        ("rcpt", Reply(451, "4.7.1 Too many letters"), "example.org"),
        ("banner", Reply(421, "4.3.2 Come back later"), "relay"),
    ],
)
def test_who_wants_less_is_left_alone_until_the_operator_knows_better(
    seeded_sqlite: SeededDatabase,
    open_program: OpenProgram,
    open_books: OpenBooks,
    smtp_server: SmtpServer,
    stage: str,
    reply: Reply,
    name: str,
):
    """After the first "slow down" nothing more is tried; `status` says why; `start` lets all go on, and all arrive."""
    program = open_program(seeded_sqlite(FEW), smtp_connections=1)
    program.set_clock(THURSDAY)
    books = open_books(program)
    smtp_server.script(stage, reply)
    worker = program.start("worker")
    worker.wait_for(lambda: "destination_slowed" in worker.log)
    worker.wait_for(lambda: books.count("planned") == FEW)
    # The next letter may be under way when the first one's answer is taken in.
    assert max(smtp_server.commands.count("RCPT"), smtp_server.connections) <= 2
    [kept_back] = program.json("status")["kept_back"]
    assert (kept_back["name"], kept_back["reply"]) == (name, f"{reply.code} {reply.text}")
    assert books.suppressed() == 0

    smtp_server.forget_scripts()
    program.do("start", name)
    program.set_clock(THURSDAY + timedelta(minutes=10))
    worker.wait_for(lambda: books.count("sent") == FEW)
    assert len(smtp_server.ledger) == FEW


@dataclass(frozen=True)
class Count:
    """Notes how many connections there are whenever one begins."""

    seen: list[int] = field(default_factory=list)
    speaks: ClassVar[bool] = False

    def take(self, session: Session) -> None:
        self.seen.append(session.server.open_connections)


def test_the_fleet_has_no_more_connections_than_its_mail_server_allows(
    seeded_postgres: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks, smtp_server: SmtpServer
):
    """Two workers that want ten share seven: the server never sees more, and all letters leave."""
    # More than one worker claims at a time, so that there is something for both.
    allowed, readers = 7, 240
    program = open_program(seeded_postgres(readers), smtp_connections=4, fleet_connections=allowed)
    program.set_clock(MONDAY)
    books = open_books(program)
    count = Count()
    smtp_server.script("banner", count)
    smtp_server.script("dot", Delay(0.02))
    workers = [program.start("worker") for _ in range(2)]
    for worker in workers:
        worker.wait_for(lambda worker=worker: "worker_started" in worker.log)
    program.set_clock(THURSDAY)
    workers[0].wait_for(lambda: books.count("sent") == readers)
    assert len(smtp_server.ledger) == readers
    assert 1 <= max(count.seen) <= allowed
    assert [worker.terminate() for worker in workers] == [0, 0]


def test_a_new_sender_warms_up(
    seeded_sqlite: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks, smtp_server: SmtpServer
):
    """Three letters on the first day and three on the second; the others wait, and after the plan all leave."""
    program = open_program(seeded_sqlite(FEW), warm_up="3,3")
    program.set_clock(THURSDAY)
    books = open_books(program)
    worker = program.start("worker")
    for day in (1, 2):
        program.set_clock(THURSDAY + timedelta(days=day - 1))
        worker.wait_for(lambda day=day: worker.log.count("warm_up_used_up") == day)
        worker.wait_for(lambda day=day: books.count("sent") == 3 * day)
        assert program.json("status")["warm_up"]["left"] == 0
        assert len(smtp_server.ledger) == 3 * day
    program.set_clock(THURSDAY + timedelta(days=2))
    worker.wait_for(lambda: books.count("sent") == FEW)


def test_a_server_that_goes_on_saying_not_now_is_left_alone(
    seeded_sqlite: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks, smtp_server: SmtpServer
):
    """Five plain refusals in a row, and nothing more is tried; nobody is lost, and later all arrive."""
    program = open_program(seeded_sqlite(FEW), smtp_connections=1)
    program.set_clock(THURSDAY)
    books = open_books(program)
    smtp_server.script("rcpt", Reply(451, "4.3.0 Temporary lookup failure"))
    worker = program.start("worker")
    worker.wait_for(lambda: "destination_slowed" in worker.log)
    worker.wait_for(lambda: books.count("planned") == FEW)
    # The next letters may be under way when the fifth answer is taken in.
    assert 5 <= smtp_server.commands.count("RCPT") <= 7
    smtp_server.forget_scripts()
    program.do("start", "example.org")
    program.set_clock(THURSDAY + timedelta(minutes=10))
    worker.wait_for(lambda: books.count("sent") == FEW)
    assert worker.terminate() == 0
    assert len(smtp_server.ledger) == FEW


def test_greylisting_and_full_mailboxes_slow_nobody_down(
    seeded_sqlite: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks, smtp_server: SmtpServer
):
    """Every letter is greylisted at its first try, and one mailbox is full: each is tried again, nothing is slowed."""
    program = open_program(seeded_sqlite(FEW), smtp_connections=1)
    program.set_clock(THURSDAY)
    books = open_books(program)
    smtp_server.script("rcpt", Reply(452, "4.2.2 Mailbox full"), when=lambda line: "reader-000" in line)
    smtp_server.script("rcpt", Reply(451, "4.7.1 Greylisting in action, please come back later"), times=FEW - 1)
    worker = program.start("worker")
    smtp_server.wait_for(lambda server: server.commands.count("RCPT") == FEW, seconds=30)
    worker.wait_for(lambda: books.count("planned") == FEW)
    program.set_clock(THURSDAY + timedelta(minutes=10))
    worker.wait_for(lambda: books.count("sent") == FEW - 1)
    assert worker.terminate() == 0
    assert "destination_slowed" not in worker.log
    assert program.json("status")["kept_back"] == []


def test_a_pace_that_cannot_be_is_refused_and_nothing_leaves(
    seeded_sqlite: SeededDatabase, open_program: OpenProgram, smtp_server: SmtpServer
):
    """Exit code 1 and one line that names the setting and says what to write instead."""
    program = open_program(seeded_sqlite(FEW))
    program.set_clock(THURSDAY)
    faulty = {
        "send_rate": ["0", "gmail.com=0/hour"],
        "warm_up": ["50,20"],
        "fleet_connections": ["1"],
    }
    for name, values in faulty.items():
        for value in values:
            finished = program.command("worker", "--drain", **{name: value})
            assert finished.code == 1, value
            [line] = finished.problem.splitlines()
            assert line.startswith(f"NEWSLETTER_{name.upper()}"), line
    assert smtp_server.ledger == []
    assert smtp_server.connections == 0


def add_readers(url: str, *addresses: str) -> None:
    """Some more readers whose letter is due on Thursday."""
    app = open_app(
        Settings(database_url=url, mail_url="maildir:unused", secret_key=[SECRET_KEY]), clock=FixedClock(MONDAY)
    )
    for address in addresses:
        app.subscribing.add(SignUp(email=address, sequence=SERIES), consent="a test, 2026-09-21", now=MONDAY)
    app.close()
