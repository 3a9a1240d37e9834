"""What a mail server costs that is far away: each of its replies takes 50 to 200 ms."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from benchmarks.receiver import receiver

if TYPE_CHECKING:
    from benchmarks.bench import Bench

_LETTERS = 1_000
_CONNECTIONS = 500
"""What an operator would set for such a server, and the most that can be: the first letter of a connection waits for
four replies of 125 ms in the mean (the greeting, EHLO, the envelope, the letter), each further one for one."""

_DELAYS = {"near": (0.0, 0.0), "far": (0.05, 0.2)}
_DUE_IN = timedelta(seconds=5)
"""By then the worker has started and has nothing to do."""

_WAIT_SECONDS = 60.0


def measure(bench: Bench) -> None:
    """A thousand letters that are due at once, on as many connections to a server that is near and one that is far."""
    for database in ("sqlite", "postgres"):
        for _ in range(bench.runs):
            for name, delay in _DELAYS.items():
                since_due, since_opened = _rates(bench, sqlite=database == "sqlite", delay=delay)
                bench.figures.add(f"latency_per_second.{name}.{database}", since_due)
                bench.figures.add(f"latency_conversing_per_second.{name}.{database}", since_opened)
        for kind in ("", "conversing_"):
            near, far = (bench.figures.median(f"latency_{kind}per_second.{name}.{database}") for name in _DELAYS)
            bench.figures.derive(f"latency_{kind}rate_vs_zero.{database}", far / near)


def _rates(bench: Bench, *, sqlite: bool, delay: tuple[float, float]) -> tuple[float, float]:
    """Letters a second until the last acceptance, by a worker that was idle.

    Returns:
        From the instant at which all are due, with the tick and the planning that follow; and from the worker's
        first connection.
    """
    with receiver(delay=delay) as server:
        installation = bench.install(sqlite=sqlite, port=server.port, connections=_CONNECTIONS)
        installation.rows.fill(_LETTERS)
        worker = installation.start_worker()
        try:
            installation.rows.make_due(_LETTERS, at=datetime.now(UTC) + _DUE_IN)
            due_at = time.monotonic() + _DUE_IN.total_seconds()
            notes = server.wait_for(_LETTERS, seconds=_WAIT_SECONDS)
        finally:
            worker.end()
        bench.remove(installation)
    if notes.accepted != _LETTERS:
        message = f"{notes.accepted} of {_LETTERS} letters arrived."
        raise RuntimeError(message)
    return notes.accepted / (notes.last_at - due_at), notes.accepted / (notes.last_at - notes.opened_at)
