"""What may happen to one email: its kinds, its states, and the steps between them."""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import NewType
from uuid import UUID

DeliveryId = NewType("DeliveryId", UUID)


class Kind(StrEnum):
    """What an email is for. A person waits for every kind but a letter."""

    LETTER = "letter"
    CONFIRMATION = "confirmation"
    ALREADY_SUBSCRIBED = "already_subscribed"
    LINK = "link"  # a mailed private link
    REHEARSAL = "rehearsal"


class State(StrEnum):
    """Where an email stands. There is no other state."""

    PLANNED = "planned"  # due at an instant, nobody has it
    CLAIMED = "claimed"  # a worker holds it under a lease
    HANDING_OVER = "handing_over"  # committed before its first byte left
    SENT = "sent"  # the mail server said 250
    FAILED = "failed"  # refused for good, or its retries are used up
    HELD = "held"  # an operator has to look at it
    UNCERTAIN = "uncertain"  # handed over, and no answer came; repeated once
    WITHDRAWN = "withdrawn"  # not wanted any more


TRANSITIONS = MappingProxyType(
    {
        State.PLANNED: frozenset({State.CLAIMED, State.WITHDRAWN}),
        State.CLAIMED: frozenset({State.HANDING_OVER, State.PLANNED, State.HELD, State.WITHDRAWN}),
        State.HANDING_OVER: frozenset(
            {State.SENT, State.PLANNED, State.FAILED, State.HELD, State.UNCERTAIN, State.WITHDRAWN}
        ),
        State.UNCERTAIN: frozenset({State.CLAIMED, State.HELD, State.SENT, State.WITHDRAWN}),
        State.HELD: frozenset({State.PLANNED, State.SENT, State.FAILED, State.WITHDRAWN}),
        State.FAILED: frozenset({State.PLANNED}),  # the planner reopens the row when its step is next again
        State.WITHDRAWN: frozenset({State.PLANNED}),
        State.SENT: frozenset(),
    }
)
"""Which state may follow which. HANDING_OVER to WITHDRAWN: refused for now, and the reader has left meanwhile."""

WITHDRAWABLE = (State.PLANNED, State.CLAIMED, State.UNCERTAIN)
"""What leaving, pausing, erasing and suppressing take back at once."""


class Outcome(StrEnum):
    """What one attempt at handing an email over came to."""

    ACCEPTED = "accepted"  # 250 after the final dot
    DEFERRED = "deferred"  # 4xx: later, the attempt counts
    ADDRESS_DEAD = "address_dead"  # the recipient refused for good by one of DEAD_ADDRESS_STATUSES
    RECIPIENT_REFUSED = "recipient_refused"  # another refusal of the recipient that blames nobody for ever
    REFUSED = "refused"  # any other 5xx: our own fault until shown otherwise
    UNAVAILABLE = "unavailable"  # the server was gone before the message was complete: the attempt does not count
    NO_ANSWER = "no_answer"  # the message was complete and no answer came


DEAD_ADDRESS_STATUSES = frozenset({"5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1"})
"""The enhanced codes at RCPT that suppress an address. Source: RFC 3463; RFC 7505 for 5.1.10."""
