"""How subscribers go for good."""

from __future__ import annotations

from datetime import timedelta

import pytest

from newsletter.domain.subscription import State
from newsletter.store import erasing, subscriptions
from tests.store.conftest import NOW, Store, do, look

DAY = timedelta(days=1)


class TestErasing:
    """What was never confirmed goes."""

    def test_the_unconfirmed_are_found_and_erased_with_their_subscriber(self, store: Store):
        """A pending subscription goes, and its subscriber where it was the only one."""
        lonely, other = store.subscriber(), store.subscriber()
        store.subscription(other, "note")
        first = store.subscription(lonely, state=State.PENDING)
        second = store.subscription(other, state=State.PENDING)
        before = NOW + DAY
        found = look(store, subscriptions.unconfirmed_since, before=before, limit=10)
        assert sorted(found, key=lambda one: one.id) == sorted([first, second], key=lambda one: one.id)
        assert look(store, subscriptions.unconfirmed_since, before=NOW, limit=10) == []
        assert do(store, erasing.erase_subscription, first, before=before)
        assert do(store, erasing.erase_subscription, second, before=before)
        assert look(store, subscriptions.get_subscriber, lonely.id) is None
        assert look(store, subscriptions.get_subscriber, other.id) == other

    @pytest.mark.parametrize("spared", ["confirmed", "asked again"])
    def test_whoever_confirmed_or_asked_again_is_spared(self, store: Store, spared: str):
        """A subscription that was confirmed, or asked for again, since it was looked at is not erased."""
        record = store.subscription(state=State.PENDING)
        if spared == "confirmed":
            store.set("subscription", record.id, state="active", confirmed_at=NOW)
        else:
            store.set("subscription", record.id, created_at=NOW + DAY)
        assert not do(store, erasing.erase_subscription, record, before=NOW + DAY)
        assert look(store, subscriptions.get_subscription, record.id) is not None
