"""What becomes of letters when the process that sends them is killed: the promise, from outside.

The mail server's own ledger is held against the program's. `lost`: due, and the server never had it, and nobody
is told. `doubled`: the server has it twice. `unflagged`: doubled, and not listed as possibly doubled.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar

import pytest
from sqlalchemy import Row

from tests.journeys.books import Books, repeated
from tests.journeys.conftest import CROWD, FEW, MONDAY, THURSDAY, OpenBooks, OpenProgram, SeededDatabase
from tests.support.program import Running
from tests.support.smtp_server import Delay, Hang, Received, Session, SmtpServer

# `KILLS=1000 make test TEST_ARGS="tests/journeys/test_killed.py -k random -rP"` for a night.
KILLS = int(os.environ.get("KILLS", "20"))
CONNECTIONS = 4
WEEK = timedelta(days=7)
STAGES = ("banner", "ehlo", "mail", "rcpt", "data", "body", "dot")


# --- a server that is slow at every stage, and counts ---------------------------------------------


@dataclass(frozen=True)
class Scene:
    """How many conversations have come to each stage, and the chance that rules."""

    chance: random.Random
    passed: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Dawdle:
    """Notes that a conversation has come to a stage, and takes its time: none, little or some."""

    scene: Scene
    stage: str
    speaks: ClassVar[bool] = False

    def take(self, session: Session) -> None:
        self.scene.passed[self.stage] += 1
        session.sleep(self.scene.chance.choice((0.0, 0.005, 0.02, 0.06)))


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Chance with a seed that stands in the report of a failure."""
    seed = random.SystemRandom().randrange(1_000_000)
    print(f"seed of {request.node.name}: {seed}")  # noqa: T201  (pytest shows it where the test fails)
    return random.Random(seed)


@pytest.fixture
def scene(smtp_server: SmtpServer, chance: random.Random) -> Scene:
    """The mail server dawdles at every stage from now on."""
    scene = Scene(chance)
    for stage in STAGES:
        smtp_server.script(stage, Dawdle(scene, stage))
    return scene


# --- the comparison of the two ledgers ------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The mail server's ledger held against the program's."""

    letters: int
    lost: list[str]
    doubled: list[str]
    unflagged: list[str]
    most_copies: int
    held: int
    message_ids_of_one_letter: int
    repeats_that_differ: int

    def __str__(self) -> str:
        return (
            f"{self.letters} letters, lost {len(self.lost)}, doubled {len(self.doubled)},"
            f" unflagged {len(self.unflagged)}, most copies {self.most_copies}, held {self.held}"
        )


def compare(server: SmtpServer, books: Books) -> Comparison:
    """Hold the two ledgers against each other."""
    rows = books.deliveries()
    addresses = books.addresses()
    copies: dict[tuple[str, str], list[Received]] = {}
    by_message_id: dict[str, list[Received]] = {}
    for received in server.ledger:
        by_message_id.setdefault(received.message_id, []).append(received)
        copies.setdefault((received.recipient, subject_of(received)), []).append(received)
    flagged = {row.message_id for row in rows if row.doubts > 0}
    doubled = [message_id for message_id, received in by_message_id.items() if len(received) > 1]
    told = {row.message_id for row in rows if row.state in ("held", "uncertain")}
    return Comparison(
        letters=len(rows),
        lost=[
            f"{addresses[row.subscriber_id]} {row.step} {row.state}"
            for row in rows
            if row.message_id not in by_message_id and row.message_id not in told
        ],
        doubled=doubled,
        unflagged=[message_id for message_id in doubled if message_id not in flagged],
        most_copies=max((len(received) for received in copies.values()), default=0),
        held=len([row for row in rows if row.state == "held"]),
        message_ids_of_one_letter=max(
            (len({received.message_id for received in same}) for same in copies.values()), default=0
        ),
        repeats_that_differ=sum(len({received.content for received in same}) > 1 for same in by_message_id.values()),
    )


def subject_of(received: Received) -> str:
    """The subject of a message, as it stands there."""
    lines = received.content.split(b"\r\n\r\n")[0].decode("ascii").splitlines()
    return next(line for line in lines if line.startswith("Subject: "))


# --- killing at random ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(400 + 20 * KILLS)
def test_killing_at_random_loses_nothing_and_flags_every_double(
    seeded_database: SeededDatabase,
    open_program: OpenProgram,
    open_books: OpenBooks,
    smtp_server: SmtpServer,
    scene: Scene,
    record_property: Callable[[str, object], None],
):
    """However often and whenever `newsletter worker` is killed: lost 0, unflagged 0, never three copies."""
    program = open_program(seeded_database(CROWD), smtp_connections=CONNECTIONS)
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
            hands = len([row for row in books.deliveries() if is_in_hand_of(row, worker)])
            assert hands <= CONNECTIONS
            in_hand += hands
    for worker in living:
        worker.kill()
    smtp_server.forget_scripts()
    program.drain()
    found = compare(smtp_server, books)
    figures = f"{kills} kills, {in_hand} letters in hand, {found}"
    record_property("figures", figures)
    print(figures)  # noqa: T201  (pytest shows it where the test fails, or with -rP)

    assert found.letters == CROWD * weeks
    assert found.lost == []
    assert found.unflagged == []
    assert found.most_copies <= 2
    assert found.message_ids_of_one_letter == 1
    assert found.repeats_that_differ == 0
    assert len(found.doubled) <= in_hand
    assert in_hand > 0
    # What the program says of itself is the same.
    status = program.json("status")
    assert status["possibly_doubled"] >= len(found.doubled)
    assert status["deliveries"]["sent"] + status["deliveries"]["held"] == CROWD * weeks
    assert status["due"] == 0


def is_in_hand_of(row: Row[Any], worker: Running) -> bool:
    """Whether a letter is, by the books, being handed over by this process."""
    return row.state == "handing_over" and row.owner.endswith(f"-{worker.pid}")


def wait_for_the_moment(worker: Running, scene: Scene) -> None:
    """Wait, at random: for any moment of a start, or until conversations have come to a stage some times more."""
    chance = scene.chance
    if chance.random() < 0.2:
        time.sleep(chance.uniform(0.1, 1.0))
        return
    stage = chance.choice(STAGES[2:])
    times = scene.passed[stage] + chance.randint(1, 25)
    until = time.monotonic() + 20
    while scene.passed[stage] < times and worker.code is None and time.monotonic() < until:
        time.sleep(0.001)
    time.sleep(chance.choice((0.0, 0.002, 0.01, 0.03)))


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


# --- ending in peace ------------------------------------------------------------------------------


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


def readers(count: int) -> list[str]:
    """The addresses of so many seeded readers."""
    return [f"reader-{number:03}@example.org" for number in range(count)]


def kill_when(worker: Running, server: SmtpServer, condition: Callable[[SmtpServer], object]) -> None:
    """Kill a worker as soon as something holds at the mail server."""
    worker.wait_for(lambda: condition(server))
    worker.kill()
