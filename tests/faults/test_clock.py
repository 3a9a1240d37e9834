"""The clock of the machine jumps by a month in the middle of a sending, and is set right again."""

from __future__ import annotations

import time
from collections import Counter
from datetime import timedelta

import pytest

from tests.faults.comparison import compare
from tests.faults.conftest import IS_LONG, Report
from tests.faults.scene import Scene, readers
from tests.journeys.conftest import THURSDAY, OpenBooks, OpenProgram, SeededDatabase
from tests.journeys.content import NOTE
from tests.support.smtp_server import SmtpServer

READERS = 1000 if IS_LONG else 60
MONTH = timedelta(days=30)
WEEK = timedelta(weeks=1)
HOUR = timedelta(hours=1)


@pytest.mark.quick("sqlite")
@pytest.mark.parametrize(
    "jump",
    [pytest.param(MONTH, id="a month ahead", marks=pytest.mark.long), pytest.param(-MONTH, id="a month back")],
)
def test_a_clock_that_jumps_sends_nobody_two_letters_and_nobody_is_silent_afterwards(
    jump: timedelta, seeded_database: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks,
    smtp_server: SmtpServer, scene: Scene, report: Report,
):  # fmt: skip
    """At most one letter while it is wrong; once it is right again, each reader's next letter comes within 8 days."""
    program = open_program(seeded_database(READERS, NOTE), smtp_connections=2)
    program.set_clock(THURSDAY)
    books = open_books(program)
    worker = program.start("worker")
    worker.wait_for(lambda: len(smtp_server.ledger) > READERS // 4)
    program.set_clock(THURSDAY + jump)
    before = len(smtp_server.ledger)
    if jump > timedelta(0):
        smtp_server.forget_scripts()
        # What was in hand when it jumped is recorded as of then, and has had its letter.
        worker.wait_for(lambda: books.count("sent") >= before + READERS - 3)
        worker.wait_for(lambda: books.count("claimed", "handing_over") == 0)
    else:
        worker.wait_for(lambda: books.count("handing_over") == 0)
    while_wrong = Counter(received.recipient for received in smtp_server.ledger[before:])
    assert max(while_wrong.values(), default=0) <= 1

    program.set_clock(THURSDAY + timedelta(minutes=10))
    smtp_server.forget_scripts()
    worker.wait_for(lambda: {received.recipient for received in smtp_server.ledger} == set(readers(READERS)))
    had = len(smtp_server.ledger)
    if jump < timedelta(0):
        # Nobody had a second letter when the first was barely read.
        assert had == READERS
    while jump > timedelta(0) and "clock_was_ahead" not in worker.log and program.now < THURSDAY + WEEK - HOUR:
        program.set_clock(program.now + HOUR)
        time.sleep(0.2)
    program.set_clock(THURSDAY + WEEK)
    worker.wait_for(lambda: {each.recipient for each in smtp_server.ledger[had:]} == set(readers(READERS)))
    assert worker.terminate() == 0
    assert max(Counter(received.recipient for received in smtp_server.ledger[had:]).values()) == 1
    found = compare(smtp_server, books, program)
    report(found, fault=f"clock {jump.days:+} days", program=program, events=1)
    assert (found.lost, found.doubled, found.unflagged) == ([], [], [])
