"""Subscribers and their subscriptions."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, time, timedelta
from threading import Event, Thread
from typing import Any

import pytest

from newsletter.domain.cadence import Slot
from newsletter.domain.progress import Place
from newsletter.domain.subscription import TRANSITIONS, Action, State, SubscriberId, after
from newsletter.store import handovers, subscriptions, suppressions
from newsletter.store.subscriptions import Subscription
from tests.store.conftest import NOW, YES, Store, do, look

DAY = timedelta(days=1)


class TestSubscribers:
    """One person, one address."""

    def test_a_subscriber_comes_back_as_they_were_added(self, store: Store):
        """All that is known of a subscriber is read back, by address and by id."""
        slot = Slot(weekday=6, at=time(23, 5), timezone="Pacific/Chatham")
        added = do(
            store, subscriptions.add_subscriber, address="Maria@Example.org", address_key="maria@example.org",
            slot=slot, country="NZ", discreet=True, now=NOW,
        )  # fmt: skip
        assert look(store, subscriptions.find_subscriber, address_key="maria@example.org") == added
        assert look(store, subscriptions.get_subscriber, added.id) == added
        assert look(store, subscriptions.get_subscribers, [added.id]) == {added.id: added}
        assert (added.slot, added.pace, added.link_generation) == (slot, 1, 1)
        assert look(store, subscriptions.find_subscriber, address_key="Maria@Example.org") is None

    def test_a_reader_can_be_changed(self, store: Store):
        """Slot, country, mode and pause are written, and nothing else."""
        reader = store.subscriber()
        slot = Slot(weekday=0, at=time(6, 30), timezone="Asia/Kathmandu")
        do(store, subscriptions.set_reader, reader.id, slot=slot, country="IE", discreet=True)
        do(store, subscriptions.set_paused_until, reader.id, date(2026, 12, 24))
        expected = replace(reader, slot=slot, country="IE", discreet=True, paused_until=date(2026, 12, 24))
        assert look(store, subscriptions.get_subscriber, reader.id) == expected
        do(store, subscriptions.set_paused_until, reader.id, None)
        assert look(store, subscriptions.get_subscriber, reader.id).paused_until is None

    def test_subscribers_are_listed_page_by_page(self, store: Store):
        """Subscribers come in order of their address, from behind any of them, also those in one state only."""
        readers = [store.subscriber(f"{name}@example.org") for name in "dacb"]
        for reader in readers[:2]:
            store.subscription(reader, state=State.PAUSED)
        first = look(store, subscriptions.list_subscribers, limit=3)
        assert [reader.address[0] for reader in first] == ["a", "b", "c"]
        rest = look(store, subscriptions.list_subscribers, limit=3, after=first[-1].address_key)
        assert [reader.address[0] for reader in rest] == ["d"]
        paused = look(store, subscriptions.list_subscribers, limit=3, state=State.PAUSED)
        assert [reader.address[0] for reader in paused] == ["a", "d"]

    def test_a_locked_subscriber_is_moved_by_nobody_else(self, store: Store):
        """Whoever locks a subscriber makes everybody else who does wait."""
        reader = store.subscriber()
        second_has_it = Event()

        def lock_too() -> None:
            with store.write() as connection:
                subscriptions.get_subscriber(connection, reader.id, lock=True)
                second_has_it.set()

        with store.write() as connection:
            subscriptions.get_subscriber(connection, reader.id, lock=True)
            thread = Thread(target=lock_too)
            thread.start()
            assert not second_has_it.wait(0.2)
        assert second_has_it.wait(10)
        thread.join()

    def test_who_waited_for_a_reader_sees_what_became_of_their_subscription(self, store: Store):
        """Somebody pauses while a letter is being recorded: what is read under the lock is not from before it."""
        record = store.subscription(due=NOW)
        found: list[Subscription] = []

        def lock_too() -> None:
            with store.write() as connection:
                found.append(subscriptions.with_readers(connection, [record.id], lock=True)[record.id][1])

        with store.write() as connection:
            subscriptions.get_subscriber(connection, record.subscriber_id, lock=True)
            thread = Thread(target=lock_too)
            thread.start()
            thread.join(0.2)
            assert not found
            paused = replace(record, state=State.PAUSED)
            assert subscriptions.save_subscription(connection, record, paused)
        thread.join(10)
        assert found == [paused]


class TestSubscriptions:
    """One subscriber's place in one sequence."""

    def test_a_subscription_comes_back_as_it_was_added(self, store: Store):
        """All that is known of a subscription is read back; a pending one has not been confirmed."""
        record = store.subscription(due=NOW)
        assert look(store, subscriptions.get_subscription, record.id) == record
        assert record.confirmed_at == NOW
        assert store.subscription(state=State.PENDING).confirmed_at is None

    def test_a_readers_subscriptions_come_the_oldest_first(self, store: Store):
        """A reader's places are in the order in which they came."""
        reader = store.subscriber()
        made = [store.subscription(reader, key) for key in ("trust", "anger", "note")]
        store.subscription()
        assert look(store, subscriptions.subscriptions_of, reader.id) == made
        assert look(store, subscriptions.subscriptions_of, store.subscriber().id) == []

    @pytest.mark.parametrize("moved", [{"next_due_at": NOW + DAY}, {"next_due_at": None}, {"state": "paused"}], ids=str)
    def test_what_somebody_else_moved_is_not_overwritten(self, store: Store, moved: dict[str, Any]):
        """A write is refused where state or due instant are no longer what was read."""
        record = store.subscription(due=NOW)
        store.set("subscription", record.id, **moved)
        changed = replace(record, next_due_at=NOW + 7 * DAY, last_step="one")
        assert not do(store, subscriptions.save_subscription, record, changed)
        assert look(store, subscriptions.get_subscription, record.id).last_step is None

    def test_only_what_changed_is_written(self, store: Store):
        """A write touches no column that its writer left alone; without a change nothing is written."""
        record = store.subscription()
        store.set("subscription", record.id, last_step="two")
        assert do(store, subscriptions.save_subscription, record, replace(record, round=2))
        found = look(store, subscriptions.get_subscription, record.id)
        assert (found.round, found.last_step) == (2, "two")
        assert do(store, subscriptions.save_subscription, record, record)

    @pytest.mark.parametrize("state", list(State))
    def test_leaving_ends_what_can_be_left(self, store: Store, state: State):
        """Leaving ends a subscription in every state but that of having left."""
        due = NOW if state in (State.ACTIVE, State.PAUSED) else None
        record = store.subscription(state=state, due=due)
        assert do(store, subscriptions.leave, record) is (state is not State.LEFT)
        found = look(store, subscriptions.get_subscription, record.id)
        assert (found.state, found.next_due_at, found.due_rule) == (State.LEFT, None, None)

    def test_open_followers_are_listed_page_by_page(self, store: Store):
        """Active, paused and waiting subscriptions of some sequences, in order of id."""
        wanted = [store.subscription(state=state) for state in (State.ACTIVE, State.PAUSED, State.WAITING)]
        for state in (State.PENDING, State.LEFT, State.FINISHED):
            store.subscription(state=state)
        store.subscription(sequence="note")
        wanted.sort(key=lambda record: record.id)
        first = look(store, subscriptions.followers, ["trust"], after=None, limit=2)
        rest = look(store, subscriptions.followers, ["trust"], after=first[-1].id, limit=2)
        assert first + rest == wanted

    def test_due_readers_are_locked_one_process_at_a_time(self, store: Store):
        """Those for whom something is due, each once; those whom another process holds are left to it."""
        reader = store.subscriber()
        store.subscription(reader, "trust", due=NOW)
        store.subscription(reader, "note", due=NOW - DAY)
        store.subscription(due=NOW + DAY)
        with store.write() as connection:
            assert subscriptions.due_subscribers(connection, now=NOW, limit=10) == [reader.id]
            if not store.database.is_sqlite:  # SQLite lets only one process write at all.
                with store.write() as other:
                    assert subscriptions.due_subscribers(other, now=NOW, limit=10) == []
        assert look(store, subscriptions.earliest_due) == NOW - DAY


