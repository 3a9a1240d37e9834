"""What comes next is told the mail server early: claimed and composed, and its handover is not committed yet."""

from __future__ import annotations

import contextlib
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import count, pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from sqlalchemy import update

from newsletter.domain.delivery import State
from newsletter.errors import DatabaseUnavailable
from newsletter.service import rounds
from newsletter.service.composing import Composer
from newsletter.service.desk import Desk
from newsletter.service.sending import Crew, Lane
from newsletter.store import tables
from tests.service.conftest import LANES
from tests.support.building import House, letter, local
from tests.support.smtp_server import EXTENSIONS, Close, Delay, Do, Reply, SmtpServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from newsletter.mail.base import Envelope, Mailer, Verdict
    from newsletter.service.office import Handed
    from newsletter.store.deliveries import Delivery
    from tests.support.building import Reader

    OpenLane = Callable[..., Lane]

TUESDAY = "2026-11-24 09:00"
READERS = 6
CROWD = 30
STEPS = [f"step-{number}" for number in range(1, 8)]


@pytest.fixture
def post() -> Iterator[SmtpServer]:
    """A mail server that offers PIPELINING."""
    with SmtpServer(extensions=[*EXTENSIONS, "PIPELINING"]) as server:
        yield server


class Journal:
    """What the mailers were given, in order, and what they were told comes next."""

    def __init__(self) -> None:
        self.given: list[Envelope] = []
        self.foretold: list[Envelope | None] = []

    @property
    def next_reader(self) -> str:
        """Who was foretold last."""
        assert self.foretold[-1] is not None
        return self.foretold[-1].recipient


class Watched:
    """A mailer that keeps a journal."""

    def __init__(self, mailer: Mailer, journal: Journal) -> None:
        self._mailer = mailer
        self._journal = journal
        self.open, self.close = mailer.open, mailer.close

    @property
    def looks_ahead(self) -> bool:
        return self._mailer.looks_ahead

    def send(self, letter: Envelope, *, then: Envelope | None = None) -> Verdict:
        self._journal.given.append(letter)
        self._journal.foretold.append(then)
        return self._mailer.send(letter, then=then)


@pytest.fixture
def journal() -> Journal:
    return Journal()


def due(house: House, *steps: str, readers: int = READERS) -> list[Reader]:
    """So many readers, each with a letter planned and due."""
    house.sequence("trust", *(steps or ("one", "two")))
    house.publish()
    found = [house.reader(f"reader{number}@example.org") for number in range(readers)]
    house.at(TUESDAY)
    assert house.plan() == readers
    assert house.lanes  # enrols the worker
    return found


def watched(house: House, journal: Journal) -> Watched:
    return Watched(house.app.open_mailer(), journal)


@pytest.fixture
def open_lane(house: House, journal: Journal) -> Iterator[OpenLane]:
    """Opens lanes for letters whose mailers are watched."""
    opened: list[Lane] = []

    def open_it(*, worker: str | None = None) -> Lane:
        opening = partial(watched, house, journal)
        opened.append(house.lane(letters=True, worker=worker, open_mailer=opening))
        return opened[-1]

    yield open_it
    for lane in opened:
        lane.close()


def of(reader: Reader) -> Callable[[str], bool]:
    """Whether a line is this reader's RCPT."""
    return lambda line: f"<{reader.address}>" in line


def by_address(readers: list[Reader]) -> dict[str, Reader]:
    return {reader.address: reader for reader in readers}


def states(house: House) -> dict[State, int]:
    """How many letters are in each state."""
    found = [State(row["state"]) for row in house.rows("delivery")]
    return {state: found.count(state) for state in set(found)}


def assert_each_got(readers: list[Reader], *steps: str) -> None:
    """Every one of them got these letters, each once."""
    assert {reader.address: reader.steps() for reader in readers} == {reader.address: list(steps) for reader in readers}


# --- what is foretold -----------------------------------------------------------------------------


