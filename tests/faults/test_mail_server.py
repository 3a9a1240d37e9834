"""A mail server that is down, refuses, hangs up or talks nonsense: nobody is lost, nobody is blamed for it."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from tests.journeys.books import Books, repeated
from tests.journeys.conftest import FEW, THURSDAY, OpenBooks, OpenProgram, SeededDatabase
from tests.journeys.content import NOTE
from tests.support.program import Program, Running
from tests.support.smtp_server import Close, Delay, Endless, Raw, Reply, Reset, SmtpServer, Step

READERS = 4

# By name: at which stage it misbehaves, and how. None of it says anything about a letter or a reader.
FAULTS: dict[str, tuple[str, Step]] = {
    "hangs up before it speaks": ("banner", Close()),
    "is shutting down": ("banner", Reply(421, "4.3.2 Shutting down")),
    "wants nobody": ("banner", Reply(554, "5.7.1 Go away")),
    "talks another protocol": ("banner", Raw(b"SSH-2.0-OpenSSH_9.2\r\n")),
    "talks garbage": ("ehlo", Raw(b"\x00\xff\xfe garbage\r\n999 what\r\n")),
    "never ends its line": ("ehlo", Endless(b"2", limit_bytes=1024 * 1024)),
    "closes at MAIL": ("mail", Reply(421, "4.7.0 Too many letters")),
    "tears the connection at RCPT": ("rcpt", Reset()),
    "wants a login": ("mail", Reply(530, "5.7.0 Authentication required")),
}


@pytest.mark.slow
def test_trouble_with_the_server_is_nobodys_fault(
    seeded_sqlite: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks, smtp_server: SmtpServer
):
    """One worker lives through it all: letters wait, nobody is held or suppressed; mended, each leaves once."""
    program = open_program(seeded_sqlite(READERS, NOTE), smtp_connections=2)
    program.set_clock(THURSDAY - timedelta(weeks=1))
    books = open_books(program)
    worker = program.start("worker")
    for week, (name, (stage, step)) in enumerate(FAULTS.items()):
        smtp_server.drop_connections()
        smtp_server.script(stage, step)
        troubles = worker.log.count("relay_unavailable")
        program.set_clock(THURSDAY + timedelta(weeks=week))
        worker.wait_for(lambda troubles=troubles: worker.log.count("relay_unavailable") > troubles)
        waiting = [row for row in books.deliveries() if row.state != "sent"]
        assert {row.state for row in waiting} <= {"planned", "claimed", "handing_over"}, name
        assert {row.attempt for row in waiting} == {0}, name
        assert len(waiting) == READERS, name
        smtp_server.forget_scripts()
        # Where it wanted less mail, the operator knows that it is mended; where not, nothing is kept back.
        program.command("start", "relay")
        worker.wait_for(lambda week=week: books.count("sent") == READERS * (week + 1))
    assert books.suppressed() == 0
    assert len(smtp_server.ledger) == READERS * len(FAULTS)
    assert not repeated(received.message_id for received in smtp_server.ledger)


def test_a_refused_port_is_nobodys_fault(
    seeded_sqlite: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks, smtp_server: SmtpServer
):
    """No mail server at all: letters wait, SIGTERM still ends the worker at once, and later they all leave."""
    program, books = of_thursday(seeded_sqlite, open_program, open_books)
    smtp_server.stop()
    worker = program.start("worker")
    worker.wait_for(lambda: "relay_unavailable" in worker.log)
    assert books.count("planned", "claimed") == READERS
    began = time.monotonic()
    assert worker.terminate() == 0
    assert time.monotonic() - began < 5
    assert books.count("planned") == READERS

    smtp_server.start()
    everybody_gets_one(program.start("worker"), books, smtp_server)


def test_a_server_that_hangs_up_on_letters_puts_few_of_them_in_doubt(
    seeded_sqlite: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks, smtp_server: SmtpServer
):
    """Whoever hangs up within a letter may have it: that is a doubt, and the connections rest ever longer."""
    program = open_program(seeded_sqlite(FEW), smtp_connections=2)
    program.set_clock(THURSDAY)
    books = open_books(program)
    smtp_server.script("body", Close())
    worker = program.start("worker")
    worker.wait_for(lambda: "DATA" in smtp_server.commands)
    time.sleep(3)
    # Each connection at 0, 0.5, 1.5 and 3.5 seconds.
    assert smtp_server.commands.count("DATA") <= 2 * 4
    assert books.count("failed", "withdrawn") == 0
    assert books.suppressed() == 0

    smtp_server.forget_scripts()
    worker.wait_for(lambda: books.count("sent", "held") == FEW)
    rows = books.deliveries()
    sent = {row.message_id for row in rows if row.state == "sent"}
    assert {received.message_id for received in smtp_server.ledger} == sent
    assert not repeated(received.message_id for received in smtp_server.ledger)
    # Whatever did not arrive is on the operator's list.
    listed = {item["message_id"] for item in program.json("deliveries", "list")}
    assert sent | listed == {row.message_id for row in rows}


def of_thursday(seeded: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks) -> tuple[Program, Books]:
    """A few readers whose letter is due."""
    program = open_program(seeded(READERS), smtp_connections=2)
    program.set_clock(THURSDAY)
    return program, open_books(program)


def everybody_gets_one(worker: Running, books: Books, server: SmtpServer) -> None:
    """Every letter leaves, once."""
    worker.wait_for(lambda: books.count("sent") == READERS)
    assert len({received.recipient for received in server.ledger}) == READERS
    assert not repeated(received.recipient for received in server.ledger)


def test_relay_denied_for_everybody_suppresses_nobody(
    seeded_database: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks, smtp_server: SmtpServer
):
    """550 5.7.1 for a whole list is our own fault: after five no more is tried, and all arrive when it is mended."""
    program = open_program(seeded_database(FEW), smtp_connections=1)
    program.set_clock(THURSDAY)
    books = open_books(program)
    smtp_server.script("rcpt", Reply(550, "5.7.1 Relay access denied"))
    finished = program.command("worker", "--drain", seconds=120)
    assert finished.code == 0
    assert "circuit_opened" in finished.err
    assert smtp_server.ledger == []
    assert books.suppressed() == 0
    listed = program.json("deliveries", "list")
    # Five in a row, and what was under way when the fifth was refused.
    assert 5 <= len(listed) <= 6
    assert {item["state"] for item in listed} == {"held"}
    assert {item["reply_code"] for item in listed} == {550}
    assert all("Relay access denied" in item["reply_text"] for item in listed)
    assert not any(item["possibly_doubled"] or item["counts_as_received"] for item in listed)
    assert books.count("planned") == FEW - len(listed)
    [kept_back] = program.json("status")["kept_back"]
    assert (kept_back["name"], kept_back["reply"]) == ("example.org", "550 5.7.1 Relay access denied")

    smtp_server.forget_scripts()
    program.drain()
    assert smtp_server.ledger == []  # refused is refused, until somebody says so
    program.do("start", "example.org")
    program.drain()
    assert len(smtp_server.ledger) == FEW - len(listed)
    assert program.do("deliveries", "release", "--all").startswith(f"{len(listed)} ")
    program.drain()
    assert len({received.recipient for received in smtp_server.ledger}) == FEW
    assert books.count("sent") == FEW
    assert program.json("deliveries", "list") == []
    assert program.json("status")["kept_back"] == []


def test_a_dead_address_is_suppressed_and_the_others_are_not(
    seeded_sqlite: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks, smtp_server: SmtpServer
):
    """550 5.1.1 ends one reader's letters for good, and `explain` says why."""
    program, books = of_thursday(seeded_sqlite, open_program, open_books)
    dead = "reader-001@example.org"
    smtp_server.script("rcpt", Reply(550, "5.1.1 No such user"), when=lambda line: dead in line)
    program.drain()
    program.set_clock(THURSDAY + timedelta(weeks=1))
    program.drain()
    assert sum(line.line.startswith(f"RCPT TO:<{dead}>") for line in smtp_server.heard) == 1
    assert len(smtp_server.ledger) == 2 * (READERS - 1)
    assert books.suppressed() == 1
    assert "address_dead" in program.do("explain", dead)


