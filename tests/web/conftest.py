"""The real site on a database of its own, with the shipped content published."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from starlette.testclient import TestClient

from newsletter.bootstrap import App, open_app, publish_first
from newsletter.clock import FixedClock
from newsletter.settings import Settings
from newsletter.web.app import create_app
from tests.support import once

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW = datetime(2026, 11, 23, 11, 0, tzinfo=UTC)  # a Monday noon in Berlin


def open_site(folder: Path, clock: FixedClock) -> App:
    """The program on the SQLite file in `folder`."""
    settings = Settings(
        database_url=f"sqlite:///{folder / 'newsletter.db'}",
        mail_url=f"maildir:{folder / 'mail'}",
        timezone="Europe/London",
        NEWSLETTER_FROM="Letters <letters@example.org>",
    )
    return open_app(settings, clock=clock)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the shipped content, made once and copied for each test."""
    folder = tmp_path_factory.mktemp("published")
    app = open_site(folder, FixedClock(NOW))
    app.database.upgrade()
    with once.letters_checked_once(), once.templates_compiled_once():
        publish_first(app)
    app.close()
    return folder / "newsletter.db"


@pytest.fixture
def clock() -> FixedClock:
    """Business time; a test moves it with `set`."""
    return FixedClock(NOW)


@pytest.fixture
def app(tmp_path: Path, published: Path, clock: FixedClock) -> Iterator[App]:
    """The program, with nobody subscribed yet."""
    shutil.copy(published, tmp_path / "newsletter.db")
    app = open_site(tmp_path, clock)
    yield app
    app.close()


@pytest.fixture
def client(app: App) -> Iterator[TestClient]:
    """A client of the real site."""
    with TestClient(create_app(app)) as client:
        yield client


@pytest.fixture
def empty_client(tmp_path: Path, clock: FixedClock) -> Iterator[TestClient]:
    """A client of a site on which nothing was published yet."""
    app = open_site(tmp_path, clock)
    app.database.upgrade()
    with TestClient(create_app(app)) as client:
        yield client
    app.close()