def test_each_letter_but_the_last_foretells_the_one_that_follows(
    house: House, journal: Journal, open_lane: OpenLane, post: SmtpServer
) -> None:
    """The very same one, so that one connection takes them all."""
    readers = due(house)
    lane = open_lane()
    assert lane.send_due() == READERS
    assert journal.foretold[-1] is None
    assert all(then is after for then, (_, after) in zip(journal.foretold, pairwise(journal.given), strict=False))
    assert_each_got(readers, "one")
    assert post.connections == 1


def test_nothing_is_foretold_to_a_server_that_does_not_pipeline(
    house: House, journal: Journal, open_lane: OpenLane, post: SmtpServer
) -> None:
    """Nor is anything kept back for it."""
    post.extensions.remove("PIPELINING")
    readers = due(house)
    lane = open_lane()
    assert lane.send_due() == READERS
    assert journal.foretold == [None] * READERS
    assert_each_got(readers, "one")


def test_what_is_foretold_is_claimed_and_its_handover_not_committed(
    house: House, journal: Journal, open_lane: OpenLane, post: SmtpServer
) -> None:
    """While a letter travels, another connection to the database sees what it is in, and what the next one is in."""
    readers = by_address(due(house))
    seen: list[tuple[State, State | None]] = []

    def look() -> None:
        then = journal.foretold[-1]
        next_state = None if then is None else readers[then.recipient].delivery().state
        seen.append((readers[journal.given[-1].recipient].delivery().state, next_state))

    post.script("dot", Do(look))
    lane = open_lane()
    assert lane.send_due() == READERS
    assert seen == [(State.HANDING_OVER, State.CLAIMED)] * (READERS - 1) + [(State.HANDING_OVER, None)]


# --- who is foretold and gets nothing -------------------------------------------------------------


@pytest.mark.parametrize("how", ["leave", "pause"])
def test_who_leaves_or_pauses_after_being_foretold_gets_nothing(
    house: House, journal: Journal, open_lane: OpenLane, post: SmtpServer, how: str
) -> None:
    """The mail server waits for that very letter, and gets others instead, each once."""
    readers = by_address(due(house))
    gone: list[Reader] = []
    begun: list[None] = []

    def go() -> None:
        reader = readers[journal.next_reader]
        if how == "leave":
            reader.leave()
        else:
            reader.pause(weeks=1)
        gone.append(reader)

    post.script("dot", Do(go), times=1)
    post.script("body", Do(lambda: begun.append(None)))
    lane = open_lane()
    assert lane.send_due() == READERS - 1
    (reader,) = gone
    assert reader.mails() == []
    assert (reader.delivery().state, reader.delivery().owner) == (State.WITHDRAWN, None)
    assert_each_got([each for each in readers.values() if each is not reader], "one")
    assert len(post.ledger) == len(begun) == READERS - 1
    house.work()
    assert len(post.ledger) == READERS - 1


def test_if_all_who_are_foretold_leave_only_one_letter_arrives(
    house: House, journal: Journal, open_lane: OpenLane, post: SmtpServer
) -> None:
    """Nor does the server take the end of the conversation for a letter."""
    readers = due(house)
    others = by_address(readers)

    def leave() -> None:
        for reader in readers:
            if reader.address != journal.given[-1].recipient:
                reader.leave()

    post.script("dot", Do(leave), times=1)
    lane = open_lane()
    assert lane.send_due() == 1
    post.wait_for(lambda server: not server.open_connections)
    assert [each.recipient for each in post.ledger] == [journal.given[0].recipient]
    assert others.pop(journal.given[0].recipient).steps() == ["one"]
    assert {reader.delivery().state for reader in others.values()} == {State.WITHDRAWN}
    assert "QUIT" not in post.commands


# --- stopping -------------------------------------------------------------------------------------


