"""A worker that is stopped for longer than its lease and goes on, and one that is asked to end."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.faults.comparison import compare
from tests.faults.conftest import STOPS, Report
from tests.faults.scene import Scene, readers, wait_until
from tests.journeys.conftest import CROWD, FEW, THURSDAY, OpenBooks, OpenProgram, SeededDatabase
from tests.support.failpoints import Faults
from tests.support.program import Running
from tests.support.smtp_server import Delay, SmtpServer

HASTE = 12
"""Leases of five seconds, and less than a minute in place of eleven."""


@pytest.mark.quick("postgres")
@pytest.mark.parametrize(
    "step",
    ["before-bytes", *(pytest.param(step, marks=pytest.mark.long) for step in ("claimed-after-commit", "answered"))],
)
def test_stopped_past_its_lease_it_takes_nothing_from_who_went_on(
    step: str,
    seeded_database: SeededDatabase,
    open_program: OpenProgram,
    open_books: OpenBooks,
    smtp_server: SmtpServer,
    report: Report,
):
    """Another worker has what was claimed; the one that wakes up changes nothing of it, and nothing goes backwards."""
    program = open_program(seeded_database(FEW), smtp_connections=1)
    program.set_clock(THURSDAY)
    books = open_books(program)
    sleeper = program.start("worker", faults=Faults(step=step, action="stop", haste=HASTE, answer_haste=HASTE))
    wait_until(lambda: is_stopped(sleeper))
    other = program.start("worker", faults=Faults(haste=HASTE, answer_haste=HASTE))
    in_hand = books.count("handing_over")
    assert in_hand == (step != "claimed-after-commit")
    other.wait_for(lambda: books.count("sent") >= FEW - in_hand)
    # Its letter in hand is not judged before every mail server must have answered it.
    assert books.count("handing_over") == in_hand
    sent = {row.id: row.sent_at for row in books.deliveries(state="sent")}
    os.kill(sleeper.pid, signal.SIGCONT)
    other.wait_for(lambda: books.count("sent") == FEW)
    assert sleeper.terminate() == 0
    assert other.terminate() == 0
    after = {row.id: row.sent_at for row in books.deliveries(state="sent")}
    assert sent.items() <= after.items()

    found = compare(smtp_server, books, program)
    report(found, fault="SIGSTOP past the lease", program=program, events=1, step=step)
    assert found.keeps_the_promise(), found
    assert sorted({received.recipient for received in smtp_server.ledger}) == readers(FEW)
    assert len(found.doubled) <= found.flagged <= 1


@pytest.mark.long
@pytest.mark.timeout(600 + 15 * STOPS)
def test_stopping_at_random_loses_nothing_and_flags_every_double(
    seeded_database: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks, scene: Scene,
    smtp_server: SmtpServer, report: Report,
):  # fmt: skip
    """Two workers, one of which sleeps for longer than its lease and sometimes longer than any answer may take."""
    program = open_program(seeded_database(10 * CROWD), smtp_connections=2)
    program.set_clock(THURSDAY)
    books = open_books(program)
    workers = [program.start("worker", faults=Faults(haste=HASTE, answer_haste=HASTE)) for _ in range(2)]
    stops = 0
    while stops < STOPS and books.count("sent", "held") < 10 * CROWD:
        sleeper = scene.chance.choice(workers)
        passed = scene.passed["dot"] + scene.chance.randint(1, 20)
        wait_until(lambda passed=passed: scene.passed["dot"] >= passed or books.count("planned") == 0)
        os.kill(sleeper.pid, signal.SIGSTOP)
        stops += 1
        time.sleep(scene.chance.choice((4.0, 4.0, 6.0, 40.0)))
        os.kill(sleeper.pid, signal.SIGCONT)
    for worker in workers:
        worker.terminate(seconds=60)
    smtp_server.forget_scripts()
    program.drain()
    found = compare(smtp_server, books, program)
    report(found, fault="SIGSTOP at random", program=program, events=stops)
    assert found.keeps_the_promise(), found
    assert found.letters == 10 * CROWD


def is_stopped(running: Running) -> bool:
    """Whether a process is stopped by a signal."""
    with open(f"/proc/{running.pid}/stat", encoding="utf-8") as stat:  # noqa: PTH123  (no file of ours)
        return stat.read().rpartition(")")[2].split()[0] == "T"


@pytest.mark.parametrize(
    ("command", "engine"),
    [
        ("worker", "sqlite"),
        pytest.param("worker", "postgres", marks=pytest.mark.postgres),
        ("run", "sqlite"),
    ],
)
def test_asked_to_end_it_finishes_the_letters_in_hand(
    command: str,
    engine: str,
    request: pytest.FixtureRequest,
    open_program: OpenProgram,
    open_books: OpenBooks,
    smtp_server: SmtpServer,
):
    """SIGTERM: every letter that is being handed over is recorded, the rest given back; code 0 within seconds."""
    seeded: SeededDatabase = request.getfixturevalue(f"seeded_{engine}")
    program = open_program(seeded(FEW), smtp_connections=2)
    program.set_clock(THURSDAY)
    books = open_books(program)
    smtp_server.script("dot", Delay(1.0))
    running = program.start("worker") if command == "worker" else program.serve()[1]
    running.wait_for(lambda: smtp_server.ledger)
    began = time.monotonic()
    assert running.terminate() == 0
    assert time.monotonic() - began < 8

    assert 0 < len(smtp_server.ledger) < FEW
    assert books.count("sent") == len(smtp_server.ledger)
    assert books.count("planned") == FEW - len(smtp_server.ledger)
    smtp_server.forget_scripts()
    program.drain()
    assert sorted(received.recipient for received in smtp_server.ledger) == readers(FEW)
    status = program.json("status")
    assert (status["possibly_doubled"], status["workers"]) == (0, 0)
