"""The desk: many lanes at once share its commits, and each letter is still promised its own."""

from __future__ import annotations

from contextlib import contextmanager
from threading import Barrier, Thread
from typing import TYPE_CHECKING, Any

import pytest

from newsletter.domain.delivery import State
from newsletter.errors import DatabaseUnavailable
from newsletter.fibres import Hub
from newsletter.service.desk import Desk
from newsletter.service.office import Seat
from newsletter.service.sending import Crew
from tests.service.conftest import LANES, crew_of
from tests.support.smtp_server import Delay, Reply, SmtpServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.building import House, Reader

TUESDAY = "2026-11-24 09:00"
READERS = 40


@pytest.fixture
def readers(house: House) -> list[Reader]:
    """Many readers, each with a letter planned and due."""
    house.sequence("trust", "one", "two")
    house.publish()
    found = [house.reader(f"reader{number}@example.org") for number in range(READERS)]
    house.at(TUESDAY)
    assert house.plan() == READERS
    assert house.lanes  # enrols the worker
    return found


def count_commits(house: House) -> list[None]:
    """Grows with every write transaction from now on."""
    commits: list[None] = []
    usual = house.app.database.write

    @contextmanager
    def write(**how: Any) -> Iterator[Any]:
        with usual(**how) as connection:
            yield connection
        commits.append(None)

    house.app.database.write = write  # type: ignore[method-assign]
    return commits


def test_lanes_share_commits(house: House, readers: list[Reader], crew: Crew, post: SmtpServer):
    """Every letter is handed over and recorded, in far fewer transactions than two for each."""
    post.script("dot", Delay(0.005))
    commits = count_commits(house)
    assert crew.send_due() == READERS
    assert len(commits) < 2 * READERS
    assert [reader.steps() for reader in readers] == [["one"]] * READERS
    assert {row["state"] for row in house.rows("delivery")} == {State.SENT}
    assert len(post.ledger) == READERS


def test_at_the_first_byte_the_handover_is_committed(house: House, readers: list[Reader], desk: Desk, hub: Hub):
    """However many share a commit: while a letter travels, another connection to the database sees it said so."""
    seen: list[State] = []
    by_address = {reader.address: reader for reader in readers}

    class Looking:
        def __init__(self) -> None:
            self._mailer = house.app.open_mailer(waiting=hub)
            self.open, self.close = self._mailer.open, self._mailer.close

        @property
        def looks_ahead(self) -> bool:
            return self._mailer.looks_ahead

        def send(self, letter: Any, *, then: Any = None) -> Any:
            seen.append(by_address[letter.recipient].delivery().state)
            return self._mailer.send(letter, then=then)

    looking = crew_of(house, desk, hub, open_mailer=Looking)
    assert looking.send_due() == READERS
    looking.close()
    assert set(seen) == {State.HANDING_OVER}


def test_verdicts_of_one_round_move_each_reader_on(house: House, desk: Desk):
    """One reader's series ends and another begins, the next goes on: recorded together, each as if alone."""
    house.sequence("trust", "one", on_finish={"continue_with": "calm"})
    house.sequence("calm", "a", "b")
    house.publish()
    maria = house.reader("maria@example.org", "trust")
    ben = house.reader("ben@example.org", "calm")
    house.at(TUESDAY)
    house.plan()
    assert house.lanes
    with desk.attended() as seat:
        assert desk.has_work()
        given = [desk.exchange(seat, [], wants=True) for _ in range(2)]
        mailer = house.app.open_mailer()
        mailer.open()
        judged = [(each, mailer.send(each.envelope)) for each in given if each is not None]
        mailer.close()
        assert len(judged) == 2
        assert desk.exchange(seat, judged, wants=True) is None
    assert (len(maria.letters()), len(ben.letters())) == (1, 1)
    house.live(weeks=2)
    assert (len(maria.letters()), len(ben.letters())) == (3, 2)
    assert all(row["state"] == State.SENT for row in house.rows("delivery"))


def test_a_round_that_fails_fails_for_everybody_in_it_and_records_nothing(
    house: House, readers: list[Reader], desk: Desk
):
    """Each lane keeps its verdict and comes again; then each letter is recorded once."""
    mailer = house.app.open_mailer()
    mailer.open()
    with desk.attended() as seat:
        desk.has_work()
        given = [desk.exchange(seat, [], wants=True) for _ in range(4)]
        judged = [(each, mailer.send(each.envelope)) for each in given if each is not None]
        usual = house.app.database.write

        @contextmanager
        def away(**_how: Any) -> Iterator[Any]:
            message = "The database is away."
            raise DatabaseUnavailable(message)
            yield

        house.app.database.write = away  # type: ignore[method-assign]
        assert at_once(lambda each: desk.exchange(Seat(), [each], wants=False), judged) == [DatabaseUnavailable] * 4
        house.app.database.write = usual  # type: ignore[method-assign]
        assert sum(reader.delivery().state is State.HANDING_OVER for reader in readers) == 4
        assert at_once(lambda each: desk.exchange(Seat(), [each], wants=False), judged) == []
    mailer.close()
    assert sum(reader.delivery().state is State.SENT for reader in readers) == 4
    assert sum(reader.delivery().state is State.PLANNED for reader in readers) == READERS - 4


def at_once(do: Any, each: list[Any]) -> list[type[BaseException]]:
    """Do something for each in threads that begin together; what was raised."""
    raised: list[type[BaseException]] = []
    barrier = Barrier(len(each))

    def run(item: Any) -> None:
        barrier.wait()
        try:
            do(item)
        except Exception as error:  # noqa: BLE001
            raised.append(type(error))

    threads = [Thread(target=run, args=(item,)) for item in each]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_the_last_lane_gives_back_what_is_left(house: House, readers: list[Reader], crew: Crew, post: SmtpServer):
    """A mail server that goes away strands nothing: what was claimed and not handed over waits as before."""
    post.script("banner", Reply(421, "4.3.2 Not now"))
    assert crew.send_due() == 0
    assert {row["state"] for row in house.rows("delivery")} == {State.PLANNED}
    assert {row["attempt"] for row in house.rows("delivery")} == {0}
    assert post.ledger == []


def test_told_to_stop_it_gives_out_nothing_more(house: House, readers: list[Reader], crew: Crew, post: SmtpServer):
    """The letters in hand are finished, the rest is given back."""
    post.script("dot", Delay(0.05))
    stopper = Thread(target=house.stop.set)
    stopper.start()
    accepted = crew.send_due()
    stopper.join()
    assert accepted == len(post.ledger) <= LANES
    assert sum(reader.delivery().state is State.SENT for reader in readers) == accepted
    assert sum(reader.delivery().state is State.PLANNED for reader in readers) == READERS - accepted
