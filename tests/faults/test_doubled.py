"""Everything started more often than it should be: several workers, several schedulers, one database."""

from __future__ import annotations

import pytest

from tests.faults.comparison import compare
from tests.faults.conftest import IS_LONG, Report
from tests.faults.scene import readers, wait_until
from tests.journeys.conftest import THURSDAY, OpenBooks, OpenProgram, SeededDatabase
from tests.support.failpoints import Faults
from tests.support.smtp_server import SmtpServer

READERS = 5000 if IS_LONG else 240


@pytest.mark.quick("postgres")
def test_three_workers_and_the_site_send_each_letter_once(
    seeded_database: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks, smtp_server: SmtpServer,
    report: Report,
):  # fmt: skip
    """Four metronomes tick over one ledger: nothing is lost, nothing doubled, nothing in doubt."""
    program = open_program(seeded_database(READERS), smtp_connections=2)
    program.set_clock(THURSDAY.replace(hour=7))
    books = open_books(program)
    few = Faults(batch=10)
    workers = [program.start("worker", faults=few) for _ in range(3)]
    workers.append(program.serve(faults=few)[1])
    wait_until(lambda: all("worker_started" in worker.log for worker in workers))
    program.set_clock(THURSDAY)
    workers[0].wait_for(lambda: books.count("sent") == READERS, seconds=600 if IS_LONG else 60)
    assert [worker.terminate() for worker in workers] == [0] * len(workers)
    found = compare(smtp_server, books, program)
    report(found, fault="schedulers doubled", program=program, events=len(workers))

    assert found.keeps_the_promise(), found
    assert (found.letters, found.sent, found.doubled, found.flagged) == (READERS, READERS, [], 0)
    assert {received.recipient for received in smtp_server.ledger} == set(readers(READERS))
    assert program.json("status")["workers"] == 0
