"""What every family of measurements works with: options, installations, and the figures that come out."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks.installation import Installation
from tests.support.postgres import open_server

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CONNECTIONS = 100
"""To the mail server, for each worker, wherever nothing else is said."""

_AS_OPERATED = {
    # The tests' server does without these three; a promise that a power cut breaks is none, and costs nothing.
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    # What the guide of PostgreSQL asks of everybody, for a machine of this size.
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
}


class Figures:
    """Whatever was measured, by dotted name; each figure the median of its runs."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, name: str, value: float) -> None:
        """One run's value."""
        self._values.setdefault(name, []).append(value)

    def derive(self, name: str, value: float) -> None:
        """A figure made of other figures' medians."""
        self._values[name] = [value]

    def median(self, name: str) -> float:
        """The median of all runs."""
        return statistics.median(self._values[name])

    def medians(self) -> dict[str, float]:
        """All of them."""
        return {name: statistics.median(values) for name, values in self._values.items()}

    def spread(self) -> dict[str, list[float]]:
        """The least and the most of what was measured more than once."""
        return {name: [min(values), max(values)] for name, values in self._values.items() if len(values) > 1}


@dataclass
class Bench:
    """One run of the benchmarks.

    Attributes:
        letters: sent in each run of a throughput.
        runs: of which the median counts.
        rows: the size of the largest table.
    """

    folder: Path
    letters: int
    runs: int
    rows: int
    figures: Figures = field(default_factory=Figures)

    def __post_init__(self) -> None:
        """Start the database server, set up as an operator would."""
        self._postgres = open_server(settings=_AS_OPERATED)
        self._count = 0

    def close(self) -> None:
        """End the database server."""
        self._postgres.close()

    def install(
        self, *, sqlite: bool, port: int = 25, connections: int = CONNECTIONS, settings: Mapping[str, str] | None = None
    ) -> Installation:
        """A new installation with a database of its own.

        Args:
            port: of the mail server on this machine.
            settings: more of them, by name as in the environment without the prefix.
        """
        self._count += 1
        folder = self.folder / f"installation-{self._count}"
        folder.mkdir()
        url = f"sqlite:///{folder / 'newsletter.db'}" if sqlite else self._postgres.create_database()
        return Installation(folder, url, port=port, SMTP_CONNECTIONS=str(connections), **(settings or {}))

    def remove(self, installation: Installation) -> None:
        """Free what an installation took of the disk."""
        if installation.is_sqlite:
            for path in installation.folder.glob("newsletter.db*"):
                path.unlink()
        else:
            self._postgres.drop_database(installation.database_url)


def in_short(number: int) -> str:
    """`10m` for ten million, `10k` for ten thousand."""
    for size, letter in ((1_000_000, "m"), (1_000, "k")):
        if number >= size and number % size == 0:
            return f"{number // size}{letter}"
    return str(number)
