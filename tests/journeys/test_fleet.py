"""A fleet: several hosts of `newsletter cluster worker` on one PostgreSQL."""

from __future__ import annotations

import pytest

from tests.journeys.conftest import CROWD, THURSDAY, OpenBooks, OpenProgram, SeededDatabase
from tests.support.smtp_server import SmtpServer


@pytest.mark.slow
def test_two_hosts_share_the_letters_and_send_each_once(
    seeded_postgres: SeededDatabase, open_program: OpenProgram, open_books: OpenBooks, smtp_server: SmtpServer
):
    """Both send, and every letter leaves once."""
    program = open_program(seeded_postgres(CROWD), smtp_connections=2)
    program.set_clock(THURSDAY)
    books = open_books(program)
    hosts = [program.start("cluster", "worker") for _ in range(2)]
    import time

    t = time.time()
    try:
        hosts[0].wait_for(lambda: len(smtp_server.ledger) == CROWD)
    finally:
        print(time.time() - t, len(smtp_server.ledger))
        for h in hosts:
            print(h.log[-6000:])
    assert [h.terminate() for h in hosts] == [0, 0]
    for h in hosts:
        print(h.log[-3000:])
    assert 0
