"""What a lost worker held comes back, and what a living one holds is left alone."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import update

from newsletter.domain.delivery import State
from newsletter.liveness import LifeLine, is_known_dead
from newsletter.service.rescuing import LEASE, LONGEST_ANSWER, RENEW_EVERY, Rescuing
from newsletter.store import handovers, tables, workers
from newsletter.store.deliveries import Delivery
from newsletter.store.handovers import Handover, Leaving
from newsletter.store.types import DatabaseNow
from tests.support.building import House, Reader, local

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TUESDAY = "2026-11-24 09:00"
NEXT_TUESDAY = "2026-12-01 09:00"
LOST, HELPER = "lost-1", "helper-1"
DIES = """
import os, sys
from pathlib import Path
from newsletter.liveness import LifeLine
LifeLine(sys.argv[1], folder=Path(sys.argv[2])).hold()
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def life_lines(tmp_path: Path) -> Path:
    """The folder with the locks of this host's workers."""
    folder = tmp_path / "workers"
    folder.mkdir()
    return folder


@pytest.fixture
def rescuing(house: House, life_lines: Path) -> Rescuing:
    """The rescuer, on a host of its own."""
    return Rescuing(database=house.app.database, recorder=house.app.office.recorder, life_lines=life_lines)


@pytest.fixture
def maria(house: House) -> Reader:
    """Somebody whose first letter is planned and due."""
    house.sequence("trust", "one", "two")
    house.publish()
    reader = house.reader()
    house.at(TUESDAY)
    house.plan()
    return reader


def die(worker: str, life_lines: Path) -> None:
    """A process that held the life line of a worker, killed."""
    process = subprocess.run([sys.executable, "-c", DIES, worker, str(life_lines)], check=False)
    assert process.returncode == -9


def claim(house: House, worker: str = LOST) -> Delivery:
    """One letter in the hands of a worker that has a lease."""
    with house.app.database.write() as connection:
        workers.enrol_worker(connection, worker, host="there", lease=LEASE)
        (item,) = handovers.claim_due(connection, owner=worker, letters=True, now=house.now, limit=1)
    return item


def hand_over(house: House, worker: str = LOST) -> Delivery:
    """One letter that a worker is handing over."""
    item = claim(house, worker)
    handover = Handover(revision=1, message_id=f"<{item.id}@example.org>", message_date=house.now, number=1)
    with house.app.database.write() as connection:
        assert handovers.hand_over(
            connection, [Leaving(item=item, handover=handover, min_gap=timedelta())], now=house.now
        )
    return item


def change(house: House, table: str, identifier: Any, **values: Any) -> None:
    named = tables.metadata.tables[table]
    with house.app.database.write() as connection:
        connection.execute(update(named).where(named.c.id == identifier).values(values))


def end_lease(house: House, worker: str = LOST) -> None:
    """By the database's clock, a worker's lease ran out a second ago."""
    change(house, "worker", worker, lease_until=DatabaseNow(timedelta(seconds=-1)))


def enrolled(house: House) -> set[str]:
    return {row["id"] for row in house.rows("worker")}


@contextmanager
def living(worker: str, life_lines: Path) -> Iterator[None]:
    with LifeLine(worker, folder=life_lines):
        yield


def test_a_claimed_letter_of_a_dead_process_goes_back_at_once(
    house: House, maria: Reader, rescuing: Rescuing, life_lines: Path
):
    """Its owner died on this host: planned again before its lease is over, no attempt counted, nothing in doubt."""
    claim(house)
    die(LOST, life_lines)
    assert rescuing.rescue(HELPER, now=house.now) == 1
    item = maria.delivery()
    assert (item.state, item.owner, item.attempt, item.doubts) == (State.PLANNED, None, 0, 0)
    assert house.work() == 1
    assert maria.steps() == ["one"]


