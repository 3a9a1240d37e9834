"""The command line from outside: exit codes, one clear line when something is refused, never a traceback."""

from __future__ import annotations

import os
import socket
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, insert, make_url, text
from typer.main import get_command

from newsletter.cli import app
from newsletter.store import tables
from tests.journeys.conftest import MONDAY, THURSDAY, OpenBooks, OpenProgram, SeededDatabase
from tests.journeys.content import SERIES, STEPS, write_content
from tests.support.program import HOST, Finished, Program, free_port
from tests.support.smtp_server import Reply, SmtpServer

READER = "reader-000@example.org"
NOBODY = "nobody@example.org"
NO_ID = "01a20858-50f2-7167-8298-5f8ee04d626c"

REFUSED, MISUSED = 1, 2

# What is tested elsewhere, because it goes on until it is ended.
ELSEWHERE = {("cluster", "worker"), ("demo",), ("run",)}


@dataclass(frozen=True)
class Call:
    """A command, and what its output must hold."""

    words: tuple[str, ...]
    says: str = ""


def call(line: str, says: str = "") -> Call:
    """A command without blanks in its arguments, as one would type it."""
    return Call(tuple(line.split()), says)


@pytest.mark.covered
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_command_does_its_job(
    seeded_sqlite: SeededDatabase, tmp_path: Path, open_program: OpenProgram, smtp_server: SmtpServer
):
    """A day at the desk: every command there is, once, with good arguments, ends with 0."""
    content = write_content(tmp_path / "content")
    program = open_program(seeded_sqlite(3), content_dir=content)
    program.set_clock(THURSDAY)
    smtp_server.script("rcpt", Reply(550, "5.7.1 Not from you"), times=1)
    day = [
        call("db upgrade", "up to date"),
        call("publish --dry-run", "Nothing has changed"),
        call("publish --json", '"unchanged": true'),
        call("sequences list", "Three letters"),
        call(f"sequences show {SERIES}", "The second stone"),
        call(f"preview {SERIES}/{STEPS[0]} --discreet --out {tmp_path / 'preview'}", "Wrote 1 letter"),
        Call(("subscribers", "add", "new@example.org", "--slot", "fri 18:30", "--timezone", "Asia/Tokyo"), "Added"),
        Call(("subscribers", "add", "proven@example.org", "--consent", "paper form, 2026-09-01"), "Added: active"),
        call("subscribers list --state active", READER),
        call(f"subscribers show {READER}", SERIES),
        call(f"subscribers pause {READER} --weeks 2", "Paused until 2026-10-08"),
        call(f"explain {READER}", "paused"),
        call(f"subscribers resume {READER}", "Resumed"),
        call("stop", "stopped"),
        call("start", "goes on"),
        call("worker --drain"),
        call("deliveries list", "Not from you"),
        call("deliveries release --all", "1 released"),
        call("status", "1 planned"),
    ]
    for each in day:
        said = program.do(*each.words)
        assert each.says in said, f"{' '.join(each.words)}:\n{said}"
    assert {name.suffix for name in (tmp_path / "preview").rglob("*.*")} == {".html", ".txt", ".eml"}
    smtp_server.script("rcpt", Reply(550, "5.7.1 Not from you"), times=1)
    program.drain()
    [held] = program.json("deliveries", "list")
    assert program.do("deliveries", "settle", held["id"], "--arrived").startswith("Settled")
    used = [each.words for each in day] + [("deliveries", "settle")]
    untried = {path for path in commands() if not any(words[: len(path)] == path for words in used)}
    assert untried == ELSEWHERE


