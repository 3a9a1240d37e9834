"""Four workers on hosts of their own, one PostgreSQL, one mail server: one host dies, the wire of one is pulled."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.faults.comparison import compare
from tests.faults.conftest import IS_LONG, Report
from tests.faults.scene import dawdle, readers, wait_until
from tests.journeys.conftest import OpenBooks, OpenProgram, seed
from tests.journeys.content import SERIES
from tests.support.failpoints import Faults
from tests.support.namespaces import NamespacesMissingError, Network
from tests.support.postgres import Cluster, Server, find_binaries
from tests.support.program import Program, Running
from tests.support.smtp_server import SmtpServer

HOSTS = 4
CONNECTIONS = 2
# A lease of five seconds, and eleven for any answer; in long runs as it is.
PATIENCE = Faults() if IS_LONG else Faults(haste=12, answer_haste=60, batch=15)
READERS = 8000 if IS_LONG else 240


@pytest.fixture
def network() -> Iterator[Network]:
    """Hosts of their own."""
    try:
        with Network(HOSTS) as network:
            yield network
    except NamespacesMissingError as error:
        pytest.skip(str(error))


@pytest.fixture
def far_cluster(postgres: Server, network: Network) -> Iterator[Cluster]:
    """A PostgreSQL that all of them reach; where there is none, `postgres` says so."""
    cluster = Cluster(find_binaries(), address=network.address)
    yield cluster
    cluster.close()


@pytest.fixture
def far_server(network: Network) -> Iterator[SmtpServer]:
    """A mail server that all of them reach."""
    with SmtpServer(host=network.address) as server:
        yield server


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1800 if IS_LONG else 180)
def test_one_host_dies_and_one_is_cut_off_and_nothing_is_lost(
    network: Network,
    far_cluster: Cluster,
    far_server: SmtpServer,
    small_content: Path,
    open_program: OpenProgram,
    open_books: OpenBooks,
    chance,
    report: Report,
):
    """Lost 0, every double flagged; what the dead host had claimed goes on within 75 seconds; healed, all is sent."""
    now = datetime.now(UTC)
    url = far_cluster.create_database()
    slot = f"{now:%a %H:%M}".lower()
    seed(url, small_content, readers=READERS, sequence=SERIES, now=now - timedelta(days=2), slot=slot)
    scene = dawdle(far_server, chance)
    program = open_program(url, **of_the_world(far_server, far_cluster.over_the_network(url)))
    books = open_books(open_program(url))
    workers = [start_on(program, network, host) for host in range(HOSTS)]
    workers[0].wait_for(lambda: len(by_host(far_server)) == HOSTS)
    dead, cut_off, *living = chance.sample(range(HOSTS), HOSTS)
    wait_until(lambda: scene.passed["dot"] > 0)
    network.cut(cut_off)
    workers[dead].kill()
    killed_at = time.monotonic()
    owner = f"-{workers[dead].pid}"
    wait_until(lambda: not [row for row in books.deliveries(state="claimed") if row.owner.endswith(owner)], seconds=90)
    back_after = time.monotonic() - killed_at
    workers[living[0]].wait_for(lambda: books.count("sent") > READERS * 3 // 4, seconds=300)
    wait_until(lambda: time.monotonic() > killed_at + 70 / PATIENCE.haste)
    network.heal(cut_off)

    far_server.forget_scripts()
    workers[living[0]].wait_for(lambda: books.count("sent", "held") == READERS, seconds=900)
    for host in (cut_off, *living):
        assert workers[host].code is None
        assert workers[host].terminate(seconds=60) == 0
    found = compare(far_server, books)
    report(found, fault="four hosts: one killed, one cut off", program=program, events=2,
           back_after_seconds=round(back_after, 1), by_host=sorted(by_host(far_server).values()))  # fmt: skip

    assert found.keeps_the_promise(), found
    assert {received.recipient for received in far_server.ledger} == set(readers(READERS))
    assert found.held == 0
    assert len(found.doubled) <= found.flagged <= 2 * CONNECTIONS
    assert len(by_host(far_server)) == HOSTS
    assert back_after <= 75 / PATIENCE.haste + 15


def of_the_world(server: SmtpServer, database_url: str) -> dict[str, object]:
    """Settings that are fit for a mail server on another host: the real time, and nothing that is an example."""
    return {
        "database_url": database_url,
        "mail_url": f"{server.url}?tls=never",
        "base_url": "https://letters.encouragement.net",
        "from_": "Letters <letters@letters.encouragement.net>",
        "postal_address": "1 Test Street, Testtown",
        "smtp_connections": CONNECTIONS,
    }


def start_on(program: Program, network: Network, host: int) -> Running:
    """A worker that knows nothing of the other hosts' processes."""
    folder = program.folder / f"host-{host}"
    folder.mkdir()
    return program.start("worker", faults=PATIENCE, within=network.within(host), variables={"TMPDIR": str(folder)})


def by_host(server: SmtpServer) -> Counter[str]:
    """How many letters came from each host."""
    return Counter(received.peer[0] for received in server.ledger)