def test_a_letter_in_the_handover_of_a_dead_process_is_judged_at_once(
    house: House, maria: Reader, rescuing: Rescuing, life_lines: Path
):
    """Its owner died on this host while handing over: in doubt at once, and repeated once under the same id."""
    item = hand_over(house)
    die(LOST, life_lines)
    assert rescuing.rescue(HELPER, now=house.now) == 1
    doubt = maria.delivery()
    assert (doubt.state, doubt.doubts, doubt.received) == (State.UNCERTAIN, 1, False)
    house.work()
    (mail,) = maria.letters()
    assert mail.message_id == f"<{item.id}@example.org>"
    assert (maria.delivery().state, maria.delivery().doubts) == (State.SENT, 1)


def test_a_repeat_lost_with_its_worker_counts_as_received(
    house: House, maria: Reader, rescuing: Rescuing, life_lines: Path
):
    """The second worker died as well: held for good, never handed over a third time, and the reader goes on."""
    for worker in (LOST, "lost-2"):
        hand_over(house, worker)
        die(worker, life_lines)
        rescuing.rescue(HELPER, now=house.now)
    item = maria.delivery()
    assert (item.state, item.received, item.doubts) == (State.HELD, True, 2)
    assert maria.due() == local(NEXT_TUESDAY)
    house.live(NEXT_TUESDAY)
    assert maria.steps() == ["two"]


def test_a_living_worker_keeps_what_it_holds(house: House, maria: Reader, rescuing: Rescuing, life_lines: Path):
    """A worker whose process lives and whose lease runs is left alone, claimed or handing over."""
    item = claim(house)
    with living(LOST, life_lines):
        assert rescuing.rescue(HELPER, now=house.now) == 0
        handover = Handover(revision=1, message_id="<a@example.org>", message_date=house.now)
        with house.app.database.write() as connection:
            assert handovers.hand_over(
                connection, [Leaving(item=item, handover=handover, min_gap=timedelta())], now=house.now
            )
        assert rescuing.rescue(HELPER, now=house.now) == 0
    assert maria.delivery().state is State.HANDING_OVER


def test_the_rescuer_does_not_suspect_itself(house: House, maria: Reader, rescuing: Rescuing):
    """What the rescuing worker holds itself is not taken back, whatever there is of a life line."""
    claim(house, HELPER)
    assert rescuing.rescue(HELPER, now=house.now) == 0
    assert maria.delivery().owner == HELPER


def test_an_unknown_owner_is_believed_until_its_lease_is_over(house: House, maria: Reader, rescuing: Rescuing):
    """A worker of another host: its claimed letter goes back once its lease is over, and not before."""
    claim(house)
    assert rescuing.rescue(HELPER, now=house.now) == 0
    assert enrolled(house) == {LOST}
    end_lease(house)
    assert rescuing.rescue(HELPER, now=house.now) == 1
    assert (maria.delivery().state, maria.delivery().doubts) == (State.PLANNED, 0)
    assert enrolled(house) == set()


def test_an_owner_that_is_nowhere_is_no_owner(house: House, maria: Reader, rescuing: Rescuing):
    """A claimed letter whose worker is struck off goes back."""
    claim(house)
    with house.app.database.write() as connection:
        connection.execute(tables.worker.delete())
    assert rescuing.rescue(HELPER, now=house.now) == 1
    assert maria.delivery().state is State.PLANNED


@pytest.mark.parametrize("leased", [True, False])
def test_a_silent_handover_is_judged_after_eleven_minutes(
    house: House, maria: Reader, rescuing: Rescuing, leased: bool
):
    """Nothing known of its owner: a mail server may take ten minutes to answer, so the letter waits eleven."""
    item = hand_over(house)
    if not leased:
        end_lease(house)
    # By the database's clock: business time may stand still or leap.
    almost = LONGEST_ANSWER - timedelta(seconds=10)
    change(house, "delivery", item.id, handing_over_at=DatabaseNow(-almost))
    assert rescuing.rescue(HELPER, now=house.now + timedelta(days=1)) == 0
    assert maria.delivery().state is State.HANDING_OVER
    change(house, "delivery", item.id, handing_over_at=DatabaseNow(-LONGEST_ANSWER - timedelta(seconds=1)))
    assert rescuing.rescue(HELPER, now=house.now) == 1
    assert (maria.delivery().state, maria.delivery().doubts) == (State.UNCERTAIN, 1)


