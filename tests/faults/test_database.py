"""A database that crashes, restarts, hangs up, is locked or has no room left, in the middle of a sending."""

from __future__ import annotations

import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from tests.conftest import NEEDS, NOT_RUN
from tests.faults.comparison import compare
from tests.faults.conftest import IS_LONG, Report
from tests.faults.scene import Scene
from tests.journeys.conftest import THURSDAY, OpenBooks, OpenProgram, SeededDatabase, seed
from tests.journeys.content import SERIES
from tests.support.postgres import Cluster, Server, SmallDiskMissingError, find_binaries
from tests.support.program import Running
from tests.support.smtp_server import Delay, SmtpServer

LOCKED_SECONDS = 40 if IS_LONG else 2
"""A writer waits for half a minute; whoever locks for longer makes it fail."""
ROUNDS = 10 if IS_LONG else 1
CROWD = 2000 if IS_LONG else 150
FIT = 150
"""So many readers' database is far smaller than eight megabytes."""


@pytest.mark.timeout(700 if IS_LONG else 120)
def test_postgresql_may_end_in_any_way(
    postgres_cluster: Cluster,
    cluster_url: Callable[..., str],
    open_program: OpenProgram,
    open_books: OpenBooks,
    scene: Scene,
    smtp_server: SmtpServer,
    report: Report,
):
    """Crashed, restarted, every connection ended: no worker exits, it sends again at once, and nothing is doubled."""
    program = open_program(cluster_url(CROWD))
    program.set_clock(THURSDAY)
    books = open_books(program)
    worker = program.start("worker")
    ways = [postgres_cluster.end_connections, postgres_cluster.crash, postgres_cluster.stop] * ROUNDS
    scene.chance.shuffle(ways)
    slowest = 0.0

    def all_sent() -> bool:
        return books.count("sent") == CROWD

    for end in ways:
        enough = scene.passed["dot"] + scene.chance.randint(5, 20)
        worker.wait_for(lambda enough=enough: scene.passed["dot"] >= enough or all_sent())
        end()
        if not postgres_cluster.is_running:
            time.sleep(scene.chance.choice((0.0, 0.5, 1.5)))
            postgres_cluster.start()
        began, had = time.monotonic(), len(smtp_server.ledger)
        worker.wait_for(lambda had=had: len(smtp_server.ledger) > had + 8 or all_sent())
        slowest = max(slowest, time.monotonic() - began)
    worker.wait_for(all_sent, seconds=600)
    assert worker.terminate() == 0
    found = compare(smtp_server, books, program)
    report(found, fault="PostgreSQL ends", program=program, events=len(ways), again_after_seconds=round(slowest, 2))

    assert found.keeps_the_promise(), found
    assert (found.sent, found.doubled) == (CROWD, [])
    assert slowest < 30


@pytest.mark.timeout(400)
def test_a_locked_file_delays_and_doubles_nothing(
    seeded_sqlite: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks, smtp_server: SmtpServer,
    report: Report,
):  # fmt: skip
    """Somebody else writes to the SQLite file and takes their time: letters wait, and each leaves once."""
    program = open_program(seeded_sqlite(CROWD))
    program.set_clock(THURSDAY)
    books = open_books(program)
    smtp_server.script("dot", Delay(0.2))
    worker = program.start("worker")
    worker.wait_for(lambda: len(smtp_server.ledger) > 4)
    with sqlite3.connect(str(make_url(str(program.settings["database_url"])).database), timeout=60) as other:
        other.execute("BEGIN EXCLUSIVE")
        smtp_server.forget_scripts()
        time.sleep(LOCKED_SECONDS)
        held_back = len(smtp_server.ledger)
    assert held_back < CROWD
    worker.wait_for(lambda: books.count("sent") == CROWD, seconds=250)
    assert worker.terminate() == 0
    found = compare(smtp_server, books, program)
    report(found, fault=f"SQLite locked for {LOCKED_SECONDS} s", program=program, events=1)
    assert found.keeps_the_promise(), found
    assert (found.sent, found.doubled) == (CROWD, [])


