"""The schema makes the illegal impossible, whatever the code above it does."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert

from newsletter.domain.delivery import Kind
from newsletter.domain.delivery import State as DeliveryState
from newsletter.domain.subscription import State
from newsletter.store import erasing, events, suppressions, tables
from newsletter.store.database import Conflict
from newsletter.store.statements import insert_or_nothing
from tests.store.conftest import NOW, Store, closed_at

if TYPE_CHECKING:
    from newsletter.store.subscriptions import Subscription

LETTER = {"kind": "letter", "sequence_key": "trust", "round": 1, "step": "one", "state": "planned"}
OWNED = {"owner": "worker-1"}
GIVEN = {**OWNED, "handing_over_at": NOW}
NOBODY = UUID(int=1)
SENT = {"state": "sent", "received": True, "sent_at": NOW}

LEGAL = [
    pytest.param({}, id="planned"),
    pytest.param({"state": "claimed", **OWNED}, id="claimed"),
    pytest.param({"state": "handing_over", **GIVEN}, id="handing_over"),
    pytest.param({"state": "handing_over", **GIVEN, "doubts": 1}, id="handing_over again"),
    pytest.param(SENT, id="sent"),
    pytest.param({**SENT, "doubts": 1}, id="sent the second time"),
    pytest.param({"state": "failed"}, id="failed"),
    pytest.param({"state": "held"}, id="held"),
    pytest.param({"state": "held", "received": True, "doubts": 1}, id="held for good"),
    pytest.param({"state": "held", "received": True, "doubts": 2}, id="held for good after the repeat"),
    pytest.param({"state": "uncertain", "doubts": 1}, id="uncertain"),
    pytest.param({"state": "withdrawn"}, id="withdrawn"),
    pytest.param({"state": "withdrawn", "doubts": 1}, id="withdrawn while uncertain"),
]
ILLEGAL = [
    pytest.param({"state": "lost"}, id="a state that is none"),
    pytest.param({"kind": "advert"}, id="a kind that is none"),
    pytest.param({**SENT, "sent_at": None}, id="sent, and never"),
    pytest.param({"sent_at": NOW}, id="a time of sending, and not sent"),
    pytest.param({**SENT, "received": False}, id="sent, and not received"),
    pytest.param({"received": True}, id="planned, and received"),
    pytest.param({"closed_at": NOW}, id="planned, and closed"),
    pytest.param({"state": "withdrawn", "closed_at": None}, id="withdrawn, and open"),
    pytest.param({**SENT, "closed_at": None}, id="sent, and open"),
    pytest.param({"state": "held", "received": True, "doubts": 1, "closed_at": None}, id="held for good, and open"),
    pytest.param({"state": "failed", "received": True}, id="failed, and received"),
    pytest.param({"state": "withdrawn", "received": True}, id="withdrawn, and received"),
    pytest.param({"state": "held", "received": True}, id="held and received without any doubt"),
    pytest.param({"state": "claimed"}, id="claimed by nobody"),
    pytest.param({"state": "handing_over", "handing_over_at": NOW}, id="handed over by nobody"),
    pytest.param(OWNED, id="an owner without a claim"),
    pytest.param({**SENT, **OWNED}, id="sent, and still owned"),
    pytest.param({"state": "handing_over", **OWNED}, id="handed over at no time"),
    pytest.param({"state": "claimed", **GIVEN}, id="claimed, with a time of handover"),
    pytest.param({"state": "uncertain"}, id="uncertain without a doubt"),
    pytest.param({"state": "uncertain", "doubts": 2}, id="uncertain a second time"),
    pytest.param({"doubts": 3}, id="three doubts"),
    pytest.param({"doubts": -1}, id="less than no doubt"),
    pytest.param({"round": None}, id="a letter of no round"),
    pytest.param({"step": None}, id="a letter of no step"),
    pytest.param({"sequence_key": None}, id="a letter of no sequence"),
    pytest.param({"subscription_id": None}, id="a letter of no subscription"),
    pytest.param({"subscriber_id": NOBODY}, id="a letter to nobody"),
    pytest.param({"due_at": None}, id="due at no time"),
    pytest.param({"next_try_at": None}, id="to be tried at no time"),
    pytest.param({"dedup_key": "letter"}, id="a letter with a key of another kind"),
]


def add_letter(store: Store, record: Subscription, **values: Any) -> UUID:
    """Insert a row into the ledger as it stands."""
    identifier = uuid4()
    row = {
        "id": identifier,
        "dedup_key": None if values.get("kind", Kind.LETTER) == Kind.LETTER else uuid4().hex,
        "subscriber_id": record.subscriber_id,
        "subscription_id": record.id,
        "due_at": NOW,
        "next_try_at": NOW,
        "created_at": NOW,
        "closed_at": closed_at(values),
        **LETTER,
        **values,
    }
    with store.write() as connection:
        connection.execute(insert(tables.delivery).values(row))
    return identifier


class TestDelivery:
    """The ledger."""

    @pytest.mark.parametrize("values", LEGAL)
    def test_each_state_has_its_legal_shape(self, store: Store, values: dict[str, Any]):
        """What the code writes is accepted."""
        assert add_letter(store, store.subscription(), **values)

    @pytest.mark.parametrize("values", ILLEGAL)
    def test_an_impossible_row_is_refused(self, store: Store, values: dict[str, Any]):
        """A row that means nothing cannot be written."""
        record = store.subscription()
        with pytest.raises(Conflict):
            add_letter(store, record, **values)

    @pytest.mark.parametrize("values", ILLEGAL)
    def test_a_row_cannot_become_impossible(self, store: Store, values: dict[str, Any]):
        """A legal row cannot be changed into one that means nothing."""
        identifier = add_letter(store, store.subscription())
        with pytest.raises(Conflict):
            store.set("delivery", identifier, **values)

    @pytest.mark.parametrize("first", ["planned", "claimed", "handing_over", "held", "uncertain"])
    def test_a_subscription_has_one_open_letter(self, store: Store, first: str):
        """While a letter is open, its subscription can have no second one."""
        record = store.subscription()
        shape = {"claimed": OWNED, "handing_over": GIVEN, "uncertain": {"doubts": 1}}
        add_letter(store, record, state=first, **shape.get(first, {}))
        with pytest.raises(Conflict):
            add_letter(store, record, step="two")

    @pytest.mark.parametrize(
        "first",
        [SENT, {"state": "failed"}, {"state": "withdrawn"}, {"state": "held", "received": True, "doubts": 1}],
        ids=str,
    )
    def test_a_closed_letter_leaves_room_for_the_next(self, store: Store, first: dict[str, Any]):
        """A letter that was received, withdrawn or failed does not stand in the way of the next."""
        record = store.subscription()
        add_letter(store, record, **first)
        assert add_letter(store, record, step="two")

    def test_other_subscriptions_have_open_letters_of_their_own(self, store: Store):
        """Two sequences of one reader may each have an open letter."""
        reader = store.subscriber()
        assert add_letter(store, store.subscription(reader, "trust"))
        assert add_letter(store, store.subscription(reader, "note"), sequence_key="note")

    def test_mail_that_is_no_letter_is_not_counted_as_one(self, store: Store):
        """A confirmation does not stand in the way of a letter, nor a second one of it."""
        record = store.subscription()
        no_letter = {"kind": "confirmation", "sequence_key": None, "round": None, "step": None}
        add_letter(store, record, **no_letter)
        add_letter(store, record, **no_letter)
        assert add_letter(store, record)

    def test_a_step_exists_once_in_a_round(self, store: Store):
        """Subscription, round and step are unique, whatever became of the letter and whatever its key says."""
        record = store.subscription()
        add_letter(store, record, **SENT)
        with pytest.raises(Conflict):
            add_letter(store, record)
        assert add_letter(store, record, round=2)

    def test_a_dedup_key_exists_once(self, store: Store):
        """The same key cannot be planned twice, for whomever."""
        add_letter(store, store.subscription(), kind=Kind.CONFIRMATION, dedup_key="confirmation:abc:2026-11-23")
        with pytest.raises(Conflict):
            add_letter(store, store.subscription(), kind=Kind.CONFIRMATION, dedup_key="confirmation:abc:2026-11-23")

    def test_what_is_no_letter_has_a_key(self, store: Store):
        """Without one nothing would keep it from being planned twice."""
        with pytest.raises(Conflict):
            add_letter(store, store.subscription(), kind=Kind.CONFIRMATION, dedup_key=None)


class TestSubscription:
    """One subscriber's place in one sequence."""

    def test_a_reader_has_a_sequence_once(self, store: Store):
        """The same reader cannot subscribe to the same sequence twice."""
        reader = store.subscriber()
        store.subscription(reader)
        with pytest.raises(Conflict):
            store.subscription(reader)

    @pytest.mark.parametrize("state", list(State))
    def test_every_state_is_known(self, store: Store, state: State):
        """Each state of the rules can be written."""
        assert store.subscription(state=state).state is state

    @pytest.mark.parametrize(
        "values",
        [
            {"state": "asleep"},
            {"round": 0},
            {"confirmed_at": None},
            {"state": "finished", "next_due_at": NOW},
            {"state": "waiting", "next_due_at": NOW},
            {"state": "left", "next_due_at": NOW},
            {"state": "pending", "next_due_at": NOW},
            {"state": "finished", "confirmed_at": None},
            {"subscriber_id": NOBODY},
            {"sequence_key": None},
        ],
        ids=str,
    )
    def test_an_impossible_subscription_is_refused(self, store: Store, values: dict[str, Any]):
        """Nobody who is not active or paused has a due instant, and nobody is active unconfirmed."""
        record = store.subscription()
        with pytest.raises(Conflict):
            store.set("subscription", record.id, **values)

    @pytest.mark.parametrize("state", ["active", "paused"])
    def test_whoever_gets_letters_may_have_a_due_instant(self, store: Store, state: str):
        """Active and paused subscriptions may have a due instant, or none."""
        record = store.subscription()
        store.set("subscription", record.id, state=state, next_due_at=NOW)
        store.set("subscription", record.id, state=state, next_due_at=None)

    def test_whoever_left_before_confirming_stays_unconfirmed(self, store: Store):
        """A subscription that was never confirmed can be left."""
        record = store.subscription(state=State.PENDING)
        store.set("subscription", record.id, state="left")


