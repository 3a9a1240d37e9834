"""What an operator does to readers and emails by hand."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import pytest

from newsletter.domain.delivery import State as DeliveryState
from newsletter.domain.subscription import State
from newsletter.errors import AddressError, InvalidChoice, NotAllowed, NotFound
from tests.support.building import House, Reader, a_stranger, local
from tests.support.smtp_server import Close, Reply

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def house(house: House) -> House:
    """A house with two letters on trust."""
    house.sequence("trust", "one", "two")
    house.publish()
    return house


def refuse(house: House, *, times: int = 1) -> None:
    """The mail server refuses letters for no fault of their readers: they are held."""
    house.post.script("dot", Reply(554, "5.6.0 no"), times=times)


def hang_up_unanswered(house: House, *, keep: bool, times: int = 1) -> None:
    """The mail server closes the connection instead of answering; `keep`: it has the letter all the same."""
    house.post.script("dot", Close(), times=times, keep=keep)


def try_all(house: House) -> None:
    """Send on a fresh connection, which remembers no trouble."""
    house.hang_up()
    house.work()


def release(house: House, *readers: Reader) -> int:
    """Release the newest letter of each, or everything."""
    identifiers = [reader.delivery().id for reader in readers] or None
    return house.app.overseeing.release(identifiers, now=house.now)


class TestRelease:
    def test_one_or_all(self, house: House):
        """Held letters are tried again where they are named, or all of them where none is."""
        people = [house.reader(f"reader{number}@example.org") for number in range(3)]
        refuse(house, times=3)
        house.live("2026-11-24 09:30")
        assert [reader.delivery().state for reader in people] == [DeliveryState.HELD] * 3
        assert release(house, people[0]) == 1
        house.work()
        assert [len(reader.letters()) for reader in people] == [1, 0, 0]
        assert release(house) == 2
        house.work()
        assert [len(reader.letters()) for reader in people] == [1, 1, 1]
        assert release(house) == 0

    def test_only_what_is_held(self, house: House):
        """What is not there, or not held, is refused, and none of the named ones is released then."""
        maria, ben = house.reader(), house.reader("ben@example.org")
        house.live("2026-11-24 09:30")
        refuse(house)
        eve = house.reader("eve@example.org", slot="wed 09:00")
        house.live("2026-11-25 09:30")
        before = house.everything()
        with pytest.raises(NotAllowed, match="sent"):
            release(house, eve, maria)
        with pytest.raises(NotFound):
            house.app.overseeing.release([eve.delivery().id, a_stranger()], now=house.now)
        assert house.everything() == before
        assert ben.steps() == ["one"]

    @pytest.mark.parametrize("last", [False, True])
    def test_a_doubtful_letter_is_repeated_once_by_order(self, open_house: Callable[..., House], last: bool):
        """With ON_UNCERTAIN=hold a doubtful letter leaves again only by order, and never a third time."""
        house = open_house(on_uncertain="hold")
        house.sequence("trust", *(["one"] if last else ["one", "two"]))
        house.publish()
        maria = house.reader()
        hang_up_unanswered(house, keep=True, times=2)
        house.live("2026-11-24 09:30")
        assert (maria.delivery().state, maria.delivery().received) == (DeliveryState.HELD, True)
        assert maria.state() is (State.FINISHED if last else State.ACTIVE)
        if last:
            # Its subscription is over, so that nothing would leave: it is refused, not promised.
            with pytest.raises(NotAllowed, match="settle"):
                release(house, maria)
            assert maria.delivery().state is DeliveryState.HELD
            return
        assert release(house) == 0
        house.later(hours=1)
        assert release(house, maria) == 1
        try_all(house)
        first, second = maria.letters()
        assert (first.message_id, first.content) == (second.message_id, second.content)
        assert maria.delivery().doubts == 2
        with pytest.raises(NotAllowed, match="third time"):
            release(house, maria)
        house.hang_up()
        house.live(weeks=2)
        assert maria.steps() == ["one", "one", "two"]
        assert maria.state() is State.FINISHED

    def test_a_released_repeat_that_is_accepted_moves_its_reader_on(self, open_house: Callable[..., House]):
        """The repeat of a middle letter is accepted at once, not five days later, and the next one follows."""
        house = open_house(on_uncertain="hold")
        house.sequence("trust", "one", "two")
        house.publish()
        maria = house.reader()
        hang_up_unanswered(house, keep=False)
        house.live("2026-11-24 09:30")
        assert release(house, maria) == 1
        try_all(house)
        assert maria.delivery().state is DeliveryState.SENT
        assert maria.due() == local("2026-12-01 09:00")


class TestSettle:
    def doubtful(self, house: House, *, keep: bool = False) -> Reader:
        """A reader whose first letter was handed over twice and never answered."""
        maria = house.reader()
        hang_up_unanswered(house, keep=keep, times=2)
        house.at("2026-11-24 09:00")
        house.work()
        try_all(house)  # on a busy machine it was tried again already
        assert (maria.delivery().state, maria.delivery().doubts) == (DeliveryState.HELD, 2)
        house.hang_up()
        return maria

    def test_it_arrived(self, house: House):
        """A doubtful letter that arrived is sent, counts as of its date, and the next one comes at its slot."""
        maria = self.doubtful(house, keep=True)
        due = maria.due()
        house.app.overseeing.settle(maria.delivery().id, arrived=True, now=house.now)
        assert (maria.delivery().state, maria.delivery().received) == (DeliveryState.SENT, True)
        assert maria.delivery().sent_at == maria.delivery().message_date
        assert maria.due() == due == local("2026-12-01 09:00")
        house.live(weeks=2)
        assert maria.steps() == ["one", "one", "two"]

    def test_it_is_lost(self, house: House):
        """A letter that was lost is sent again at the reader's next slot, before the others."""
        maria = self.doubtful(house)
        house.app.overseeing.settle(maria.delivery().id, arrived=False, now=house.now)
        assert (maria.delivery().state, maria.delivery().received) == (DeliveryState.FAILED, False)
        house.live(weeks=3)
        assert maria.steps() == ["one", "two"]
        assert maria.state() is State.FINISHED

    def test_the_last_letter_is_lost(self, house: House):
        """Who had finished gets the last letter that was lost all the same, and finishes once more."""
        house.sequence("trust", "one")
        house.publish()
        maria = self.doubtful(house)
        assert maria.state() is State.FINISHED
        house.app.overseeing.settle(maria.delivery().id, arrived=False, now=house.now)
        assert maria.state() is State.ACTIVE
        house.live(weeks=3)
        assert maria.steps() == ["one"]
        assert maria.state() is State.FINISHED

    def test_a_held_letter_that_waits(self, house: House):
        """A refused letter that is said to have arrived moves its reader on."""
        maria = house.reader()
        refuse(house)
        house.live("2026-11-24 09:30")
        assert maria.due() is None
        house.app.overseeing.settle(maria.delivery().id, arrived=True, now=house.now)
        assert maria.due() == local("2026-12-01 09:00")
        house.live(weeks=2)
        assert maria.steps() == ["two"]

    def test_only_what_is_held_or_uncertain(self, house: House):
        """What was accepted, or is not there, cannot be settled; neither can anything be settled twice."""
        maria = self.doubtful(house)
        house.app.overseeing.settle(maria.delivery().id, arrived=True, now=house.now)
        before = house.everything()
        for arrived in (True, False):
            with pytest.raises(NotAllowed, match="sent"):
                house.app.overseeing.settle(maria.delivery().id, arrived=arrived, now=house.now)
        with pytest.raises(NotFound):
            house.app.overseeing.settle(a_stranger(), arrived=True, now=house.now)
        assert house.everything() == before

    def test_somebody_who_has_left_stays_away(self, house: House):
        """Settling a letter of somebody who left brings nobody back."""
        maria = self.doubtful(house)
        maria.leave()
        house.app.overseeing.settle(maria.delivery().id, arrived=False, now=house.now)
        assert (maria.state(), maria.due()) == (State.LEFT, None)
        house.live(weeks=2)
        assert maria.letters() == []


