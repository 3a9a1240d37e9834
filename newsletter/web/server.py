"""Serves the site with uvicorn, so that no log ever holds a path: paths hold readers' tokens."""

from __future__ import annotations

import logging
import socket
from threading import Thread

import uvicorn
from fastapi import FastAPI

from newsletter.errors import SettingsError


def make_server(application: FastAPI, *, host: str, port: int) -> uvicorn.Server:
    """A server that is ready to `run()` until its `should_exit` is set; port 0 takes a free one."""
    config = uvicorn.Config(
        application, host=host, port=port, log_level="warning", access_log=False, server_header=False
    )
    silence_access_log()
    return uvicorn.Server(config)


def silence_access_log() -> None:
    """Drop every line of uvicorn's access log, whatever handlers anybody gives it.

    `access_log=False` alone only takes its handlers away: the log speaks again with the next one it is given.
    """
    logging.getLogger("uvicorn.access").addFilter(_nothing)


def _nothing(_record: logging.LogRecord) -> bool:
    return False


class SiteThread:
    """The site, served in a thread of its own.

    Args:
        port: 0 takes a free one.

    Raises:
        SettingsError: the address cannot be listened on.
    """

    def __init__(self, application: FastAPI, *, host: str, port: int) -> None:
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, port), family=family, backlog=128)
        except OSError as error:
            message = f"Cannot serve on {host}:{port}: {error.strerror}. Choose another with --host or --port."
            raise SettingsError(message) from error
        self._server = make_server(application, host=host, port=port)
        self._thread = Thread(target=self._server.run, args=([self._socket],), name="site", daemon=True)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def is_alive(self) -> bool:
        """Whether it still answers."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Answer what was asked, and end."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        self._socket.close()