# --- no room left ---------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of eight megabytes. Only root can make one."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], check=False, capture_output=True, text=True
    )
    if made.returncode != 0:
        pytest.skip(f"{NOT_RUN} {NEEDS['disk']}: {made.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.long
def test_a_full_disk_stops_the_sending_and_lies_to_nobody(
    small_disk: Path,
    seeded_sqlite: SeededDatabase,
    open_program: OpenProgram,
    open_books: OpenBooks,
    smtp_server: SmtpServer,
    report: Report,
):
    """Nothing leaves whose handover could not be written down; with room again all goes on, and nothing is doubled."""
    database = small_disk / "newsletter.db"
    database.write_bytes(Path(str(make_url(seeded_sqlite(FIT)).database)).read_bytes())
    program = open_program(f"sqlite:///{database}")
    program.set_clock(THURSDAY)
    books = open_books(program)
    smtp_server.script("dot", Delay(0.02))
    site, running = program.serve()
    running.wait_for(lambda: len(smtp_server.ledger) > 10)
    # The log is still growing: it has never been begun anew, so that every commit needs more room.
    log = Path(f"{database}-wal")
    assert log.stat().st_size < 4_000_000
    ballast = small_disk / "ballast"
    fill(ballast)
    running.wait_for(lambda: "database_unavailable" in running.log)
    answer = site.post("/subscribe", email="new@example.org", sequence="three")
    assert answer.status == 503
    left = len(smtp_server.ledger)
    running.wait_for(lambda: running.log.count("database_unavailable") > 2)
    # What was in hand when it began may still have been on its way, one letter a connection.
    assert len(smtp_server.ledger) <= left + 4
    assert len(smtp_server.ledger) < FIT

    ballast.unlink()
    began = time.monotonic()
    had = len(smtp_server.ledger)
    running.wait_for(lambda: len(smtp_server.ledger) > had + 8)
    again_after = time.monotonic() - began
    running.wait_for(lambda: books.count("sent") == FIT)
    assert running.terminate() == 0
    found = compare(smtp_server, books, program)
    report(found, fault="disk full", program=program, events=1, again_after_seconds=round(again_after, 2))
    assert found.keeps_the_promise(), found
    assert (found.sent, found.doubled) == (FIT, [])
    assert "new@example.org" not in books.addresses().values()


SERVER_DISK_MB = 128
"""PostgreSQL's own files take the half of it."""
NO_ROOM = "No space left on device"


@pytest.fixture
def small_server(postgres: Server) -> Iterator[Cluster]:
    """PostgreSQL on a disk of its own, with a log of small files; where there is none at all, `postgres` says so."""
    try:
        cluster = Cluster(find_binaries(), disk_mb=SERVER_DISK_MB, segment_mb=1)
    except SmallDiskMissingError as error:
        pytest.skip(f"{NOT_RUN} {NEEDS['disk']}: {error}")
    yield cluster
    cluster.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("wants_room", ["tables", pytest.param("log", marks=pytest.mark.long)])
def test_a_full_disk_of_postgresql_stops_the_sending_and_lies_to_nobody(
    wants_room: str, small_server: Cluster, small_content: Path, open_program: OpenProgram, open_books: OpenBooks,
    smtp_server: SmtpServer, report: Report,
):  # fmt: skip
    """The same where its tables cannot grow; and where its log cannot, of which PostgreSQL crashes and stays away."""
    url = small_server.create_database()
    seed(url, small_content, readers=FIT, sequence=SERIES)
    program = open_program(url)
    program.set_clock(THURSDAY)
    books = open_books(program)
    smtp_server.script("dot", Delay(0.02))
    site, running = program.serve()
    running.wait_for(lambda: len(smtp_server.ledger) > 10)
    ballast = small_server.data_path / "ballast"
    fill(ballast)
    if wants_room == "log":
        small_server.fill_log()
    asked: dict[str, int] = {}

    def is_refused() -> bool:
        address = f"new-{len(asked)}@example.org"
        asked[address] = site.post("/subscribe", email=address, sequence=SERIES).status
        return asked[address] == 503

    running.wait_for(is_refused)
    # Tables have room within themselves, some longer than others; then nothing leaves any longer.
    running.wait_for(lambda: time.monotonic() - smtp_server.ledger[-1].monotonic > 1)
    had = len(smtp_server.ledger)
    assert had < FIT - 8
    if IS_LONG:
        # A worker that has a letter's answer in hand keeps trying for ten seconds before it says so.
        running.wait_for(lambda: running.log.count("database_unavailable") > 2)
        assert len(smtp_server.ledger) == had

    running.wait_for(lambda: small_server.is_running == (wants_room == "tables"))
    ballast.unlink()
    began = time.monotonic()
    if wants_room == "log":
        small_server.start()
    running.wait_for(lambda: len(smtp_server.ledger) > had + 8)
    again_after = time.monotonic() - began
    running.wait_for(lambda: len(books.deliveries(state="sent")) == FIT)
    assert running.terminate() == 0
    found = compare(smtp_server, books, program)
    report(found, fault=f"disk full for the {wants_room}", program=program, events=1,
           again_after_seconds=round(again_after, 2))  # fmt: skip
    assert found.keeps_the_promise(), found
    assert (found.sent, found.doubled) == (FIT, [])
    speaks_clearly(running, says=NO_ROOM if IS_LONG and wants_room == "tables" else "")
    # Whoever was not refused is there, and nobody else.
    taken = {address for address, status in asked.items() if status != 503}
    assert set(books.addresses().values()) & asked.keys() == taken


def speaks_clearly(running: Running, *, says: str) -> None:
    """All that it complained of is the database, in a line each time, which says what is wrong."""
    complaints = [line for line in running.log.splitlines() if "[warning" in line or "[error" in line]
    assert all("database_unavailable" in line or "lease_not_renewed" in line for line in complaints), complaints
    assert says == "" or any(says in line for line in complaints)
    assert "Traceback" not in running.log


def fill(path: Path) -> None:
    """Take all the room that is left."""
    size = 1024 * 1024
    with path.open("ab", buffering=0) as file:
        while size:
            try:
                file.write(b"\0" * size)
            except OSError:
                size //= 2
