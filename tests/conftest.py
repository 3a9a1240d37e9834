"""The fixtures that every room's tests may use: databases on both engines, and a browser.

A room's own fixtures stand in `tests/<room>/conftest.py`.
"""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from typing import TYPE_CHECKING

import pytest
import structlog
from hypothesis import HealthCheck, settings

from newsletter.store.database import Database
from tests.support import is_required, is_set
from tests.support.browser import ARGUMENTS, BrowserMissingError, find_browser
from tests.support.postgres import Cluster, PostgresMissingError, Server, find_binaries, open_server
from tests.support.smtp_server import SmtpServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import NoReturn

    from playwright.sync_api import Browser

# A busy machine is no reason for a failure: neither profile has a deadline for one example.
settings.register_profile("local", max_examples=25, deadline=None)
# The same examples in every run: a red CI speaks of the change, not of chance. New ones are found at home.
settings.register_profile(
    "ci",
    max_examples=40,
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if is_set("CI") else "local"))

# Exceptions as the program writes them: unasked, structlog draws each frame with its locals, for seconds.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        structlog.dev.ConsoleRenderer(colors=False),
    ],
    cache_logger_on_first_use=False,
)

NEEDS = {"postgres": "PostgreSQL", "browser": "the browser", "disk": "a small disk"}
NOT_RUN = "not run without"


@pytest.fixture
def post() -> Iterator[SmtpServer]:
    """The mail server, which takes everything until it is told otherwise."""
    with SmtpServer() as server:
        yield server


@pytest.fixture
def own_life_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers of a test know of no others on this host."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'newsletter.db'}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server, one for each test process."""
    try:
        server = open_server()
    except PostgresMissingError as error:
        _missing("postgres", error)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def postgres_url(postgres: Server) -> Iterator[str]:
    """The URL of a new, empty PostgreSQL database."""
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture
def postgres_cluster() -> Iterator[Cluster]:
    """A PostgreSQL server for this test alone, which it may stop, crash and start again."""
    try:
        cluster = Cluster(find_binaries())
    except PostgresMissingError as error:
        _missing("postgres", error)
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a new, empty database: the test runs once on each engine."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the whole schema and nothing in it, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "newsletter.db"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def migrated_sqlite_url(tmp_path: Path, migrated_sqlite: Path) -> str:
    """The URL of a SQLite file with the whole schema and nothing in it."""
    path = tmp_path / "newsletter.db"
    shutil.copyfile(migrated_sqlite, path)
    return f"sqlite:///{path}"


@pytest.fixture(scope="session")
def migrated_postgres(postgres: Server) -> str:
    """The name of a PostgreSQL database with the whole schema and nothing in it, to be copied."""
    return postgres.template("migrated", _migrate)


@pytest.fixture
def migrated_postgres_url(postgres: Server, migrated_postgres: str) -> Iterator[str]:
    """The URL of a PostgreSQL database with the whole schema and nothing in it."""
    url = postgres.lend_database(migrated_postgres)
    yield url
    postgres.take_back(url)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def migrated_url(request: pytest.FixtureRequest) -> str:
    """The URL of a database with the whole schema and nothing in it: the test runs once on each engine."""
    url: str = request.getfixturevalue(f"migrated_{request.param}_url")
    return url


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, started once; a test opens a context of its own with `browser.new_context()`."""
    try:
        path = find_browser()
    except BrowserMissingError as error:
        _missing("browser", error)
    # Only here: its import is slow, and few tests need it.
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, headless=True, args=list(ARGUMENTS))
        yield chromium
        chromium.close()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses a server or the browser, so that nobody has to remember it; put what takes long first."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & {"postgres", "postgres_cluster"}:
            item.add_marker(pytest.mark.postgres)
        if "browser" in fixtures:
            item.add_marker(pytest.mark.browser)
    # Otherwise one process would be at a journey of a minute when the others have nothing left to do.
    items.sort(
        key=lambda item: (item.get_closest_marker("slow") is None, not {"journeys", "faults"} & {*item.path.parts})
    )


def pytest_collection_finish() -> None:
    """What is here before the first test stays until the end: the collector need not look at it each time."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly, at the very end, what was not tested."""
    skipped = [str(report.longrepr) for report in terminalreporter.getreports("skipped")]
    for thing in NEEDS.values():
        if count := sum(f"{NOT_RUN} {thing}" in reason for reason in skipped):
            terminalreporter.section("NOT TESTED", red=True, bold=True)
            terminalreporter.line(f"Tests {NOT_RUN} {thing}: {count}", red=True)


def _migrate(url: str) -> None:
    database = Database(url)
    database.upgrade()
    database.close()


def _missing(thing: str, error: Exception) -> NoReturn:
    """Skip the test, or fail it where `thing` must be there."""
    if is_required(thing):
        pytest.fail(f"{NEEDS[thing]} is required here: {error}", pytrace=False)
    pytest.skip(f"{NOT_RUN} {NEEDS[thing]}: {error}")
