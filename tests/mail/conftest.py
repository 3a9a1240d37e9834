"""A mail server for the tests of this room."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.smtp_server import SmtpServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def smtp_server() -> Iterator[SmtpServer]:
    """A well-behaved server without TLS on loopback, until a test scripts it."""
    with SmtpServer() as server:
        yield server
