"""How a destination is treated that wants less mail from us, or none: it is slowed, or its circuit is opened.

A destination is the domain of a recipient, or the mail server that all letters go through, `RELAY`. Instants are
those of the database's clock: the patience of a mail server is real time, also where business time is rehearsed.

    closed ── a policy refusal: one more in a row ──▶ closed ── the fifth ──▶ open
    open ── its time has come: one letter is tried ──▶ on trial ── refused again ──▶ open, for twice as long
    any ── a letter is accepted, or the operator says so ──▶ closed
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from newsletter.domain.rates import Line, Rate, line_up, slower
from newsletter.domain.retry import drawn, fraction

RELAY = "relay"
"""The name of the mail server among destinations; no domain of an address is without a dot."""

REFUSALS_IN_A_ROW = 5
"""So many policy refusals in a row, with none accepted between, open a circuit."""

FIRST_CLOSURE = timedelta(hours=1)
LONGEST_CLOSURE = timedelta(hours=24)

TRIAL = timedelta(minutes=12)
"""A letter on trial has its answer within eleven minutes, or its worker was lost; then the next one is tried."""

FIRST_PAUSE = timedelta(seconds=15)
LONGEST_PAUSE = timedelta(minutes=30)

SLOWEST = 8
"""How often a destination can be slowed down, each time to half."""

SLOWED_INTERVAL = timedelta(milliseconds=125)
"""From one letter to the next once a destination was slowed down for the first time: eight a second."""

RECOVER_AFTER = timedelta(minutes=1)
"""A letter accepted this long after the last change doubles the rate of a slowed destination."""

_LONGEST_TURN = timedelta(minutes=15)
"""No turn is further away at a slowed destination, whose rate may soon be another."""

_SCATTER = 0.25
"""Letters that were kept back return over this share of the time that they waited."""


@dataclass(frozen=True, kw_only=True)
class Destination:
    """What is remembered of a destination. One of which nothing is known is treated like any other.

    Attributes:
        line: what its rate remembers.
        level: how often its rate was halved, and not doubled since.
        slowed_until: nothing is tried before.
        refusals: policy refusals in a row.
        closures: how often its circuit was opened without an acceptance since.
        opened_at: since when its circuit is open; None where it is closed.
        retry_at: when a letter is tried although its circuit is open.
        tried_at: when that letter was let go; None once it has its answer.
        changed_at: when any of this changed for the last time, but for the line.
        reply: what it said, without addresses.
    """

    name: str
    line: Line = field(default_factory=Line)
    level: int = 0
    slowed_until: datetime | None = None
    refusals: int = 0
    closures: int = 0
    opened_at: datetime | None = None
    retry_at: datetime | None = None
    tried_at: datetime | None = None
    changed_at: datetime | None = None
    reply: str = ""

    @property
    def is_troubled(self) -> bool:
        """Whether anything but its rate has to be minded."""
        return self.level > 0 or self.refusals > 0

    @property
    def is_open(self) -> bool:
        """Whether its circuit is open: nothing leaves but a letter on trial."""
        return self.opened_at is not None

    def kept_until(self, *, now: datetime) -> datetime | None:
        """Until when nothing may leave; None where something may."""
        waits = [self.retry_at if self.is_open else None, self.slowed_until]
        return max((instant for instant in waits if instant is not None and instant > now), default=None)

    def rate(self, configured: Rate | None) -> Rate | None:
        """At which rate letters leave: the configured one, or a slower one."""
        if self.level == 0:
            return configured
        return slower(configured, Rate(letters=1, per=SLOWED_INTERVAL * 2 ** (self.level - 1)))

    def on_trial(self, *, now: datetime) -> Destination:
        """Let one letter go although the circuit is open."""
        return replace(self, tried_at=now, retry_at=now + TRIAL)

    # What it says

    def slow_down(self, reply: str, *, now: datetime) -> Destination:
        """It wants less: half the rate, after a pause of twice the length.

        What it says to letters that were under way when the pause began is the same news again.
        """
        if self.slowed_until is not None and self.slowed_until > now:
            return self
        level = min(self.level + 1, SLOWEST)
        pause = drawn(FIRST_PAUSE, doublings=level - 1, longest=LONGEST_PAUSE, seed=f"{self.name}:{now}")
        return replace(self, level=level, slowed_until=now + pause, changed_at=now, reply=reply)

    def refuse(self, reply: str, *, now: datetime) -> Destination:
        """It refuses because of who we are or how we send."""
        if self.is_open and self.tried_at is None:
            return self  # that letter was under way when the circuit opened
        refusals = self.refusals + 1
        told = replace(self, refusals=refusals, changed_at=now, reply=reply)
        if refusals < REFUSALS_IN_A_ROW:
            return told
        pause = drawn(FIRST_CLOSURE, doublings=self.closures, longest=LONGEST_CLOSURE, seed=f"{self.name}:{now}:closed")
        return replace(
            told, closures=self.closures + 1, opened_at=self.opened_at or now, retry_at=now + pause, tried_at=None
        )

    def accept(self, *, now: datetime) -> Destination:
        """It accepts: the circuit closes, and after a while of that the rate doubles."""
        there = self
        if there.refusals > 0:
            there = replace(there, refusals=0, closures=0, opened_at=None, retry_at=None, tried_at=None, changed_at=now)
        rested = self.changed_at is None or now >= self.changed_at + RECOVER_AFTER
        if there.level > 0 and rested and (there.slowed_until is None or there.slowed_until <= now):
            there = replace(there, level=there.level - 1, slowed_until=None, changed_at=now)
        if there != self and not there.is_troubled:
            # Turns that were given out while it was slow are no reason for others to wait.
            there = replace(there, line=replace(there.line, queued_until=None), reply="")
        return there

    def forgive(self) -> Destination:
        """The operator says that all is well again."""
        return Destination(name=self.name, line=replace(self.line, queued_until=None))

    # Who may leave

    def let_go(self, number: int, *, configured: Rate | None, now: datetime) -> Destination:
        """So many letters leave, whether there was room for them or not."""
        there = self.on_trial(now=now) if self.is_open else self
        rate = self.rate(configured)
        if rate is None:
            return there
        return replace(there, line=replace(there.line, free_at=rate.charge(there.line.free_at, number, now=now)))

    def refund(self, number: int, *, configured: Rate) -> Destination:
        """So many letters that were let go did not leave."""
        if self.line.free_at is None:
            return self
        return replace(self, line=replace(self.line, free_at=configured.refund(self.line.free_at, number)))

    def admit(
        self, waiting: Sequence[Waiting], *, configured: Rate | None, now: datetime
    ) -> tuple[list[datetime | None], Destination]:
        """Say to each of some letters, in order, that it may leave now (None), or when it may come again."""
        if self.is_open:
            return self._admit_one(waiting, now=now)
        rate = self.rate(configured)
        if rate is None:
            return [None] * len(waiting), self
        turns, line = line_up(
            rate, self.line, [each.has_waited for each in waiting], now=now, not_before=self.slowed_until
        )
        if self.level > 0:
            furthest = now + _LONGEST_TURN
            turns = [
                turn if turn is None or turn < furthest else furthest + each.scattered(_LONGEST_TURN)
                for turn, each in zip(turns, waiting, strict=True)
            ]
            tail = line.queued_until
            line = replace(line, queued_until=None if tail is None else min(tail, furthest))
        return turns, replace(self, line=line)

    def _admit_one(self, waiting: Sequence[Waiting], *, now: datetime) -> tuple[list[datetime | None], Destination]:
        there, turns = self, list[datetime | None]()
        for each in waiting:
            kept = there.kept_until(now=now)
            if kept is None:
                there = there.on_trial(now=now)
                turns.append(None)
            else:
                turns.append(kept + each.scattered(kept - now))
        return turns, there


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A letter that wants to leave.

    Attributes:
        seed: decides what is drawn for it, its id for one.
        has_waited: it was put off before.
    """

    seed: str
    has_waited: bool

    def scattered(self, wait: timedelta) -> timedelta:
        """How much longer it waits than others, so that not all return together."""
        return wait * _SCATTER * fraction(self.seed)
