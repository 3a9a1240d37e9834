"""A mail server, installations of the program, and databases in which readers wait for their letters."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest

from newsletter.bootstrap import open_app, publish_first
from newsletter.clock import FixedClock
from newsletter.service.subscribing import SignUp
from newsletter.settings import Settings
from tests.journeys.books import Books
from tests.journeys.content import SERIES, write_content
from tests.support.postgres import Server
from tests.support.program import SECRET_KEY, Program
from tests.support.smtp_server import SmtpServer

MONDAY = datetime(2026, 9, 21, 10, 0, tzinfo=UTC)
THURSDAY = datetime(2026, 9, 24, 8, 0, 20, tzinfo=UTC)
"""Twenty seconds after everybody's slot."""

CROWD = 400
FEW = 12

OpenProgram = Callable[..., Program]
OpenBooks = Callable[[Program], Books]
SeededDatabase = Callable[..., str]
"""Called with a number of readers, and maybe the key of the sequence that they get."""


@pytest.fixture
def smtp_server() -> Iterator[SmtpServer]:
    """A well-behaved server without TLS on loopback, until a test scripts it."""
    with SmtpServer() as server:
        yield server


@pytest.fixture
def open_program(tmp_path: Path, smtp_server: SmtpServer, request: pytest.FixtureRequest) -> Iterator[OpenProgram]:
    """Makes installations that send to the mail server; whatever they leave running ends with the test.

    Measuring coverage makes a process take much longer to start: only a test that is marked `covered` has it.
    """
    made: list[Program] = []
    covered = "covered" in request.keywords

    def open_one(database_url: str, /, **settings: object) -> Program:
        folder = tmp_path / f"installation-{len(made)}"
        usual = {"database_url": database_url, "mail_url": smtp_server.url}
        made.append(Program(folder, covered=covered, **{**usual, **settings}))
        return made[-1]

    yield open_one
    for program in made:
        program.close()


@pytest.fixture
def open_books() -> Iterator[OpenBooks]:
    """Opens the database of an installation, to look at."""
    opened: list[Books] = []

    def open_one(program: Program) -> Books:
        opened.append(Books(str(program.settings["database_url"])))
        return opened[-1]

    yield open_one
    for books in opened:
        books.close()


@pytest.fixture(scope="session")
def small_content(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A content folder of five letters. Nobody may change it."""
    return write_content(tmp_path_factory.mktemp("content"))


def seed(
    url: str, content: Path, *, readers: int, sequence: str, now: datetime = MONDAY, slot: str = "thu 08:00"
) -> None:
    """A migrated database with that content live, and readers who confirmed on Monday for Thursday 08:00 UTC."""
    app = open_app(
        Settings(database_url=url, mail_url="maildir:unused", secret_key=[SECRET_KEY], content_dir=content, slot=slot),
        clock=FixedClock(now),
    )
    app.database.upgrade()
    publish_first(app)
    for number in range(readers):
        signup = SignUp(email=f"reader-{number:03}@example.org", sequence=sequence)
        app.subscribing.add(signup, consent="a test, 2026-09-21", now=now)
    app.close()


@pytest.fixture(scope="session")
def seeded_file(tmp_path_factory: pytest.TempPathFactory, small_content: Path) -> Callable[[int, str], Path]:
    """SQLite files as `seed` makes them, to be copied."""

    @cache
    def make(readers: int, sequence: str) -> Path:
        path = tmp_path_factory.mktemp("seeded") / "newsletter.db"
        seed(f"sqlite:///{path}", small_content, readers=readers, sequence=sequence)
        return path

    return make


@pytest.fixture
def seeded_sqlite(tmp_path: Path, seeded_file: Callable[[int, str], Path]) -> SeededDatabase:
    """Makes a SQLite database of one's own in which so many readers are due on Thursday."""

    def make(readers: int, sequence: str = SERIES) -> str:
        path = tmp_path / "newsletter.db"
        shutil.copy(seeded_file(readers, sequence), path)
        return f"sqlite:///{path}"

    return make


@pytest.fixture
def seeded_postgres(postgres: Server, small_content: Path) -> Iterator[SeededDatabase]:
    """Makes a PostgreSQL database of one's own in which so many readers are due on Thursday."""
    made: list[str] = []

    def make(readers: int, sequence: str = SERIES) -> str:
        def prepare(url: str) -> None:
            seed(url, small_content, readers=readers, sequence=sequence)

        template = postgres.template(f"journeys-{readers}-{sequence}", prepare)
        made.append(postgres.create_database(template=template))
        return made[-1]

    yield make
    for url in made:
        postgres.drop_database(url)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def seeded_database(request: pytest.FixtureRequest) -> SeededDatabase:
    """Makes a database of one's own in which so many readers are due on Thursday: once on each engine."""
    make: SeededDatabase = request.getfixturevalue(f"seeded_{request.param}")
    return make
