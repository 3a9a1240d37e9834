"""What becomes of letters when the process that sends them is killed: the promise, from outside.

The mail server's own ledger is held against the program's. `lost`: due, and the server never had it, and nobody
is told. `doubled`: the server has it twice. `unflagged`: doubled, and not listed as possibly doubled.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from tests.journeys.books import Books, repeated
from tests.journeys.conftest import CROWD, FEW, THURSDAY, OpenProgram
from tests.support.program import Program, Running
from tests.support.smtp_server import Delay, Hang, Received, Reply, Session, SmtpServer

KILLS = 25
CONNECTIONS = 4
STAGES = ("banner", "ehlo", "mail", "rcpt", "data", "body", "dot")

OpenBooks = Callable[[Program], Books]
Seeded = Callable[[int], str]


# --- a server that is slow at every stage, and knows where everybody is ---------------------------


@dataclass
class Scene:
    """How far each open conversation has come, and how many have come to each stage since the last kill."""

    chance: random.Random
    stages: dict[int, str] = field(default_factory=dict)
    passed: Counter[str] = field(default_factory=Counter)

    def begin(self) -> None:
        """Another worker is about to start."""
        self.stages.clear()
        self.passed.clear()


@dataclass(frozen=True)
class Dawdle:
    """Notes that a conversation has come to a stage, and takes its time: mostly little, sometimes much."""

    scene: Scene
    stage: str
    speaks: ClassVar[bool] = False

    def take(self, session: Session) -> None:
        self.scene.stages[session.number] = self.stage
        self.scene.passed[self.stage] += 1
        session.sleep(self.scene.chance.choice((0.0, 0.005, 0.02, 0.06)))
        if self.stage == "dot":
            self.scene.stages[session.number] = "answered"


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
        repeats_that_differ=sum(
            len({received.content for received in same}) > 1 for same in by_message_id.values()
        ),
    )


def subject_of(received: Received) -> str:
    """The subject of a message, as it stands there."""
    lines = received.content.split(b"\r\n\r\n")[0].decode("ascii").splitlines()
    return next(line for line in lines if line.startswith("Subject: "))


# --- killing at random ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_killing_at_random_loses_nothing_and_flags_every_double(
    seeded_database: Seeded,
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
    where: Counter[str] = Counter()
    in_hand = 0
    for _ in range(KILLS):
        scene.begin()
        worker = program.start("worker")
        wait_for_the_moment(worker, scene)
        worker.kill()
        smtp_server.drop_connections()
        # What was being handed over, and nothing else, can be doubled by this kill.
        handing_over = books.count("handing_over")
        assert handing_over <= CONNECTIONS
        in_hand += handing_over
        where.update(scene.stages.values())
    smtp_server.forget_scripts()
    program.drain()
    found = compare(smtp_server, books)
    figures = f"{KILLS} kills, {in_hand} letters in hand, {found}; conversations at {dict(where)}"
    record_property("figures", figures)
    print(figures)  # noqa: T201  (pytest shows it where the test fails, or with -rP)

    assert found.letters == CROWD
    assert found.lost == []
    assert found.unflagged == []
    assert len(found.doubled) <= in_hand
    assert found.most_copies <= 2
    assert found.message_ids_of_one_letter == 1
    assert found.repeats_that_differ == 0
    # What the program says of itself is the same.
    status = program.json("status")
    assert status["possibly_doubled"] >= len(found.doubled)
    assert status["deliveries"]["sent"] + status["deliveries"]["held"] == CROWD
    assert status["due"] == 0
    # The kills were worth something: some fell before the end of a letter, and some behind it.
    assert in_hand > 0
    assert len(smtp_server.ledger) >= CROWD - found.held


def wait_for_the_moment(worker: Running, scene: Scene) -> None:
    """Wait, at random: for any moment of its start, or until conversations have come to a stage again and again."""
    chance = scene.chance
    if chance.random() < 0.2:
        time.sleep(chance.uniform(0.2, 1.5))
        return
    stage = chance.choice(STAGES[2:])
    times = chance.randint(1, 20)
    until = time.monotonic() + 20
    while scene.passed[stage] < times and worker.code is None and time.monotonic() < until:
        time.sleep(0.001)
    time.sleep(chance.choice((0.0, 0.002, 0.01, 0.03)))
