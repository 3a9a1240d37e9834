"""What cannot work is told at the start: one clear line, exit code 1, nothing sent."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from newsletter.mail.asking import PATIENCE
from tests.journeys.conftest import FEW, MONDAY, THURSDAY, OpenBooks, OpenProgram, SeededDatabase
from tests.support.program import Finished, Program
from tests.support.smtp_server import Hang, Reply, SmtpServer

PASSWORD = "hunter2-hunter2"
USERS = {"letters": PASSWORD}
COMMANDS = ("worker", "worker --drain", "worker --processes 2", "worker --drain --processes 2", "run --port {port}")

Route = Callable[[SmtpServer, Path], str]


def without_tls(server: SmtpServer, _folder: Path) -> str:
    return f"{server.url}?tls=required"


def with_a_wrong_password(server: SmtpServer, _folder: Path) -> str:
    server.users = USERS
    return server.url.replace(PASSWORD, f"{PASSWORD}x")


def without_a_login(server: SmtpServer, _folder: Path) -> str:
    return f"smtp://letters:{PASSWORD}@127.0.0.1:{server.port}"


def into_a_file(_server: SmtpServer, folder: Path) -> str:
    (folder / "file").touch()
    return f"maildir:{folder}/file/mail"


def to_nowhere(_server: SmtpServer, _folder: Path) -> str:
    return ""


def to_a_name_that_cannot_be(_server: SmtpServer, _folder: Path) -> str:
    return f"smtp://{'m' * 64}.example.org"


ROUTES: dict[str, tuple[Route, str]] = {
    "no TLS where it is required": (without_tls, "does not offer STARTTLS"),
    "a wrong password": (with_a_wrong_password, "535"),
    "no login is offered": (without_a_login, "AUTH PLAIN"),
    "a folder that cannot be": (into_a_file, "maildir"),
    "no address": (to_nowhere, "is empty"),
    "no host name": (to_a_name_that_cannot_be, "host name"),
}


def is_refused(finished: Finished, word: str) -> bool:
    """Whether it ended with one clear line and nothing beside it, not even in the log."""
    lines = finished.err.splitlines()
    return finished.code == 1 and len(lines) == 1 and word in lines[0] and finished.out == ""


def ending(program: Program, command: str) -> Finished:
    return program.command(*command.format(port=program.port).split(), seconds=20)


@pytest.mark.parametrize("name", ROUTES)
def test_a_mail_route_that_cannot_work_ends_the_start(
    name: str, seeded_sqlite: SeededDatabase, tmp_path: Path, open_program: OpenProgram, open_books: OpenBooks,
    smtp_server: SmtpServer,
):  # fmt: skip
    """Whether something is due or not: one line that names the thing, no password in it, and no letter is touched."""
    make, word = ROUTES[name]
    program = open_program(seeded_sqlite(FEW), mail_url=make(smtp_server, tmp_path))
    books = open_books(program)
    for now in (MONDAY, THURSDAY):
        program.set_clock(now)
        finished = ending(program, "worker")
        assert is_refused(finished, word), finished
        assert PASSWORD not in finished.err
        assert "NEWSLETTER_MAIL_URL" in finished.err
    assert smtp_server.ledger == []
    assert (books.workers(), books.deliveries()) == (0, [])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_sends_asks_the_mail_server_once(
    command: str, seeded_sqlite: SeededDatabase, open_program: OpenProgram, smtp_server: SmtpServer
):
    """A certificate that nobody vouches for: told by each of them, and asked for by one process alone."""
    with SmtpServer(security="starttls") as server:
        program = open_program(seeded_sqlite(FEW), mail_url=f"smtp://127.0.0.1:{server.port}?tls=required")
        program.set_clock(THURSDAY)
        finished = ending(program, command)
        assert is_refused(finished, "certificate that is not trusted"), finished
        assert "?cafile=" in finished.err
        assert server.connections == 1
    assert smtp_server.ledger == []


@pytest.mark.postgres
@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_host_of_a_fleet_asks_as_well(
    processes: str, seeded_postgres: SeededDatabase, tmp_path: Path, open_program: OpenProgram, smtp_server: SmtpServer
):
    """`newsletter cluster worker` ends in the same way."""
    program = open_program(seeded_postgres(FEW), mail_url=into_a_file(smtp_server, tmp_path))
    program.set_clock(THURSDAY)
    finished = ending(program, f"cluster worker --processes {processes}")
    assert is_refused(finished, "maildir"), finished


def test_children_do_not_ask_again(seeded_sqlite: SeededDatabase, open_program: OpenProgram, smtp_server: SmtpServer):
    """With nothing due the mail server sees one connection, whatever the number of processes."""
    program = open_program(seeded_sqlite(FEW))
    program.set_clock(MONDAY)
    program.do("worker", "--drain", "--processes", "2")
    assert smtp_server.commands == ["EHLO", "QUIT"]


@pytest.mark.parametrize(
    ("stage", "reply"),
    [("banner", Reply(421, "4.3.2 Shutting down")), ("auth", Reply(454, "4.7.0 Later")), ("auth", Reply(421, "Busy"))],
)
def test_a_mail_server_that_may_come_back_is_waited_for(
    stage: str, reply: Reply, seeded_sqlite: SeededDatabase, open_program: OpenProgram, smtp_server: SmtpServer
):
    """It lets nobody in at the start: the log says so, the worker goes on, and the letters leave when it does."""
    smtp_server.users = USERS
    smtp_server.script(stage, reply, times=1)
    program = open_program(seeded_sqlite(FEW))
    program.set_clock(THURSDAY)
    worker = program.start("worker")
    smtp_server.wait_for(lambda server: len(server.ledger) == FEW, seconds=30)
    assert worker.log.count("relay_not_ready") == 1
    assert worker.terminate() == 0


def test_a_silent_mail_server_delays_the_start_by_seconds(
    seeded_sqlite: SeededDatabase, open_program: OpenProgram, smtp_server: SmtpServer
):
    """The question is given up, and asked by nobody again; the letters leave."""
    smtp_server.script("banner", Hang(), times=1)
    program = open_program(seeded_sqlite(FEW))
    program.set_clock(THURSDAY)
    began = time.monotonic()
    worker = program.start("worker")
    smtp_server.wait_for(lambda server: len(server.ledger) == FEW, seconds=30)
    assert time.monotonic() - began < PATIENCE.total_seconds() + 10
    assert worker.terminate() == 0
