"""When a refused email is tried again.

The pauses double from five minutes to four hours, which suits greylisting first and long outages later, and
end after about three days; a letter, which late waits for waking hours in between, takes longer.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

FIRST_PAUSE = timedelta(minutes=5)
"""The shortest pause there is; greylisting servers refuse whoever comes back sooner."""

LONGEST_PAUSE = timedelta(hours=4)

JITTER = 0.2
"""A pause is up to this much shorter or longer, so that letters refused together do not return together."""

_MOST_DOUBLINGS = 30

MAX_ATTEMPTS = 25
"""Attempts in all, the first included: the last of them is made about three days after the first."""


def next_attempt(attempt: int, *, now: datetime, seed: str) -> datetime | None:
    """When to try again after attempt `attempt` (from 1) was refused for now, or None when all are used up.

    `seed`, a delivery's id for one, decides the jitter: the same arguments always give the same instant.

    Raises:
        ValueError: `attempt` is below 1.
    """
    if attempt < 1:
        message = f"{attempt} attempts were made; there is nothing to try again."
        raise ValueError(message)
    if attempt >= MAX_ATTEMPTS:
        return None
    return now + drawn(FIRST_PAUSE, doublings=attempt - 1, longest=LONGEST_PAUSE, seed=f"{seed}:{attempt}")


def doubled(first: timedelta, *, doublings: int, longest: timedelta) -> timedelta:
    """A pause that was doubled so many times, and never passes `longest`."""
    # Bounded before it is doubled: an outage of a night would make a number that nothing holds.
    factor: int = 2 ** min(doublings, _MOST_DOUBLINGS)
    return min(first * factor, longest)


def drawn(first: timedelta, *, doublings: int, longest: timedelta, seed: str) -> timedelta:
    """A doubled pause with the jitter that `seed` decides; from `first` to `longest`."""
    pause = doubled(first, doublings=doublings, longest=longest)
    # The ends are cut off before drawing: cut off afterwards, half of all first retries would fall together.
    shortest_drawn = max(pause * (1 - JITTER), first)
    longest_drawn = min(pause * (1 + JITTER), longest)
    return shortest_drawn + (longest_drawn - shortest_drawn) * fraction(seed)


def fraction(text: str) -> float:
    """A number from 0 to 1 that looks random and is the same on every machine, unlike `hash`."""
    drawn = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big")
    return drawn / (2**48 - 1)
