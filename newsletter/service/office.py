"""What everybody who sends works with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from newsletter.mail.base import Envelope, Verdict
from newsletter.service.composing import Composed, Composer
from newsletter.service.editions import Editions
from newsletter.service.pacing import Pacing
from newsletter.service.recording import Recorder
from newsletter.service.returning import Returning
from newsletter.store import handovers, switches
from newsletter.store.database import Database
from newsletter.store.deliveries import Delivery


@dataclass(frozen=True, kw_only=True)
class Office:
    """The services that a desk needs.

    Attributes:
        skip_late: a letter more than two hours behind its slot is not sent; that week passes.
    """

    database: Database
    editions: Editions
    composer: Composer
    recorder: Recorder
    returning: Returning
    pacing: Pacing
    skip_late: bool = False

    def count_due(self, *, now: datetime) -> int:
        """How many emails are due and not closed."""
        with self.database.read() as connection:
            return handovers.count_due(connection, now=now)

    def is_done(self, *, now: datetime) -> bool:
        """Whether nothing is due, and nothing waits only for its turn at a destination."""
        return self.count_due(now=now) == 0 and not self.pacing.somebody_queues()

    def is_stopped(self) -> bool:
        """Whether the operator stopped all sending."""
        with self.database.read() as connection:
            return not switches.switch_is_on(connection, switches.SENDING)


class Ready(NamedTuple):
    """A claimed email, composed and not handed over.

    Attributes:
        composed_at: monotonic seconds.
    """

    item: Delivery
    composed: Composed
    composed_at: float


class Handed(NamedTuple):
    """An email whose handover is committed. Its bytes leave at once, or it is renewed or returned.

    Attributes:
        committed_at: monotonic seconds, just before the commit.
    """

    item: Delivery
    composed: Composed
    committed_at: float

    @property
    def envelope(self) -> Envelope:
        """What goes to the mail server."""
        return self.composed.envelope


Judged = tuple[Handed, Verdict]
"""An email that was handed over, and what the mail server said."""


@dataclass(eq=False)
class Seat:
    """A lane's place at the desk, for as long as it is at work.

    Attributes:
        looks_ahead: it wants to know what comes after the email that it is given.
        ready: that one. It is claimed and kept for this lane; its handover is committed when the lane comes for it.
        handed: what its last visit was for.
    """

    looks_ahead: bool = False
    ready: Ready | None = None
    handed: Handed | None = None

    @property
    def next_envelope(self) -> Envelope | None:
        """What, as far as anybody knows, is given out next."""
        return None if self.ready is None else self.ready.composed.envelope
