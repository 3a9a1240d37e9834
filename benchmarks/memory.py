"""How much memory a worker takes while a million letters are due."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.bench import in_short
from benchmarks.receiver import receiver

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from benchmarks.installation import Installation

_FEW = 10_000
_MANY = 1_000_000
_WAIT_SECONDS = 180.0


def measure(bench: Bench) -> None:
    """The peak of a worker that plans and sends, up to the same letter while few and while many are due."""
    many = max(_FEW, min(_MANY, bench.rows))
    letters = min(bench.letters, _FEW // 2)
    for database in ("sqlite", "postgres"):
        large = _installed(bench, sqlite=database == "sqlite", due=many)
        for _ in range(bench.runs):
            small = _installed(bench, sqlite=database == "sqlite", due=_FEW)
            for installation, due in ((small, _FEW), (large, many)):
                peak, per_second = _peak(installation, letters)
                bench.figures.add(f"rss_mb_due.{database}.{in_short(due)}", peak)
                bench.figures.add(f"planning_and_sending_per_second.{database}.{in_short(due)}", per_second)
            bench.remove(small)
        bench.remove(large)
    few, most = (
        max(bench.figures.median(f"rss_mb_due.{database}.{in_short(due)}") for database in ("sqlite", "postgres"))
        for due in (_FEW, many)
    )
    bench.figures.derive(f"rss_mb_{in_short(many)}_due", most)
    bench.figures.derive(f"rss_{in_short(many)}_due_vs_{in_short(_FEW)}", most / few)


def _installed(bench: Bench, *, sqlite: bool, due: int) -> Installation:
    installation = bench.install(sqlite=sqlite)
    installation.rows.fill(due, due=True)
    return installation


def _peak(installation: Installation, letters: int) -> tuple[float, float]:
    """The most memory by then, and letters a second since the first."""
    with receiver() as server:
        installation.deliver_to(server.port)
        worker = installation.start_worker()
        try:
            notes = server.wait_for(letters, seconds=_WAIT_SECONDS)
        finally:
            worker.end()
    return worker.peak_rss_mb, notes.accepted / max(notes.last_at - notes.first_at, 1e-3)