class TestSwitch:
    def test_stopped_nothing_leaves_and_started_it_does(self, house: House):
        """While sending is stopped nothing leaves, neither letters nor confirmations; started, all of it does."""
        maria = house.reader()
        house.ask("ben@example.org")
        house.app.overseeing.stop(now=house.now)
        house.app.overseeing.stop(now=house.now)
        assert house.app.office.is_stopped()
        house.at("2026-11-24 09:00")
        assert house.work() == 0
        assert house.mails() == []
        house.app.overseeing.start(now=house.now)
        assert not house.app.office.is_stopped()
        assert house.work() == 2
        assert maria.steps() == ["one"]


class TestPausing:
    def test_by_address(self, house: House):
        """An operator pauses a reader until a day of theirs, or without one until somebody resumes them."""
        maria = house.reader()
        house.app.overseeing.pause("maria@EXAMPLE.org", until=date(2026, 12, 10), now=house.now)
        assert (maria.state(), maria.due()) == (State.PAUSED, local("2026-12-15 09:00"))
        house.app.overseeing.pause(maria.address, until=None, now=house.now)
        assert (maria.state(), maria.due(), maria.record.paused_until) == (State.PAUSED, None, None)
        house.live(weeks=8)
        assert maria.letters() == []
        house.app.overseeing.resume(maria.address, now=house.now)
        assert (maria.state(), maria.due()) == (State.ACTIVE, local("2027-01-19 09:00"))
        with pytest.raises(NotAllowed):
            house.app.overseeing.resume(maria.address, now=house.now)

    def test_what_cannot_be(self, house: House):
        """An unknown address, none at all, a day that is past, or a reader with nothing to come is refused."""
        maria = house.reader()
        overseeing, now = house.app.overseeing, house.now
        for error, address, until in (
            (NotFound, "nobody@example.org", None),
            (AddressError, "nobody", None),
            (InvalidChoice, maria.address, date(2026, 11, 23)),
        ):
            with pytest.raises(error):
                overseeing.pause(address, until=until, now=now)
        with pytest.raises(NotFound):
            overseeing.resume("nobody@example.org", now=now)
        maria.leave()
        with pytest.raises(NotAllowed):
            overseeing.pause(maria.address, until=None, now=now)


def test_what_comes_next_is_told_for_every_sequence(house: House):
    """The next step of each subscription is named by its key, edits included; None at the end."""
    house.sequence("note", "spring", on_finish="hold")
    house.publish()
    maria = house.reader("maria@example.org", "trust", "note")
    assert house.app.overseeing.upcoming_steps(maria.record.id) == {
        maria.subscription("trust").id: "one",
        maria.subscription("note").id: "spring",
    }
    house.live(weeks=3)
    house.sequence("trust", "zero", "one", "two", "three")
    house.publish()
    assert house.app.overseeing.upcoming_steps(maria.record.id) == {
        maria.subscription("trust").id: "three",
        maria.subscription("note").id: None,
    }


def test_nothing_comes_next_before_the_first_publication(open_house: Callable[..., House]):
    """Before anything is published nothing comes next for anybody."""
    house = open_house()
    assert house.app.overseeing.upcoming_steps(a_stranger()) == {}