def test_told_to_stop_it_gives_back_what_is_foretold(
    house: House, journal: Journal, open_lane: OpenLane, post: SmtpServer
) -> None:
    """None of its bytes has left, and anybody may claim it at once."""
    readers = due(house)
    begun: list[None] = []
    post.script("body", Do(lambda: begun.append(None)))
    post.script("dot", Do(house.stop.set), times=1)
    lane = open_lane()
    assert lane.send_due() == 1
    foretold = by_address(readers)[journal.next_reader]
    post.wait_for(lambda server: not server.open_connections)
    assert states(house) == {State.SENT: 1, State.PLANNED: READERS - 1}
    item = foretold.delivery()
    assert (item.state, item.owner, item.attempt, item.doubts) == (State.PLANNED, None, 0, 0)
    assert foretold.mails() == []
    assert (len(post.ledger), len(begun)) == (1, 1)
    house.stop.clear()
    other = open_lane(worker=another_worker(house))
    assert other.send_due() == READERS - 1
    assert_each_got(readers, "one")


def another_worker(house: House) -> str:
    """The id of a second worker that is enrolled."""
    house.app.rescuing.enrol("another", host="here")
    return "another"


def test_told_to_stop_a_crew_gives_back_what_is_foretold(house: House, crew: Crew, post: SmtpServer) -> None:
    """Each lane finishes its letter, and keeps no other."""
    readers = due(house, readers=CROWD)
    post.script("dot", Delay(0.01), Do(house.stop.set))
    accepted = crew.send_due()
    assert 0 < accepted == len(post.ledger) <= 2 * LANES
    assert states(house) == {State.SENT: accepted, State.PLANNED: CROWD - accepted}
    assert {row["owner"] for row in house.rows("delivery")} == {None}
    house.stop.clear()
    post.forget_scripts()
    assert crew.send_due() == CROWD - accepted
    assert_each_got(readers, "one")


