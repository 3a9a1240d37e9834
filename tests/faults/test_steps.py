"""Every step of a letter's way has a name, and a process may die or stumble at each of them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.faults.comparison import Comparison, compare
from tests.faults.conftest import Report
from tests.faults.scene import readers
from tests.journeys.conftest import THURSDAY, OpenBooks, OpenProgram, SeededDatabase
from tests.support.failpoints import MOMENTS, TRANSACTIONS, Faults
from tests.support.program import Program
from tests.support.smtp_server import Received, SmtpServer

READERS = 4
IN_HANDOVER = ("handed-after-commit", "before-bytes", "rescued-before-commit", "rescued-after-commit")
AFTER_THE_ANSWER = ("answered", "accepted-before-commit")
COMMITS = tuple(f"{name}-{when}-commit" for name in TRANSACTIONS for when in ("before", "after"))


@pytest.mark.parametrize("step", [*COMMITS, *MOMENTS])
def test_killed_at_a_step_it_goes_on_from_there(
    step: str,
    seeded_database: SeededDatabase,
    open_program: OpenProgram,
    open_books: OpenBooks,
    smtp_server: SmtpServer,
    report: Report,
):
    """Lost 0; doubled only what was answered and not yet recorded; flagged only what was in its handover."""
    program = of_thursday(open_program, seeded_database)
    if step.startswith("rescued"):
        # There must be something to rescue.
        assert program.command("worker", faults=Faults(step="before-bytes")).code == -9
    assert program.command("worker", faults=Faults(step=step)).code == -9
    program.drain()
    found = compare(smtp_server, open_books(program), program)
    report(found, fault="SIGKILL at a named step", program=program, events=1, step=step)

    everybody_has_one(found, smtp_server.ledger)
    assert len(found.doubled) == (step in AFTER_THE_ANSWER)
    # One connection, one letter in hand: what recorded the first letter may have handed the second over.
    assert found.flagged <= 1
    assert found.flagged == 1 or step not in IN_HANDOVER


@pytest.mark.parametrize("step", COMMITS[2:-2])
def test_an_error_at_a_commit_doubles_nothing(
    step: str,
    seeded_database: SeededDatabase,
    open_program: OpenProgram,
    open_books: OpenBooks,
    smtp_server: SmtpServer,
    report: Report,
):
    """The process lives on and knows what left: also where the commit was done and its answer got lost."""
    program = of_thursday(open_program, seeded_database)
    struck = program.command("worker", "--drain", faults=Faults(step=step, action="raise"))
    assert struck.code == 0
    assert "the connection broke on purpose" in struck.err or step.startswith("accepted")
    found = compare(smtp_server, open_books(program), program)
    report(found, fault="error at a commit", program=program, events=1, step=step)

    everybody_has_one(found, smtp_server.ledger)
    assert (found.doubled, found.flagged) == ([], 0)


def of_thursday(open_program: OpenProgram, seeded: SeededDatabase) -> Program:
    """A few readers whose letter is due, and one connection."""
    program = open_program(seeded(READERS), smtp_connections=1)
    program.set_clock(THURSDAY + timedelta(seconds=1))
    return program


def everybody_has_one(found: Comparison, ledger: list[Received]) -> None:
    """Each reader has the letter, and the promise is kept."""
    assert found.keeps_the_promise(), found
    assert found.sent == READERS
    assert sorted({received.recipient for received in ledger}) == readers(READERS)