def test_a_worker_thought_dead_that_comes_back_changes_nothing(house: House, maria: Reader, rescuing: Rescuing):
    """Its row has changed hands meanwhile: its verdict is not written, and what it gives back is not given back."""
    item = hand_over(house)
    change(house, "delivery", item.id, handing_over_at=DatabaseNow(-LONGEST_ANSWER - timedelta(seconds=1)))
    assert rescuing.rescue(HELPER, now=house.now) == 1
    before = maria.delivery()
    with house.app.database.write() as connection:
        assert rescuing._recorder.record_unanswered(connection, item, reason="again", now=house.now) is None
        assert handovers.release_claimed(connection, [item]) == 0
    assert maria.delivery() == before


def test_who_was_struck_off_enters_itself_again(house: House, maria: Reader, rescuing: Rescuing):
    """A worker that was silent for long loses its lease, and has one again from its next beat on."""
    rescuing.enrol(LOST, host="there")
    end_lease(house)
    rescuing.rescue(HELPER, now=house.now)
    assert enrolled(house) == set()
    rescuing.renew(LOST, host="there")
    assert enrolled(house) == {LOST}
    with house.app.database.write() as connection:
        assert len(handovers.claim_due(connection, owner=LOST, letters=True, now=house.now, limit=1)) == 1
    assert rescuing.rescue(HELPER, now=house.now) == 0


def test_a_silent_worker_that_lives_keeps_its_life_line(house: House, rescuing: Rescuing, life_lines: Path):
    """Struck off for a lease that ran out, its process living: should it die later, that is known at once."""
    rescuing.enrol(LOST, host="here")
    end_lease(house)
    with living(LOST, life_lines):
        rescuing.rescue(HELPER, now=house.now)
        assert enrolled(house) == set()
        assert len(list(life_lines.iterdir())) == 1


def test_a_dead_worker_that_still_owes_keeps_its_file(
    house: House, maria: Reader, rescuing: Rescuing, life_lines: Path, monkeypatch: pytest.MonkeyPatch
):
    """As long as something is in a dead worker's hands it stays known dead; then it is forgotten."""
    hand_over(house)
    die(LOST, life_lines)
    with monkeypatch.context() as patch:
        patch.setattr(handovers, "abandoned", lambda *_, **__: [])  # more was lost than one rescue takes
        assert rescuing.rescue(HELPER, now=house.now) == 0
    assert enrolled(house) == {LOST}
    assert is_known_dead(LOST, folder=life_lines)
    assert rescuing.rescue(HELPER, now=house.now) == 1
    assert enrolled(house) == set()
    assert list(life_lines.iterdir()) == []


def test_a_worker_that_ends_in_peace_is_struck_off_unless_it_owes(house: House, maria: Reader, rescuing: Rescuing):
    """Retiring with a letter in hand is refused, so that somebody finds it."""
    item = hand_over(house)
    assert not rescuing.retire(LOST)
    assert enrolled(house) == {LOST}
    with house.app.database.write() as connection:
        assert rescuing._recorder.record_unanswered(connection, item, reason="test", now=house.now) is not None
    assert rescuing.retire(LOST)
    assert rescuing.retire(LOST)
    assert enrolled(house) == set()


def test_two_rescuers_at_once_rescue_a_letter_once(
    house: House, maria: Reader, rescuing: Rescuing, life_lines: Path, monkeypatch: pytest.MonkeyPatch
):
    """Both saw the same lost letter: one of them puts it in doubt, the other changes nothing."""
    hand_over(house)
    die(LOST, life_lines)
    with house.app.database.read() as connection:
        lost = handovers.abandoned(connection, dead={LOST}, silent_for=LONGEST_ANSWER, limit=10)
    monkeypatch.setattr(handovers, "abandoned", lambda *_, **__: lost)
    assert [rescuing.rescue(name, now=house.now) for name in (HELPER, "helper-2")] == [1, 0]
    assert maria.delivery().doubts == 1


def test_a_lease_survives_missed_beats():
    """A worker may miss two beats, and a claimed letter of a lost one is back within 75 seconds."""
    assert LEASE >= 3 * RENEW_EVERY
    assert timedelta(seconds=75) >= LEASE + timedelta(seconds=5)
