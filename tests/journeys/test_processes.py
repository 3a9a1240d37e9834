"""`newsletter worker --processes N`: several workers on one machine, and the parent that keeps them going."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest

from tests.faults.comparison import compare
from tests.journeys.books import Books
from tests.journeys.conftest import FEW, MONDAY, THURSDAY, OpenBooks, OpenProgram, SeededDatabase
from tests.support.program import Running
from tests.support.smtp_server import Delay, SmtpServer

SOME = 60
SECONDS = 60
"""More than anything here takes on a busy machine."""


def children(parent: Running) -> list[int]:
    """The processes that it has started so far, in order."""
    return [int(pid) for pid in re.findall(r"process_started .*pid=(\d+)", parent.log)]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_send_each_letter_once_and_the_dead_one_is_replaced(
    seeded_postgres: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks, smtp_server: SmtpServer
):
    """Both are workers; one is killed, and another takes its place: nothing is lost. SIGTERM ends all with 0."""
    program = open_program(seeded_postgres(SOME), smtp_connections=1)
    program.set_clock(MONDAY)
    books = open_books(program)
    parent = program.start("worker", "--processes", "2")
    parent.wait_for(lambda: books.workers() == 2)
    smtp_server.script("dot", Delay(0.05))
    program.set_clock(THURSDAY)
    parent.wait_for(lambda: smtp_server.ledger)
    victim = children(parent)[0]
    os.kill(victim, signal.SIGKILL)
    parent.wait_for(lambda: len(children(parent)) == 3)
    parent.wait_for(lambda: books.count("sent") == SOME)
    parent.wait_for(lambda: books.workers() == 2)

    found = compare(smtp_server, books)
    assert (found.lost, found.unflagged, found.held) == ([], [], 0)
    assert re.search(r"process_ended .*exit code -9", parent.log)
    assert parent.terminate() == 0
    assert [pid for pid in children(parent) if is_alive(pid)] == []
    assert books.workers() == 0


def test_asked_to_end_all_finish_the_letters_in_hand(
    seeded_sqlite: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks, smtp_server: SmtpServer
):
    """SIGTERM to the parent alone: every child records what it hands over and gives the rest back."""
    program = open_program(seeded_sqlite(FEW), smtp_connections=1)
    program.set_clock(THURSDAY)
    books = open_books(program)
    smtp_server.script("dot", Delay(1.0))
    parent = program.start("worker", "--processes", "2")
    parent.wait_for(lambda: smtp_server.ledger)
    assert parent.terminate() == 0
    assert 0 < len(smtp_server.ledger) < FEW
    assert books.count("sent") == len(smtp_server.ledger)
    assert books.count("planned") == FEW - len(smtp_server.ledger)


def test_children_do_not_outlive_their_parent(
    seeded_sqlite: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks
):
    """The parent is killed and can tell nobody: its children end by themselves, in peace."""
    program = open_program(seeded_sqlite(1))
    program.set_clock(MONDAY)
    books = open_books(program)
    parent = program.start("worker", "--processes", "2")
    parent.wait_for(lambda: books.workers() == 2)
    parent.kill()
    until = time.monotonic() + SECONDS
    while parent.log.count("worker_stopped") < 2 and time.monotonic() < until:
        time.sleep(0.01)
    if parent.log.count("worker_stopped") < 2:
        for pid in children(parent):
            os.kill(pid, signal.SIGKILL)
    assert parent.log.count("worker_stopped") == 2
    assert books.workers() == 0


@pytest.mark.covered
def test_draining_ends_when_every_process_found_nothing_left(
    seeded_sqlite: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks, smtp_server: SmtpServer
):
    """Two processes drain one SQLite file: code 0, each letter once. While sending is stopped: one line and code 1."""
    program = open_program(seeded_sqlite(FEW))
    program.set_clock(THURSDAY)
    program.do("stop")
    refused = program.command("worker", "--drain", "--processes", "2")
    assert (refused.code, refused.problem) == (1, "Sending is stopped; `newsletter start` lets it go on.")
    program.do("start")
    program.do("worker", "--drain", "--processes", "2")
    assert sorted_counts(open_books(program), smtp_server) == (FEW, FEW, FEW)


def sorted_counts(books: Books, server: SmtpServer) -> tuple[int, int, int]:
    """Letters by the books, letters that arrived, and people who got one."""
    return books.count("sent"), len(server.ledger), len({received.recipient for received in server.ledger})


@pytest.mark.parametrize("words", [("worker", "--processes", "0"), ("cluster", "worker", "--processes", "none")])
def test_a_number_of_processes_is_a_number(words: tuple[str, ...], seeded_sqlite: SeededDatabase, open_program):
    """No process, or no number: wrong usage, and nothing is started."""
    refused = open_program(seeded_sqlite(1)).command(*words)
    assert refused.code == 2
    assert "--processes" in refused.problem
