"""What was published: numbered, immutable, the last one live."""

from __future__ import annotations

from datetime import timedelta
from threading import Event, Thread
from typing import Any

import pytest
from sqlalchemy import insert

from newsletter.domain.progress import Outline
from newsletter.domain.subscription import State
from newsletter.store import revisions, tables
from newsletter.store.revisions import Standing
from tests.store.conftest import NOW, Store


def outline(revision: int, *steps: str, late: tuple[str, ...] = ()) -> Outline:
    return Outline(revision=revision, steps=steps, deliver_late=frozenset(late))


def publish(store: Store, number: int, **outlines: Outline) -> None:
    with store.write() as connection:
        revisions.add_revision(
            connection, number=number, digest=f"digest-{number}", snapshot=f"content {number}", outlines=outlines,
            note=f"note {number}", now=NOW + timedelta(days=number),
        )  # fmt: skip


def look(store: Store, read: Any, *arguments: Any, **named: Any) -> Any:
    with store.read() as connection:
        return read(connection, *arguments, **named)


class TestRevisions:
    """Numbered from 1; the last one is live."""

    def test_nothing_is_live_at_first(self, store: Store):
        """Before the first publication the live number is 0, and there is no content."""
        assert look(store, revisions.live_number) == 0
        assert look(store, revisions.list_heads) == []
        assert look(store, revisions.get_head, 1) is None
        with pytest.raises(KeyError):
            look(store, revisions.get_snapshot, 1)

    def test_the_last_revision_is_live(self, store: Store):
        """Each revision keeps its content, and the newest is listed first."""
        publish(store, 1)
        publish(store, 2)
        assert look(store, revisions.live_number) == 2
        assert [head.number for head in look(store, revisions.list_heads)] == [2, 1]
        assert [head.number for head in look(store, revisions.list_heads, limit=1)] == [2]
        assert look(store, revisions.get_snapshot, 1) == "content 1"
        head = look(store, revisions.get_head, 2)
        assert (head.note, head.digest, head.published_at) == ("note 2", "digest-2", NOW + timedelta(days=2))

    def test_outlines_come_in_the_order_of_revisions(self, store: Store):
        """By sequence: its order in each revision that has it, late deliveries included."""
        publish(store, 1, trust=outline(1, "a", "b"))
        publish(store, 2, trust=outline(2, "x", "a", late=("x",)), note=outline(2, "n"))
        publish(store, 3, note=outline(3, "n"))
        assert look(store, revisions.outlines) == {
            "trust": [outline(1, "a", "b"), outline(2, "x", "a", late=("x",))],
            "note": [outline(2, "n"), outline(3, "n")],
        }

    def test_what_wants_retiming_is_known_until_it_is_done(self, store: Store):
        """A revision wants re-timing until that is written down, also after an interruption."""
        publish(store, 1)
        publish(store, 2)
        assert look(store, revisions.untimed) == [1, 2]
        with store.write() as connection:
            revisions.set_retimed(connection, 1, now=NOW)
        assert look(store, revisions.untimed) == [2]
        assert look(store, revisions.get_head, 1).retimed_at == NOW

    def test_one_publication_at_a_time(self, store: Store):
        """Whoever publishes makes the next one wait until the transaction ends."""
        second_has_it = Event()

        def publish_too() -> None:
            with store.write() as connection:
                revisions.lock_publishing(connection)
                second_has_it.set()

        with store.write() as connection:
            revisions.lock_publishing(connection)
            thread = Thread(target=publish_too)
            thread.start()
            assert not second_has_it.wait(0.2)
        assert second_has_it.wait(10)
        thread.join()


class TestNames:
    """Which identity a key last stood for."""

    def test_names_are_overwritten_and_never_lost(self, store: Store):
        """A name stands for what it was last given to; names not mentioned stay."""
        first = {("trust", "one"): "one", ("trust", "two"): "two", ("note", "one"): "n"}
        for names in (first, {("trust", "two"): "two~2"}):
            with store.write() as connection:
                revisions.save_step_names(connection, names)
        assert look(store, revisions.step_names) == {**first, ("trust", "two"): "two~2"}


class TestStandings:
    """Where people stand."""

    def test_open_subscriptions_are_counted_by_the_step_last_received(self, store: Store):
        """Active, paused and waiting readers count; those who left, finished or never confirmed do not."""
        for state, anchor in (
            (State.ACTIVE, None), (State.ACTIVE, "one"), (State.PAUSED, "one"), (State.WAITING, "two"),
            (State.LEFT, "one"), (State.FINISHED, "two"), (State.PENDING, None),
        ):  # fmt: skip
            store.set("subscription", store.subscription(state=state).id, anchor=anchor)
        found = look(store, revisions.standings, ["trust", "note"])
        expected = {Standing(anchor=None, count=1), Standing(anchor="one", count=2), Standing(anchor="two", count=1)}
        assert set(found["trust"]) == expected
        assert found["note"] == []

    def test_whom_a_step_passed_by_is_counted_in_the_present_round(self, store: Store):
        """Steps passed by count for open subscriptions and for the round they are in."""
        for state, round_number in ((State.ACTIVE, 1), (State.PAUSED, 1), (State.ACTIVE, 2), (State.LEFT, 1)):
            record = store.subscription(state=state)
            store.set("subscription", record.id, round=round_number)
            with store.write() as connection:
                connection.execute(insert(tables.passed_step).values(subscription_id=record.id, round=1, step="x"))
        assert look(store, revisions.passed_by, ["trust"]) == {("trust", "x"): 2}
        assert look(store, revisions.passed_by, ["note"]) == {}


def test_a_signing_key_is_remembered_with_its_last_use(store: Store):
    """A key that signs is noted once, with the last time it was seen."""
    for day in (0, 1):
        with store.write() as connection:
            revisions.note_signing_key(connection, "abc123", now=NOW + timedelta(days=day))
    assert look(store, revisions.signing_keys) == {"abc123": NOW + timedelta(days=1)}