def test_refused_for_now_it_is_tried_again_later(
    seeded_sqlite: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks, smtp_server: SmtpServer
):
    """451 puts a letter off by minutes and counts; `worker --drain` does not wait for it; then it arrives, once."""
    program = open_program(seeded_sqlite(1))
    program.set_clock(THURSDAY)
    books = open_books(program)
    smtp_server.script("dot", Reply(451, "4.2.0 Greylisted, come again"), times=1)
    program.drain()
    [row] = books.deliveries()
    assert (row.state, row.attempt, row.reply_code) == ("planned", 1, 451)
    assert timedelta(minutes=4) <= row.next_try_at - THURSDAY <= timedelta(minutes=6)
    assert smtp_server.ledger == []

    program.set_clock(row.next_try_at - timedelta(seconds=1))
    program.drain()
    assert smtp_server.ledger == []
    program.set_clock(row.next_try_at)
    program.drain()
    assert len(smtp_server.ledger) == 1
    [row] = books.deliveries()
    assert (row.state, row.attempt, row.doubts) == ("sent", 2, 0)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_draining_without_a_mail_server_gives_up_after_a_minute(
    seeded_sqlite: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks, smtp_server: SmtpServer
):
    """Sixty seconds without an acceptance while letters are due: exit code 1, one clear line, nothing lost."""
    program, books = of_thursday(seeded_sqlite, open_program, open_books)
    smtp_server.stop()
    began = time.monotonic()
    finished = program.command("worker", "--drain", seconds=150)
    assert 60 <= time.monotonic() - began < 120
    assert finished.code == 1
    [line] = finished.problem.splitlines()
    assert line.startswith(f"{READERS} due emails could not be sent")
    assert books.count("planned") == READERS