class TestSubscriber:
    """One person, one address."""

    def test_an_address_exists_once(self, store: Store):
        """Two subscribers cannot have the same address key."""
        store.subscriber("maria@example.org")
        with pytest.raises(Conflict):
            store.subscriber("maria@example.org")

    @pytest.mark.parametrize(
        "values",
        [{"weekday": 7}, {"weekday": -1}, {"at": "9:00"}, {"pace": 0}, {"pace": 9}, {"address": None}],
        ids=str,
    )
    def test_an_impossible_subscriber_is_refused(self, store: Store, values: dict[str, Any]):
        """A slot is a weekday and an hour, and a pace one to eight weeks."""
        reader = store.subscriber()
        with pytest.raises(Conflict):
            store.set("subscriber", reader.id, **values)

    def test_erasing_a_subscriber_erases_everything_of_theirs(self, store: Store):
        """With a subscriber go subscriptions, emails, steps passed by and events; a suppression stays."""
        other = store.letter()
        reader = store.subscriber()
        record = store.subscription(reader)
        store.letter(record)
        store.notice(Kind.ALREADY_SUBSCRIBED, record)
        with store.write() as connection:
            connection.execute(insert(tables.passed_step).values(subscription_id=record.id, round=1, step="x"))
            events.tell(connection, "asked", subscriber_id=reader.id, subscription_id=record.id, now=NOW)
            events.tell(connection, "paused", subscriber_id=reader.id, now=NOW)
            suppressions.suppress(connection, address_hash="k:h", reason="address_dead", now=NOW)
            erasing.erase_subscriber(connection, reader.id)
        left = {name: store.count(name) for name in ("subscriber", "subscription", "delivery", "passed_step", "event")}
        assert left == {"subscriber": 1, "subscription": 1, "delivery": 1, "passed_step": 0, "event": 0}
        assert store.delivery(other.id) == other
        assert store.count("suppression") == 1


