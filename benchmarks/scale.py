"""What large tables cost: planning and claiming, sending, and the first letter after a start."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from benchmarks import ceiling
from benchmarks.bench import in_short
from benchmarks.receiver import receiver
from newsletter.store import handovers

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from benchmarks.installation import Installation
    from newsletter.bootstrap import App

_LEAST = 10_000
_DUE = 1_000
_CLAIM_BATCH = 200
_WAITING = 100
"""Letters that wait for a worker to start."""

_WAIT_SECONDS = 60.0
_SECOND_STEP = 1


def measure(bench: Bench) -> None:
    """Each size of table in turn, on one database after the other."""
    sizes = sorted({_LEAST, max(_LEAST, bench.rows // 10), max(_LEAST, bench.rows)})
    for database in ("sqlite", "postgres"):
        _measure_on(bench, database, sizes)
    least, most = in_short(sizes[0]), in_short(sizes[-1])
    claim, start, history = [], [], []
    for database in ("sqlite", "postgres"):
        cost = {size: bench.figures.median(f"plan_claim_ms.{database}.{size}") for size in (least, most)}
        bench.figures.derive(f"claim_cost_{most}.{database}", cost[most] / cost[least])
        claim.append(cost[most] / cost[least])
        start.append(bench.figures.median(f"start_seconds.{database}.{most}"))
        rate = {kind: bench.figures.median(f"history_per_second.{database}.{kind}") for kind in ("few", "none", most)}
        bench.figures.derive(f"throughput_{most}_history.{database}", rate[most] / rate["none"])
        bench.figures.derive(f"throughput_{most}_readers_and_history.{database}", rate[most] / rate["few"])
        history.append(rate[most] / rate["none"])
    # The limits hold for both databases.
    bench.figures.derive(f"claim_cost_{most}_vs_{least}", max(claim))
    bench.figures.derive(f"throughput_{most}_history_vs_none", min(history))
    bench.figures.derive(f"start_seconds_{most}", max(start))


def _measure_on(bench: Bench, database: str, sizes: list[int]) -> None:
    sqlite = database == "sqlite"
    installed = {size: _installed(bench, readers=size, received=True, sqlite=sqlite) for size in sizes}
    largest = installed[sizes[-1]]
    # The same readers without a letter so far; and as few of them as get one now.
    fresh = _installed(bench, readers=sizes[-1], received=False, sqlite=sqlite)
    few = _installed(bench, readers=bench.letters * (bench.runs + 1), received=False, sqlite=sqlite)
    for turn in range(bench.runs):
        for size, installation in installed.items():
            planned, claimed = _plan_and_claim(installation, turn=turn)
            bench.figures.add(f"plan_ms.{database}.{in_short(size)}", planned * 1e3)
            bench.figures.add(f"claim_ms.{database}.{in_short(size)}", claimed * 1e3)
            bench.figures.add(f"plan_claim_ms.{database}.{in_short(size)}", (planned + claimed) * 1e3)
        with ceiling.sink() as port:
            for name, installation in (("few", few), ("none", fresh), (in_short(sizes[-1]), largest)):
                rate = _send(installation, bench.letters, port=port, turn=turn)
                bench.figures.add(f"history_per_second.{database}.{name}", rate)
        for size in (sizes[0], sizes[-1]):
            # Others than those to whom a letter was just sent.
            seconds = _start(installed[size], turn=bench.runs + turn)
            bench.figures.add(f"start_seconds.{database}.{in_short(size)}", seconds)
    for installation in (*installed.values(), fresh, few):
        bench.remove(installation)


def _installed(bench: Bench, *, readers: int, received: bool, sqlite: bool) -> Installation:
    installation = bench.install(sqlite=sqlite)
    installation.rows.fill(readers, received=received)
    return installation


def _plan_and_claim(installation: Installation, *, turn: int) -> tuple[float, float]:
    """Seconds for each, as the services of a worker do it."""
    installation.rows.make_due(_DUE, turn=turn)
    with installation.opened() as app:
        now = datetime.now(UTC)
        app.rescuing.enrol("bench", host="bench")
        # What every process does once, it has done.
        app.publishing.live()
        began = time.perf_counter()
        planned = app.planning.plan_due(now=now)
        between = time.perf_counter()
        claimed = _claim_all(app, now=now)
        ended = time.perf_counter()
        if (planned, claimed) != (_DUE, _DUE):
            message = f"Of {_DUE} letters {planned} were planned and {claimed} claimed."
            raise RuntimeError(message)
        installation.rows.forget_claimed()
        app.rescuing.retire("bench")
    return between - began, ended - between


def _claim_all(app: App, *, now: datetime) -> int:
    claimed = 0
    while True:
        with app.database.write() as connection:
            found = handovers.claim_due(connection, owner="bench", letters=True, now=now, limit=_CLAIM_BATCH)
        claimed += len(found)
        if not found:
            return claimed


def _send(installation: Installation, letters: int, *, port: int, turn: int) -> float:
    """Letters a second: each is its reader's second, whether or not the first is a row of the ledger."""
    installation.deliver_to(port)
    installation.rows.plan(letters, step=_SECOND_STEP, turn=turn)
    rate = installation.drain()
    if rate.letters != letters:
        message = f"{rate.letters} of {letters} letters were sent."
        raise RuntimeError(message)
    return rate.per_second


def _start(installation: Installation, *, turn: int) -> float:
    """Seconds from the start of a worker's process to the first of some due letters, by the receiver's clock."""
    installation.rows.plan(_WAITING, step=_SECOND_STEP + 1, turn=turn)
    with receiver() as server:
        installation.deliver_to(server.port)
        began = time.monotonic()
        worker = installation.start_worker()
        try:
            notes = server.wait_for(_WAITING, seconds=_WAIT_SECONDS)
        finally:
            worker.end()
    if not notes.accepted:
        message = "No letter arrived."
        raise RuntimeError(message)
    return notes.first_at - began
