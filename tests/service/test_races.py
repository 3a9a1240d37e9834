"""Readers, operators and senders at the same moment: whoever was answered can rely on it."""

from __future__ import annotations

import time
from threading import Barrier, Thread
from typing import TYPE_CHECKING, Any

import pytest

from newsletter.domain.delivery import State as DeliveryState
from newsletter.domain.subscription import State
from newsletter.errors import TokenExpired
from tests.support.building import House, Reader
from tests.support.smtp_server import Delay

if TYPE_CHECKING:
    from collections.abc import Callable

    from newsletter.mail.base import Envelope, Mailer, Verdict
    from newsletter.service.sending import Lane
    from tests.support.smtp_server import SmtpServer

LANES = 3
READERS = 14


class Watched:
    """A mailer that remembers when it was given a letter, which is right after the handover was committed."""

    def __init__(self, mailer: Mailer, given: list[tuple[float, str]]) -> None:
        self._mailer = mailer
        self._given = given

    @property
    def looks_ahead(self) -> bool:
        return self._mailer.looks_ahead

    def open(self, letter: Envelope | None = None) -> None:
        self._mailer.open(letter)

    def send(self, letter: Envelope, *, then: Envelope | None = None) -> Verdict:
        self._given.append((time.monotonic(), letter.recipient))
        return self._mailer.send(letter, then=then)

    def close(self) -> None:
        self._mailer.close()


def at_once(*actions: Callable[[], object]) -> list[BaseException]:
    """Do all of this at the same moment; what was raised."""
    start, raised = Barrier(len(actions)), []

    def run(action: Callable[[], object]) -> None:
        start.wait()
        try:
            action()
        except BaseException as error:  # noqa: BLE001  (looked at by the test)
            raised.append(error)

    threads = [Thread(target=run, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


@pytest.fixture
def given() -> list[tuple[float, str]]:
    """When each letter was given to the mail server's connection."""
    return []


@pytest.fixture
def busy(house: House, post: SmtpServer, given: list[tuple[float, str]]) -> tuple[House, list[Reader], list[Lane]]:
    """A house with many letters due, and lanes that take their time with each."""
    house.sequence("trust", "one", "two")
    house.publish()
    readers = [house.reader(f"reader{number}@example.org") for number in range(READERS)]
    house.at("2026-11-24 09:00")
    assert house.plan() == READERS
    post.script("dot", Delay(0.01))
    assert house.lanes  # enrols the worker
    usual = house.app.open_mailer
    lanes = [house.lane(letters=True, open_mailer=lambda: Watched(usual(), given)) for _ in range(LANES)]
    yield house, readers, lanes
    for lane in lanes:
        lane.close()


def states(readers: list[Reader]) -> dict[str, DeliveryState]:
    """What became of each reader's letter."""
    return {reader.address: reader.delivery().state for reader in readers}


def test_after_leaving_was_answered_only_what_is_in_its_handover_leaves(busy: Any, given: list[tuple[float, str]]):
    """Once every reader's leaving is answered, at most one letter for each connection is still to leave."""
    house, readers, lanes = busy
    answered: dict[str, float] = {}

    def leave() -> None:
        for reader in reversed(readers):
            reader.leave()
            answered[reader.address] = time.monotonic()

    assert at_once(leave, *[lane.send_due for lane in lanes]) == []
    began_late = [address for at, address in given if at > answered[address]]
    # Each of these was in its handover when its reader was answered; a lane has one letter in hand at a time.
    assert sum(at > max(answered.values()) for at, _ in given) <= LANES
    assert all(states(readers)[address] is DeliveryState.SENT for address in began_late)
    assert {reader.state() for reader in readers} == {State.LEFT}
    assert set(states(readers).values()) <= {DeliveryState.SENT, DeliveryState.WITHDRAWN}
    arrived = [mail.recipient for mail in house.mails()]
    assert sorted(arrived) == sorted(address for address, state in states(readers).items() if state == "sent")
    assert house.work() == 0


def test_after_a_publication_no_removed_letter_begins_to_leave(busy: Any, given: list[tuple[float, str]]):
    """Once a revision is live, a letter that it took out leaves only where it was in its handover already."""
    house, readers, lanes = busy
    published_at: list[float] = []
    house.sequence("trust", "two")

    def publish() -> None:
        house.publish()
        published_at.append(time.monotonic())

    assert at_once(publish, *[lane.send_due for lane in lanes]) == []
    assert sum(at > published_at[0] for at, _ in given) <= LANES
    house.work()
    for reader in readers:
        assert len(reader.letters()) == 1
        assert reader.steps() in (["one"], ["two"])
        assert {item.state for item in reader.deliveries()} <= {DeliveryState.SENT, DeliveryState.WITHDRAWN}


def test_stopping_reaches_every_lane(busy: Any, given: list[tuple[float, str]]):
    """Once the sending is stopped, at most one letter for each connection is still to leave; the rest waits."""
    house, readers, lanes = busy
    stopped_at: list[float] = []

    def stop() -> None:
        time.sleep(0.05)
        house.app.overseeing.stop(now=house.now)
        stopped_at.append(time.monotonic())

    assert at_once(stop, *[lane.send_due for lane in lanes]) == []
    assert sum(at > stopped_at[0] for at, _ in given) <= LANES
    assert set(states(readers).values()) <= {DeliveryState.SENT, DeliveryState.PLANNED}
    house.app.overseeing.start(now=house.now)
    house.work()
    assert all(reader.steps() == ["one"] for reader in readers)


def test_everything_at_once_sends_nothing_twice(busy: Any):
    """Planning, sending, slot changes, pauses and publications together double and lose nothing."""
    house, readers, lanes = busy

    def fidget() -> None:
        for number, reader in enumerate(readers):
            match number % 3:
                case 0:
                    reader.change(slot="tue 09:00" if number % 2 else "tue 10:00")
                case 1:
                    reader.pause(weeks=1)
                    reader.resume()

    def publish() -> None:
        house.sequence("trust", "zero", "one", "two")
        house.publish()

    assert at_once(fidget, publish, house.plan, *[lane.send_due for lane in lanes]) == []
    house.hang_up()
    house.live(weeks=6)
    for reader in readers:
        steps = reader.steps()
        assert len(steps) == len(set(steps))
        assert set(steps) >= {"one", "two"}
        assert reader.state() is State.FINISHED


def test_a_button_pressed_in_many_tabs_confirms_once(house: House):
    """The same confirmation pressed from four places at once begins one subscription and one letter."""
    house.sequence("trust", "one")
    house.publish()
    maria = house.ask()
    house.work()
    token = maria.mails()[-1].token("confirm")
    raised = at_once(*[lambda: house.app.subscribing.confirm(token, start_now=True, now=house.now) for _ in range(4)])
    assert all(isinstance(error, TokenExpired) for error in raised)
    assert len(maria.story("confirmed")) == 1
    house.work()
    assert maria.steps() == ["one"]
