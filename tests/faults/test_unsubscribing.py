"""Readers leave with one click while their letters leave, too."""

from __future__ import annotations

import threading
import time

import pytest

from newsletter.tokens import Purpose, TokenSigner
from tests.faults.comparison import Farewell, compare
from tests.faults.conftest import IS_LONG, Report
from tests.faults.scene import Scene
from tests.journeys.books import Books
from tests.journeys.conftest import THURSDAY, OpenBooks, OpenProgram, SeededDatabase
from tests.support.program import SECRET_KEY, Site
from tests.support.smtp_server import SmtpServer

READERS = 2000 if IS_LONG else 120
VISITORS = 4


@pytest.mark.quick("postgres")
@pytest.mark.timeout(900 if IS_LONG else 120)
def test_once_leaving_is_answered_only_what_was_handed_over_arrives(
    seeded_database: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks, smtp_server: SmtpServer,
    scene: Scene, report: Report,
):  # fmt: skip
    """Half of the readers leave during the sending, in four tabs at once: nobody of them is written to afterwards."""
    program = open_program(seeded_database(READERS), smtp_connections=3)
    program.set_clock(THURSDAY.replace(hour=7))
    books = open_books(program)
    site, running = program.serve()
    worker = program.start("worker")
    signer = TokenSigner([SECRET_KEY])
    leavers = scene.chance.sample(sorted(books.addresses().items(), key=lambda each: each[1]), READERS // 2)
    farewells: dict[str, Farewell] = {}

    def leave(mine: int) -> None:
        look = Books(str(program.settings["database_url"]))
        for identifier, address in leavers[mine::VISITORS]:
            where = f"/unsubscribe/{signer.sign(Purpose.UNSUBSCRIBE, identifier)}"
            farewells[address] = one_click(site, look, where, identifier)
        look.close()

    program.set_clock(THURSDAY)
    worker.wait_for(lambda: scene.passed["dot"] > 3)
    visitors = [threading.Thread(target=leave, args=(mine,)) for mine in range(VISITORS)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    assert len(farewells) == len(leavers)
    worker.wait_for(lambda: books.count("planned", "claimed", "handing_over", "uncertain") == 0, seconds=600)
    assert [running.terminate(), worker.terminate()] == [0, 0]

    found = compare(smtp_server, books, program, farewells)
    report(found, fault="unsubscribing during the send", program=program, events=len(farewells))
    assert found.keeps_the_promise(), found
    assert (found.doubled, found.flagged) == ([], 0)
    stayed = set(books.addresses().values()) - set(farewells)
    arrived = [received.recipient for received in smtp_server.ledger]
    assert stayed <= set(arrived)
    assert books.count("withdrawn") <= len(leavers)
    assert len(arrived) == len(set(arrived)) == found.sent


def one_click(site: Site, books: Books, where: str, identifier: object) -> Farewell:
    """Leave as a mail program does; what was in its handover when the answer came."""
    answer = site.post(where, **{"List-Unsubscribe": "One-Click"})
    answered = time.monotonic()
    assert answer.status == 200
    rows = books.deliveries(state="handing_over")
    return Farewell(
        answered=answered, in_hand=frozenset(row.message_id for row in rows if row.subscriber_id == identifier)
    )
