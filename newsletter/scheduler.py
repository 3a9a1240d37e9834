"""The driver of one machine: APScheduler as a metronome, and nothing else.

It holds no truth: every tick calls a service that looks at the ledger. A tick too many changes nothing, a tick
too few is made up by the next one.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from threading import Event, Thread
from typing import TypeVar

import structlog
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from newsletter.bootstrap import App
from newsletter.errors import DatabaseUnavailable
from newsletter.fibres import Hub
from newsletter.liveness import LifeLine
from newsletter.service.desk import Desk
from newsletter.service.rescuing import RENEW_EVERY
from newsletter.service.sending import Crew, Lane

log = structlog.get_logger()

T = TypeVar("T")

TICK = timedelta(seconds=1)
RESCUE_EVERY = timedelta(seconds=5)
KEEP_HOUSE_EVERY = timedelta(minutes=10)
GIVE_UP_DRAINING_AFTER = timedelta(seconds=60)
_DRAIN_PAUSE_SECONDS = 0.2


class Worker:
    """One process's share of the sending: its lease, its lanes, and what it does at each tick."""

    def __init__(self, app: App, *, stop: Event | None = None) -> None:
        self._app = app
        self._host = socket.gethostname()
        self.id = f"{secrets.token_hex(8)}-{os.getpid()}"
        self.stop = stop or Event()
        self._life_line = LifeLine(self.id)
        self._heart = Thread(target=self._beat, name="heartbeat", daemon=True)
        # One lane is kept for what people wait for, so that a confirmation never queues behind letters.
        self.crews = [self._crew(letters=False, lanes=1), self._crew(letters=True, lanes=app.settings.smtp_connections)]

    def begin(self) -> None:
        """Take the lease and judge what earlier workers left behind."""
        self._life_line.hold()
        self._app.rescuing.enrol(self.id, host=self._host)
        self._share_connections()
        self._heart.start()
        self.rescue()

    def end(self) -> None:
        """Hang up, give everything back and strike the worker off."""
        self.stop.set()
        for crew in self.crews:
            crew.close()
        owes = True
        try:
            owes = not self._app.rescuing.retire(self.id)
        except DatabaseUnavailable as error:
            log.warning("worker_not_retired", reason=str(error))
        self._life_line.release(owes=owes)

    def plan(self) -> int:
        """Plan what is due."""
        return self._app.planning.plan_due(now=self._app.clock.now(), stop=self.stop.is_set)

    def rescue(self) -> int:
        """Take back what lost workers held."""
        return self._app.rescuing.rescue(self.id, now=self._app.clock.now())

    def keep_house(self) -> None:
        """Forget what has had its time."""
        self._app.housekeeping.keep_house(now=self._app.clock.now(), stop=self.stop.is_set)

    def _crew(self, *, letters: bool, lanes: int) -> Crew:
        hub = Hub()
        desk = Desk(
            self._app.office, worker=self.id, letters=letters, clock=self._app.clock, stop=self.stop, waiting=hub
        )
        open_mailer = partial(self._app.open_mailer, waiting=hub)
        made = [Lane(desk, open_mailer=open_mailer, stop=self.stop, waiting=hub) for _ in range(lanes)]
        return Crew(desk, made, hub=hub)

    def _share_connections(self) -> None:
        """Have no more connections than the fleet leaves to this worker: the first is for what people wait for."""
        for_people, for_letters = self.crews
        share = self._app.sharing.renew(self.id, in_use=for_people.connections + for_letters.connections)
        for_people.allow(min(share, 1))
        for_letters.allow(max(share - 1, 0))

    def _beat(self) -> None:
        while not self.stop.wait(RENEW_EVERY.total_seconds()):
            try:
                self._app.rescuing.renew(self.id, host=self._host)
                self._share_connections()
            except Exception as error:  # noqa: BLE001  (a heart that stops for any reason loses every letter in hand)
                # Whatever it was, the next beat tries again: without a lease nothing may leave.
                log.warning("lease_not_renewed", reason=str(error))


class Scheduler:
    """Calls the services of one worker at fixed intervals, in threads of its own.

    Args:
        tick: how often it plans and sends.
    """

    def __init__(self, app: App, *, tick: timedelta = TICK) -> None:
        self.worker = Worker(app)
        self._tick = tick
        jobs = len(self.worker.crews) + 3
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
            _guarded(action, name), "interval", seconds=interval.total_seconds(), id=name, name=name
        )  # fmt: skip


def drain(app: App, *, stop: Event | None = None) -> bool:
    """Plan and send until nothing is due.

    Args:
        stop: ends it early; the letter in hand is finished.

    Returns:
        Whether nothing was left due; False after a minute without an acceptance while something was.
    """
    worker = Worker(app, stop=stop)
    worker.begin()
    try:
        worker.keep_house()
        return _drain(app, worker)
    finally:
        worker.end()


def _drain(app: App, worker: Worker) -> bool:
    last_progress = time.monotonic()
    while not worker.stop.is_set():
        worker.rescue()
        planned = worker.plan()
        accepted = _send_on_all(worker.crews)
        if planned == 0 and accepted == 0 and app.office.is_done(now=app.clock.now()):
            return True
        if accepted:
            last_progress = time.monotonic()
        elif time.monotonic() - last_progress > GIVE_UP_DRAINING_AFTER.total_seconds():
            return False
        elif not planned:
            worker.stop.wait(_DRAIN_PAUSE_SECONDS)
    return app.office.is_done(now=app.clock.now())


def _send_on_all(crews: list[Crew]) -> int:
    accepted = [0] * len(crews)

    def run(index: int, crew: Crew) -> None:
        accepted[index] = _guarded(crew.send_due, "send")() or 0

    threads = [Thread(target=run, args=(index, crew)) for index, crew in enumerate(crews)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(accepted)


def _guarded(action: Callable[[], T], name: str) -> Callable[[], T | None]:
    """`action`, with a database that is away or an unforeseen fault logged and left to the next tick."""

    def run() -> T | None:
        try:
            return action()
        except DatabaseUnavailable as error:
            log.warning("database_unavailable", tick=name, reason=str(error))
        except Exception:
            log.exception("tick_failed", tick=name)
        return None

    return run
