"""What the command line and the pages show."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from newsletter.domain.subscription import State
from newsletter.store import events, handovers, reports, switches
from tests.store.conftest import NOW, YES, Store


def look(store: Store, read: Any, *arguments: Any, **named: Any) -> Any:
    with store.read() as connection:
        return read(connection, *arguments, **named)


def test_an_empty_installation_has_a_status(store: Store):
    """Every state is counted, also with nobody in it."""
    status = look(store, reports.status, now=NOW)
    assert set(status.deliveries.values()) == set(status.subscriptions.values()) == {0}
    assert len(status.deliveries) == 8
    assert len(status.subscriptions) == 6
    assert (status.sending, status.due, status.lag_seconds, status.workers) == (True, 0, 0.0, 0)
    assert (status.next_due_at, status.possibly_doubled) == (None, 0)


def test_the_status_counts_what_there_is(store: Store):
    """Counts by state, how far behind the oldest is, what comes next, who works, and what may have doubled."""
    store.worker("worker-1")
    store.worker("worker-2", lease=timedelta(seconds=-1))
    store.letter(store.subscription(due=None), due=NOW - timedelta(hours=1))
    store.letter(due=NOW + timedelta(hours=1))
    doubtful = store.letter(due=NOW - timedelta(minutes=5))
    store.set("delivery", doubtful.id, state="uncertain", doubts=1)
    store.subscription(due=NOW + timedelta(days=3))
    store.subscription(state=State.PAUSED, due=NOW + timedelta(days=2))
    with store.write() as connection:
        switches.set_switch(connection, switches.SENDING, is_on=False, now=NOW)
    status = look(store, reports.status, now=NOW)
    assert (status.deliveries["planned"], status.deliveries["uncertain"], status.deliveries["sent"]) == (2, 1, 0)
    assert (status.subscriptions["active"], status.subscriptions["paused"]) == (4, 1)
    assert (status.due, status.lag_seconds, status.sending) == (2, 3600.0, False)
    assert (status.next_due_at, status.possibly_doubled, status.workers) == (NOW + timedelta(hours=1), 1, 1)


def test_sequences_are_counted_by_state_and_by_step(store: Store):
    """By sequence: how many in each state, and behind which step those with letters to come stand."""
    for sequence, state, step in (
        ("trust", State.ACTIVE, "one"), ("trust", State.PAUSED, "one"), ("trust", State.ACTIVE, None),
        ("trust", State.LEFT, "one"), ("note", State.WAITING, "two"),
    ):  # fmt: skip
        store.set("subscription", store.subscription(sequence=sequence, state=state).id, last_step=step)
    found = look(store, reports.sequence_counts)
    assert found["trust"].states == {"active": 2, "paused": 1, "left": 1}
    assert found["trust"].behind == {"one": 2, None: 1}
    assert found["note"].behind == {"two": 1}


def test_a_dossier_holds_everything_about_one_reader(store: Store):
    """Everything about one address, and about nobody else; nothing for a stranger."""
    store.worker()
    reader = store.subscriber("maria@example.org")
    record = store.subscription(reader)
    item = store.handed_over(record)
    with store.write() as connection:
        handovers.record_accepted(connection, [(item, YES)], now=NOW)
        events.tell(connection, "paused", subscriber_id=reader.id, now=NOW)
    store.letter()
    found = look(store, reports.dossier, address_key="maria@example.org")
    assert found.subscriber == reader
    assert found.subscriptions == [record]
    assert found.received == {record.id: 1}
    assert [one.id for one in found.deliveries] == [item.id]
    assert [event.kind for event in found.events] == ["paused"]
    assert look(store, reports.dossier, address_key="nobody@example.org") is None


def test_subscribers_are_found_with_their_subscriptions(store: Store):
    """A page of readers in order of address, each with all their places."""
    maria, adam = store.subscriber("maria@example.org"), store.subscriber("adam@example.org")
    trust, note = store.subscription(maria, "trust"), store.subscription(maria, "note", state=State.PAUSED)
    assert look(store, reports.find_all, state=None, after="", limit=10) == [(adam, []), (maria, [trust, note])]
    assert look(store, reports.find_all, state=State.PAUSED, after="", limit=10) == [(maria, [trust, note])]
    assert look(store, reports.find_all, state=None, after="maria@example.org", limit=10) == []


def test_stopped_letters_are_listed_with_their_address(store: Store):
    """Held and uncertain emails, each with where it was going."""
    items = [store.letter(store.subscription(store.subscriber(f"{name}@example.org"))) for name in "abc"]
    store.set("delivery", items[0].id, state="uncertain", doubts=1)
    store.set("delivery", items[1].id, state="held")
    found = look(store, reports.list_stopped, limit=10)
    assert [(item.id, address) for item, address in found] == [
        (items[1].id, "b@example.org"),
        (items[0].id, "a@example.org"),
    ]
