"""What each process that sends has, whichever driver calls it: a lease, a heart, and its crews.

A driver decides when; what is done is the same, and the ledger alone says what is to be done.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from threading import Event, Thread
from typing import TypeVar

import structlog

from newsletter.bootstrap import App
from newsletter.errors import DatabaseDamaged, DatabaseUnavailable
from newsletter.fibres import Hub
from newsletter.liveness import LifeLine
from newsletter.service.desk import Desk
from newsletter.service.rescuing import RENEW_EVERY
from newsletter.service.sending import Crew, Lane

log = structlog.get_logger()

T = TypeVar("T")

RESCUE_EVERY = timedelta(seconds=5)
KEEP_HOUSE_EVERY = timedelta(minutes=10)
SWEEP_EVERY = timedelta(seconds=5)


class Worker:
    """One process's share of the sending: its lease, its lanes, and what it does at each tick."""

    def __init__(self, app: App, *, stop: Event | None = None) -> None:
        self._app = app
        self._host = socket.gethostname()
        self.id = f"{secrets.token_hex(8)}-{os.getpid()}"
        self.stop = stop or Event()
        app.database.soundness.when_damaged(self.stop.set)
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
        except DatabaseDamaged:
            pass  # nobody takes anything back from it
        except DatabaseUnavailable as error:
            log.warning("worker_not_retired", reason=str(error))
        self._life_line.release(owes=owes)

    def plan(self) -> int:
        """Plan what is due."""
        return self._app.planning.plan_due(now=self._app.clock.now(), stop=self.stop.is_set)

    def plan_for_all(self) -> None:
        """Plan what is due, and wake the workers of the fleet that there is work for."""
        now, waking = self._app.clock.now(), self._app.waking
        self._app.planning.plan_due(
            now=now, stop=self.stop.is_set, announce=lambda connection: waking.wake_with(connection, now=now)
        )
        # What was given back or put off is due again without having been planned.
        waking.wake(now=now)

    def rescue(self) -> int:
        """Take back what lost workers held."""
        return self._app.rescuing.rescue(self.id, now=self._app.clock.now())

    def keep_house(self) -> None:
        """Forget what has had its time."""
        self._app.housekeeping.keep_house(now=self._app.clock.now(), stop=self.stop.is_set)

    def sweep(self, *, patience: timedelta = timedelta()) -> bool:
        """Leave nothing of what was erased, by whomever, in SQLite's log; whether nothing is left."""
        return self._app.housekeeping.sweep(patience=patience, stop=self.stop.is_set)

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
            except DatabaseDamaged:
                return
            except Exception as error:  # noqa: BLE001  (a heart that stops for any reason loses every letter in hand)
                # Whatever it was, the next beat tries again: without a lease nothing may leave.
                log.warning("lease_not_renewed", reason=str(error))


def guarded(action: Callable[[], T], name: str) -> Callable[[], T | None]:
    """`action`, with a database that is away or an unforeseen fault logged and left to the next tick."""

    def run() -> T | None:
        try:
            return action()
        except DatabaseDamaged:
            pass  # whoever started this ends, and says so once
        except DatabaseUnavailable as error:
            log.warning("database_unavailable", tick=name, reason=str(error))
        except Exception:
            log.exception("tick_failed", tick=name)
        return None

    return run
