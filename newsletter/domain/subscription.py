"""One subscriber's place in one sequence: its states and the steps between them."""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import NewType
from uuid import UUID

SubscriberId = NewType("SubscriberId", UUID)
SubscriptionId = NewType("SubscriptionId", UUID)


class State(StrEnum):
    """Where a subscription stands. There is no other state."""

    PENDING = "pending"  # asked for, not confirmed
    ACTIVE = "active"  # letters come
    PAUSED = "paused"  # the reader holds it, until a date or until they say so
    WAITING = "waiting"  # all letters received, and the sequence may grow
    FINISHED = "finished"  # all letters received
    LEFT = "left"  # the reader left, or the address is suppressed


OPEN = frozenset({State.ACTIVE, State.PAUSED, State.WAITING})
"""Confirmed, and neither left nor at its end."""


class Action(StrEnum):
    """What can be done to a subscription."""

    CONFIRM = "confirm"
    PAUSE = "pause"
    RESUME = "resume"
    RUN_OUT = "run_out"  # no step is left, and the sequence holds
    GROW = "grow"  # a step is there again for somebody who had received all
    FINISH = "finish"
    LEAVE = "leave"


TRANSITIONS = MappingProxyType(
    {
        (State.PENDING, Action.CONFIRM): State.ACTIVE,
        (State.LEFT, Action.CONFIRM): State.ACTIVE,  # back where they stopped
        (State.FINISHED, Action.CONFIRM): State.ACTIVE,  # the next round
        (State.ACTIVE, Action.PAUSE): State.PAUSED,
        (State.PAUSED, Action.PAUSE): State.PAUSED,
        (State.PAUSED, Action.RESUME): State.ACTIVE,
        (State.ACTIVE, Action.RUN_OUT): State.WAITING,
        (State.PAUSED, Action.RUN_OUT): State.WAITING,
        (State.WAITING, Action.GROW): State.ACTIVE,
        (State.FINISHED, Action.GROW): State.ACTIVE,
        (State.ACTIVE, Action.FINISH): State.FINISHED,
        (State.PAUSED, Action.FINISH): State.FINISHED,
        (State.WAITING, Action.FINISH): State.FINISHED,
        (State.PENDING, Action.LEAVE): State.LEFT,
        (State.ACTIVE, Action.LEAVE): State.LEFT,
        (State.PAUSED, Action.LEAVE): State.LEFT,
        (State.WAITING, Action.LEAVE): State.LEFT,
        (State.FINISHED, Action.LEAVE): State.LEFT,
    }
)
"""What each action makes of each state; a pair that is not here is not allowed."""


def after(state: State, action: Action) -> State | None:
    """The state that `action` makes of `state`, or None where it is not allowed."""
    return TRANSITIONS.get((state, action))
