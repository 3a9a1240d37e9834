"""Leases: a worker enters itself and renews; what a lost worker held comes back."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import structlog

from newsletter import liveness
from newsletter.domain.delivery import State
from newsletter.errors import DatabaseUnavailable
from newsletter.service.recording import Recorder
from newsletter.store import handovers, workers
from newsletter.store.database import Database
from newsletter.store.deliveries import Delivery

log = structlog.get_logger()

LEASE = timedelta(seconds=60)
RENEW_EVERY = timedelta(seconds=15)
LONGEST_ANSWER = timedelta(minutes=11)
"""A mail server may take ten minutes to answer the final dot (RFC 5321, section 4.5.3.2.6), and one to spare."""

_BATCH = 500


class Rescuing:
    """Judges what lost workers left behind.

    Args:
        life_lines: the folder with the locks of this host's workers; None for the usual one.
    """

    def __init__(self, *, database: Database, recorder: Recorder, life_lines: Path | None = None) -> None:
        self._database = database
        self._recorder = recorder
        self._life_lines = life_lines

    def enrol(self, worker: str, *, host: str) -> None:
        """Enter a worker with a lease of a minute."""
        with self._database.write() as connection:
            workers.enrol_worker(connection, worker, host=host, lease=LEASE)

    def renew(self, worker: str, *, host: str) -> None:
        """Renew a worker's lease; one that was struck off while it was silent enters itself again."""
        with self._database.write() as connection:
            if not workers.renew_lease(connection, worker, lease=LEASE):
                workers.enrol_worker(connection, worker, host=host, lease=LEASE)

    def retire(self, worker: str) -> bool:
        """Strike off a worker that has ended; False while it still owns something."""
        with self._database.write() as connection:
            return workers.strike_off_worker(connection, worker)

    def rescue(self, worker: str, *, now: datetime) -> int:
        """Give back, or judge, what no living worker is at work on.

        A claimed row goes back freely: nothing was handed over. A row in handover is judged at once where its
        owner is known dead, else when no mail server could still be about to answer.

        Args:
            worker: the one that rescues; it is not suspected.

        Returns:
            How many rows.
        """
        with self._database.read() as connection:
            others = workers.other_workers(connection, worker)
            dead = {name for name, _ in others if liveness.is_known_dead(name, folder=self._life_lines)}
            lost = handovers.abandoned(connection, dead=dead, silent_for=LONGEST_ANSWER, limit=_BATCH)
        rescued = 0
        for item in lost:
            try:
                done = self._rescue_one(item, now=now)
            except DatabaseUnavailable:
                raise
            except Exception:
                # One that cannot be judged must not keep the others from being given back.
                log.exception("delivery_not_rescued", delivery=str(item.id))
                continue
            rescued += done
            if done:
                log.warning("delivery_rescued", delivery=str(item.id), was=item.state.value, owner=item.owner)
        for name, expired in others:
            if (name in dead or expired) and self.retire(name) and name in dead:
                liveness.forget(name, folder=self._life_lines)
        return rescued

    def _rescue_one(self, item: Delivery, *, now: datetime) -> bool:
        with self._database.write() as connection:
            if item.state is State.CLAIMED:
                return handovers.release_claimed(connection, [item]) == 1
            state = self._recorder.record_unanswered(connection, item, reason="its worker was lost", now=now)
            return state is not None
