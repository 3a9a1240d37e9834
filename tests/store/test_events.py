"""The story of each subscriber."""

from __future__ import annotations

from datetime import timedelta

from newsletter.store import events
from tests.store.conftest import NOW, Store, do, look

DAY = timedelta(days=1)


class TestStory:
    """Every skip, delay, move and its reason."""

    def test_a_story_is_told_in_order(self, store: Store):
        """The newest events of a reader, in the order they happened, with their details."""
        reader = store.subscriber()
        record = store.subscription(reader)
        for number in range(4):
            do(
                store, events.tell, "moved", subscriber_id=reader.id, subscription_id=record.id,
                now=NOW + number * DAY, number=number, reason="cap",
            )  # fmt: skip
        do(store, events.tell, "paused", subscriber_id=store.subscriber().id, now=NOW)
        told = look(store, events.story, reader.id, limit=3)
        assert [(event.kind, event.at, event.detail) for event in told] == [
            ("moved", NOW + number * DAY, {"number": number, "reason": "cap"}) for number in (1, 2, 3)
        ]
        assert {event.subscription_id for event in told} == {record.id}
