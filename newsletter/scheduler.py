"""The driver of one machine: APScheduler as a metronome, and nothing else.

It holds no truth: every tick calls a service that looks at the ledger. A tick too many changes nothing, a tick
too few is made up by the next one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from threading import Event, Thread

import structlog
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from newsletter.bootstrap import App
from newsletter.clock import SystemClock
from newsletter.worker import KEEP_HOUSE_EVERY, RESCUE_EVERY, SWEEP_EVERY, Worker, guarded

log = structlog.get_logger()

TICK = timedelta(seconds=1)
GIVE_UP_DRAINING_AFTER = timedelta(seconds=60)
SWEEP_WITHIN = timedelta(seconds=30)
"""A command that ends waits so long for whoever is in the way: where nobody else runs, nobody else sweeps."""
_DRAIN_PAUSE_SECONDS = 0.2


class Scheduler:
    """Calls the services of one worker at fixed intervals, in threads of its own.

    Args:
        tick: how often it plans and sends.
    """

    def __init__(self, app: App, *, tick: timedelta = TICK) -> None:
        self.worker = Worker(app)
        self._tick = tick
        jobs = len(self.worker.crews) + 4
        self._metronome = BackgroundScheduler(
            timezone="UTC",
            executors={"default": ThreadPoolExecutor(jobs)},
            # The default grace is one second: a busy second would silently skip a run.
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )

    def start(self) -> None:
        """Begin to tick."""
        self.worker.begin()
        self._every(self._tick, self.worker.plan, "plan")
        for number, crew in enumerate(self.worker.crews):
            self._every(self._tick, crew.send_due, f"send-{number}")
        self._every(RESCUE_EVERY, self.worker.rescue, "rescue")
        self._every(KEEP_HOUSE_EVERY, self.worker.keep_house, "keep-house")
        self._every(SWEEP_EVERY, self.worker.sweep, "sweep")
        self._metronome.start()
        log.info("worker_started", worker=self.worker.id)

    def shut_down(self) -> None:
        """Finish the letters in hand, give the rest back, and stop. Takes seconds."""
        self.worker.stop.set()
        if self._metronome.running:
            self._metronome.shutdown(wait=True)
        self.worker.end()
        log.info("worker_stopped", worker=self.worker.id)

    def _every(self, interval: timedelta, action: Callable[[], object], name: str) -> None:
        self._metronome.add_job(
            guarded(action, name), "interval", seconds=interval.total_seconds(), id=name, name=name,
            next_run_time=SystemClock().now(),
        )  # fmt: skip


def drain(app: App, *, stop: Event | None = None) -> bool | None:
    """Plan and send until nothing is due.

    Args:
        stop: ends it early; the letter in hand is finished.

    Returns:
        Whether nothing was left due; False after a minute in which nothing of it was accepted, None where it was
        told to end before.
    """
    worker = Worker(app, stop=stop)
    worker.begin()
    try:
        worker.keep_house()
        is_drained = _drain(app, worker)
        if not worker.sweep(patience=SWEEP_WITHIN):
            log.warning("erased_is_in_the_log", reason="another program holds the database")
        return None if worker.stop.is_set() and not is_drained else is_drained
    finally:
        worker.end()


def _drain(app: App, worker: Worker) -> bool:
    last_progress = time.monotonic()
    before: int | None = None
    while not worker.stop.is_set():
        worker.rescue()
        planned, *accepted = _plan_and_send(worker)
        if any(accepted):
            last_progress = time.monotonic()
            continue
        if planned:
            continue
        due = app.office.count_due(now=app.clock.now())
        # Where planning failed, nobody knows yet what is due.
        if due == 0 and planned is not None and not app.pacing.somebody_queues():
            return True
        if before is None or due < before:
            # What another worker has in hand is on its way, however long ours has found nothing to take.
            last_progress = time.monotonic()
        elif time.monotonic() - last_progress > GIVE_UP_DRAINING_AFTER.total_seconds():
            return False
        before = due
        worker.stop.wait(_DRAIN_PAUSE_SECONDS)
    return app.office.is_done(now=app.clock.now())


def _plan_and_send(worker: Worker) -> list[int | None]:
    """Both at once: what is planned first leaves while the rest is still being planned.

    Returns:
        How many were planned, then how many each crew sent; None for what failed.
    """
    actions = [guarded(worker.plan, "plan"), *(guarded(crew.send_due, "send") for crew in worker.crews)]
    done: list[int | None] = [None] * len(actions)

    def run(index: int, action: Callable[[], int | None]) -> None:
        done[index] = action()

    threads = [Thread(target=run, args=(index, action)) for index, action in enumerate(actions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done
