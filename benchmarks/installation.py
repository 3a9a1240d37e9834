"""An installation with a database of its own, and the workers that serve it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.rows import Rows
from newsletter.bootstrap import App, open_app, publish_first
from newsletter.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOOK_EVERY_SECONDS = 0.05
_END_WITHIN_SECONDS = 60.0


@dataclass(frozen=True)
class Rate:
    """What a run came to.

    Attributes:
        letters: recorded as accepted.
        seconds: from the first record to the last.
        cpu_seconds: of all workers, start-up included.
        peak_rss_mb: of the largest worker.
    """

    letters: int
    seconds: float
    cpu_seconds: float
    peak_rss_mb: float

    @property
    def per_second(self) -> float:
        """Letters a second."""
        return self.letters / self.seconds


class Worker:
    """A worker's process.

    Attributes:
        peak_rss_mb: the most memory it had so far. The kernel's account of an ended child would not do: it begins
            with what the parent had when the child was made.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.peak_rss_mb = 0.0
        self.cpu_seconds = 0.0

    def has_ended(self) -> bool:
        """Whether it has; its memory is looked at.

        Raises:
            RuntimeError: it ended badly.
        """
        if self._process.returncode is not None:
            return True
        self._look()
        number, status, usage = os.wait4(self._process.pid, os.WNOHANG)
        if number == 0:
            return False
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self.cpu_seconds = usage.ru_utime + usage.ru_stime
        if self._process.returncode != 0:
            message = f"A worker ended with {self._process.returncode}."
            raise RuntimeError(message)
        return True

    def end(self) -> None:
        """Ask it to end, and wait until it has."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        give_up_at = time.monotonic() + _END_WITHIN_SECONDS
        while not self.has_ended():
            if time.monotonic() > give_up_at:
                self._process.kill()
            time.sleep(_LOOK_EVERY_SECONDS)

    def _look(self) -> None:
        try:
            lines = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii", errors="replace")
        except OSError:
            return
        for line in lines.splitlines():
            if line.startswith("VmHWM:"):
                self.peak_rss_mb = max(self.peak_rss_mb, int(line.split()[1]) / 1024)


class Installation:
    """A database and a folder of its own, with the shipped content published.

    Args:
        port: of the mail server on this machine.
        settings: more of them, by name as in the environment without the prefix.

    Attributes:
        steps: the identities of the sequence's steps.
        letter: its first letter, as it leaves.
    """

    sequence = "trust"

    def __init__(self, folder: Path, database_url: str, *, port: int, **settings: str) -> None:
        self.folder = folder
        self.database_url = database_url
        self.is_sqlite = database_url.startswith("sqlite")
        self.environment = {
            "NEWSLETTER_DATABASE_URL": database_url,
            "NEWSLETTER_MAIL_URL": f"smtp://127.0.0.1:{port}",
            "NEWSLETTER_FROM": "Letters <letters@example.com>",
            "NEWSLETTER_BASE_URL": "http://127.0.0.1:8000",
            "NEWSLETTER_SECRET_KEY": "a key for benchmarks that is long enough",
            "NEWSLETTER_LOG_FORMAT": "json",
            **{f"NEWSLETTER_{name}": value for name, value in settings.items()},
        }
        self.steps: list[str] = []
        self.letter = b""
        self._publish()
        self.rows = Rows(self)

    def deliver_to(self, port: int) -> None:
        """Use another mail server on this machine from now on."""
        self.environment["NEWSLETTER_MAIL_URL"] = f"smtp://127.0.0.1:{port}"

    @contextmanager
    def opened(self) -> Iterator[App]:
        """The wired program in this process."""
        before = dict(os.environ)
        os.environ.update(self.environment)
        try:
            settings = load_settings(env_file=self.folder / "none")
        finally:
            os.environ.clear()
            os.environ.update(before)
        app = open_app(settings)
        try:
            yield app
        finally:
            app.close()

    def _publish(self) -> None:
        with self.opened() as app:
            app.database.upgrade()
            publish_first(app)
            edition = app.publishing.live()
            sequence = None if edition is None else edition.revision.sequence(self.sequence)
            if edition is None or sequence is None:
                message = f"There is no sequence {self.sequence}."
                raise RuntimeError(message)
            self.steps = [step.identity for step in sequence.steps]
            letters = app.previewing.letters(
                edition.revision, sequence, country=None, discreet=False, now=datetime.now(UTC)
            )
            self.letter = next(letters).message

    def start_worker(self, *options: str) -> Worker:
        """A worker in a process of its own."""
        process = subprocess.Popen(
            [sys.executable, "-m", "newsletter", "worker", *options],
            env={**os.environ, **self.environment},
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return Worker(process)

    def drain(self, *, workers: int = 1) -> Rate:
        """Let workers send all that is due, and say how quickly they did."""
        began = datetime.now(UTC)
        started = [self.start_worker("--drain") for _ in range(workers)]
        while not all([worker.has_ended() for worker in started]):  # noqa: C419  (each of them is looked at)
            time.sleep(_LOOK_EVERY_SECONDS)
        count, first, last = self.rows.sent(since=began)
        return Rate(
            letters=count,
            seconds=(last - first).total_seconds() if first and last else 0.0,
            cpu_seconds=sum(worker.cpu_seconds for worker in started),
            peak_rss_mb=max(worker.peak_rss_mb for worker in started),
        )
