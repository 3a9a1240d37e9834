"""A house on both engines, with a real mail server beside it."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from newsletter.fibres import Hub
from newsletter.service import sending
from newsletter.service.desk import Desk
from newsletter.service.sending import Crew, Lane
from tests.support import once
from tests.support.building import House
from tests.support.smtp_server import SmtpServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LANES = 8


def crew_of(house: House, desk: Desk, hub: Hub, *, open_mailer: Callable[[], Any]) -> Crew:
    """So many lanes at a desk."""
    lanes = [Lane(desk, open_mailer=open_mailer, stop=house.stop, waiting=hub) for _ in range(LANES)]
    return Crew(desk, lanes, hub=hub)


@pytest.fixture(scope="module", autouse=True)
def _done_once() -> Iterator[None]:
    """Templates and letters that are the same are compiled and checked once."""
    with once.templates_compiled_once(), once.letters_checked_once():
        yield


@pytest.fixture
def open_house(migrated_url: str, tmp_path: Path, post: SmtpServer) -> Iterator[Callable[..., House]]:
    """Opens the program on this test's database, with other settings than usual; again for a second process."""
    opened: list[House] = []

    def open_it(**settings: Any) -> House:
        opened.append(House(migrated_url, tmp_path, post=post, **settings))
        return opened[-1]

    yield open_it
    for house in opened:
        house.close()


@pytest.fixture
def house(open_house: Callable[..., House]) -> House:
    """The program on this test's database, with nothing published and nobody subscribed."""
    return open_house()


@pytest.fixture
def hub() -> Hub:
    """Where the lanes of a crew run."""
    return Hub()


@pytest.fixture
def desk(house: House, hub: Hub) -> Desk:
    """The worker's desk for letters."""
    return Desk(house.app.office, worker=house.worker, letters=True, clock=house.clock, stop=house.stop, waiting=hub)


@pytest.fixture
def crew(house: House, desk: Desk, hub: Hub) -> Iterator[Crew]:
    """Lanes at one desk."""
    crew = crew_of(house, desk, hub, open_mailer=partial(house.app.open_mailer, waiting=hub))
    yield crew
    crew.close()


@pytest.fixture
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """No lane rests after a conversation that broke off, nor before the database is told again."""
    monkeypatch.setattr(sending, "_LONGEST_PAUSE", timedelta())
    monkeypatch.setattr(sending, "_RECORD_PAUSES_SECONDS", (0.0, 0.0, 0.0))