class TestTheRest:
    """Revisions, notices, suppressions, keys."""

    @pytest.mark.parametrize(
        ("table", "values"),
        [
            ("suppression", {"address_hash": "k:h", "reason": "address_dead", "at": NOW}),
            ("notice", {"address_hash": "k:h", "local_date": date(2026, 11, 23), "at": NOW}),
            ("step_name", {"sequence_key": "trust", "name": "one", "identity": "one"}),
            ("switch", {"name": "sending", "is_on": True, "at": NOW}),
            ("signing_key", {"key_id": "abc123", "last_signed_at": NOW}),
            ("worker", {"id": "worker-1", "host": "here", "lease_until": NOW, "started_at": NOW}),
            ("destination", {"name": "gmail.com"}),
            ("warm_up", {"plan": "50,100", "day": 1, "local_date": date(2026, 11, 23), "sent": 0}),
            (
                "revision",
                {"number": 1, "published_at": NOW, "digest": "d", "outlines": {}, "snapshot": "{}"},
            ),
        ],
    )
    def test_each_key_exists_once(self, store: Store, table: str, values: dict[str, Any]):
        """Inserting the same key a second time does nothing, and says so; a plain insert is refused."""
        named = tables.metadata.tables[table]
        with store.write() as connection:
            assert insert_or_nothing(connection, named, values)
            assert not insert_or_nothing(connection, named, values)
        with pytest.raises(Conflict), store.write() as connection:
            connection.execute(insert(named).values(values))
        assert store.count(table) == 1

    @pytest.mark.parametrize(
        "values",
        [
            {"level": 9},
            {"level": -1},
            {"refusals": 5, "opened_at": NOW},
            {"refusals": 5, "retry_at": NOW},
            {"refusals": 4, "opened_at": NOW, "retry_at": NOW},
        ],
        ids=str,
    )
    def test_an_impossible_destination_is_refused(self, store: Store, values: dict[str, Any]):
        """A circuit is open after five refusals, and then it is known when a letter is tried."""
        with pytest.raises(Conflict), store.write() as connection:
            connection.execute(insert(tables.destination).values(name="gmail.com", **values))

    def test_revisions_are_numbered_from_one(self, store: Store):
        """There is no revision zero."""
        values = {"number": 0, "published_at": NOW, "digest": "d", "outlines": {}, "snapshot": "{}"}
        with pytest.raises(Conflict), store.write() as connection:
            connection.execute(insert(tables.revision).values(values))

    def test_insert_or_nothing_does_not_hide_an_impossible_row(self, store: Store):
        """Only a key that is taken is passed over; a row that breaks a check is refused."""
        record = store.subscription()
        row = {
            "id": uuid4(), "subscriber_id": record.subscriber_id, "subscription_id": record.id,
            "due_at": NOW, "next_try_at": NOW, "created_at": NOW, **LETTER, "state": "lost",
        }  # fmt: skip
        with pytest.raises(Conflict), store.write() as connection:
            insert_or_nothing(connection, tables.delivery, row)


def test_the_states_of_the_schema_are_those_of_the_rules():
    """The longest names of states and kinds fit their columns."""
    assert max(map(len, DeliveryState)) <= tables.delivery.c.state.type.length
    assert max(map(len, State)) <= tables.subscription.c.state.type.length
    assert max(map(len, Kind)) <= tables.delivery.c.kind.type.length
