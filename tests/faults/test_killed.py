"""What becomes of letters when the process that sends them is killed: the promise, from outside."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import pytest

from tests.faults.comparison import compare, subject_of
from tests.faults.conftest import KILLS, MANY, Report
from tests.faults.scene import Scene, kill_when, readers, wait_for_the_moment
from tests.journeys.books import repeated
from tests.journeys.conftest import CROWD, FEW, MONDAY, THURSDAY, OpenBooks, OpenProgram, SeededDatabase
from tests.support.failpoints import Faults
from tests.support.program import Running
from tests.support.smtp_server import Delay, Hang, SmtpServer

CONNECTIONS = 4
WEEK = timedelta(days=7)


# --- killing at random ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(400 + 20 * KILLS)
def test_killing_at_random_loses_nothing_and_flags_every_double(
    seeded_database: SeededDatabase,
    open_program: OpenProgram,
    open_books: OpenBooks,
    smtp_server: SmtpServer,
    scene: Scene,
    report: Report,
):
    """However often and whenever `newsletter worker` is killed: lost 0, unflagged 0, never three copies."""
    program = open_program(seeded_database(CROWD, MANY), smtp_connections=CONNECTIONS)
    program.set_clock(THURSDAY)
    books = open_books(program)
    chance = scene.chance
    living: list[Running] = []
    kills = in_hand = 0
    weeks = 1
    while kills < KILLS:
        if books.count("sent", "held") == CROWD * weeks:
            weeks += 1
            program.set_clock(program.now + WEEK)
        # Two at a time, so that one is sending while the next one starts; sometimes both die at once.
        while len(living) < 2:
            living.append(program.start("worker", *chance.choice([(), ("--drain",)])))
        wait_for_the_moment(living[0], scene)
        for worker in living[: chance.choice([1, 1, 2])]:
            kills += worker.code is None
            worker.kill()
            living.remove(worker)
            # What was being handed over, and nothing else, can be doubled by this kill.
            in_handover = books.deliveries(state="handing_over")
            hands = sum(row.owner.endswith(f"-{worker.pid}") for row in in_handover)
            assert hands <= CONNECTIONS
            in_hand += hands
    for worker in living:
        worker.kill()
    smtp_server.forget_scripts()
    program.drain()
    found = compare(smtp_server, books, program)
    report(found, fault="SIGKILL at random", program=program, events=kills, in_hand=in_hand)

    assert found.letters == CROWD * weeks
    assert found.keeps_the_promise(), found
    assert len(found.doubled) <= in_hand
    assert in_hand > 0
    # What the program says of itself is the same.
    status = program.json("status")
    assert status["possibly_doubled"] >= len(found.doubled)
    assert status["deliveries"]["sent"] + status["deliveries"]["held"] == CROWD * weeks
    assert status["due"] == 0


# --- killing at one exact moment ------------------------------------------------------------------


def test_killed_between_the_commit_and_the_bytes_it_is_sent_once_and_flagged(
    seeded_database: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks, smtp_server: SmtpServer
):
    """Nobody can know that no byte left: the letter is repeated, arrives once, and is listed as possibly doubled."""
    program = open_program(seeded_database(3), smtp_connections=1)
    program.set_clock(THURSDAY)
    books = open_books(program)
    smtp_server.script("mail", Hang(), times=1)
    kill_when(program.start("worker"), smtp_server, lambda server: "MAIL" in server.commands)

    assert books.count("handing_over") == 1
    assert smtp_server.ledger == []
    program.drain()
    assert sorted(received.recipient for received in smtp_server.ledger) == readers(3)
    assert sorted(row.doubts for row in books.deliveries()) == [0, 0, 1]


@pytest.mark.parametrize(
    ("kind", "engine"),
    [
        ("letter", "sqlite"),
        pytest.param("letter", "postgres", marks=pytest.mark.postgres),
        ("confirmation", "sqlite"),
    ],
)
def test_killed_before_the_reply_to_the_dot_it_is_repeated_byte_for_byte(
    kind: str,
    engine: str,
    request: pytest.FixtureRequest,
    open_program: OpenProgram,
    open_books: OpenBooks,
    smtp_server: SmtpServer,
):
    """The server has it and the program cannot know: the one repeat is the same message, and flagged."""
    seeded: SeededDatabase = request.getfixturevalue(f"seeded_{engine}")
    program = open_program(seeded(3), smtp_connections=1)
    program.set_clock(THURSDAY if kind == "letter" else MONDAY)
    books = open_books(program)
    if kind == "confirmation":
        program.do("subscribers", "add", "new@example.org")
    smtp_server.script("dot", Hang(), times=1)
    kill_when(program.start("worker"), smtp_server, lambda server: server.ledger)
    program.set_clock(program.now + timedelta(minutes=3))
    program.drain()

    [twice] = repeated(received.message_id for received in smtp_server.ledger).items()
    first, again = (received for received in smtp_server.ledger if received.message_id == twice[0])
    assert first.content == again.content
    assert first.recipient == again.recipient
    assert len(smtp_server.ledger) == (4 if kind == "letter" else 2)
    assert [row.message_id for row in books.deliveries(kind=kind) if row.doubts > 0] == [twice[0]]
    assert "possibly doubled" in program.do("subscribers", "show", first.recipient)


@pytest.mark.quick("postgres")
def test_killed_twice_before_the_reply_it_is_held_and_never_sent_a_third_time(
    seeded_database: SeededDatabase, open_program: OpenProgram, smtp_server: SmtpServer
):
    """Two copies are the most; the letter is held for the operator, counts as received, and the next one comes."""
    program = open_program(seeded_database(1), smtp_connections=1)
    program.set_clock(THURSDAY)
    smtp_server.script("dot", Hang(), times=2)
    for copies in (1, 2):
        kill_when(program.start("worker"), smtp_server, lambda server, copies=copies: len(server.ledger) == copies)
    program.drain()

    assert len(smtp_server.ledger) == 2
    [held] = program.json("deliveries", "list")
    assert held["state"] == "held"
    assert held["possibly_doubled"]
    assert held["counts_as_received"]
    refused = program.command("deliveries", "release", held["id"])
    assert (refused.code, "handed over twice" in refused.problem) == (1, True)
    assert program.do("deliveries", "release", "--all").startswith("0 ")
    program.set_clock(THURSDAY + WEEK)
    program.drain()
    assert [subject_of(received) for received in smtp_server.ledger[2:]] == ["Subject: The second stone"]


def test_killed_twice_before_the_bytes_it_is_not_lost_in_silence(
    seeded_sqlite: SeededDatabase, open_program: OpenProgram, smtp_server: SmtpServer
):
    """A letter that never arrived is listed as held; once the operator says that it is lost, its reader gets it."""
    program = open_program(seeded_sqlite(1), smtp_connections=1)
    program.set_clock(THURSDAY)
    smtp_server.script("mail", Hang(), times=2)
    for tries in (1, 2):
        kill_when(
            program.start("worker"), smtp_server, lambda server, tries=tries: server.commands.count("MAIL") == tries
        )
    program.drain()

    assert smtp_server.ledger == []
    [held] = program.json("deliveries", "list")
    assert held["state"] == "held"
    program.do("deliveries", "settle", held["id"], "--lost")
    program.set_clock(THURSDAY + WEEK)
    program.drain()
    assert [subject_of(received) for received in smtp_server.ledger] == ["Subject: The first stone"]
    assert program.json("deliveries", "list") == []


def test_who_prefers_a_gap_gets_no_double(
    seeded_sqlite: SeededDatabase, open_program: OpenProgram, smtp_server: SmtpServer
):
    """With ON_UNCERTAIN=hold an unanswered letter is not repeated, unless the operator names it."""
    program = open_program(seeded_sqlite(1), smtp_connections=1, on_uncertain="hold")
    program.set_clock(THURSDAY)
    smtp_server.script("dot", Hang(), times=1)
    kill_when(program.start("worker"), smtp_server, lambda server: server.ledger)
    program.drain()

    assert len(smtp_server.ledger) == 1
    [held] = program.json("deliveries", "list")
    assert (held["state"], held["counts_as_received"]) == ("held", True)
    program.do("deliveries", "release", held["id"])
    program.drain()
    assert len(smtp_server.ledger) == 2
    assert len({received.content for received in smtp_server.ledger}) == 1


# --- how soon the others go on --------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.postgres
@pytest.mark.parametrize(("where", "at_most_seconds"), [("this host", 30), ("another host", 75)])
def test_what_a_killed_worker_had_claimed_is_back_at_work(
    where: str,
    at_most_seconds: int,
    seeded_postgres: SeededDatabase,
    open_program: OpenProgram,
    open_books: OpenBooks,
    smtp_server: SmtpServer,
    tmp_path: Path,
    report: Report,
):
    """Within 30 seconds where its host knows that it is dead, else within 75: the time that a lease takes."""
    program = open_program(seeded_postgres(FEW), smtp_connections=1)
    program.set_clock(THURSDAY - timedelta(hours=1))
    books = open_books(program)
    smtp_server.script("dot", Delay(0.5))
    living = program.start("worker", faults=Faults(batch=2))
    # Who has another folder for the signs of life is, to the others, on another host.
    apart = {"TMPDIR": str(tmp_path)} if where == "another host" else {}
    killed = program.start("worker", faults=Faults(step="claimed-after-commit", batch=2), variables=apart)
    living.wait_for(lambda: "worker_started" in living.log and "worker_started" in killed.log)
    program.set_clock(THURSDAY)
    assert killed.wait() == -9
    began = time.monotonic()
    owner = f"-{killed.pid}"
    living.wait_for(
        lambda: not any(row.owner.endswith(owner) for row in books.deliveries(state="claimed")), seconds=120
    )
    back_after = time.monotonic() - began
    living.wait_for(lambda: books.count("sent") == FEW)
    found = compare(smtp_server, books, program)
    report(found, fault=f"killed on {where}: back at work", program=program, events=1,
           back_after_seconds=round(back_after, 1))  # fmt: skip
    assert found.keeps_the_promise(), found
    assert found.flagged == 0
    assert back_after <= at_most_seconds
