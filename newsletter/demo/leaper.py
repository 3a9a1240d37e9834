"""The demo's time: it stands while there is something to do, then leaps to the next due instant."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import TYPE_CHECKING

from newsletter.errors import NewsletterError
from newsletter.store import handovers, subscriptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from newsletter.bootstrap import App
    from newsletter.clock import FixedClock

_WEEK = timedelta(weeks=1)
_LOOK_SECONDS = 0.02
_NAP_SECONDS = 0.1
_MOST_WEEKS_BEHIND = 2
_MANY = 50


class Stance(Enum):
    """What the clock is about."""

    LEAPING = auto()
    ASKED = auto()
    IDLE = auto()


class StandstillError(NewsletterError):
    """Something is due and nothing happens; the story cannot go on."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What the ledger holds at a glance.

    Attributes:
        is_quiet: nothing is due, planned for now, or in anybody's hands.
        next_at: the next instant at which something is due; None where nothing is.
        asked: subscriptions that somebody was asked to confirm and has not.
    """

    is_quiet: bool
    next_at: datetime | None
    asked: frozenset[UUID]


class Leaper:
    """Moves the demo's clock.

    Args:
        clock: the clock that everything in the demo reads.
        week_seconds: real seconds in which a week passes.
        standstill_seconds: real seconds that something due may take.
        patience_seconds: real seconds that the clock stands for somebody who was asked to confirm.
        on_asked: called when it begins to stand for somebody.
        nap: sleeps so many seconds; what it raises ends the wait.
    """

    def __init__(
        self,
        app: App,
        clock: FixedClock,
        *,
        week_seconds: float,
        standstill_seconds: float = 45.0,
        patience_seconds: float = 120.0,
        on_asked: Callable[[], None] = lambda: None,
        nap: Callable[[float], None] = time.sleep,
    ) -> None:
        self._app = app
        self._clock = clock
        self._week_seconds = week_seconds
        self._standstill_seconds = standstill_seconds
        self._patience_seconds = patience_seconds
        self._on_asked = on_asked
        self._nap = nap
        self._asked_since: dict[UUID, float] = {}
        self._landed_at = time.monotonic()
        self.stance = Stance.LEAPING

    def advance(self, until: datetime, *, patient: bool = True) -> None:
        """Live on until an instant, leap by leap; return when everything that is due there is done.

        Args:
            until: business time.
            patient: the clock stands for people who were asked to confirm.

        Raises:
            StandstillError: something is due and nothing happens.
        """
        while True:
            view = self.settle()
            if self._clock.now() >= until:
                return
            if patient and self.stands_for(view):
                self._stand(Stance.ASKED)
            else:
                self._near(min(view.next_at or until, until))

    def drift(self) -> None:
        """Let a moment pass, or leap to whatever is due next to anybody.

        Raises:
            StandstillError: something is due and nothing happens.
        """
        view = self.settle()
        if self.stands_for(view):
            self._stand(Stance.ASKED)
        elif view.next_at is None:
            self._stand(Stance.IDLE)
        else:
            self._near(view.next_at)

    def settle(self) -> View:
        """Wait, with the clock standing, until nothing is due any more.

        Raises:
            StandstillError: that takes longer than it ever should.
        """
        began = time.monotonic()
        while not (view := self.look()).is_quiet:
            if time.monotonic() - began > self._standstill_seconds:
                message = f"Mail is due and has not left for {self._standstill_seconds:g} seconds."
                raise StandstillError(message)
            self._nap(_LOOK_SECONDS)
        return view

    def look(self) -> View:
        """The ledger as one moment shows it."""
        now = self._clock.now()
        with self._app.database.read() as connection:
            due_at = subscriptions.earliest_due(connection)
            try_at = handovers.earliest_try(connection)
            in_hand = handovers.count_due(connection, now=now)
            # Somebody who asks in this very moment of the standing clock was asked, too.
            just_after = now + timedelta(microseconds=1)
            asked = subscriptions.unconfirmed_since(connection, before=just_after, limit=_MANY)
        instants = [instant for instant in (due_at, try_at) if instant is not None]
        return View(
            is_quiet=in_hand == 0 and (due_at is None or due_at > now),
            next_at=min(instants, default=None),
            asked=frozenset(record.id for record in asked),
        )

    def stands_for(self, view: View) -> bool:
        """Whether somebody was asked to confirm so lately that the clock stands for them."""
        now = time.monotonic()
        self._asked_since = {identifier: self._asked_since.get(identifier, now) for identifier in view.asked}
        return any(now - since < self._patience_seconds for since in self._asked_since.values())

    def _stand(self, stance: Stance) -> None:
        if stance is Stance.ASKED and self.stance is not stance:
            self._on_asked()
        self.stance = stance
        self._nap(_NAP_SECONDS)
        self._landed_at = time.monotonic()

    def _near(self, to: datetime) -> None:
        """Leap to `to`, or nap where the time until then has not passed at the pace of the demo.

        Whoever calls looks again after a nap: somebody may have done something in the meantime.
        """
        self.stance = Stance.LEAPING
        pace = (to - self._clock.now()) / _WEEK * self._week_seconds
        # What the letters took counts: a week is a week.
        remaining = self._landed_at + pace - time.monotonic()
        if remaining > 0:
            self._nap(min(remaining, _NAP_SECONDS))
            return
        self._clock.set(to)
        # What came too late shortens the next leaps, within reason.
        late = min(-remaining, _MOST_WEEKS_BEHIND * self._week_seconds)
        self._landed_at = time.monotonic() - late
