"""A mail server for the tests of this room.

It offers what a module names in `OFFERS` besides the usual extensions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.mail.contract import build_mailer
from tests.support.smtp_server import EXTENSIONS, SmtpServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from newsletter.mail.smtp import SmtpMailer


@pytest.fixture
def smtp_server(request: pytest.FixtureRequest) -> Iterator[SmtpServer]:
    """A well-behaved server without TLS on loopback, until a test scripts it."""
    with SmtpServer(extensions=_offered(request)) as server:
        yield server


@pytest.fixture(scope="module")
def kept_server(request: pytest.FixtureRequest) -> Iterator[SmtpServer]:
    """One for many examples."""
    with SmtpServer(extensions=_offered(request)) as server:
        yield server


@pytest.fixture
def mailer(smtp_server: SmtpServer) -> Iterator[SmtpMailer]:
    """In conversation with the server."""
    mailer = build_mailer(smtp_server)
    mailer.open()
    yield mailer
    mailer.close()


def _offered(request: pytest.FixtureRequest) -> list[str]:
    return [*EXTENSIONS, *getattr(request.module, "OFFERS", ())]
