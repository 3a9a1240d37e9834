"""What the reader's pages are told."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

from newsletter.domain.cadence import Slot
from newsletter.domain.subscription import State


@dataclass(frozen=True, kw_only=True)
class Offer:
    """One thing the form offers. `count`: its letters, or None for a sequence without an end."""

    key: str
    title: str
    description: str
    expect: str
    count: int | None
    selected: bool


@dataclass(frozen=True, kw_only=True)
class ConfirmationView:
    """What the confirm page shows. `first_slot` is an instant; `offers_choice`: now or at the first slot."""

    title: str
    expect: str
    offers_choice: bool
    first_slot: datetime
    timezone: str
    already: bool
    preferences_token: str | None
    masked_address: str


@dataclass(frozen=True, kw_only=True)
class SubscriptionView:
    """One sequence on the preferences page. `total` is None where it has no end."""

    key: str
    title: str
    state: State
    next_due_at: datetime | None
    received: int
    total: int | None
    open_ended: bool


@dataclass(frozen=True, kw_only=True)
class PreferencesView:
    """What the preferences page shows."""

    masked_address: str
    slot: Slot
    country: str | None
    discreet: bool
    paused: bool
    paused_until: date | None
    subscriptions: tuple[SubscriptionView, ...]
    leave_token: str


@dataclass(frozen=True, kw_only=True)
class LeavingView:
    """What the unsubscribe page shows. `gone`: nothing is left to leave."""

    title: str | None
    several: bool
    gone: bool
    preferences_token: str | None
