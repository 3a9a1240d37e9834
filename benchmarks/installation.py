"""An installation with as many letters due as are asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from sqlalchemy import create_engine, func, insert, select

from newsletter.bootstrap import open_app, publish_first
from newsletter.settings import load_settings
from newsletter.store import tables
from newsletter.store.types import ordered_id

if TYPE_CHECKING:
    from collections.abc import Iterator

SEQUENCE = "trust"
_CHUNK = 5_000


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


class Installation:
    """A database and a folder of its own.

    Args:
        settings: more of them, by name as in the environment without the prefix.
    """

    def __init__(self, folder: Path, database_url: str, mail_url: str, **settings: str) -> None:
        self.folder = folder
        self.database_url = database_url
        self.environment = {
            "NEWSLETTER_DATABASE_URL": database_url,
            "NEWSLETTER_MAIL_URL": mail_url,
            "NEWSLETTER_FROM": "Letters <letters@example.com>",
            "NEWSLETTER_BASE_URL": "http://127.0.0.1:8000",
            "NEWSLETTER_SECRET_KEY": "a key for benchmarks that is long enough",
            "NEWSLETTER_LOG_FORMAT": "json",
            **{f"NEWSLETTER_{name}": value for name, value in settings.items()},
        }
        self._prepare()

    def _prepare(self) -> None:
        os.environ.update(self.environment)
        try:
            app = open_app(load_settings(env_file=self.folder / "none"))
            app.database.upgrade()
            publish_first(app)
            edition = app.publishing.live()
            app.close()
        finally:
            for name in self.environment:
                del os.environ[name]
        if edition is None:
            message = "Nothing was published."
            raise RuntimeError(message)
        sequence = edition.revision.sequence(SEQUENCE)
        if sequence is None:
            message = f"There is no sequence {SEQUENCE}."
            raise RuntimeError(message)
        self._step = sequence.steps[0].identity

    def add_due(self, number: int) -> None:
        """Add so many readers, each with a first letter that is planned and due."""
        engine = create_engine(_with_driver(self.database_url))
        for chunk in _chunks(number):
            readers, records, letters = zip(*(self._one() for _ in range(chunk)), strict=True)
            with engine.begin() as connection:
                connection.execute(insert(tables.subscriber), list(readers))
                connection.execute(insert(tables.subscription), list(records))
                connection.execute(insert(tables.delivery), list(letters))
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ANALYZE")
        engine.dispose()

    def _one(self) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        now = datetime.now(UTC)
        reader, record = uuid4(), ordered_id()
        address = f"reader-{reader.hex}@example.net"
        due = now - timedelta(minutes=1)
        return (
            {
                "id": reader, "address": address, "address_key": address, "timezone": "Europe/Berlin",
                "weekday": 3, "at": "08:00", "country": None, "discreet": False, "created_at": now,
            },
            {
                "id": record, "subscriber_id": reader, "sequence_key": SEQUENCE, "state": "active", "round": 1,
                "seen_revision": 1, "created_at": now, "confirmed_at": now,
            },
            {
                "id": ordered_id(), "kind": "letter", "dedup_key": f"letter:{record}:1:{self._step}",
                "subscriber_id": reader, "subscription_id": record, "sequence_key": SEQUENCE, "round": 1,
                "step": self._step, "state": "planned", "due_at": due, "next_try_at": due, "created_at": now,
            },
        )  # fmt: skip

    def drain(self, *, workers: int = 1) -> Rate:
        """Let workers send all that is due, and say how quickly they did."""
        before = self._sent()[0]
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "newsletter", "worker", "--drain"],
                env={**os.environ, **self.environment},
                cwd=self.folder,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for _ in range(workers)
        ]
        cpu_seconds, peak_rss_mb = 0.0, 0.0
        for process in started:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode != 0:
                message = f"A worker ended with {process.returncode}."
                raise RuntimeError(message)
            cpu_seconds += usage.ru_utime + usage.ru_stime
            peak_rss_mb = max(peak_rss_mb, usage.ru_maxrss / 1024)
        letters, seconds = self._sent()
        return Rate(letters - before, seconds, cpu_seconds, peak_rss_mb)

    def _sent(self) -> tuple[int, float]:
        engine = create_engine(_with_driver(self.database_url))
        sent = select(func.count(), func.min(tables.delivery.c.sent_at), func.max(tables.delivery.c.sent_at))
        with engine.connect() as connection:
            count, first, last = connection.execute(sent.where(tables.delivery.c.state == "sent")).one()
        engine.dispose()
        return count, (last - first).total_seconds() if count else 0.0


def _chunks(number: int) -> Iterator[int]:
    while number > 0:
        yield min(number, _CHUNK)
        number -= _CHUNK


def _with_driver(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://", 1)
