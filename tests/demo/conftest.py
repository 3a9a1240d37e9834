"""A small newsletter with a clock that the test moves, and no scheduler: the test works its worker by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
import structlog

from newsletter.bootstrap import App, open_app, publish_first
from newsletter.clock import FixedClock
from newsletter.service.subscribing import SignUp
from newsletter.settings import Settings
from tests.support import once

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)  # a Monday
LETTER = """---
subject: A letter about very little, {number}
preheader: It says next to nothing, and it says it in one line.
affirmation: none
related: none
---
Hello,

This is all.
"""


@pytest.fixture(scope="module", autouse=True)
def _done_once() -> Iterator[None]:
    """Templates and letters that are the same are compiled and checked once."""
    with once.templates_compiled_once(), once.letters_checked_once():
        yield


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """The demo sets up logging as a program does; the tests after it want their own back."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture
def content(tmp_path: Path) -> Path:
    """A content folder with one series of two letters."""
    folder = tmp_path / "content"
    series = folder / "sequences" / "short"
    series.mkdir(parents=True)
    (series / "sequence.yaml").write_text("title: Two short letters\nstart: first_slot\n")
    for number in (1, 2):
        (series / f"0{number}-letter-{number}.md").write_text(LETTER.format(number=number))
    return folder


@pytest.fixture
def clock() -> FixedClock:
    """Business time."""
    return FixedClock(NOW)


@pytest.fixture
def app(tmp_path: Path, content: Path, clock: FixedClock) -> Iterator[App]:
    """The program, with the small content published."""
    settings = Settings(
        database_url=f"sqlite:///{tmp_path / 'newsletter.db'}",
        mail_url=f"maildir:{tmp_path / 'mail'}",
        content_dir=content,
        timezone="Europe/Dublin",
        smtp_connections=1,
    )
    app = open_app(settings, clock=clock)
    app.database.upgrade()
    publish_first(app)
    yield app
    app.close()


@pytest.fixture
def reader(app: App, clock: FixedClock) -> SignUp:
    """Somebody who gets the letters, the first on Thursday 26 November at 08:00."""
    signup = SignUp(email="somebody@example.org", timezone="Europe/Dublin")
    app.subscribing.add(signup, consent="a test, 2026-11-23", now=clock.now())
    return signup
