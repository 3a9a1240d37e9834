"""Races for one row of the ledger: threads that claim, hand over, take back and plan at the same moment.

What each write does when it is alone stands in test_deliveries.py.
"""

from __future__ import annotations

from collections import Counter
from threading import Barrier, Lock, Thread
from typing import TYPE_CHECKING, Any

from newsletter.domain.delivery import State
from newsletter.domain.subscription import State as Standing
from newsletter.errors import DatabaseUnavailable
from newsletter.store import deliveries, handovers, subscriptions, switches
from newsletter.store.database import Conflict
from tests.store.conftest import NOW, SLOT, YES, Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from newsletter.store.deliveries import Delivery
    from newsletter.store.subscriptions import Subscription


def at_once(*actions: Callable[[], None]) -> None:
    """Do all of this at the same moment; what one of them raises is raised here."""
    barrier = Barrier(len(actions))
    raised: list[BaseException] = []

    def run(action: Callable[[], None]) -> None:
        barrier.wait()
        try:
            action()
        except BaseException as error:  # noqa: BLE001  (raised below, in the test's own thread)
            raised.append(error)

    threads = [Thread(target=run, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]


def crowd(store: Store, size: int) -> list[Subscription]:
    """Readers with one planned letter each."""
    records = []
    with store.write() as connection:
        for number in range(size):
            reader = subscriptions.add_subscriber(
                connection, address=f"r{number}@example.org", address_key=f"r{number}@example.org",
                slot=SLOT, country=None, discreet=False, now=NOW,
            )  # fmt: skip
            record = subscriptions.add_subscription(
                connection, subscriber_id=reader.id, sequence_key="trust", state=Standing.ACTIVE, seen_revision=1,
                next_due_at=None, now=NOW,
            )  # fmt: skip
            assert plan(connection, record)
            records.append(record)
    return records


def plan(connection: Any, record: Subscription, step: str = "one") -> bool:
    letter = deliveries.Letter(
        subscriber_id=record.subscriber_id, subscription_id=record.id, sequence_key="trust", round=1, step=step,
        due_at=NOW, next_try_at=NOW,
    )  # fmt: skip
    return deliveries.plan_letters(connection, [letter], now=NOW) == 1


def withdraw(store: Store, record: Subscription) -> list[Delivery]:
    """What leaving does to the ledger, in one transaction with the subscription."""
    with store.write() as connection:
        reader = subscriptions.get_subscriber(connection, record.subscriber_id, lock=True)
        assert reader is not None
        taken = deliveries.withdraw(connection, subscriber_id=reader.id, reason="left", now=NOW)
        current = subscriptions.get_subscription(connection, record.id)
        assert current is not None
        assert subscriptions.leave(connection, current)
    return taken


def test_eight_workers_claim_three_hundred_rows_and_none_twice(store: Store):
    """However they race, each row is claimed by exactly one, and written down as that one's."""
    crowd(store, 300)
    names = [store.worker(f"worker-{number}") for number in range(8)]
    claimed: dict[str, list[Delivery]] = {name: [] for name in names}

    def work(name: str) -> None:
        empty = 0
        while empty < 3:
            items = store.claim(name, limit=7)
            claimed[name] += items
            empty = 0 if items else empty + 1

    at_once(*[lambda name=name: work(name) for name in names])
    owners = Counter(item.id for items in claimed.values() for item in items)
    assert len(owners) == 300
    assert set(owners.values()) == {1}
    for name, items in claimed.items():
        assert all(store.delivery(item.id).owner == name for item in items[:3])


def test_after_leaving_was_answered_no_handover_begins(store: Store):
    """Leaving races the handover of claimed letters: one of the two wins each row, and both agree on which.

    A letter that was withdrawn is never handed over, and none is handed over behind the answer to the reader.
    """
    records = crowd(store, 40)
    store.worker()
    items = {item.subscription_id: item for item in store.claim()}
    lock = Lock()
    granted: set[Any] = set()
    left: set[Any] = set()
    behind: set[Any] = set()

    def send() -> None:
        for record in records:
            with lock:
                answered = record.id in left
            if store.hand_over(items[record.id]):
                granted.add(record.id)
                if answered:
                    behind.add(record.id)

    withdrawn: set[Any] = set()

    def leave() -> None:
        for record in records:
            withdrawn.update(item.subscription_id for item in withdraw(store, record))
            with lock:
                left.add(record.id)

    at_once(send, leave)
    assert behind == set()
    assert granted & withdrawn == set()
    assert granted | withdrawn == {record.id for record in records}
    for record in records:
        state = store.delivery_of(record, "one").state
        assert state is (State.HANDING_OVER if record.id in granted else State.WITHDRAWN)


def test_a_verdict_and_a_withdrawal_at_once_lose_no_verdict(store: Store):
    """What is being handed over is not taken back, and its verdict is written whoever leaves meanwhile."""
    records = crowd(store, 20)
    store.worker()
    items = store.claim()
    for item in items:
        assert store.hand_over(item)

    def record_all() -> None:
        for item in items:
            with store.write() as connection:
                subscriptions.get_subscriber(connection, item.subscriber_id, lock=True)
                assert handovers.record_accepted(connection, [(item, YES)], now=NOW)

    def leave_all() -> None:
        for record in reversed(records):
            assert withdraw(store, record) == []

    at_once(record_all, leave_all)
    assert {store.delivery(item.id).state for item in items} == {State.SENT}


def test_a_rescue_and_a_late_verdict_agree_on_one_of_them(store: Store):
    """A worker answers in the moment in which it is given up: sent, or in doubt, and only one is told yes."""
    crowd(store, 20)
    store.worker()
    items = store.claim()
    for item in items:
        assert store.hand_over(item)
    sent: set[Any] = set()
    doubted: set[Any] = set()

    def judge(told: set[Any], order: list[Delivery], write: Callable[[Any, Delivery], object]) -> None:
        for item in order:
            with store.write() as connection:
                if write(connection, item):
                    told.add(item.id)

    at_once(
        lambda: judge(sent, items, lambda c, item: handovers.record_accepted(c, [(item, YES)], now=NOW)),
        lambda: judge(
            doubted,
            items[::-1],
            lambda c, item: handovers.record_doubt(c, item, reason="lost", repeat=True, now=NOW),
        ),
    )
    assert sent & doubted == set()
    assert sent | doubted == {item.id for item in items}
    assert {item.id for item in items if store.delivery(item.id).state is State.SENT} == sent


def test_stopping_and_handing_over_at_once(store: Store):
    """From the commit of the stop on, no handover is granted."""
    crowd(store, 40)
    store.worker()
    items = store.claim()
    stopped = []
    behind = []

    def send() -> None:
        for item in items:
            was_stopped = bool(stopped)
            if store.hand_over(item) and was_stopped:
                behind.append(item)

    def stop() -> None:
        with store.write() as connection:
            switches.set_switch(connection, switches.SENDING, is_on=False, now=NOW)
        stopped.append(True)

    at_once(send, stop)
    assert behind == []
    assert store.claim() == []


def test_a_subscription_has_at_most_one_open_letter(store: Store):
    """However many plan different steps for it at once, one of them is planned."""
    record = store.subscription()
    planned = []

    def plan_step(step: str) -> None:
        try:
            with store.write() as connection:
                if plan(connection, record, step):
                    planned.append(step)
        except (Conflict, DatabaseUnavailable):
            pass

    at_once(*[lambda step=step: plan_step(step) for step in ("one", "two", "three", "four", "one", "two")])
    assert len(planned) == 1
    assert store.count("delivery") == 1
