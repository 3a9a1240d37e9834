"""What the demo needs, real and in a temporary folder: database, maildir, content, scheduler and site."""

from __future__ import annotations

import errno
import logging
import secrets
import shutil
import socket
import tempfile
import time
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import uvicorn
from pydantic import SecretStr

from newsletter import resources
from newsletter.bootstrap import App, configure_logging, open_app, prepare_to_send
from newsletter.errors import NewsletterError
from newsletter.scheduler import Scheduler
from newsletter.settings import Settings
from newsletter.web.server import silence_access_log

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp

    from newsletter.clock import FixedClock

HOST = "127.0.0.1"
USUAL_PORT = 8000
TICK = timedelta(milliseconds=200)
"""How often the scheduler looks: five times a second, since the demo's weeks pass in seconds."""

_BEGINS_WITHIN_SECONDS = 15.0
_HANGS_UP_WITHIN_SECONDS = 2


def listen(port: int | None) -> socket.socket:
    """A listening socket of this machine: on `port`, else on the usual one, else on a free one.

    Raises:
        NewsletterError: `port` is taken, or not for this user.
    """
    try:
        return _listen(USUAL_PORT if port is None else port)
    except OSError as error:
        if port is None:
            return _listen(0)
        if error.errno == errno.EADDRINUSE:
            message = f"Port {port} is taken. Choose another with --port, or leave it away for a free one."
        else:
            message = f"Port {port} cannot be used ({error.strerror}). Choose another with --port."
        raise NewsletterError(message) from error


@contextmanager
def open_stage(folder: Path, clock: FixedClock, *, base_url: str) -> Iterator[App]:
    """The program, wired for the demo, with a scheduler at work. Nothing outside of `folder` is touched.

    Raises:
        NewsletterError: it cannot be set up.
    """
    # A shipped folder may be read-only; its copy is the operator's to change.
    shutil.copytree(resources.content_dir(), folder / "content", copy_function=shutil.copyfile)
    with ExitStack() as stack:
        app = open_app(_settings(folder, base_url=base_url), clock=clock)
        stack.callback(app.close)
        app.database.upgrade()
        prepare_to_send(app)
        scheduler = Scheduler(app, tick=TICK)
        # Before the start, so that one that fails half-way is wound up, too.
        stack.callback(scheduler.shut_down)
        scheduler.start()
        yield app


@contextmanager
def serve(application: ASGIApp, listener: socket.socket) -> Iterator[None]:
    """Serve the site in a thread until the block ends.

    Raises:
        NewsletterError: it does not start.
    """
    # `make_server` binds its own port; the demo has one already, whose number stands in its settings.
    config = uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_HANGS_UP_WITHIN_SECONDS,
    )
    silence_access_log()
    server = uvicorn.Server(config)
    thread = Thread(target=server.run, kwargs={"sockets": [listener]}, name="demo-site")
    thread.start()
    try:
        began = time.monotonic()
        while not server.started:
            if not thread.is_alive() or time.monotonic() - began > _BEGINS_WITHIN_SECONDS:
                message = "The site of the demo did not start."
                raise NewsletterError(message)
            time.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for one demo, gone when the block ends."""
    with tempfile.TemporaryDirectory(prefix="newsletter-demo-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def be_quiet() -> None:
    """Only warnings, so that log lines do not break into the story."""
    configure_logging(json=False, log_all=False)
    logging.getLogger("uvicorn").setLevel(logging.ERROR)


def maildir(folder: Path) -> Path:
    """Where the demo's mail arrives."""
    return folder / "mail"


def _settings(folder: Path, *, base_url: str) -> Settings:
    """Settings of the demo's own: neither the environment nor a `.env` has a say."""
    values = {
        "database_url": f"sqlite:///{folder / 'newsletter.db'}",
        "mail_url": SecretStr(f"maildir:{maildir(folder)}"),
        "base_url": base_url,
        "secret_key": [SecretStr(secrets.token_hex(32))],
        "NEWSLETTER_FROM": "Weekly letters <letters@example.org>",
        "postal_address": "The weekly letters, 1 Example Street, Dublin",
        "content_dir": folder / "content",
        "timezone": "Europe/Dublin",
        "smtp_connections": 1,
    }
    return Settings.model_validate(values)


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener
