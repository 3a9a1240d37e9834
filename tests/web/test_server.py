"""The site in a thread of its own."""

from __future__ import annotations

import logging
import socket
import time
from http.client import HTTPConnection
from typing import TYPE_CHECKING

import pytest

from newsletter.errors import SettingsError
from newsletter.web.app import create_app
from newsletter.web.server import SiteThread, silence_access_log

if TYPE_CHECKING:
    from newsletter.bootstrap import App


def ask(port: int, path: str) -> tuple[int, dict[str, str]]:
    deadline = time.monotonic() + 10
    while True:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders())
        except ConnectionError:
            assert time.monotonic() < deadline
        finally:
            connection.close()


def test_it_answers_until_it_is_stopped(app: App) -> None:
    site = SiteThread(create_app(app), host="127.0.0.1", port=0)
    site.start()
    port = site.port
    status, headers = ask(port, "/healthz")
    assert (status, site.is_alive()) == (200, True)
    assert "server" not in headers
    site.stop()
    assert not site.is_alive()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def test_an_address_that_is_taken_is_refused_with_a_remedy(app: App) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"127\.0\.0\.1:{port}.*--port"):
            SiteThread(create_app(app), host="127.0.0.1", port=port)


def test_a_site_that_never_started_can_be_stopped(app: App) -> None:
    site = SiteThread(create_app(app), host="127.0.0.1", port=0)
    site.stop()
    assert not site.is_alive()


def test_the_access_log_stays_silent_whoever_listens(caplog: pytest.LogCaptureFixture) -> None:
    """A handler that somebody adds later must not make it speak: its lines hold readers' tokens."""
    silence_access_log()
    logger = logging.getLogger("uvicorn.access")
    logger.addHandler(caplog.handler)
    logger.warning("GET /preferences/token")
    logger.removeHandler(caplog.handler)
    assert caplog.records == []