class TestPlaces:
    """What was received and what passed by, in the present round."""

    def receive(self, store: Store, record: Subscription, step: str, *, round_number: int = 1) -> None:
        item = store.letter(record, step=step)
        shape = {"state": "sent", "received": True, "sent_at": NOW, "round": round_number}
        store.set("delivery", item.id, **shape)

    def test_a_place_is_what_the_ledger_says(self, store: Store):
        """Received are the letters of this round that count as received, whatever became of the others."""
        record = store.subscription()
        self.receive(store, record, "one")
        self.receive(store, record, "old", round_number=2)
        held = store.letter(record, step="two")
        store.set("delivery", held.id, state="held", received=True, doubts=1)
        gone = store.letter(record, step="three")
        store.set("delivery", gone.id, state="withdrawn")
        store.letter(record, step="four")
        (place,) = look(store, subscriptions.places, [record]).values()
        assert place == Place(round=1, seen_revision=1, received=frozenset({"one", "two"}))

    def test_what_passed_by_is_kept_by_round(self, store: Store):
        """Steps passed by are written and taken back within the round they belong to."""
        record = store.subscription()
        before = Place(round=1, seen_revision=1)
        now = replace(before, passed=frozenset({"x", "y"}))
        do(store, subscriptions.save_passed, record.id, before=before, now=now)
        assert look(store, subscriptions.places, [record])[record.id] == now
        fewer = replace(now, passed=frozenset({"y", "z"}))
        do(store, subscriptions.save_passed, record.id, before=now, now=fewer)
        assert look(store, subscriptions.places, [record])[record.id].passed == {"y", "z"}
        store.set("subscription", record.id, round=2)
        again = look(store, subscriptions.get_subscription, record.id)
        assert look(store, subscriptions.places, [again])[record.id].passed == set()

    def test_places_of_many_are_kept_apart(self, store: Store):
        """Each subscription has its own place."""
        records = [store.subscription() for _ in range(3)]
        self.receive(store, records[0], "one")
        places = look(store, subscriptions.places, records)
        assert [places[record.id].received for record in records] == [{"one"}, set(), set()]
        assert look(store, subscriptions.places, []) == {}