def commands() -> set[tuple[str, ...]]:
    """Every command there is, by its words."""

    def below(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        children = getattr(command, "commands", {})
        for name, child in children.items():
            yield from below(child, (*path, name))
        if not children:
            yield path

    return set(below(get_command(app), ()))


REFUSALS = (
    call(f"subscribers show {NOBODY}", "No subscriber has this address"),
    call("subscribers show nonsense", "@"),
    call("start example.org", "Nothing is kept back from example.org"),
    call("subscribers add nonsense", "@"),
    call(f"subscribers add {NOBODY} --sequence nothing", "not offered"),
    call(f"subscribers add {NOBODY} --timezone Mars/Base", "Europe/Berlin"),
    Call(("subscribers", "add", NOBODY, "--slot", "thu 25:00"), "08:00"),
    call(f"subscribers add {NOBODY} --country XX", "country"),
    Call(("subscribers", "add", READER, "--sequence", SERIES, "--consent", "paper, 2026-09-01"), "already"),
    call(f"subscribers pause {NOBODY}", "No subscriber has this address"),
    call(f"subscribers pause {READER} --until 2020-01-01", "after today"),
    call(f"subscribers resume {READER}", "not paused"),
    call(f"explain {NOBODY}", "No subscriber has this address"),
    call("sequences show nothing", SERIES),
    call("preview nothing", SERIES),
    call(f"preview {SERIES}/nothing", STEPS[0]),
    call(f"preview {SERIES} --out /dev/null/preview", "/dev/null/preview"),
    call("publish --content /nowhere", "/nowhere"),
    call(f"deliveries release {NO_ID}", NO_ID),
    call(f"deliveries settle {NO_ID} --lost", NO_ID),
)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_what_cannot_be_done_is_refused_in_one_clear_line(
    seeded_sqlite: SeededDatabase, tmp_path: Path, open_program: OpenProgram, open_books: OpenBooks
):
    """Exit code 1, one line on standard error that names the thing, nothing on standard output, nothing written."""
    program = open_program(seeded_sqlite(1), content_dir=write_content(tmp_path / "content"))
    program.set_clock(MONDAY)
    books = open_books(program)
    before = books.everything()
    wrong = {
        " ".join(each.words): finished
        for each, finished in zip(REFUSALS, at_once(program, REFUSALS), strict=True)
        if not is_one_clear_line(finished, each.says)
    }
    assert wrong == {}
    assert books.everything() == before


def at_once(program: Program, calls: tuple[Call, ...]) -> list[Finished]:
    """Every call in a process of its own, some at a time; none of them writes."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda each: program.command(*each.words), calls))


def is_one_clear_line(finished: Finished, word: str) -> bool:
    """Whether it was refused as it should be."""
    lines = finished.problem.splitlines()
    return finished.code == REFUSED and len(lines) == 1 and word in lines[0] and finished.out == ""


MISUSES = (
    call("nonsense"),
    call("status more"),
    call("worker --dance"),
    call("run --port 0"),
    call("run --port seventy"),
    call("demo --weeks 0"),
    call("subscribers add"),
    call(f"subscribers add {NOBODY} --consent me"),
    Call(("subscribers", "add", NOBODY, "--consent", "paper, 2099-01-01"), ""),
    call("subscribers list --state nonsense"),
    call("subscribers list --limit 0"),
    call(f"subscribers pause {READER} --weeks 1 --until 2027-01-01"),
    call(f"subscribers pause {READER} --until soon"),
    call("deliveries release"),
    call("deliveries release nonsense"),
    call(f"deliveries release {NO_ID} --all"),
    call(f"deliveries settle {NO_ID}"),
    call("sequences show"),
    call("preview"),
    call("publish --content"),
)


def test_wrong_usage_is_explained(seeded_sqlite: SeededDatabase, open_program: OpenProgram):
    """Exit code 2, what was wrong on standard error, no traceback."""
    program = open_program(seeded_sqlite(1))
    wrong = {
        " ".join(each.words): finished
        for each, finished in zip(MISUSES, at_once(program, MISUSES), strict=True)
        if finished.code != MISUSED or "Error" not in finished.err or "Traceback" in finished.err
    }
    assert wrong == {}


# --- settings -------------------------------------------------------------------------------------


def test_wrong_settings_are_all_named_at_once(sqlite_url: str, open_program: OpenProgram):
    """Six faults, six lines, one start; and a misspelt name is guessed."""
    program = open_program(
        sqlite_url,
        timezone="Mars/Base",
        slot="never",
        site_url="ftp://example.org",
        smtp_connections=0,
        countries="USA",
        late="perhaps",
        base_ulr="https://example.org",
    )
    finished = program.command("run")
    assert finished.code == REFUSED
    names = {line.partition(":")[0].removeprefix("NEWSLETTER_") for line in finished.problem.splitlines()}
    assert names == {"TIMEZONE", "SLOT", "SITE_URL", "SMTP_CONNECTIONS", "COUNTRIES", "LATE"}
    said = program.command("status", timezone=None, slot=None, site_url=None, smtp_connections=None, countries=None,
                           late=None)  # fmt: skip
    assert (said.code, "did you mean NEWSLETTER_BASE_URL" in said.err) == (0, True)


@dataclass(frozen=True)
class Unfit:
    """Settings with which a command must not run, and what must be named."""

    words: str
    settings: dict[str, object]
    says: str


PASSWORD = "hunter2-hunter2"
REAL_SERVER = {
    "mail_url": f"smtp://letters:{PASSWORD}@mail.quiet-lane.org:587",
    "base_url": "https://letters.quiet-lane.org",
    "from_": "Letters <letters@quiet-lane.org>",
}
UNFIT = {
    "the default key on a public host": Unfit("run --host 0.0.0.0", {"secret_key": None}, "SECRET_KEY"),
    "a short key behind a public address": Unfit(
        "run", {"secret_key": "short", "base_url": "https://letters.example.org"}, "SECRET_KEY"
    ),
    "no postal address for real mail": Unfit("worker --drain", REAL_SERVER, "POSTAL_ADDRESS"),
    "the same for run": Unfit("run", REAL_SERVER, "POSTAL_ADDRESS"),
    "a mail address that cannot be": Unfit(
        "worker --drain", {"mail_url": f"smtp://letters:{PASSWORD}@mail.example.org:seventy"}, "MAIL_URL"
    ),
    "a rate of zero": Unfit("worker --drain", {"send_rate": "gmail.com=0/second"}, "NEWSLETTER_SEND_RATE: '0/second'"),
    "a warm-up that never begins": Unfit("run", {"warm_up": "0,100"}, "NEWSLETTER_WARM_UP: '0'"),
    "no database address": Unfit("status", {"database_url": "nonsense"}, "DATABASE_URL"),
    "an unknown kind of database": Unfit("status", {"database_url": "mysql://root@localhost/x"}, "mysql"),
    "a folder that is not there": Unfit("status", {"database_url": "sqlite:////nowhere/newsletter.db"}, "nowhere"),
    "a server that does not answer": Unfit(
        "run", {"database_url": f"postgresql://newsletter:{PASSWORD}@127.0.0.1:1/newsletter"}, "127.0.0.1"
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_settings_that_cannot_work_are_refused(name: str, sqlite_url: str, open_program: OpenProgram):
    """Exit code 1 and one clear line, before anything is served, sent or written; no password in it."""
    unfit = UNFIT[name]
    program = open_program(sqlite_url, **{"mail_url": "maildir:mail", **unfit.settings})
    finished = program.command(*unfit.words.split())
    assert is_one_clear_line(finished, unfit.says), finished
    assert PASSWORD not in finished.err


def test_a_rehearsal_clock_goes_with_no_real_mail(sqlite_url: str, open_program: OpenProgram, tmp_path: Path):
    """NEWSLETTER_CLOCK is refused for a server elsewhere; and where its file cannot be read, that is said."""
    program = open_program(sqlite_url, **REAL_SERVER, postal_address="12 Quiet Lane, Bristol")
    program.set_clock(MONDAY)
    for words in (("run",), ("worker", "--drain")):
        assert is_one_clear_line(program.command(*words), "NEWSLETTER_CLOCK")
    program.settings["mail_url"] = "maildir:mail"
    assert is_one_clear_line(program.command("status", clock=tmp_path / "none"), "NEWSLETTER_CLOCK")
    (tmp_path / "noon").write_text("noon", encoding="utf-8")
    assert is_one_clear_line(program.command("status", clock=tmp_path / "noon"), "'noon'")


def test_a_key_that_signed_links_must_stay(
    seeded_sqlite: SeededDatabase, open_program: OpenProgram, smtp_server: SmtpServer
):
    """A new key alone would break every link out there: refused, until the old one follows it in the list."""
    program = open_program(seeded_sqlite(1))
    program.set_clock(THURSDAY)
    program.drain()
    old = str(program.settings["secret_key"])
    new = "another key of the tests, long enough as well"
    assert is_one_clear_line(program.command("worker", "--drain", secret_key=new), "NEWSLETTER_SECRET_KEY")
    program.do("worker", "--drain", secret_key=f"{new},{old}")
    assert len(smtp_server.ledger) == 1


@pytest.mark.covered
def test_a_port_that_is_taken_is_named(seeded_sqlite: SeededDatabase, open_program: OpenProgram):
    """One clear line, and no worker stays behind."""
    program = open_program(seeded_sqlite(1))
    with socket.create_server((HOST, 0)) as other:
        port = other.getsockname()[1]
        finished = program.command("run", "--port", str(port))
    assert is_one_clear_line(finished, str(port))
    assert program.json("status")["workers"] == 0


def test_a_destination_that_refuses_us_is_shown_until_the_operator_says_that_all_is_well(
    seeded_sqlite: SeededDatabase, open_program: OpenProgram
):
    """`status` says who refuses us, since when and in which words; `start DESTINATION` ends it."""
    url = seeded_sqlite(1)
    program = open_program(url, warm_up="50,100")
    engine = create_engine(url)
    at = datetime.now(UTC)
    with engine.begin() as connection:
        refuses = {"refusals": 5, "closures": 1, "opened_at": at, "retry_at": at + timedelta(hours=1)}
        connection.execute(insert(tables.destination).values(name="gmail.com", reply="550 5.7.26 No", **refuses))
        slowed = {"level": 2, "slowed_until": at + timedelta(hours=1), "reply": "421 4.3.2 Later"}
        connection.execute(insert(tables.destination).values(name="relay", **slowed))
    engine.dispose()
    said = program.do("status")
    assert "Kept back: gmail.com refuses us since" in said
    assert "550 5.7.26 No" in said
    assert "Slowed: the mail server wants less mail: nothing until" in said
    assert "Warm-up, day 1 of 2: 50 letters may still leave today" in said
    found = program.json("status")
    assert [each["name"] for each in found["kept_back"]] == ["relay", "gmail.com"]
    assert found["warm_up"] == {"day": 1, "days": 2, "left": 50}
    assert program.do("start", "gmail.com", "relay") == "Sending goes on to gmail.com, relay.\n"
    assert program.json("status")["kept_back"] == []


# --- the database ---------------------------------------------------------------------------------


def test_a_newer_database_is_refused(seeded_database: SeededDatabase, open_program: OpenProgram):
    """A schema that this program does not know: every command that needs it says so, and changes nothing."""
    program = open_program(seeded_database(1))
    url = make_url(str(program.settings["database_url"]))
    engine = create_engine(url if url.drivername == "sqlite" else url.set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    for words in (("run",), ("status",), ("db", "upgrade")):
        assert is_one_clear_line(program.command(*words), "newer than this program"), words


def test_a_fresh_database_is_migrated_by_whoever_comes_first(
    database_url: str, tmp_path: Path, open_program: OpenProgram
):
    """Two sites started at the same moment on an empty database both come up, with one revision between them."""
    content = write_content(tmp_path / "content")
    programs = [open_program(database_url, mail_url="maildir:mail", content_dir=content) for _ in range(2)]
    running = [program.start("run", "--port", str(program.port)) for program in programs]
    for each in running:
        each.wait_for(lambda each=each: "Serving" in each.log)
    status = programs[0].json("status")
    assert (status["revision"], status["workers"]) == (1, 2)
    assert [each.terminate() for each in running] == [0, 0]


@pytest.mark.covered
def test_content_that_is_wrong_does_not_keep_the_site_from_starting(
    sqlite_url: str, tmp_path: Path, open_program: OpenProgram
):
    """`run` on a fresh database with a mistake in the content serves, offers nothing, and says what to mend."""
    content = write_content(tmp_path / "content")
    (content / "sequences" / "three" / "01-first-stone.md").write_text("---\nsubject: [\n---\nHi.\n")
    program = open_program(sqlite_url, mail_url="maildir:mail", content_dir=content)
    site, running = program.serve()
    assert "sequences/three/01-first-stone.md:2" in running.log
    assert "no letters here yet" in site.get("/").text
    write_content(content)
    program.do("publish")
    assert "Three letters" in site.get("/").text
    assert running.terminate() == 0


def broken_file(path: Path) -> str:
    """A file that is no database."""
    path.write_bytes(b"This is a letter, and no database. " * 200)
    return f"sqlite:///{path}"


def torn_file(path: Path) -> str:
    """A database whose first page was overwritten."""
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE a (b)")
    connection.close()
    content = bytearray(path.read_bytes())
    content[100:400] = os.urandom(300)
    path.write_bytes(content)
    return f"sqlite:///{path}"


@pytest.mark.parametrize("make", [broken_file, torn_file], ids=["no database", "torn"])
def test_a_file_that_is_no_database_is_refused(make: Callable[[Path], str], tmp_path: Path, open_program: OpenProgram):
    """It is named, and not written over."""
    path = tmp_path / "newsletter.db"
    program = open_program(make(path), mail_url="maildir:mail")
    before = path.read_bytes()
    for words in (("run", "--port", str(free_port())), ("status",)):
        assert is_one_clear_line(program.command(*words), "database"), words
    assert path.read_bytes() == before


def test_a_database_that_may_only_be_read_is_refused_for_sending(
    seeded_sqlite: SeededDatabase, open_program: OpenProgram, smtp_server: SmtpServer
):
    """What cannot be written down does not leave: one clear line, nothing sent."""
    url = seeded_sqlite(1)
    path = url.removeprefix("sqlite:///")
    program = open_program(f"sqlite:///file:{path}?mode=ro&uri=true")
    program.set_clock(THURSDAY)
    for words in (("worker", "--drain"), ("run", "--port", str(program.port)), ("stop",)):
        assert is_one_clear_line(program.command(*words), "database"), words
    assert smtp_server.ledger == []
