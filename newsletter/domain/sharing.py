"""How workers share the connections that a mail server allows in all."""

from __future__ import annotations

from collections.abc import Sequence

LEAST = 2
"""A worker needs one connection for letters and one for what people wait for; with fewer it stands by."""


def share_of(most: int, *, wanted: int, others: Sequence[int]) -> int:
    """How many of at most `most` connections a worker may have beside others who hold so many each.

    Every worker has a claim to an equal part, which whoever holds more has to leave to it; what others hold is
    theirs until they have let go of it. What cannot be divided goes to whoever asks first, and so does everything
    where an equal part would serve nobody.
    """
    equal = most // (len(others) + 1)
    claimed = equal if equal >= LEAST else 0
    share = min(wanted, most - sum(max(held, claimed) for held in others))
    return share if share >= LEAST else 0