class TestSuppression:
    """Nothing may be sent to an address, remembered by its hash."""

    def test_a_suppression_is_remembered_until_it_is_lifted(self, store: Store):
        """The first reason stays; any of an address's hashes finds it, and lifts it."""
        do(store, suppressions.suppress, address_hash="new:1", reason="address_dead", now=NOW)
        do(store, suppressions.suppress, address_hash="new:1", reason="other", now=NOW)
        assert look(store, suppressions.suppression_reason, ["old:1", "new:1"]) == "address_dead"
        assert look(store, suppressions.suppression_reason, ["old:1"]) is None
        do(store, suppressions.lift_suppression, ["old:1", "new:1"])
        assert look(store, suppressions.suppression_reason, ["new:1"]) is None

    def test_mails_that_are_no_letters_are_counted_by_day(self, store: Store):
        """An address's mails are counted once a date, and forgotten in time."""
        day = date(2026, 11, 23)
        assert do(store, suppressions.add_notice, address_hash="a", local_date=day, now=NOW)
        assert not do(store, suppressions.add_notice, address_hash="a", local_date=day, now=NOW)
        assert do(store, suppressions.add_notice, address_hash="a", local_date=day + DAY, now=NOW + DAY)
        assert look(store, suppressions.notices_since, ["a", "b"], since=NOW - DAY) == [NOW, NOW + DAY]
        assert look(store, suppressions.notices_since, ["a"], since=NOW) == [NOW + DAY]
        assert do(store, suppressions.forget_notices, before=NOW + DAY) == 1
        assert look(store, suppressions.notices_since, ["a"], since=NOW - DAY) == [NOW + DAY]


class TestShown:
    """What a reader has been shown."""

    def test_what_was_shown_longest_ago_comes_first(self, store: Store):
        """Affirmations and posts, each at its latest showing; what did not arrive was not shown."""
        store.worker()
        reader = store.subscriber()
        record = store.subscription(reader)
        shown = [("calm", ["a", "b"]), ("slow", ["c"]), ("calm", ["a"]), (None, None)]
        for number, (affirmation, posts) in enumerate(shown):
            item = store.letter(record, step=f"step-{number}")
            (item,) = store.claim()
            assert store.hand_over(item)
            do(store, handovers.record_accepted, [(item, YES)], now=NOW + number * DAY)
            store.set("delivery", item.id, affirmation=affirmation, posts=posts)
        held = store.letter(record, step="held")
        store.set("delivery", held.id, state="held", affirmation="never", posts=["never"])
        assert shown_to(store, reader.id) == (["slow", "calm"], ["b", "c", "a"])

    def test_what_may_have_arrived_was_shown(self, store: Store):
        """An uncertain letter counts as shown, at its slot."""
        record = store.subscription()
        item = store.letter(record)
        store.set("delivery", item.id, state="uncertain", doubts=1, affirmation="calm", posts=["a"])
        assert shown_to(store, record.subscriber_id) == (["calm"], ["a"])


def test_the_table_of_transitions_is_complete():
    """Whoever has not left can leave, nobody who left gets letters unconfirmed, and a pause only holds letters."""
    assert {state for state in State if after(state, Action.LEAVE)} == set(State) - {State.LEFT}
    assert after(State.LEFT, Action.RESUME) is None
    assert {state for state in State if after(state, Action.CONFIRM)} == {State.PENDING, State.LEFT, State.FINISHED}
    assert {after(state, Action.CONFIRM) for state in State} == {State.ACTIVE, None}
    assert all(isinstance(made, State) for made in TRANSITIONS.values())


def shown_to(store: Store, identifier: SubscriberId) -> tuple[list[str], list[str]]:
    """What a reader has been shown, the one shown longest ago first."""
    found = look(store, subscriptions.shown_to, [identifier])[identifier]
    return [*found.affirmations], [*found.posts]
