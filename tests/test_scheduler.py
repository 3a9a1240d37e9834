"""The metronome: what it calls is done in time, whatever goes wrong in between, and it stops within seconds."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Event, Thread, Timer
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import make_url
from structlog.testing import capture_logs

from newsletter import scheduler
from newsletter.errors import DatabaseUnavailable
from newsletter.liveness import default_folder, is_known_dead
from newsletter.scheduler import Scheduler, drain
from newsletter.service.office import Office
from newsletter.service.planning import Planning
from newsletter.service.rescuing import Rescuing
from newsletter.store import erasing
from newsletter.worker import Worker
from tests.support.building import House
from tests.support.smtp_server import Delay, Reply, SmtpServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TICK = timedelta(seconds=0.05)
pytestmark = pytest.mark.usefixtures("own_life_lines")
TUESDAY = "2026-11-24 09:00"
SECONDS = 15
"""More than anything here takes on a busy machine."""


@pytest.fixture
def open_house(migrated_url: str, tmp_path: Path, post: SmtpServer) -> Iterator[Callable[..., House]]:
    """Opens the program with one published sequence."""
    opened: list[House] = []

    def open_it(**settings: Any) -> House:
        opened.append(House(migrated_url, tmp_path, post=post, **settings))
        opened[-1].sequence("trust", "one")
        opened[-1].publish()
        return opened[-1]

    yield open_it
    for house in opened:
        house.close()


@pytest.fixture
def house(open_house: Callable[..., House]) -> House:
    """The program with two lanes for letters."""
    return open_house(smtp_connections=2)


@pytest.fixture
def readers(house: House) -> list[str]:
    """Five people whose letter is due now."""
    addresses = [f"reader-{number}@example.org" for number in range(5)]
    for address in addresses:
        house.reader(address)
    house.at(TUESDAY)
    return addresses


@pytest.fixture
def start_of(open_house: Callable[..., House]) -> Iterator[Callable[[House], Scheduler]]:
    """Starts a scheduler of a house that ticks quickly, and stops it in the end, before the house is closed."""
    running: list[Scheduler] = []

    def start_it(house: House) -> Scheduler:
        running.append(Scheduler(house.app, tick=TICK))
        running[-1].start()
        return running[-1]

    yield start_it
    for one in running:
        if not one.worker.stop.is_set():
            one.shut_down()


@pytest.fixture
def start(house: House, start_of: Callable[[House], Scheduler]) -> Callable[[], Scheduler]:
    """Starts a scheduler of the house."""
    return partial(start_of, house)


def states(house: House) -> list[str]:
    return sorted(row["state"] for row in house.rows("delivery"))


def wait_until(condition: Callable[[], object]) -> None:
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until, "nothing of the kind happened"
        time.sleep(0.01)


def failing_at_first(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, *errors: Exception) -> Callable[[], int]:
    """Let the first calls raise; afterwards all is as usual. Returns how many calls there were."""
    usual = getattr(owner, name)
    coming = list(errors)
    calls = 0

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if coming:
            raise coming.pop(0)
        return usual(*arguments, **named)

    monkeypatch.setattr(owner, name, call)
    return lambda: calls


# --- the whole ------------------------------------------------------------------------------------


def test_what_is_due_is_planned_and_sent_and_it_stops(house, readers, post: SmtpServer, start):
    """Each letter leaves once without anybody asking; stopping takes seconds and leaves no worker behind."""
    running = start()
    post.wait_for(lambda server: len(server.ledger) == 5, seconds=SECONDS)
    wait_until(lambda: states(house) == ["sent"] * 5)
    assert [row["id"] for row in house.rows("worker")] == [running.worker.id]
    began = time.monotonic()
    running.shut_down()
    assert time.monotonic() - began < 5
    assert sorted(received.recipient for received in post.ledger) == readers
    assert house.rows("worker") == []
    assert list(default_folder().iterdir()) == []
    assert not running.worker._heart.is_alive()


def test_what_comes_due_later_is_sent_later(house: House, post: SmtpServer, start):
    """Business time moves, and the next tick sees it."""
    house.reader()
    start()
    time.sleep(0.3)
    assert post.ledger == []
    house.at(TUESDAY)
    post.wait_for(lambda server: len(server.ledger) == 1, seconds=SECONDS)


def test_a_confirmation_does_not_queue_behind_letters(house: House, readers, post: SmtpServer, start):
    """While every letter takes its time, what a person waits for leaves on a lane of its own."""
    post.script("dot", Delay(60), when=lambda line: "reader-" in line)
    start()
    wait_until(lambda: "handing_over" in states(house))
    house.ask("maria@example.org")
    post.wait_for(lambda server: any(one.recipient == "maria@example.org" for one in server.ledger), seconds=SECONDS)
    assert [one.recipient for one in post.ledger][-1] == "maria@example.org"
    post.forget_scripts()
    post.drop_connections()


def test_stopping_finishes_the_letters_in_hand_and_gives_the_rest_back(house, readers, post: SmtpServer, start):
    """A letter in its handover is finished and written down; the others wait for the next worker."""
    post.script("dot", Delay(0.7))
    running = start()
    wait_until(lambda: "handing_over" in states(house))
    running.shut_down()
    assert set(states(house)) == {"planned", "sent"}
    assert states(house).count("sent") == len(post.ledger)
    assert {row["owner"] for row in house.rows("delivery")} == {None}
    assert house.rows("worker") == []


def test_two_workers_share_the_letters(house, post: SmtpServer, start):
    """Whoever sends it, each letter is sent once."""
    for number in range(20):
        house.reader(f"reader-{number}@example.org")
    house.at(TUESDAY)
    start(), start()
    wait_until(lambda: states(house) == ["sent"] * 20)
    assert len({received.recipient for received in post.ledger}) == len(post.ledger) == 20


def test_stopping_before_it_began_is_no_trouble(house: House):
    """Nothing was taken, so nothing is given back."""
    Scheduler(house.app).shut_down()
    assert house.rows("worker") == []


# --- faults ---------------------------------------------------------------------------------------


def test_a_tick_that_fails_is_logged_and_the_next_one_goes_on(
    house, readers, post: SmtpServer, start, monkeypatch: pytest.MonkeyPatch
):
    """A database that is away is a warning, an unforeseen fault an error with its trace; neither stops the beat."""
    failing_at_first(
        monkeypatch, Planning, "plan_due", DatabaseUnavailable("It is away."), ZeroDivisionError("oh"), KeyError("x")
    )
    with capture_logs() as logs:
        start()
        post.wait_for(lambda server: len(server.ledger) == 5, seconds=SECONDS)
    failed = [(line["event"], line["log_level"]) for line in logs if line.get("tick") == "plan"]
    assert failed == [("database_unavailable", "warning"), ("tick_failed", "error"), ("tick_failed", "error")]


def test_one_failing_tick_does_not_hold_up_the_others(
    house, readers, post: SmtpServer, start, monkeypatch: pytest.MonkeyPatch
):
    """Rescue and housekeeping may fail for ever, and letters leave."""
    monkeypatch.setattr(scheduler, "RESCUE_EVERY", TICK)
    monkeypatch.setattr(scheduler, "KEEP_HOUSE_EVERY", TICK)
    running = start()
    monkeypatch.setattr(Rescuing, "rescue", lambda *_, **__: 1 // 0)
    post.wait_for(lambda server: len(server.ledger) == 5, seconds=SECONDS)
    monkeypatch.undo()
    running.shut_down()


def test_the_heart_survives_any_exception(house: House, start, monkeypatch: pytest.MonkeyPatch):
    """Whatever renewing the lease raised, the next beat renews it, and enters a worker that was struck off."""
    monkeypatch.setattr("newsletter.worker.RENEW_EVERY", TICK)
    calls = failing_at_first(
        monkeypatch, Rescuing, "renew", DatabaseUnavailable("away"), ValueError("odd"), MemoryError(), AssertionError()
    )
    running = start()
    wait_until(lambda: calls() >= 6)
    assert running.worker._heart.is_alive()
    with house.app.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM worker")
    wait_until(lambda: [row["id"] for row in house.rows("worker")] == [running.worker.id])


def test_a_worker_that_cannot_say_goodbye_is_known_dead(house: House, monkeypatch: pytest.MonkeyPatch):
    """The database away at the end: the life line's file stays, so that the others need not wait for the lease."""
    worker = Worker(house.app)
    worker.begin()
    assert not is_known_dead(worker.id)
    failing_at_first(monkeypatch, Rescuing, "retire", DatabaseUnavailable("away"))
    worker.end()
    assert is_known_dead(worker.id)
    other = Worker(house.app)
    other.begin()
    assert [row["id"] for row in house.rows("worker")] == [other.id]
    assert not is_known_dead(worker.id)
    other.end()


