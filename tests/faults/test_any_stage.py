"""A mail server that does whatever a mail server can do wrong, at whatever stage: at random, many times."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta

import pytest

from tests.faults.comparison import compare
from tests.faults.conftest import Report
from tests.faults.scene import STAGES, readers
from tests.journeys.books import Books
from tests.journeys.conftest import THURSDAY, OpenBooks, OpenProgram, SeededDatabase
from tests.support.failpoints import Faults
from tests.support.program import Program, Running
from tests.support.smtp_server import Close, Drip, Endless, Hang, Raw, Reply, Reset, SmtpServer

READERS = 1500
ROUNDS = 6
DESTINATIONS = ("relay", "example.org")

REFUSALS = (
    Reply(421, "4.7.0 Too much of you"),
    Reply(450, "4.2.1 Greylisted"),
    Reply(451, "4.3.0 Trouble here"),
    Reply(452, "4.3.1 No room"),
    Reply(550, "5.7.1 Relay access denied"),
    Reply(552, "5.2.2 Mailbox full"),
    Reply(554, "5.7.1 Spam"),
)
NONSENSE = (
    Close(),
    Reset(),
    Hang(),
    Raw(b"\x00\xff\xfe garbage\r\n"),
    Raw(b"999 what\r\n"),
    Raw(b"25"),
    Endless(b"2", limit_bytes=256 * 1024),
    Drip(b"250 so slow that nobody waits for the end of it\r\n", 0.5),
)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("engine", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_whatever_the_server_does_at_whatever_stage_nobody_is_forgotten(
    engine: str,
    request: pytest.FixtureRequest,
    open_program: OpenProgram,
    open_books: OpenBooks,
    smtp_server: SmtpServer,
    chance,
    report: Report,
):
    """Put off, held or doubted, but never lost; repeated only where no answer came; released, everybody has one."""
    seeded: SeededDatabase = request.getfixturevalue(f"seeded_{engine}")
    program = open_program(seeded(READERS), smtp_connections=16)
    program.set_clock(THURSDAY)
    books = open_books(program)
    steps = (*REFUSALS, *NONSENSE)
    faults = [(stage, step) for stage in STAGES for step in steps if stage != "body" or step not in REFUSALS] * ROUNDS
    chance.shuffle(faults)
    passed: Counter[str] = Counter()
    for stage, step in faults:
        # Spread over the sending: the n-th passing of the stage, among so many.
        smtp_server.script(stage, step, times=1, when=lambda _line: chance.random() < 0.3)
        passed[stage] += 1
    worker = program.start("worker", faults=Faults(answer_haste=60))
    wait_for_rest(program, worker, lambda: len(books.deliveries()) == READERS and is_at_rest(books, program))
    for _ in range(4):
        smtp_server.forget_scripts()
        program.set_clock(program.now + timedelta(minutes=20))
        program.do("deliveries", "release", "--all")
        wait_for_rest(program, worker, lambda: is_at_rest(books, program))
    assert worker.terminate() == 0
    found = compare(smtp_server, books, program)
    report(found, fault="mail server misbehaves at any stage", program=program, events=len(faults))

    assert found.keeps_the_promise(), found
    assert books.suppressed() == 0
    held = {row.subscriber_id for row in books.deliveries(state="held")}
    told = {address for identifier, address in books.addresses().items() if identifier in held}
    assert {received.recipient for received in smtp_server.ledger} | told == set(readers(READERS))
    assert len(found.doubled) <= found.flagged


def wait_for_rest(program: Program, worker: Running, rests: Callable[[], bool]) -> None:
    """Wait, and be the operator who says of each trouble that its cause is mended: nobody waits for a pause here."""
    until = time.monotonic() + 1500
    looked_at = time.monotonic()

    def rests_or_is_told() -> bool:
        nonlocal looked_at
        if time.monotonic() - looked_at > 1:
            program.command("start", *DESTINATIONS)
            looked_at = time.monotonic()
        return rests()

    worker.wait_for(rests_or_is_told, seconds=until - time.monotonic())


def is_at_rest(books: Books, program: Program) -> bool:
    """Whether nothing is on its way and nothing due, and that not because a destination is kept back."""
    waiting = books.deliveries(state="planned") + books.deliveries(state="uncertain")
    rests = books.count("claimed", "handing_over") == 0 and all(row.next_try_at > program.now for row in waiting)
    return rests and not program.json("status")["kept_back"]
