"""The operator publishes, and breaks things, while letters leave."""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from tests.faults.comparison import compare
from tests.faults.conftest import IS_LONG, Report
from tests.faults.scene import readers
from tests.journeys.books import Books
from tests.journeys.conftest import THURSDAY, OpenBooks, OpenProgram, SeededDatabase
from tests.journeys.reading import part, read
from tests.support.failpoints import Faults
from tests.support.program import Program
from tests.support.smtp_server import Session, SmtpServer

READERS = 3000 if IS_LONG else 120
PUBLICATIONS = 20 if IS_LONG else 3


@dataclass(frozen=True)
class Gate:
    """Lets letters through while it is open, and not all at once."""

    open: threading.Event = field(default_factory=threading.Event)
    speaks: ClassVar[bool] = False

    def take(self, session: Session) -> None:
        session.sleep(0.05)
        self.open.wait(60)


@pytest.fixture
def own_content(small_content: Path, tmp_path: Path) -> Path:
    """A content folder that the test may change."""
    return Path(shutil.copytree(small_content, tmp_path / "content"))


@pytest.mark.quick("sqlite")
def test_each_letter_is_of_one_revision_whatever_is_published_meanwhile(
    own_content: Path, seeded_database: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks,
    smtp_server: SmtpServer, chance: random.Random, report: Report,
):  # fmt: skip
    """Every letter says what its revision says; what is broken is refused, and the sending goes on."""
    templates = own_content.parent / "templates"
    program = open_program(seeded_database(READERS), content_dir=own_content, templates_dir=templates)
    templates.mkdir()
    program.set_clock(THURSDAY)
    books = open_books(program)
    gate = Gate()
    gate.open.set()
    smtp_server.script("dot", gate)
    worker = program.start("worker")
    first = own_content / "sequences/three/01-first-stone.md"
    says = {1: "One stone."}
    for number in range(2, PUBLICATIONS + 2):
        enough = min(len(smtp_server.ledger) + chance.randint(3, 15), READERS)
        worker.wait_for(lambda enough=enough: len(smtp_server.ledger) >= enough)
        # What is in hand now is of the edition before.
        gate.open.clear()
        says[number] = f"Stone of edition {number}."
        first.write_text(f"---\nsubject: Edition {number}\n---\nHello,\n\n{says[number]}\n", encoding="utf-8")
        program.do("publish")
        gate.open.set()
        break_and_publish(first, program.command)
        break_and_publish(templates / "letter.html", program.command)
    smtp_server.forget_scripts()
    worker.wait_for(lambda: books.count("sent") == READERS, seconds=600 if IS_LONG else 60)
    assert worker.terminate() == 0

    found = compare(smtp_server, books, program)
    report(found, fault="content published and broken mid-send", program=program, events=3 * PUBLICATIONS)
    assert found.keeps_the_promise(), found
    assert (found.doubled, found.flagged) == ([], 0)
    assert sorted(received.recipient for received in smtp_server.ledger) == readers(READERS)
    assert len(each_is_of_one_revision(smtp_server, books, says)) > 1


def each_is_of_one_revision(server: SmtpServer, books: Books, says: dict[int, str]) -> set[int]:
    """Every letter that arrived says what its revision says, and nothing else; which revisions there were."""
    revisions = {row.message_id: row.revision for row in books.deliveries()}
    for received in server.ledger:
        message, revision = read(received), revisions[received.message_id]
        assert message["Subject"] == ("The first stone" if revision == 1 else f"Edition {revision}")
        assert [number for number, text in says.items() if text in part(message, "plain")] == [revision]
        assert b"{{" not in received.content
    return set(revisions.values())


def break_and_publish(path: Path, command: Callable[..., object]) -> None:
    """A file with a slip in it is refused by name; then it is as it was."""
    before = path.read_text(encoding="utf-8") if path.exists() else None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text((before or "") + "\n{{ nobody_knows_this\n", encoding="utf-8")
    refused = command("publish")
    assert refused.code == 1
    assert path.name in refused.problem
    if before is None:
        path.unlink()
    else:
        path.write_text(before, encoding="utf-8")


FEW = 400 if IS_LONG else 40
SOON, LATER = "2026-09-27T08:00:00Z", "2026-10-01T08:00:00Z"
"""When the second letter is due: three days after the first, or a week, at everybody's slot."""


@pytest.mark.quick("sqlite")
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_publication_that_is_killed_is_there_as_a_whole_or_not_at_all(
    when: str, own_content: Path, seeded_database: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks,
    smtp_server: SmtpServer, report: Report,
):  # fmt: skip
    """A worker that sends meanwhile doubles nothing; what a publication still owed to people the next worker does."""
    program = open_program(seeded_database(FEW), content_dir=own_content)
    program.set_clock(THURSDAY)
    books = open_books(program)
    gate = Gate()
    gate.open.set()
    smtp_server.script("dot", gate)
    worker = program.start("worker")
    worker.wait_for(lambda: len(smtp_server.ledger) >= FEW // 4)
    # What is in hand now is of the edition before.
    gate.open.clear()
    says = {1: "One stone.", 2: "Stone of edition 2."}
    series = own_content / "sequences/three"
    (series / "01-first-stone.md").write_text(f"---\nsubject: Edition 2\n---\nHello,\n\n{says[2]}\n", encoding="utf-8")
    second = series / "02-second-stone.md"
    second.write_text(second.read_text(encoding="utf-8").replace("---\n", "---\nafter: 3 days\n", 1), encoding="utf-8")
    before = published(books)
    assert program.command("publish", faults=Faults(step=f"published-{when}-commit")).code == -9
    assert books.revision() == (1 if when == "before" else 2)
    assert (published(books) == before) == (when == "before")

    gate.open.set()
    smtp_server.forget_scripts()
    worker.wait_for(lambda: books.count("sent") == FEW)
    assert worker.terminate() == 0
    found = compare(smtp_server, books, program)
    report(found, fault="SIGKILL while publishing", program=program, events=1, step=f"published-{when}-commit")
    assert found.keeps_the_promise(), found
    assert (found.doubled, found.flagged) == ([], 0)
    assert sorted(received.recipient for received in smtp_server.ledger) == readers(FEW)
    assert each_is_of_one_revision(smtp_server, books, says) == ({1} if when == "before" else {1, 2})
    if when == "before":
        assert next_letters(program) == {LATER}
        assert "2" in program.do("publish")
    else:
        program.drain()
    assert next_letters(program) == {SOON}
    assert "nothing" in program.do("publish").lower()


def published(books: Books) -> list[list[str]]:
    """All that a publication writes about content."""
    everything = books.everything()
    return [everything[table] for table in ("revision", "step_name")]


def next_letters(program: Program) -> set[str]:
    """When anybody's next letter is due."""
    return {item["next_due_at"] for each in program.json("subscribers", "list") for item in each["subscriptions"]}