# --- the share of the fleet's connections ---------------------------------------------------------


def test_workers_leave_connections_to_each_other(
    open_house: Callable[..., House], post: SmtpServer, start_of: Callable[[House], Scheduler],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    """Of seven the first has five and the second two; told so, the first hangs up, and then the second has its part."""
    monkeypatch.setattr("newsletter.worker.RENEW_EVERY", TICK)
    house = open_house(smtp_connections=4, fleet_connections=7)
    post.script("dot", Delay(0.2))
    first = start_of(house)
    for number in range(8):
        house.reader(f"reader-{number}@example.org")
    house.at(TUESDAY)
    post.wait_for(lambda server: server.open_connections >= 4, seconds=SECONDS)
    second = start_of(house)

    def may_have() -> dict[str, int]:
        return {row["id"]: row["connections"] for row in house.rows("worker")}

    # The first has four, and three when it has hung up; whoever asks first has what cannot be divided.
    wait_until(lambda: sorted(may_have().values()) == [3, 4])
    assert set(may_have()) == {first.worker.id, second.worker.id}
    wait_until(lambda: len(post.ledger) == 8)
    assert sum(crew.connections for crew in first.worker.crews + second.worker.crews) <= 7
    first.shut_down()
    wait_until(lambda: may_have() == {second.worker.id: 5})


def test_a_worker_for_which_there_are_no_two_connections_stands_by(
    open_house: Callable[..., House], post: SmtpServer, start_of: Callable[[House], Scheduler],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    """It claims nothing, and takes over when the one that had them ends."""
    monkeypatch.setattr("newsletter.worker.RENEW_EVERY", TICK)
    house = open_house(smtp_connections=4, fleet_connections=2)
    first, second = start_of(house), start_of(house)
    assert [crew.connections for crew in second.worker.crews] == [0, 0]
    first.shut_down()
    house.reader()
    house.at(TUESDAY)
    post.wait_for(lambda server: len(server.ledger) == 1, seconds=SECONDS)
    wait_until(lambda: [crew.connections for crew in second.worker.crews] == [1, 1])


# --- drain ----------------------------------------------------------------------------------------


def test_draining_ends_when_nothing_is_due(house: House, readers, post: SmtpServer):
    """Everything due is sent; what is due later is left; True."""
    later = house.reader("later@example.org", slot="wed 09:00")
    assert drain(house.app) is True
    assert states(house) == ["sent"] * 5
    assert later.mails() == []
    assert house.rows("worker") == []


def test_draining_nothing_ends_at_once(house: House):
    """An installation that owes nothing: True, within seconds."""
    began = time.monotonic()
    assert drain(house.app) is True
    assert time.monotonic() - began < 5


def test_draining_gives_up_when_nothing_is_accepted(
    house: House, readers, post: SmtpServer, monkeypatch: pytest.MonkeyPatch
):
    """The mail server is down while letters are due: False after a while, and nothing is lost."""
    monkeypatch.setattr(scheduler, "GIVE_UP_DRAINING_AFTER", timedelta(seconds=0.5))
    post.stop()
    assert drain(house.app) is False
    assert states(house) == ["planned"] * 5
    assert {row["attempt"] for row in house.rows("delivery")} == {0}
    post.start()
    assert drain(house.app) is True
    assert len(post.ledger) == 5


def test_draining_does_not_wait_for_what_was_put_off(house: House, readers, post: SmtpServer):
    """A letter that is to be tried again later is not due: True, with that letter planned."""
    post.script("rcpt", Reply(451, "4.2.0 Later"), times=1)
    assert drain(house.app) is True
    assert states(house) == ["planned"] + ["sent"] * 4


def test_draining_waits_for_what_others_have_in_hand(house: House, monkeypatch: pytest.MonkeyPatch):
    """Nothing to take, and less is due each time: another worker is at it. As much as before: nobody is."""
    monkeypatch.setattr(scheduler, "GIVE_UP_DRAINING_AFTER", timedelta())
    for counts, ended in (([3, 2, 1, 0], True), ([3, 2, 2], False)):
        due = iter(counts)
        monkeypatch.setattr(Office, "count_due", lambda *_, due=due, **__: next(due))
        assert drain(house.app) is ended


def test_draining_can_be_stopped(house: House, readers, post: SmtpServer):
    """Stopped half-way: the letter in hand is finished, and it says that something is left."""
    post.script("dot", Delay(0.7))
    stop = Event()
    answers: list[bool] = []
    thread = Thread(target=lambda: answers.append(drain(house.app, stop=stop)))
    thread.start()
    wait_until(lambda: "handing_over" in states(house))
    stop.set()
    thread.join(SECONDS)
    assert answers == [None]
    assert set(states(house)) == {"planned", "sent"}
    assert states(house).count("sent") == len(post.ledger)


def log_of(house: House) -> Path:
    """The log beside the file of a house on SQLite."""
    return Path(f"{make_url(house.app.settings.database_url).database}-wal")


def erase_somebody(house: House) -> bytes:
    """A reader is erased by a process that dies at once; their address."""
    reader = house.reader("maria-of-the-lighthouse@example.org")
    with house.app.database.write() as connection:
        erasing.erase_subscriber(connection, reader.record.id)
    address = reader.address.encode()
    assert address in log_of(house).read_bytes()
    return address


@pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)
def test_whoever_runs_sweeps_up_after_everybody(house: House, start_of: Any, monkeypatch: pytest.MonkeyPatch):
    """SQLite's log holds nothing of who was erased, by whomever, soon after nobody is in the way any longer."""
    monkeypatch.setattr(scheduler, "SWEEP_EVERY", TICK)
    address = erase_somebody(house)
    with closing(sqlite3.connect(str(log_of(house)).removesuffix("-wal"), isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM subscriber").fetchone()
        start_of(house)
        time.sleep(10 * TICK.total_seconds())
        assert address in log_of(house).read_bytes()
        other.execute("COMMIT")
        wait_until(lambda: address not in log_of(house).read_bytes())


@pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)
def test_a_command_that_ends_sweeps_before(house: House, monkeypatch: pytest.MonkeyPatch):
    """It waits for whoever reads; where that takes too long it says so, and leaves the rest to the next that runs."""
    address = erase_somebody(house)
    monkeypatch.setattr(scheduler, "SWEEP_WITHIN", timedelta(seconds=0.5))
    with closing(
        sqlite3.connect(str(log_of(house)).removesuffix("-wal"), isolation_level=None, check_same_thread=False)
    ) as other:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM subscriber").fetchone()
        with capture_logs() as lines:
            assert drain(house.app)
        assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["erased_is_in_the_log"]
        assert address in log_of(house).read_bytes()
        monkeypatch.setattr(scheduler, "SWEEP_WITHIN", timedelta(seconds=SECONDS))
        ending = Timer(1, other.execute, ["COMMIT"])
        ending.start()
        assert drain(house.app)
        ending.join()
        assert address not in log_of(house).read_bytes()
