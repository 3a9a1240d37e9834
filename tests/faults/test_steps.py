"""Every step of a letter's way has a name, and a process may die or stumble at each of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from tests.faults.comparison import Comparison, compare
from tests.faults.conftest import Report
from tests.faults.scene import readers
from tests.journeys.conftest import MONDAY, THURSDAY, OpenBooks, OpenProgram, SeededDatabase
from tests.journeys.content import SERIES
from tests.journeys.reading import link, read
from tests.support.failpoints import MOMENTS, TRANSACTIONS, Faults
from tests.support.program import Answer, Program, Site
from tests.support.smtp_server import Received, SmtpServer

READERS = 4
IN_HANDOVER = ("handed-after-commit", "before-bytes", "rescued-before-commit", "rescued-after-commit")
ON_BOTH = ("handed-after-commit", "accepted-before-commit")
AFTER_THE_ANSWER = ("answered", "accepted-before-commit")
COMMITS = tuple(f"{name}-{when}-commit" for name in TRANSACTIONS for when in ("before", "after"))


@pytest.mark.parametrize(
    "step",
    [
        step if step in ON_BOTH else pytest.param(step, marks=pytest.mark.quick("sqlite"))
        for step in (*COMMITS, *MOMENTS)
    ],
)
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


# The rest of them in long runs only.
TELLING = (
    "planned-before-commit",
    "claimed-after-commit",
    "handed-before-commit",
    "handed-after-commit",
    "accepted-after-commit",
)


@pytest.mark.parametrize(
    "step",
    [step if step in TELLING else pytest.param(step, marks=pytest.mark.long) for step in COMMITS[2:-2]],
)
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
    # Draining goes on: also where planning failed, and nobody knew whether anything was due.
    assert struck.code == 0
    assert "the connection broke on purpose" in struck.err or step.startswith("accepted")
    program.drain()
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


# --- while somebody waits for an answer -----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "when"),
    [
        ("left", "after"),
        *(pytest.param(name, "after", marks=pytest.mark.quick("sqlite")) for name in ("asked", "confirmed")),
        *(pytest.param(name, "before", marks=pytest.mark.long) for name in ("asked", "confirmed", "left")),
    ],
)
def test_killed_while_somebody_waits_for_the_answer_nothing_is_half_done(
    name: str,
    when: str,
    seeded_database: SeededDatabase,
    open_program: OpenProgram,
    open_books: OpenBooks,
    smtp_server: SmtpServer,
):
    """Before the commit nothing happened, after it all of it; doing it again is fine, and nobody is told a lie."""
    program = open_program(seeded_database(1), smtp_connections=1)
    program.set_clock(MONDAY + timedelta(minutes=1))
    books = open_books(program)
    press = visitor(name, program, smtp_server)
    mails = len(smtp_server.ledger)
    before = books.everything()
    site, running = program.serve(faults=Faults(step=f"{name}-{when}-commit"))
    with pytest.raises(OSError, match=r"(?i)closed|reset"):
        press(site)
    assert running.wait() == -9
    assert (books.everything() == before) == (when == "before")

    site, running = program.serve()
    assert press(site).status in (200, 303)
    assert running.terminate() == 0
    [state] = [each["state"] for each in program.json("subscribers", "show", WHO[name])["subscriptions"]]
    assert state == AFTERWARDS[name]
    program.drain()
    assert len(smtp_server.ledger) - mails == (name == "asked")


NEW = "new@example.org"
WHO = {"asked": NEW, "confirmed": NEW, "left": readers(1)[0]}
AFTERWARDS = {"asked": "pending", "confirmed": "active", "left": "left"}


def visitor(name: str, program: Program, server: SmtpServer) -> Callable[[Site], Answer]:
    """What somebody does on the site, as often as they like."""
    if name == "asked":
        return lambda site: site.post("/subscribe", email=NEW, sequence=SERIES)
    if name == "confirmed":
        program.do("subscribers", "add", NEW, "--sequence", SERIES)
    else:
        program.set_clock(THURSDAY)
    program.drain()
    where = link(read(server.ledger[-1]), "/confirm/" if name == "confirmed" else "/unsubscribe/")
    return lambda site: site.post(where)
