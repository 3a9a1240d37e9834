"""`make bench`: the same work by us and by others, side by side in one run."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from benchmarks import ceiling
from benchmarks.installation import Installation
from tests.support.postgres import open_server

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
CONNECTIONS = "30"


def main() -> None:
    """Measure, print, and write `latest.json`."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--letters", type=int, default=10_000, help="due in each run")
    parser.add_argument("--runs", type=int, default=3, help="of which the median counts")
    parser.add_argument("--only", help="measure only what has this in its name")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ceiling.sink() as port:
        bench = Bench(Path(folder), port, arguments.letters)
        found: dict[str, list[float]] = {}
        rest: dict[str, float] = {}
        # In turns, so that whatever else the machine does falls on all of them.
        for _ in range(arguments.runs):
            for name, measure in bench.measures().items():
                if arguments.only and arguments.only not in name and name != "ceiling":
                    continue
                found.setdefault(name, []).append(measure())
        rest |= bench.beside
        bench.close()
    report({name: statistics.median(values) for name, values in found.items()}, rest)


class Bench:
    """Everything that is measured, by name."""

    def __init__(self, folder: Path, port: int, letters: int) -> None:
        self._folder = folder
        self._port = port
        self._letters = letters
        self._postgres = open_server()
        self._count = 0
        self.beside: dict[str, float] = {}
        self._message = folder / "letter.eml"

    def close(self) -> None:
        """End the database server."""
        self._postgres.close()

    def measures(self) -> dict[str, Callable[[], float]]:
        """Messages a second, by name."""
        return {
            "ceiling": lambda: ceiling.smtp_source(self._port, self._a_message(), number=self._letters),
            "smtplib": lambda: ceiling.smtplib_loop(self._port, self._a_message(), number=self._letters // 5),
            "sqlite_1": lambda: self._drain("sqlite_1", sqlite=True, workers=1),
            "postgres_1": lambda: self._drain("postgres_1", sqlite=False, workers=1),
            "postgres_2": lambda: self._drain("postgres_2", sqlite=False, workers=2),
        }

    def _drain(self, name: str, *, sqlite: bool, workers: int) -> float:
        self._count += 1
        folder = self._folder / f"run-{self._count}"
        folder.mkdir()
        url = f"sqlite:///{folder / 'newsletter.db'}" if sqlite else self._postgres.create_database()
        installation = Installation(folder, url, f"smtp://127.0.0.1:{self._port}", SMTP_CONNECTIONS=CONNECTIONS)
        installation.add_due(self._letters)
        rate = installation.drain(workers=workers)
        if rate.letters != self._letters:
            message = f"{rate.letters} of {self._letters} letters were sent."
            raise RuntimeError(message)
        self.beside[f"{name}_cpu_us_per_letter"] = round(rate.cpu_seconds / rate.letters * 1e6, 1)
        self.beside[f"{name}_rss_mb"] = round(rate.peak_rss_mb, 1)
        if not sqlite:
            self._postgres.drop_database(url)
        return rate.per_second

    def _a_message(self) -> Path:
        """A message of about the size of our letters, with bare LF as smtp-source wants it."""
        if not self._message.exists():
            head = "From: Letters <letters@example.com>\nTo: reader@example.net\nSubject: A letter\n\n"
            self._message.write_text(head + ("x" * 75 + "\n") * 210)
        return self._message


def report(medians: dict[str, float], beside: dict[str, float]) -> None:
    """Print a table, and write everything down."""
    top = medians["ceiling"]
    table = Table(box=None, pad_edge=False)
    for heading in ("what", "letters a second", "÷ smtp-source"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for name, value in medians.items():
        table.add_row(name, f"{value:,.0f}", f"{value / top:.2f}")
    console = Console()
    console.print(table)
    for name, value in beside.items():
        console.print(f"{name}: {value}")
    written = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "per_second": {name: round(value) for name, value in medians.items()},
        "ratio": {
            **{name: round(value / top, 3) for name, value in medians.items() if name not in ("ceiling", "smtplib")},
            **(
                {"vs_smtplib": round(medians["sqlite_1"] / medians["smtplib"], 2)}
                if {"sqlite_1", "smtplib"} <= medians.keys()
                else {}
            ),
        },
        **beside,
    }
    (HERE / "latest.json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