def test_told_to_stop_while_letters_are_composed_nothing_leaves(
    house: House, open_lane: OpenLane, post: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the one that was for now nor the one that was for later."""
    due(house)
    usual = Composer.compose
    composed: list[Any] = []

    def compose(self: Composer, *arguments: Any, **named: Any) -> Any:
        composed.append(usual(self, *arguments, **named))
        if len(composed) == 2:
            house.stop.set()
        return composed[-1]

    monkeypatch.setattr(Composer, "compose", compose)
    assert open_lane().send_due() == 0
    assert len(composed) == 2
    assert "MAIL" not in post.commands
    assert states(house) == {State.PLANNED: READERS}


def test_sending_that_is_stopped_reaches_what_is_foretold(
    house: House, journal: Journal, open_lane: OpenLane, post: SmtpServer
) -> None:
    """The operator's switch, too: it is given back, and leaves when sending is started again."""
    readers = due(house)
    post.script("dot", Do(lambda: house.app.overseeing.stop(now=house.now)), times=1)
    lane = open_lane()
    assert lane.send_due() == 1
    assert journal.next_reader not in [each.recipient for each in post.ledger]
    assert states(house) == {State.SENT: 1, State.PLANNED: READERS - 1}
    house.app.overseeing.start(now=house.now)
    assert lane.send_due() == READERS - 1
    assert_each_got(readers, "one")


# --- what was composed a while ago ----------------------------------------------------------------


@pytest.mark.parametrize("change", ["the text", "the address", "nothing"])
def test_what_was_composed_long_ago_is_composed_anew(
    house: House,
    journal: Journal,
    open_lane: OpenLane,
    post: SmtpServer,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    """A slow answer to the letter before it: what its reader gets is what holds when it leaves, at today's address."""
    readers = by_address(due(house))
    ahead = [0.0]
    # The clock of this module only: the worker's other threads look at theirs whenever they like.
    monkeypatch.setattr(rounds, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + ahead[0]))
    record: list[Any] = []

    def meanwhile() -> None:
        ahead[0] += 1.5
        reader = readers.pop(journal.next_reader)
        record.append(reader.delivery().id)
        if change == "the text":
            house.sequence("trust", letter("one", print_number=2), "two")
            house.publish()
        elif change == "the address":
            subscriber = tables.subscriber
            with house.app.database.write() as connection:
                named = subscriber.c.id == reader.record.id
                connection.execute(update(subscriber).where(named).values(address="Elsewhere@example.org"))

    post.script("dot", Do(meanwhile), times=1)
    lane = open_lane()
    assert lane.send_due() == READERS
    first, second = house.mails()[:2]
    assert journal.foretold[0] is not None
    assert journal.given[1] is not journal.foretold[0]
    assert first.print_number == 1
    assert second.print_number == (2 if change == "the text" else 1)
    assert second.recipient == ("Elsewhere@example.org" if change == "the address" else journal.foretold[0].recipient)
    assert len(post.ledger) == READERS
    assert len({each.recipient for each in post.ledger}) == READERS
    assert post.connections == (2 if change == "the address" else 1)
    (row,) = [row for row in house.rows("delivery") if row["id"] == record[0]]
    assert (row["state"], row["revision"]) == (State.SENT, 2 if change == "the text" else 1)


def test_what_was_composed_long_ago_and_is_gone_since_does_not_leave(
    house: House, journal: Journal, open_lane: OpenLane, post: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its step was taken out meanwhile: another letter comes in its place, and the mail server learns no word of it."""
    readers = due(house)
    ahead = [0.0]
    monkeypatch.setattr(rounds, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + ahead[0]))

    def meanwhile() -> None:
        ahead[0] += 1.5
        house.sequence("trust", "two")
        house.publish()

    post.script("dot", Do(meanwhile), times=1)
    lane = open_lane()
    assert lane.send_due() == 1
    assert len(post.ledger) == 1
    house.work()
    assert sorted(reader.steps() for reader in readers) == [["one"]] + [["two"]] * (READERS - 1)


# --- the database -----------------------------------------------------------------------------------


@dataclass
class Weather:
    """Whether the database can be reached.

    Attributes:
        calls: how many transactions began since then; only those that read, where reading fails.
        away: the numbers of those that fail.
        how: "read" and "before" fail before anything is done, "after" when it is committed.
    """

    calls: int = 0
    away: range = range(0)
    how: str = "before"
    was_away: bool = False

    def goes_away(self, away: range, how: str) -> None:
        """Begin to count; at these transactions it is away."""
        self.calls, self.away, self.how, self.was_away = 0, away, how, False

    def fails(self, how: str) -> bool:
        if self.how != how or self.calls not in self.away:
            return False
        self.was_away = True
        return True


@contextmanager
def weather(house: House) -> Iterator[Weather]:
    """The database of this house can be made to go away."""
    found = Weather()
    database = house.app.database
    usual_write, usual_read = database.write, database.read

    def away() -> NoReturn:
        message = "The database is away."
        raise DatabaseUnavailable(message)

    @contextmanager
    def write(**how: Any) -> Iterator[Any]:
        found.calls += found.how != "read"
        if found.fails("before"):
            away()
        with usual_write(**how) as connection:
            yield connection
        if found.fails("after"):
            away()

    @contextmanager
    def read(**how: Any) -> Iterator[Any]:
        found.calls += found.how == "read"
        if found.fails("read"):
            away()
        with usual_read(**how) as connection:
            yield connection

    database.write, database.read = write, read  # type: ignore[method-assign]
    try:
        yield found
    finally:
        database.write, database.read = usual_write, usual_read  # type: ignore[method-assign]


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize(("how", "times"), [("read", 1), ("before", 1), ("after", 1), ("before", 6)])
def test_wherever_the_database_goes_away_each_letter_leaves_once(
    house: House, journal: Journal, open_lane: OpenLane, post: SmtpServer, how: str, times: int
) -> None:
    """At each of its transactions while others are foretold, for a moment or for longer: none lost, none doubled."""
    readers = due(house, *STEPS, readers=4)
    lane = open_lane()
    with weather(house) as database:
        for number, step in enumerate(STEPS, start=1):
            house.at(local(TUESDAY) + timedelta(weeks=number - 1))
            house.plan()
            database.goes_away(range(number, number + times), how)
            for _ in range(10):
                with contextlib.suppress(DatabaseUnavailable):
                    lane.send_due()
                if len(post.ledger) == 4 * number and not lane.owes:
                    break
            assert database.was_away or number > 3
            assert {reader.steps()[-1] for reader in readers} == {step}
            assert len(post.ledger) == 4 * number
    assert_each_got(readers, *STEPS)
    assert {(row["state"], row["doubts"], row["owner"]) for row in house.rows("delivery")} == {(State.SENT, 0, None)}


@pytest.mark.usefixtures("restless")
def test_a_letter_that_cannot_be_put_back_strands_no_other(
    house: House, journal: Journal, open_lane: OpenLane, post: SmtpServer
) -> None:
    """The database is away for the one transaction in which the letter of somebody who left is put back."""
    readers = due(house, readers=4)
    left: list[Reader] = []
    lane = open_lane()
    with weather(house) as database:

        def go() -> None:
            left.append(by_address(readers)[journal.next_reader])
            left[0].leave()
            database.goes_away(range(2, 3), "before")

        post.script("dot", Do(go), times=1)
        for _ in range(3):
            with contextlib.suppress(DatabaseUnavailable):
                lane.send_due()
        assert database.was_away
    assert_each_got([reader for reader in readers if reader not in left], "one")
    assert states(house) == {State.SENT: 3, State.WITHDRAWN: 1}


def test_a_letter_that_cannot_be_put_back_loses_no_handover(house: House, desk: Desk) -> None:
    """Of two seats in one round the first one's reader has left, and the database goes away behind the commit."""
    readers = {reader.record.id: reader for reader in due(house, readers=4)}
    with desk.attended() as first, desk.attended() as second:
        first.looks_ahead = True
        assert desk.has_work()
        given = [exchange(desk, first)]
        assert first.ready is not None
        readers[first.ready.item.subscriber_id].leave()
        with weather(house) as database:
            database.goes_away(range(2, 3), "before")
            with pytest.raises(DatabaseUnavailable):
                desk._rounds.serve([], [first, second])
        while (handed := desk.exchange(second, [], wants=True)) is not None:
            given.append(handed)
    handed_over = {row["id"] for row in house.rows("delivery") if row["state"] == State.HANDING_OVER}
    assert handed_over == {each.item.id for each in given}


# --- what a seat keeps ------------------------------------------------------------------------------


def exchange(desk: Desk, seat: Any) -> Handed:
    """Be given a letter."""
    handed = desk.exchange(seat, [], wants=True)
    assert handed is not None
    return handed


def is_in_doubt(desk: Desk) -> bool:
    """Whether something may have been claimed without its knowledge."""
    return desk._stock._is_in_doubt


def row_of(house: House, item: Delivery) -> tuple[str, str | None, int]:
    """What the database says of it."""
    (row,) = [row for row in house.rows("delivery") if row["id"] == item.id]
    return row["state"], row["owner"], row["epoch"]


def test_a_claim_in_doubt_does_not_take_away_what_a_seat_keeps(house: House, desk: Desk) -> None:
    """What was claimed without our knowledge goes back; what was foretold somewhere stays, and is handed over there."""
    due(house, readers=4)
    with desk.attended() as first, desk.attended() as second:
        first.looks_ahead = True
        assert desk.has_work()
        exchange(desk, first)
        assert first.ready is not None
        kept = first.ready.item
        before = row_of(house, kept)
        assert before == (State.CLAIMED, house.worker, kept.epoch)
        # Two more come due, are claimed by the next round, and the answer to its commit is lost.
        desk._stock.clear()
        with weather(house) as database:
            database.goes_away(range(2, 3), "after")
            with pytest.raises(DatabaseUnavailable):
                desk.exchange(second, [], wants=True)
        assert states(house) == {State.HANDING_OVER: 1, State.CLAIMED: 3}
        assert is_in_doubt(desk)

        handed = exchange(desk, second)

        assert not is_in_doubt(desk)
        assert handed.item.id != kept.id
        assert row_of(house, kept) == before
        assert first.ready is not None
        assert first.ready.item == kept
        assert exchange(desk, first).item == kept
    assert states(house) == {State.HANDING_OVER: 3, State.PLANNED: 1}


def test_a_seat_that_is_left_gives_its_letter_to_another(house: House, desk: Desk) -> None:
    """It is the next again, and still claimed: no transaction is needed for it."""
    due(house, readers=4)
    with desk.attended() as staying:
        with desk.attended() as leaving:
            leaving.looks_ahead = True
            assert desk.has_work()
            exchange(desk, leaving)
            assert leaving.ready is not None
            kept = leaving.ready.item
        assert row_of(house, kept)[0] == State.CLAIMED
        assert exchange(desk, staying).item == kept


def test_the_last_seat_that_is_left_gives_its_letter_back(house: House, desk: Desk) -> None:
    """Anybody may claim it."""
    due(house, readers=4)
    with desk.attended() as seat:
        seat.looks_ahead = True
        assert desk.has_work()
        exchange(desk, seat)
        assert seat.ready is not None
    assert states(house) == {State.HANDING_OVER: 1, State.PLANNED: 3}
    assert row_of(house, seat.ready.item)[:2] == (State.PLANNED, None)


def test_one_seat_keeps_one_letter(house: House, desk: Desk) -> None:
    """A seat that does not look ahead keeps none, and what was composed for nobody is the next again."""
    due(house, readers=6)
    with desk.attended() as ahead, desk.attended() as plain:
        ahead.looks_ahead = True
        assert desk.has_work()
        stock = desk.stock
        given = [exchange(desk, ahead), exchange(desk, plain)]
        assert plain.ready is None
        assert ahead.ready is not None
        assert desk.stock == stock - 3
        kept = ahead.ready.item
        given += [exchange(desk, ahead), exchange(desk, plain)]
        assert given[2].item == kept
        assert len({handed.item.id for handed in given}) == 4


# --- fewer connections --------------------------------------------------------------------------------


@pytest.mark.parametrize("fewer", [1, 2])
def test_with_fewer_connections_what_is_foretold_goes_to_other_lanes(
    house: House, crew: Crew, post: SmtpServer, fewer: int
) -> None:
    """Those that are too many end with the letter in hand, and each letter leaves once all the same."""
    readers = due(house, readers=CROWD)
    dots = count(1)

    def shrink() -> None:
        if next(dots) == LANES + 2:
            crew.allow(fewer)

    post.script("dot", Delay(0.01), Do(shrink))
    assert crew.send_due() == CROWD
    assert_each_got(readers, "one")
    assert len(post.ledger) == CROWD
    assert crew.connections == fewer
    assert states(house) == {State.SENT: CROWD}
    post.wait_for(lambda server: server.open_connections <= fewer)


@pytest.mark.usefixtures("restless")
def test_whatever_the_mail_server_does_among_many_lanes_each_letter_leaves_once(
    house: House, crew: Crew, post: SmtpServer
) -> None:
    """Connections that end before a letter was there and behind its answer, with others foretold all the time."""
    readers = due(house, readers=CROWD)
    for number, reader in enumerate(readers):
        this = of(reader)
        match number % 5:
            case 1 | 2 | 3:
                post.script(("rcpt", "data", "rcpt")[number % 5 - 1], Close(), when=this, times=1)
            case 4:
                post.script("dot", Reply(250, "2.0.0 Taken"), Close(), when=this, times=1)
    for _ in range(20):
        crew.send_due()
    assert len(post.ledger) == CROWD
    assert_each_got(readers, "one")
    assert states(house) == {State.SENT: CROWD}
    assert {row["doubts"] for row in house.rows("delivery")} == {0}