def test_a_draining_that_is_told_to_end_says_so(
    seeded_sqlite: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks, smtp_server: SmtpServer
):
    """Not that nothing was accepted for a minute: nobody waited for one."""
    program, books = of_thursday(seeded_sqlite, open_program, open_books)
    smtp_server.stop()
    worker = program.start("worker", "--drain")
    worker.wait_for(lambda: "relay_unavailable" in worker.log)
    assert worker.terminate() == 1
    assert worker.log.splitlines()[-1].startswith("It was told to end before all was sent.")
    assert books.count("planned") == READERS


def test_draining_ends_with_0_when_nothing_is_due_and_with_1_when_it_may_not_send(
    seeded_sqlite: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks, smtp_server: SmtpServer
):
    """Nothing due is no failure; letters due while sending is stopped are."""
    program, books = of_thursday(seeded_sqlite, open_program, open_books)
    program.set_clock(THURSDAY - timedelta(hours=1))
    assert program.command("worker", "--drain").code == 0
    program.set_clock(THURSDAY)
    program.do("stop")
    finished = program.command("worker", "--drain")
    assert finished.code == 1
    assert "newsletter start" in finished.problem
    assert smtp_server.ledger == []
    program.do("start")
    program.drain()
    assert books.count("sent") == READERS


def test_stop_holds_all_sending_within_two_seconds(
    seeded_database: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks, smtp_server: SmtpServer
):
    """`newsletter stop` reaches a worker that is sending; `newsletter start` lets it go on; nothing is lost."""
    readers = 4 * FEW
    program = open_program(seeded_database(readers), smtp_connections=2)
    program.set_clock(THURSDAY)
    books = open_books(program)
    smtp_server.script("dot", Delay(0.5))
    worker = program.start("worker")
    worker.wait_for(lambda: len(smtp_server.ledger) >= 2)
    program.do("stop")
    time.sleep(2)
    had = len(smtp_server.ledger)
    assert had < readers
    assert not program.json("status")["sending"]
    time.sleep(1.5)
    assert len(smtp_server.ledger) == had
    assert worker.code is None

    smtp_server.forget_scripts()
    program.do("start")
    worker.wait_for(lambda: books.count("sent") == readers)
    assert not repeated(received.recipient for received in smtp_server.ledger)
