"""A worker whose wire to PostgreSQL is cut: nobody is told, and nothing leaves without a lease."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import make_url

from tests.faults.comparison import compare
from tests.faults.conftest import IS_LONG, Report
from tests.faults.scene import Scene, readers, wait_until
from tests.journeys.conftest import THURSDAY, OpenBooks, OpenProgram
from tests.support.failpoints import Faults
from tests.support.postgres import Cluster
from tests.support.smtp_server import Delay, SmtpServer
from tests.support.tcp_proxy import CuttableWire

HASTE = 12
LEASE_SECONDS = 60 / HASTE
CONNECTIONS = 2
READERS = 4000 if IS_LONG else 150
CUTS = 20 if IS_LONG else 1


@pytest.fixture
def wire(postgres_cluster: Cluster) -> Iterator[CuttableWire]:
    """What leads to the server."""
    with CuttableWire(postgres_cluster.socket_path) as wire:
        yield wire


def through(wire: CuttableWire, url: str) -> str:
    """The same database at the other end of the wire."""
    return make_url(url).set(host="127.0.0.1", port=wire.port, query={}).render_as_string(hide_password=False)


@pytest.mark.timeout(200 * CUTS)
@pytest.mark.parametrize(
    "ways", ["both", *(pytest.param(way, marks=pytest.mark.long) for way in ("to_server", "to_client"))]
)
def test_cut_off_for_longer_than_its_lease_it_sends_nothing_more(
    ways: str,
    wire: CuttableWire,
    cluster_url: Callable[..., str],
    open_program: OpenProgram,
    open_books: OpenBooks,
    smtp_server: SmtpServer,
    scene: Scene,
    report: Report,
):
    """One letter a connection may be in hand; another worker takes the rest. Healed, it works again; all is flagged."""
    url = cluster_url(READERS)
    program = open_program(url, smtp_connections=CONNECTIONS)
    program.set_clock(THURSDAY)
    books = open_books(program)
    cut_off = program.start("worker", faults=Faults(haste=HASTE, answer_haste=HASTE), database_url=through(wire, url))
    living = program.start("worker", faults=Faults(haste=HASTE, answer_haste=HASTE))
    for _ in range(CUTS):
        enough = len(smtp_server.ledger) + scene.chance.randint(2, 15)
        wait_until(lambda enough=enough: len(smtp_server.ledger) >= enough)
        cuts = {"to_server": ways != "to_client", "to_client": ways != "to_server"}
        wire.cut(**cuts)
        cut_at = time.monotonic()
        wait_until(lambda cut_at=cut_at: time.monotonic() > cut_at + LEASE_SECONDS + 1)
        assert (cut_off.code, living.code) == (None, None)
        wire.heal()
    smtp_server.forget_scripts()
    living.wait_for(lambda: books.count("sent", "held") == READERS, seconds=600 if IS_LONG else 60)
    assert cut_off.terminate(seconds=60) == 0
    assert living.terminate() == 0
    found = compare(smtp_server, books, program)
    report(found, fault=f"cut off from PostgreSQL, {ways}", program=program, events=CUTS)

    assert found.keeps_the_promise(), found
    assert {received.recipient for received in smtp_server.ledger} == set(readers(READERS))
    assert len(found.doubled) <= found.flagged <= CUTS * (CONNECTIONS + 1)


def test_who_is_cut_off_within_a_transaction_keeps_nobody_waiting_for_ever(
    wire: CuttableWire,
    cluster_url: Callable[..., str],
    open_program: OpenProgram,
    open_books: OpenBooks,
    smtp_server: SmtpServer,
    report: Report,
):
    """The database lets go of what a silent worker had locked, within a lease: the rest is given back and sent."""
    url = cluster_url(6)
    program = open_program(url, smtp_connections=1)
    program.set_clock(THURSDAY)
    books = open_books(program)
    silent = program.start(
        "worker",
        faults=Faults(step="handed-before-commit", action="stop", haste=HASTE, answer_haste=HASTE),
        database_url=through(wire, url),
    )
    wait_until(lambda: books.count("claimed") == 6)
    smtp_server.script("dot", Delay(0.01))
    living = program.start("worker", faults=Faults(haste=HASTE, answer_haste=HASTE))
    living.wait_for(lambda: books.count("sent") == 6)
    wire.tear()
    silent.kill()
    assert living.terminate() == 0
    found = compare(smtp_server, books, program)
    report(found, fault="silent within a transaction", program=program, events=1)
    assert found.keeps_the_promise(), found
    assert (found.sent, found.doubled, found.flagged) == (6, [], 0)
