"""What a mail server costs that is far away: each of its replies takes 50 to 200 ms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.receiver import receiver

if TYPE_CHECKING:
    from benchmarks.bench import Bench

_LETTERS = 1_000
_CONNECTIONS = 500
"""What an operator would set for such a server, and the most that can be: the first letter of a connection waits for
four replies of 125 ms in the mean (the greeting, EHLO, the envelope, the letter), each further one for one."""

_DELAYS = {"near": (0.0, 0.0), "far": (0.05, 0.2)}


def measure(bench: Bench) -> None:
    """A thousand letters that are due at once, on as many connections to a server that is near and one that is far."""
    for database in ("sqlite", "postgres"):
        for _ in range(bench.runs):
            for name, delay in _DELAYS.items():
                rate = _rate(bench, sqlite=database == "sqlite", delay=delay)
                bench.figures.add(f"latency_per_second.{name}.{database}", rate)
        near, far = (bench.figures.median(f"latency_per_second.{name}.{database}") for name in ("near", "far"))
        bench.figures.derive(f"latency_rate_vs_zero.{database}", far / near)


def _rate(bench: Bench, *, sqlite: bool, delay: tuple[float, float]) -> float:
    """Letters a second, from the first connection to the last acceptance, by the receiver's clock."""
    with receiver(delay=delay) as server:
        installation = bench.install(sqlite=sqlite, port=server.port, connections=_CONNECTIONS)
        installation.rows.fill(_LETTERS)
        installation.rows.plan(_LETTERS)
        installation.drain()
        notes = server.notes()
        bench.remove(installation)
    if notes.accepted != _LETTERS:
        message = f"{notes.accepted} of {_LETTERS} letters arrived."
        raise RuntimeError(message)
    return notes.accepted / (notes.last_at - notes.opened_at)
