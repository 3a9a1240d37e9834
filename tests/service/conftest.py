"""A house on both engines, with a real mail server beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support import once
from tests.support.building import House
from tests.support.smtp_server import SmtpServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


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
