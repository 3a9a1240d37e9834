"""The ledger: every conditional write, and what it refuses."""

from __future__ import annotations

from datetime import timedelta
from threading import Barrier, Thread
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from newsletter.domain.delivery import TRANSITIONS, Kind, State
from newsletter.domain.subscription import State as SubscriptionState
from newsletter.store import deliveries, handovers, switches, workers
from newsletter.store.handovers import Answer
from newsletter.store.switches import SENDING
from tests.store.conftest import GAP, LEASE, NOW, YES, Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from newsletter.store.deliveries import Delivery

SECOND = timedelta(seconds=1)
NOT_NOW = Answer(code=451, text="4.7.1 Later", host="mail.example")


def do(store: Store, write: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """One write in a transaction of its own."""
    with store.write() as connection:
        return write(connection, *arguments, **named)


class TestPlanning:
    """A step is planned once in a round, and the same row again where it did not arrive."""

    def test_a_letter_is_planned(self, store: Store):
        """A new letter waits for its instant, and nobody has tried it."""
        record = store.subscription()
        item = store.letter(record, due=NOW + timedelta(hours=1))
        assert (item.state, item.kind, item.step, item.round) == (State.PLANNED, Kind.LETTER, "one", 1)
        assert (item.attempt, item.doubts, item.epoch, item.received) == (0, 0, 0, False)
        assert item.due_at == item.next_try_at == NOW + timedelta(hours=1)

    def plan_again(self, store: Store, item: Delivery, **changes: Any) -> bool:
        values = {
            "subscriber_id": item.subscriber_id, "subscription_id": item.subscription_id,
            "sequence_key": item.sequence_key, "round": item.round, "step": item.step, "due_at": NOW + GAP,
            "next_try_at": NOW + GAP, **changes,
        }  # fmt: skip
        return bool(do(store, deliveries.plan_letters, [deliveries.Letter(**values)], now=NOW))

    def test_planning_twice_changes_nothing(self, store: Store):
        """A letter that is planned already is left as it is."""
        item = store.letter()
        assert not self.plan_again(store, item)
        assert store.delivery(item.id) == item

    def test_a_second_open_letter_is_not_planned(self, store: Store):
        """While one letter of a subscription is open, the next one is not planned."""
        item = store.letter()
        assert not self.plan_again(store, item, step="two")
        assert store.count("delivery") == 1

    @pytest.mark.parametrize("state", ["withdrawn", "failed"])
    def test_what_did_not_arrive_is_the_same_row_again(self, store: Store, state: str):
        """A withdrawn or failed letter is reopened: a new attempt under a new epoch, at the new instant."""
        item = store.letter()
        store.set(
            "delivery", item.id, state=state, attempt=25, epoch=7, closed_at=NOW, reason="x", reply_code=451,
            reply_text="y",
        )  # fmt: skip
        assert self.plan_again(store, item)
        again = store.delivery(item.id)
        assert (again.state, again.attempt, again.epoch, again.due_at) == (State.PLANNED, 0, 8, NOW + GAP)
        assert (again.closed_at, again.reason, again.reply_code, again.reply_text) == (None, None, None, None)
        assert store.count("delivery") == 1

    def test_a_doubtful_letter_that_was_withdrawn_stays_doubtful(self, store: Store):
        """A letter that was handed over once is reopened for its one repeat, and for no more."""
        item = store.letter()
        store.set("delivery", item.id, state="withdrawn", doubts=1, epoch=3)
        assert self.plan_again(store, item)
        assert store.delivery(item.id).state is State.UNCERTAIN

    @pytest.mark.parametrize(
        "values",
        [
            {"state": "sent", "received": True, "sent_at": NOW},
            {"state": "held", "received": True, "doubts": 2},
            {"state": "withdrawn", "doubts": 2},
            {"state": "held"},
        ],
        ids=str,
    )
    def test_what_was_received_is_never_planned_again(self, store: Store, values: dict[str, Any]):
        """A letter that was received, was handed over twice, or is held is not reopened by planning."""
        item = store.letter()
        store.set("delivery", item.id, **values)
        assert not self.plan_again(store, item)
        assert store.delivery(item.id).state == values["state"]

    def test_a_notice_is_planned_once_for_its_key(self, store: Store):
        """The same key plans no second email, whoever asks."""
        record = store.subscription(state=SubscriptionState.PENDING)
        plan = {
            "dedup_key": "confirmation:abc:2026-11-23", "subscriber_id": record.subscriber_id,
            "subscription_id": record.id, "payload": {"slot": "x"}, "now": NOW,
        }  # fmt: skip
        first = do(store, deliveries.plan_notice, Kind.CONFIRMATION, **plan)
        assert do(store, deliveries.plan_notice, Kind.CONFIRMATION, **plan) is None
        assert store.delivery(first).payload == {"slot": "x"}
        do(store, deliveries.set_payload, first, {"used": True})
        assert store.delivery(first).payload == {"used": True}


class TestClaiming:
    """Taking what is due, for one worker at a time."""

    def test_what_is_due_is_claimed(self, store: Store):
        """A claimed row has its owner and the next epoch, and is claimed by nobody else."""
        item = store.letter()
        store.worker()
        store.worker("worker-2")
        (claimed,) = store.claim()
        assert claimed == store.delivery(item.id)
        assert (claimed.state, claimed.owner, claimed.epoch) == (State.CLAIMED, "worker-1", 1)
        assert store.claim("worker-2") == []

    def test_nothing_is_claimed_before_its_time(self, store: Store):
        """What is to be tried later stays where it is; the instant itself is not later."""
        store.letter(due=NOW + SECOND)
        item = store.letter(due=NOW)
        store.worker()
        assert [one.id for one in store.claim()] == [item.id]

    def test_letters_and_what_people_wait_for_are_claimed_apart(self, store: Store):
        """A lane takes letters only, or everything but letters."""
        letter, notice = store.letter(), store.notice()
        store.worker()
        assert [one.id for one in store.claim(letters=False)] == [notice.id]
        assert [one.id for one in store.claim(letters=True)] == [letter.id]

    def test_what_waits_longest_is_claimed_first(self, store: Store):
        """Rows are claimed in the order of their instants, no more of them than asked for."""
        items = [store.letter(due=NOW - timedelta(minutes=minutes)) for minutes in (5, 9, 1, 7)]
        store.worker()
        wanted = sorted(items, key=lambda item: item.due_at)
        assert [item.id for item in store.claim(limit=3)] == [item.id for item in wanted[:3]]
        assert [item.id for item in store.claim()] == [wanted[3].id]

    def test_uncertain_letters_are_claimed_like_planned_ones(self, store: Store):
        """The repeat of an uncertain letter is claimed as any other."""
        item = store.letter()
        store.set("delivery", item.id, state="uncertain", doubts=1)
        store.worker()
        assert [one.id for one in store.claim()] == [item.id]

    @pytest.mark.parametrize("state", ["held", "failed", "withdrawn"])
    def test_nothing_else_is_claimed(self, store: Store, state: str):
        """What is held, failed or withdrawn is claimed by nobody."""
        item = store.letter()
        store.set("delivery", item.id, state=state)
        store.worker()
        assert store.claim() == []

    def test_nothing_is_claimed_while_sending_is_stopped(self, store: Store):
        """The big switch stops the claiming of letters and of everything else, until it is turned on."""
        store.letter()
        store.notice()
        store.worker()
        for is_on, claimed in ((False, 0), (False, 0), (True, 2)):
            do(store, switches.set_switch, SENDING, is_on=is_on, now=NOW)
            assert len(store.claim() + store.claim(letters=False)) == claimed

    @pytest.mark.parametrize("lease", [None, timedelta(seconds=-1)])
    def test_nobody_claims_without_a_living_lease(self, store: Store, lease: timedelta | None):
        """A worker that is not enrolled, or whose lease has run out, claims nothing."""
        store.letter()
        if lease is not None:
            store.worker(lease=lease)
        assert store.claim() == []

    def test_no_more_is_claimed_than_was_asked_for(self, store: Store):
        """Whatever plan PostgreSQL thinks best: it looked for candidates row by row once."""
        store.worker("w")
        reader = store.subscriber()
        for at in range(6):
            store.letter(store.subscription(reader, f"sequence-{at}"))
        with store.write() as connection:
            if connection.dialect.name == "postgresql":
                for plan in ("hashjoin", "mergejoin", "hashagg", "sort", "material"):
                    connection.execute(text(f"SET LOCAL enable_{plan} = off"))
            assert len(handovers.claim_due(connection, owner="w", letters=True, now=NOW, limit=1)) == 1

    def test_many_workers_never_claim_the_same_row(self, store: Store):
        """Eight workers that claim at once share the rows out: each is claimed exactly once."""
        reader = store.subscriber()
        wanted = {store.letter(store.subscription(reader, f"sequence-{at}")).id for at in range(120)}
        names = [store.worker(f"worker-{number}") for number in range(8)]
        got: dict[str, list[Delivery]] = {name: [] for name in names}
        start = Barrier(len(names))

        def claim_all(name: str) -> None:
            start.wait()
            while batch := store.claim(name, limit=7):
                got[name] += batch

        threads = [Thread(target=claim_all, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        claimed = [item.id for items in got.values() for item in items]
        assert len(claimed) == len(set(claimed))
        # Those that another worker had locked at that moment are claimed at the next look.
        assert set(claimed) | {item.id for item in store.claim()} == wanted
        assert all(item.owner == name and item.epoch == 1 for name, items in got.items() for item in items)

    def test_what_is_due_is_counted_until_it_is_closed(self, store: Store):
        """Due is what waits and what somebody has in hand; the earliest that waits is known."""
        store.worker()

        def due() -> int:
            with store.read() as connection:
                return handovers.count_due(connection, now=NOW)

        assert due() == 0
        first = store.letter()
        store.letter(due=NOW + SECOND)
        assert due() == 1
        store.claim()
        assert due() == 1
        do(store, handovers.withdraw_claimed, first._replace(owner="worker-1", epoch=1), reason="x", now=NOW)
        assert due() == 0
        with store.read() as connection:
            assert handovers.earliest_try(connection) == NOW + SECOND


class TestHandover:
    """The one statement that decides whether bytes may leave."""

    @pytest.fixture
    def item(self, store: Store) -> Delivery:
        """A claimed letter."""
        store.worker()
        store.letter()
        (item,) = store.claim()
        return item

    def test_a_claimed_letter_may_leave(self, store: Store, item: Delivery):
        """What is written down before the first byte is there after the commit."""
        assert store.hand_over(item)
        found = store.delivery(item.id)
        assert found.state is State.HANDING_OVER
        assert found.handing_over_at is not None
        assert (found.revision, found.message_id, found.message_date) == (1, f"<{item.id}@example.org>", NOW)
        assert (found.owner, found.epoch) == (item.owner, item.epoch)

    def test_twice_is_refused(self, store: Store, item: Delivery):
        """A letter that is being handed over is not handed over again, unless its handover is renewed."""
        assert store.hand_over(item)
        assert not store.hand_over(item)
        before = store.delivery(item.id)
        assert store.hand_over(item, renew=True)
        after = store.delivery(item.id)
        assert after.state is State.HANDING_OVER
        assert (after.handing_over_at or NOW) >= (before.handing_over_at or NOW)

    def test_a_claimed_row_cannot_be_renewed(self, store: Store, item: Delivery):
        """Only a handover that was committed can be renewed."""
        assert not store.hand_over(item, renew=True)

    @pytest.mark.parametrize("renew", [False, True])
    @pytest.mark.parametrize(
        "obstacle",
        [
            "stopped",
            "lease",
            "paused",
            "waiting",
            "left",
            "finished",
            "gap",
            "epoch",
            "owner",
            "withdrawn",
        ],
    )
    def test_everything_is_checked_again(self, store: Store, item: Delivery, obstacle: str, renew: bool):
        """Whatever has changed since the claim, the letter does not leave, and nothing is written."""
        if renew:
            assert store.hand_over(item)
        believed = {"epoch": item._replace(epoch=0), "owner": item._replace(owner="worker-2")}.get(obstacle, item)
        match obstacle:
            case "epoch" | "owner":
                pass
            case "stopped":
                do(store, switches.set_switch, SENDING, is_on=False, now=NOW)
            case "lease":
                do(store, workers.renew_lease, "worker-1", lease=-SECOND)
            case "gap":
                store.set("subscription", item.subscription_id, last_letter_at=NOW - GAP + SECOND)
            case "withdrawn":
                store.set("delivery", item.id, state="withdrawn", owner=None, handing_over_at=None)
            case state:
                store.set("subscription", item.subscription_id, state=state)
        before = store.delivery(item.id)
        assert not store.hand_over(believed, renew=renew)
        assert store.delivery(item.id) == before

    def test_the_gap_to_the_last_letter_may_just_have_passed(self, store: Store, item: Delivery):
        """Exactly `min_gap` after the last letter the next one may leave."""
        store.set("subscription", item.subscription_id, last_letter_at=NOW - GAP)
        assert store.hand_over(item)

    @pytest.mark.parametrize(
        ("state", "leaves"),
        [
            ("pending", True),
            ("left", True),
            ("finished", True),
            ("active", False),
            ("paused", False),
            ("waiting", False),
        ],
    )
    def test_a_confirmation_goes_to_who_has_to_confirm(self, store: Store, state: str, leaves: bool):
        """A confirmation leaves while its subscription still wants confirming."""
        store.worker()
        record = store.subscription(state=SubscriptionState.PENDING)
        store.notice(Kind.CONFIRMATION, record)
        (item,) = store.claim(letters=False)
        store.set("subscription", record.id, state=state, confirmed_at=NOW)
        assert store.hand_over(item) is leaves
        with store.read() as connection:
            assert handovers.still_wanted(connection, item) is leaves

    def test_other_kinds_ask_for_no_state(self, store: Store):
        """A mail that says that somebody is on the list already leaves whatever became of the subscription."""
        store.worker()
        record = store.subscription()
        store.notice(Kind.ALREADY_SUBSCRIBED, record)
        (item,) = store.claim(letters=False)
        store.set("subscription", record.id, state="left")
        assert store.hand_over(item)


class TestRecording:
    """What became of a handover, written only by whoever still has it."""

    @pytest.fixture
    def item(self, store: Store) -> Delivery:
        """A letter that worker-1 is handing over."""
        store.worker()
        return store.handed_over()

    def test_accepted_is_sent_and_received(self, store: Store, item: Delivery):
        """An accepted letter is closed, received, owned by nobody, and keeps the server's words."""
        assert do(store, handovers.record_accepted, [(item, YES)], now=NOW)
        found = store.delivery(item.id)
        assert (found.state, found.received, found.sent_at, found.closed_at) == (State.SENT, True, NOW, NOW)
        assert (found.owner, found.handing_over_at, found.attempt, found.epoch) == (None, None, 1, item.epoch + 1)
        assert (found.reply_code, found.reply_text, found.host) == (YES.code, YES.text, YES.host)

    def test_failed_is_closed_and_not_received(self, store: Store, item: Delivery):
        """A letter refused for good is closed, and was not received."""
        assert do(store, handovers.record_failed, item, NOT_NOW, reason="dead", now=NOW)
        found = store.delivery(item.id)
        assert (found.state, found.received, found.reason, found.closed_at) == (State.FAILED, False, "dead", NOW)

    @pytest.mark.parametrize(("counts", "attempt"), [(True, 1), (False, 0)])
    def test_deferred_waits_for_its_next_try(self, store: Store, item: Delivery, counts: bool, attempt: int):
        """A letter refused for now waits; a mail server that was away is no attempt."""
        later = NOW + timedelta(minutes=5)
        assert do(store, handovers.record_deferred, item, NOT_NOW, next_try_at=later, counts=counts)
        found = store.delivery(item.id)
        assert (found.state, found.next_try_at, found.attempt) == (State.PLANNED, later, attempt)
        assert (found.due_at, found.owner, found.closed_at) == (item.due_at, None, None)

    def test_held_waits_for_the_operator(self, store: Store, item: Delivery):
        """A letter that is held is open, not received, and says why."""
        assert do(store, handovers.hold, item, believed=State.HANDING_OVER, reason="refused", answer=NOT_NOW)
        found = store.delivery(item.id)
        assert (found.state, found.received, found.reason, found.reply_code) == (State.HELD, False, "refused", 451)

    def test_the_first_doubt_is_repeated_and_the_second_is_held(self, store: Store, item: Delivery):
        """Without an answer a letter is uncertain once; after its repeat it is held, and counts as received."""
        doubt = {"reason": "no answer", "repeat": True, "now": NOW}
        assert do(store, handovers.record_doubt, item, **doubt) is State.UNCERTAIN
        found = store.delivery(item.id)
        assert (found.doubts, found.received, found.closed_at, found.next_try_at) == (1, False, None, NOW)
        (again,) = store.claim()
        assert store.hand_over(again)
        assert do(store, handovers.record_doubt, again, **doubt, answer=NOT_NOW) is State.HELD
        found = store.delivery(item.id)
        assert (found.doubts, found.received, found.closed_at, found.reply_code) == (2, True, NOW, 451)

    def test_whoever_wants_no_repeat_has_the_first_doubt_held(self, store: Store, item: Delivery):
        """Where a gap is preferred to a double, the first doubt is held and counts as received."""
        doubt = {"reason": "no answer", "repeat": False, "now": NOW}
        assert do(store, handovers.record_doubt, item, **doubt) is State.HELD
        assert (store.delivery(item.id).doubts, store.delivery(item.id).received) == (1, True)

    def test_a_repeat_that_is_deferred_stays_uncertain(self, store: Store, item: Delivery):
        """A repeat refused for now waits as uncertain, so that its doubt is not forgotten."""
        do(store, handovers.record_doubt, item, reason="no answer", repeat=True, now=NOW)
        (again,) = store.claim()
        assert store.hand_over(again)
        assert do(store, handovers.record_deferred, again, NOT_NOW, next_try_at=NOW, counts=True)
        assert (store.delivery(item.id).state, store.delivery(item.id).doubts) == (State.UNCERTAIN, 1)

    @pytest.mark.parametrize("stale", ["epoch", "owner", "state"])
    def test_a_stale_worker_changes_nothing(self, store: Store, item: Delivery, stale: str):
        """Whoever has lost a row, or believes it in another state, writes nothing at all."""
        believed = item
        match stale:
            case "epoch":
                believed = item._replace(epoch=item.epoch - 1)
            case "owner":
                believed = item._replace(owner="worker-2")
            case "state":
                store.set("delivery", item.id, state="withdrawn", owner=None, handing_over_at=None)
        before = store.delivery(item.id)
        writes: list[Callable[..., Any]] = [
            lambda c: handovers.record_accepted(c, [(believed, YES)], now=NOW),
            lambda c: handovers.record_failed(c, believed, NOT_NOW, reason="x", now=NOW),
            lambda c: handovers.record_deferred(c, believed, NOT_NOW, next_try_at=NOW, counts=True),
            lambda c: handovers.hold(c, believed, believed=State.HANDING_OVER, reason="x"),
            lambda c: handovers.record_doubt(c, believed, reason="x", repeat=True, now=NOW),
            lambda c: handovers.release_claimed(c, [believed]),
            lambda c: handovers.withdraw_claimed(c, believed, reason="x", now=NOW),
        ]
        for write in writes:
            with store.write() as connection:
                assert not write(connection)
        assert store.delivery(item.id) == before

    def test_a_worker_thought_dead_that_comes_back_changes_nothing(self, store: Store, item: Delivery):
        """After its row was judged and claimed by another, the first worker's late verdict is not written."""
        do(store, handovers.record_doubt, item, reason="lost", repeat=True, now=NOW)
        store.worker("worker-2")
        (again,) = store.claim("worker-2")
        assert store.hand_over(again)
        assert not do(store, handovers.record_accepted, [(item, YES)], now=NOW)
        assert do(store, handovers.record_accepted, [(again, YES)], now=NOW)


class TestReleasing:
    """Claimed rows go back freely: nothing was handed over."""

    def test_claimed_rows_go_back_as_they_were(self, store: Store):
        """A released row waits again, due as before, under a new epoch; its owner has lost it."""
        store.worker()
        first, second = store.letter(), store.letter()
        store.set("delivery", second.id, state="uncertain", doubts=1)
        claimed = store.claim()
        assert do(store, handovers.release_claimed, claimed) == 2
        assert [store.delivery(item.id).state for item in (first, second)] == [State.PLANNED, State.UNCERTAIN]
        assert store.delivery(first.id).epoch == 2
        assert not store.hand_over(claimed[0])
        assert len(store.claim()) == 2

    def test_a_release_may_name_the_next_try(self, store: Store):
        """A row can be put off while it is given back."""
        store.worker()
        store.letter()
        later = NOW + timedelta(hours=9)
        do(store, handovers.release_claimed, store.claim(), next_try_at=later)
        assert store.claim() == []
        with store.read() as connection:
            assert handovers.earliest_try(connection) == later


class TestWithdrawing:
    """What leaving, pausing, erasing and suppressing take back."""

    @pytest.mark.parametrize(
        ("values", "withdrawn"),
        [
            ({"state": "planned"}, True),
            ({"state": "claimed", "owner": "w"}, True),
            ({"state": "uncertain", "doubts": 1}, True),
            ({"state": "held"}, True),
            ({"state": "held", "received": True, "doubts": 1}, False),
            ({"state": "handing_over", "owner": "w", "handing_over_at": NOW}, False),
            ({"state": "sent", "received": True, "sent_at": NOW}, False),
            ({"state": "failed"}, False),
        ],
        ids=str,
    )
    def test_what_has_not_begun_to_leave_is_taken_back(self, store: Store, values: dict[str, Any], withdrawn: bool):
        """What waits, is claimed or is held is withdrawn; a handover and what is closed are not touched."""
        item = store.letter()
        store.set("delivery", item.id, **values)
        before = store.delivery(item.id)
        taken = do(store, deliveries.withdraw, subscriber_id=item.subscriber_id, reason="left", now=NOW)
        assert taken == ([before] if withdrawn else [])
        after = store.delivery(item.id)
        if withdrawn:
            assert (after.state, after.owner, after.reason, after.closed_at) == (State.WITHDRAWN, None, "left", NOW)
            assert after.epoch == before.epoch + 1
        else:
            assert after == before

    def test_only_what_is_meant_is_taken_back(self, store: Store):
        """A reader, a subscription, a sequence and steps each narrow what is withdrawn."""
        reader = store.subscriber()
        trust, note = store.subscription(reader, "trust"), store.subscription(reader, "note")
        letters = {"trust": store.letter(trust), "note": store.letter(note), "other": store.letter()}
        notice = store.notice(Kind.CONFIRMATION, trust)

        def taken(**chosen: Any) -> set[str]:
            with store.database._engine.connect() as connection, connection.begin() as transaction:
                found = {item.id for item in deliveries.withdraw(connection, reason="x", now=NOW, **chosen)}
                transaction.rollback()
            names = {item.id: name for name, item in letters.items()} | {notice.id: "notice"}
            return {names[identifier] for identifier in found}

        assert taken(subscriber_id=reader.id) == {"trust", "note"}
        assert taken(subscriber_id=reader.id, letters_only=False) == {"trust", "note", "notice"}
        assert taken(subscription_id=note.id) == {"note"}
        assert taken(sequence_key="trust") == {"trust", "other"}
        assert taken(sequence_key="trust", steps=["one"]) == {"trust", "other"}
        assert taken(sequence_key="trust", steps=["two"]) == set()

    def test_a_withdrawn_row_cannot_be_handed_over(self, store: Store):
        """Whoever had claimed a row that is then withdrawn cannot hand it over."""
        store.worker()
        store.letter()
        (item,) = store.claim()
        do(store, deliveries.withdraw, subscriber_id=item.subscriber_id, reason="left", now=NOW)
        assert not store.hand_over(item)


class TestRescue:
    """What no living worker is at work on."""

    def lost(self, store: Store, *, dead: tuple[str, ...] = (), silent_for: timedelta = timedelta(minutes=11)) -> set:
        with store.read() as connection:
            found = handovers.abandoned(connection, dead=set(dead), silent_for=silent_for, limit=10)
        return {item.id for item in found}

    def test_what_a_living_worker_has_is_not_lost(self, store: Store):
        """Neither a claimed row nor one in handover is taken from a living worker."""
        store.worker()
        store.handed_over()
        store.letter()
        store.claim()
        assert self.lost(store) == set()

    @pytest.mark.parametrize("how", ["known dead", "lease over", "struck off"])
    def test_a_claimed_row_of_a_lost_worker_is_lost(self, store: Store, how: str):
        """A claimed row is given up when its owner is dead, has no lease, or is not there any more."""
        store.worker()
        store.letter()
        (item,) = store.claim()
        if how == "lease over":
            do(store, workers.renew_lease, "worker-1", lease=-SECOND)
        if how == "struck off":
            store.set("delivery", item.id, owner="gone")
        assert self.lost(store, dead=("worker-1",) if how == "known dead" else ()) == {item.id}

    def test_a_handover_waits_for_certainty(self, store: Store):
        """A row in handover is lost when its owner is known dead, or after the longest answer; a lease is no proof."""
        store.worker()
        item = store.handed_over()
        do(store, workers.renew_lease, "worker-1", lease=-SECOND)
        assert self.lost(store) == set()
        assert self.lost(store, dead=("worker-1",)) == {item.id}
        assert self.lost(store, silent_for=timedelta(seconds=-1)) == {item.id}
        store.set("delivery", item.id, handing_over_at=item.created_at.replace(year=2020))
        assert self.lost(store) == {item.id}

    def test_a_living_worker_that_is_silent_too_long_loses_its_handover(self, store: Store):
        """After the longest answer even a living worker's handover is judged."""
        store.worker()
        item = store.handed_over()
        store.set("delivery", item.id, handing_over_at=item.created_at.replace(year=2020))
        assert self.lost(store) == {item.id}

    def test_a_lease_runs_by_the_databases_clock(self, store: Store):
        """Enrolling, renewing and striking off; others see who lives."""
        store.worker("worker-1")
        store.worker("worker-2", lease=-SECOND)
        with store.read() as connection:
            assert workers.other_workers(connection, "nobody") == [("worker-1", False), ("worker-2", True)]
            assert workers.other_workers(connection, "worker-1") == [("worker-2", True)]
        assert do(store, workers.renew_lease, "worker-2", lease=LEASE)
        with store.read() as connection:
            assert workers.other_workers(connection, "worker-1") == [("worker-2", False)]
        assert do(store, workers.strike_off_worker, "worker-2")
        assert not do(store, workers.renew_lease, "worker-2", lease=LEASE)

    def test_whoever_owns_something_is_not_struck_off(self, store: Store):
        """A worker stays entered while it owns a row, so that its lease can still be judged."""
        store.worker()
        store.letter()
        (item,) = store.claim()
        assert not do(store, workers.strike_off_worker, "worker-1")
        do(store, handovers.release_claimed, [item])
        assert do(store, workers.strike_off_worker, "worker-1")


class TestTheOperator:
    """Reopening, repeating and settling."""

    def test_held_letters_are_reopened(self, store: Store):
        """What is held and not received waits again, with all its attempts before it."""
        item, notice, other = store.letter(), store.notice(), store.letter()
        for one in (item, notice):
            store.set("delivery", one.id, state="held", attempt=9, reason="x", reply_code=550, reply_text="y")
        store.set("delivery", other.id, state="held", received=True, doubts=1)
        later = NOW + timedelta(days=1)
        assert do(store, deliveries.reopen_held, now=later, letters_only=True) == 1
        assert do(store, deliveries.reopen_held, now=later) == 1
        found = store.delivery(item.id)
        assert (found.state, found.attempt, found.reason, found.reply_code) == (State.PLANNED, 0, None, None)
        assert found.next_try_at == later
        assert store.delivery(notice.id).state is State.PLANNED
        assert store.delivery(other.id).state is State.HELD

    def test_only_named_letters_are_reopened(self, store: Store):
        """Where ids are given, no other email is touched."""
        first, second = store.letter(), store.letter()
        for one in (first, second):
            store.set("delivery", one.id, state="held")
        assert do(store, deliveries.reopen_held, now=NOW, identifiers=[second.id]) == 1
        assert store.delivery(first.id).state is State.HELD

    def test_a_held_letter_with_a_doubt_is_reopened_as_uncertain(self, store: Store):
        """A repeat that was held for another reason keeps its doubt."""
        item = store.letter()
        store.set("delivery", item.id, state="held", doubts=1)
        do(store, deliveries.reopen_held, now=NOW)
        assert store.delivery(item.id).state is State.UNCERTAIN

    @pytest.mark.parametrize(("doubts", "repeated"), [(1, True), (2, False)])
    def test_a_doubtful_letter_is_repeated_at_most_once(self, store: Store, doubts: int, repeated: bool):
        """A letter that may have arrived once can be sent again by hand; one handed over twice never."""
        item = store.letter()
        store.set("delivery", item.id, state="held", received=True, doubts=doubts, closed_at=NOW)
        assert do(store, deliveries.repeat_doubtful, store.delivery(item.id), now=NOW) is repeated
        assert store.delivery(item.id).state is (State.UNCERTAIN if repeated else State.HELD)

    @pytest.mark.parametrize(
        "values",
        [{"state": "held"}, {"state": "held", "received": True, "doubts": 2}, {"state": "uncertain", "doubts": 1}],
    )
    @pytest.mark.parametrize("arrived", [True, False])
    def test_a_doubt_can_be_settled(self, store: Store, values: dict[str, Any], arrived: bool):
        """What an operator found out is written down: it arrived, or it never will and may be planned again."""
        item = store.letter()
        store.set("delivery", item.id, **values, message_date=NOW - SECOND)
        assert do(store, deliveries.settle, store.delivery(item.id), arrived=arrived, now=NOW)
        found = store.delivery(item.id)
        assert found.received is arrived
        assert found.closed_at == NOW
        if arrived:
            assert (found.state, found.sent_at) == (State.SENT, NOW - SECOND)
        else:
            assert (found.state, found.sent_at, found.doubts) == (State.FAILED, None, 0)

    def test_what_has_moved_on_is_not_settled(self, store: Store):
        """A row that somebody else moved in between, or that is not in doubt, is not settled."""
        item = store.letter()
        assert not do(store, deliveries.settle, item, arrived=True, now=NOW)
        store.set("delivery", item.id, state="held", epoch=5)
        assert not do(store, deliveries.settle, item, arrived=True, now=NOW)

    def test_stopped_letters_are_listed_page_by_page(self, store: Store):
        """Held and uncertain emails are listed in order of id, from behind any of them."""
        items = [store.letter() for _ in range(5)]
        for item in items:
            store.set("delivery", item.id, state="held")
        with store.read() as connection:
            first = deliveries.stopped(connection, state=State.HELD, limit=3)
            rest = deliveries.stopped(connection, state=State.HELD, limit=3, after=first[-1].id)
            assert [item.id for item in first + rest] == [item.id for item in items]
            assert deliveries.stopped(connection, state=State.UNCERTAIN, limit=3) == []

    def test_old_details_are_emptied_and_what_was_received_stays(self, store: Store):
        """Replies and hosts of what was closed long ago go; step, outcome, affirmation and posts stay."""
        store.worker()
        item, young = store.handed_over(), None
        do(store, handovers.record_accepted, [(item, YES)], now=NOW)
        store.set("delivery", item.id, affirmation="go-slowly", posts=["a", "b"], payload={"x": 1})
        young = store.handed_over()
        do(store, handovers.record_accepted, [(young, YES)], now=NOW + SECOND)
        assert do(store, deliveries.empty_old_details, before=NOW + SECOND, limit=10) == 1
        assert do(store, deliveries.empty_old_details, before=NOW + SECOND, limit=10) == 0
        found = store.delivery(item.id)
        assert (found.reply_text, found.reply_code, found.host, found.payload) == (None, None, None, None)
        assert (found.state, found.step, found.affirmation, found.posts) == (State.SENT, "one", "go-slowly", ["a", "b"])
        assert store.delivery(young.id).host == YES.host

    def test_the_switch_is_on_until_it_is_turned(self, store: Store):
        """A switch nobody turned is on; it can be turned again and again."""
        for is_on in (None, False, False, True, False):
            if is_on is not None:
                do(store, switches.set_switch, SENDING, is_on=is_on, now=NOW)
            with store.read() as connection:
                assert switches.switch_is_on(connection, SENDING) is (is_on is not False)


class TestLooking:
    """What is read from the ledger."""

    def test_the_newest_emails_of_a_reader_the_oldest_first(self, store: Store):
        """A reader's emails come in order, the newest so many of them."""
        record = store.subscription()
        items = []
        for step in ("one", "two", "three"):
            items.append(store.letter(record, step=step))
            store.set("delivery", items[-1].id, state="withdrawn")
        store.letter()
        with store.read() as connection:
            found = deliveries.deliveries_of(connection, record.subscriber_id, limit=2)
        assert [item.step for item in found] == ["two", "three"]

    def test_the_open_letters_of_readers(self, store: Store):
        """By subscription, the letter it waits for; closed ones and other readers' are left out."""
        reader = store.subscriber()
        trust, note = store.subscription(reader, "trust"), store.subscription(reader, "note")
        waiting, done = store.letter(trust), store.letter(note)
        store.set("delivery", done.id, state="withdrawn")
        store.letter()
        with store.read() as connection:
            found = deliveries.open_letters(connection, [reader.id])
            assert deliveries.open_letters(connection, []) == {}
        assert {key: item.id for key, item in found.items()} == {trust.id: waiting.id}

    def test_received_letters_are_counted_over_all_rounds(self, store: Store):
        """The total of a subscription counts what was received, whatever the round."""
        store.worker()
        record = store.subscription()
        item = store.handed_over(record)
        do(store, handovers.record_accepted, [(item, YES)], now=NOW)
        store.set("delivery", item.id, round=7)
        store.letter(record, step="two")
        with store.read() as connection:
            assert deliveries.letter_totals(connection, record) == 1
            assert deliveries.last_accepted_at(connection, record) == NOW
            assert deliveries.last_accepted_at(connection, store.subscription()) is None

    def test_nobody_has_a_strangers_email(self, store: Store):
        """An id that no email has gives nothing."""
        record = store.subscription()
        with store.read() as connection:
            assert deliveries.get_delivery(connection, record.id) is None


def test_the_table_of_transitions_is_complete():
    """Each state has its followers, nothing follows what was sent, and no state follows itself."""
    assert set(TRANSITIONS) == set(State)
    assert TRANSITIONS[State.SENT] == set()
    assert all(state not in followers for state, followers in TRANSITIONS.items())


def test_a_record_has_the_columns_of_the_table_in_their_order():
    assert [column.name for column in deliveries.COLUMNS] == list(deliveries.Delivery._fields)
