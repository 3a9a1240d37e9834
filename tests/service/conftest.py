"""A house on both engines, with a real mail server beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.building import House
from tests.support.smtp_server import SmtpServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def post() -> Iterator[SmtpServer]:
    """The mail server, which takes everything until it is told otherwise."""
    with SmtpServer() as server:
        yield server


@pytest.fixture
def open_house(migrated_url: str, tmp_path: Path, post: SmtpServer) -> Iterator[Callable[..., House]]:
    """Opens the program on this test's database, with other settings than usual; again for a second process."""
    opened: list[House] = []

    def open_it(**settings: Any) -> House:  # noqa: ANN401  (any setting)
        opened.append(House(migrated_url, tmp_path, post=post, **settings))
        return opened[-1]

    yield open_it
    for house in opened:
        house.close()


@pytest.fixture
def house(open_house: Callable[..., House]) -> House:
    """The program on this test's database, with nothing published and nobody subscribed."""
    return open_house()
