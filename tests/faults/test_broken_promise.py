"""Whether these tests could fail at all: the promise is broken on purpose, and the comparison says so."""

from __future__ import annotations

import pytest

from tests.faults.comparison import compare
from tests.faults.conftest import Report
from tests.journeys.conftest import THURSDAY, OpenBooks, OpenProgram, SeededDatabase
from tests.support.failpoints import Faults
from tests.support.smtp_server import SmtpServer

READERS = 4


@pytest.mark.quick("sqlite")
def test_who_records_before_handing_over_is_seen_to_lose_letters(
    seeded_database: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks, smtp_server: SmtpServer,
    report: Report,
):  # fmt: skip
    """A letter that is "accepted" before its bytes leave is lost by a kill in between."""
    program = open_program(seeded_database(READERS), smtp_connections=1)
    program.set_clock(THURSDAY)
    faults = Faults(step="accepted-after-commit", breaks="accepted-first")
    assert program.command("worker", faults=faults).code == -9
    program.drain()
    found = compare(smtp_server, open_books(program), program)
    report(found, fault="(broken on purpose: accepted first)", program=program, events=1)
    assert len(found.lost) == 1
    assert not found.keeps_the_promise()


@pytest.mark.quick("postgres")
def test_who_forgets_a_doubt_is_seen_to_double_unflagged(
    seeded_database: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks, smtp_server: SmtpServer,
    report: Report,
):  # fmt: skip
    """A letter that was lost in its handover and is sent as if nothing had been is a double nobody knows of."""
    program = open_program(seeded_database(READERS), smtp_connections=1)
    program.set_clock(THURSDAY)
    assert program.command("worker", faults=Faults(step="answered")).code == -9
    assert program.command("worker", "--drain", faults=Faults(breaks="never-in-doubt")).code == 0
    found = compare(smtp_server, open_books(program), program)
    report(found, fault="(broken on purpose: never in doubt)", program=program, events=1)
    assert len(found.unflagged) == 1
    assert not found.keeps_the_promise()
