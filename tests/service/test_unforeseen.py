"""What nobody thought of happens to one reader; the others go on, and nobody gets anything twice."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from newsletter.domain.delivery import State as DeliveryState
from newsletter.domain.subscription import State
from tests.support.building import House, Reader, local
from tests.support.smtp_server import Close, Reply

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.smtp_server import SmtpServer, Step

SQLITE = """
CREATE TRIGGER poison BEFORE UPDATE ON subscription WHEN NEW.last_step = 'one' AND NEW.id = '{}'
BEGIN SELECT RAISE(ABORT, 'poisoned'); END
"""
POSTGRES = """
CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.last_step = 'one' AND NEW.id = '{}' THEN
        RAISE EXCEPTION 'poisoned' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER poison BEFORE UPDATE ON subscription FOR EACH ROW EXECUTE FUNCTION poison()
"""


def poison(house: House, reader: Reader) -> None:
    """Make the database refuse to move a reader behind their first letter, whatever the program thinks."""
    identifier = reader.subscription().id
    is_sqlite = house.app.database.is_sqlite
    with house.app.database.write() as connection:
        statement = (SQLITE if is_sqlite else POSTGRES).format(identifier.hex if is_sqlite else identifier)
        connection.execute(text(statement))


@pytest.fixture
def people(house: House) -> list[Reader]:
    """Three readers whose first letter is due, the first of them poisoned."""
    house.sequence("trust", "one", "two")
    house.publish()
    readers = [house.reader(f"reader{number}@example.org") for number in range(3)]
    poison(house, readers[0])
    house.at("2026-11-24 09:00")
    assert house.plan() == 3
    return readers


@pytest.mark.parametrize(
    ("step", "state", "received"),
    [
        (None, DeliveryState.SENT, True),
        (Close(), DeliveryState.UNCERTAIN, False),
        (Reply(451, "4.2.0 later"), DeliveryState.PLANNED, False),
    ],
)
def test_a_reader_who_cannot_be_moved_stops_nobody(
    house: House, people: list[Reader], post: SmtpServer, step: Step | None, state: DeliveryState, received: bool
):
    """A verdict whose reader cannot be moved is written down all the same, and those on all others after it."""
    if step is not None:
        post.script("dot", step, times=1, when=lambda line: "reader0" in line, keep=True)
    house.send()
    house.hang_up()
    house.send()
    assert [len(reader.letters()) >= 1 for reader in people[1:]] == [True, True]
    assert [reader.delivery().state for reader in people[1:]] == [DeliveryState.SENT] * 2
    assert [reader.due() for reader in people[1:]] == [local("2026-12-01 09:00")] * 2
    first = people[0].deliveries()[0]
    if step is None:
        assert (first.state, first.received) == (state, received)
        assert people[0].steps() == ["one"]
    house.at("2026-12-01 09:00")
    house.plan()
    house.hang_up()
    house.send()
    assert [reader.steps() for reader in people[1:]] == [["one", "two"]] * 2
    assert len(people[0].letters()) <= 2


def test_a_lost_letter_that_cannot_be_judged_keeps_no_other_from_being_judged(
    open_house: Callable[..., House], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of the letters of a lost worker those that can be judged are, whatever is wrong with one of them."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    house = open_house(on_uncertain="hold")
    house.sequence("trust", "one", "two")
    house.publish()
    readers = [house.reader(f"reader{number}@example.org") for number in range(3)]
    poison(house, readers[0])
    house.at("2026-11-24 09:00")
    house.plan()
    house.post.script("dot", Close(), keep=True)
    lanes = [house.lane(letters=True, worker=house.worker) for _ in readers]
    assert house.lanes
    with monkeypatch.context() as patch:
        patch.setattr(house.app.office.recorder, "record", _never)
        patch.setattr(house.app.office.recorder, "record_alone", lambda *_, **__: False)
        for lane in lanes:
            lane.send_due()
            lane.close()
    assert [reader.delivery().state for reader in readers] == [DeliveryState.HANDING_OVER] * 3
    folder = tmp_path / f"newsletter-workers-{os.getuid()}"
    folder.mkdir()
    (folder / f"{house.worker}.lock").touch()
    assert house.app.rescuing.rescue("another", now=house.now) == 2
    assert [reader.delivery().state for reader in readers[1:]] == [DeliveryState.HELD] * 2
    assert readers[0].delivery().state is DeliveryState.HANDING_OVER


def test_the_repeat_of_an_earlier_rounds_letter_forgets_nobody(open_house: Callable[..., House]):
    """A doubtful last letter that is sent again by order, when the next round has begun, ends no rhythm."""
    house = open_house(on_uncertain="hold")
    house.sequence("trust", "one", "two", on_finish="repeat")
    house.publish()
    maria = house.reader()
    house.live("2026-11-25 12:00")
    house.post.script("dot", Close(), times=1, keep=False)
    house.live("2026-12-01 12:00")
    assert (maria.delivery().state, maria.subscription().round) == (DeliveryState.HELD, 2)
    house.hang_up()
    house.app.overseeing.release([maria.delivery().id], now=house.now)
    house.work()
    assert maria.steps() == ["one", "two"]
    assert (maria.state(), maria.due()) == (State.ACTIVE, local("2026-12-08 09:00"))
    house.live(weeks=2)
    assert maria.steps() == ["one", "two", "one", "two"]


def _never(*_: object, **__: object) -> bool:
    raise ZeroDivisionError
