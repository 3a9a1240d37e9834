"""A damaged SQLite file: nothing is sent by it, and one line says how to restore it."""

from __future__ import annotations

import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from newsletter.errors import DatabaseRefused
from newsletter.store.database import Database
from tests.journeys.conftest import FEW, MONDAY, THURSDAY, OpenProgram, SeededDatabase
from tests.support.program import Program
from tests.support.smtp_server import Delay, SmtpServer

FLIPS = 150
PAGE = 4096
LARGE_BYTES = 80_000_000


def is_sound(path: Path) -> bool:
    """What SQLite itself says of a copy of the file."""
    copy = path.with_name("judged.db")
    shutil.copy(path, copy)
    try:
        with closing(sqlite3.connect(copy)) as connection:
            return connection.execute("PRAGMA quick_check").fetchall() == [("ok",)]
    except (sqlite3.DatabaseError, UnicodeDecodeError):
        return False
    finally:
        for left in path.parent.glob("judged.db*"):
            left.unlink()


def flip(path: Path, chance: Random) -> None:
    """Change some bytes somewhere: one, a few, or the better part of a page; or cut the file short."""
    content = bytearray(path.read_bytes())
    if chance.random() < 0.1:
        del content[chance.randrange(PAGE, len(content)) :]
    else:
        length = chance.choice([1, 8, 64, 2048])
        # Often where a page begins: there stands what all of it means.
        start = (
            chance.randrange(len(content) // PAGE) * PAGE if chance.random() < 0.5 else chance.randrange(len(content))
        )
        for at in range(start, min(start + length, len(content))):
            content[at] ^= chance.randrange(1, 256)
    path.write_bytes(content)


def start_on(database: Database) -> None:
    """What every command that sends does first with a database."""
    if not database.is_fresh():
        database.check()
    database.examine()


def path_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def one_line(program: Program, *words: str) -> str:
    """What a command says that is refused."""
    finished = program.command(*words)
    assert finished.code == 1, finished
    [line] = finished.err.splitlines()
    assert finished.out == ""
    return line


def test_what_sqlite_does_not_take_for_sound_is_refused(seeded_sqlite: SeededDatabase, tmp_path: Path):
    """Bytes changed at random, many times: the start is refused wherever `quick_check` finds something."""
    sound = path_of(seeded_sqlite(FEW))
    chance, refused = Random(7), 0
    for number in range(FLIPS):
        path = tmp_path / f"flipped-{number}.db"
        shutil.copy(sound, path)
        flip(path, chance)
        if is_sound(path):
            continue
        refused += 1
        database = Database(f"sqlite:///{path}")
        with pytest.raises(DatabaseRefused) as caught:
            start_on(database)
        database.close()
        assert "\n" not in str(caught.value), number
    assert refused > FLIPS // 3


@pytest.mark.parametrize("command", ["worker", "worker --drain", "worker --processes 2", "run --port {port}"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_nothing_leaves_by_a_damaged_file(
    command: str, seed: int, seeded_sqlite: SeededDatabase, open_program: OpenProgram, smtp_server: SmtpServer
):
    """Letters are due, and the file would still give some of them: exit code 1, one line, and nobody is written to."""
    path, chance = path_of(seeded_sqlite(FEW)), Random(seed)
    kept = path.read_bytes()
    # Not in the first page, where the schema stands: without that nothing could be read anyway.
    while is_sound(path) or path.read_bytes()[:PAGE] != kept[:PAGE]:
        path.write_bytes(kept)
        flip(path, chance)
    program = open_program(f"sqlite:///{path}")
    program.set_clock(THURSDAY)
    before = path.read_bytes()
    assert "database" in one_line(program, *command.format(port=program.port).split())
    assert smtp_server.connections == 0
    assert path.read_bytes() == before


def damage_a_table(path: Path, table: str) -> None:
    """Overwrite the root of a table, while others may have the file open."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        [root] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", [table]).fetchone()
    with path.open("r+b") as file:
        file.seek((root - 1) * PAGE)
        file.write(b"\xff" * PAGE)


@pytest.mark.parametrize("command", ["worker", "worker --processes 2", "run --port {port}"])
def test_damage_that_is_met_later_ends_the_sending(
    command: str, seeded_sqlite: SeededDatabase, open_program: OpenProgram, smtp_server: SmtpServer
):
    """A file that breaks under a worker: it ends with one line and exit code 1, and no child is started anew."""
    path = path_of(seeded_sqlite(FEW))
    program = open_program(f"sqlite:///{path}")
    program.set_clock(MONDAY)
    running = program.start(*command.format(port=program.port).split())
    children = 2 if "2" in command else 1
    running.wait_for(lambda: running.log.count("worker_started") == children)
    damage_a_table(path, "subscription")
    program.set_clock(THURSDAY)
    assert running.wait() == 1
    said = [line for line in running.log.splitlines() if not line.startswith("20")]
    assert [line for line in said if "damaged" in line] == said[-1:]
    assert "restore it from a backup" in said[-1]
    assert running.log.count("process_ended") == 0
    assert "Traceback" not in running.log
    assert smtp_server.ledger == []


def test_damage_that_is_met_while_draining_ends_it(
    seeded_sqlite: SeededDatabase, open_program: OpenProgram, smtp_server: SmtpServer
):
    """It does not wait for a minute without an acceptance, and says nothing else."""
    path = path_of(seeded_sqlite(FEW))
    program = open_program(f"sqlite:///{path}", smtp_connections=1)
    program.set_clock(THURSDAY)
    smtp_server.script("dot", Delay(1.0))
    began = time.monotonic()
    running = program.start("worker", "--drain")
    running.wait_for(lambda: smtp_server.ledger)
    damage_a_table(path, "delivery")
    assert running.wait() == 1
    assert time.monotonic() - began < 20
    [line] = [line for line in running.log.splitlines() if not line.startswith("20")]
    assert "restore it from a backup" in line
    assert len(smtp_server.ledger) < FEW


@pytest.fixture(scope="session")
def large_file(seeded_file, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that is too large to be gone through at the start."""
    path = tmp_path_factory.mktemp("large") / "newsletter.db"
    shutil.copy(seeded_file(FEW, "three"), path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE ballast (a BLOB)")
        connection.execute("INSERT INTO ballast VALUES (zeroblob(?))", [LARGE_BYTES])
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


@pytest.mark.parametrize("command", ["worker", "worker --processes 2"])
def test_a_large_file_is_gone_through_beside_the_sending(
    command: str, large_file: Path, tmp_path: Path, open_program: OpenProgram, smtp_server: SmtpServer
):
    """Damage where the sending never looks ends it as well; a large file that is sound keeps nobody waiting."""
    path = tmp_path / "newsletter.db"
    shutil.copy(large_file, path)
    program = open_program(f"sqlite:///{path}")
    program.set_clock(THURSDAY)
    program.drain()
    assert len(smtp_server.ledger) == FEW

    damage_a_table(path, "ballast")
    running = program.start(*command.split())
    assert running.wait() == 1
    [line] = [line for line in running.log.splitlines() if not line.startswith("20")]
    assert "restore it from a backup" in line
