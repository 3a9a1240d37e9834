"""The desk and its lanes keep to the pace: what leaves, what waits, and what becomes of what was claimed already."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from newsletter.domain.delivery import Kind, State
from newsletter.domain.destination import RELAY
from newsletter.errors import DatabaseUnavailable
from newsletter.fibres import Hub
from newsletter.service import sending
from newsletter.service.desk import Desk
from newsletter.service.pacing import Pacing
from newsletter.service.sending import Crew, Lane
from tests.support.building import House
from tests.support.smtp_server import Reply, SmtpServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TUESDAY = "2026-11-24 09:00"
LESS = Reply(451, "4.7.1 Too many letters")
NOT_YOU = Reply(550, "5.7.26 We do not know you")
GMAIL = "gmail.com"


@pytest.fixture
def house_of(open_house: Callable[..., House]) -> Callable[..., House]:
    """Opens a house in which a letter is due for a reader at each of some domains, in this order."""

    def open_it(*domains: str, **settings: Any) -> House:
        house = open_house(**settings)
        house.sequence("trust", "one")
        house.publish()
        for number, domain in enumerate(domains):
            house.reader(f"reader{number:03}@{domain}")
            house.at(TUESDAY)
            house.plan()
            house.at("2026-11-23 12:00")
        house.at(TUESDAY)
        return house

    return open_it


def crew_of(house: House, lanes: int) -> Crew:
    """Some lanes for letters."""
    assert house.lanes  # enrols the worker
    hub = Hub()
    desk = Desk(house.app.office, worker=house.worker, letters=True, clock=house.clock, stop=house.stop, waiting=hub)
    open_mailer = partial(house.app.open_mailer, waiting=hub)
    made = [Lane(desk, open_mailer=open_mailer, stop=house.stop, waiting=hub) for _ in range(lanes)]
    return Crew(desk, made, hub=hub)


def states(house: House) -> dict[str, list[str]]:
    """By state the domains of the readers whose letters are in it."""
    domains = {row["id"]: row["address_key"].partition("@")[2] for row in house.rows("subscriber")}
    found: dict[str, list[str]] = {}
    for row in house.rows("delivery"):
        found.setdefault(row["state"], []).append(domains[row["subscriber_id"]])
    return found


def tried(post: SmtpServer, domain: str) -> int:
    return sum(heard.line.startswith("RCPT") and heard.line.endswith(f"@{domain}>") for heard in post.heard)


def test_a_crew_goes_on_as_soon_as_the_rate_lets_it(house_of: Callable[..., House], post: SmtpServer):
    """It does not wait for the next tick, in which no more than a quarter of a second's worth could leave."""
    house = house_of(*["example.org"] * 30, send_rate="40/second")
    crew = crew_of(house, 3)
    assert crew.send_due() == 30
    crew.close()
    assert len(post.ledger) == 30


def test_a_crew_leaves_what_may_not_leave_soon_to_another_tick(house_of: Callable[..., House], post: SmtpServer):
    house = house_of(*["example.org"] * 3, send_rate="1/hour")
    crew = crew_of(house, 2)
    assert [crew.send_due() for _ in range(3)] == [1, 0, 0]
    crew.close()
    assert len(post.ledger) == 1
    assert not house.app.office.is_done(now=house.now)


def test_what_is_behind_a_page_of_letters_that_are_put_off_leaves_at_once(
    house_of: Callable[..., House], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("newsletter.service.stock.CLAIM_BATCH", 2)
    house = house_of(*[GMAIL] * 12, "example.org", send_rate="gmail.com=1/hour")
    assert house.send() == 2
    assert states(house) == {State.SENT: [GMAIL, "example.org"], State.PLANNED: [GMAIL] * 11}


class TestTrouble:
    def test_a_domain_that_wants_less_is_left_alone_and_others_are_not(
        self, house_of: Callable[..., House], post: SmtpServer
    ):
        """What was claimed already lines up with all others, and `--drain` waits for them."""
        house = house_of(*[GMAIL] * 8, "example.org", "example.org")
        post.script("rcpt", LESS, when=lambda line: GMAIL in line)
        assert house.send() == 2
        # The second one's handover was committed together with the first one's verdict.
        assert tried(post, GMAIL) <= 2
        assert sorted(states(house)[State.PLANNED]) == [GMAIL] * 8
        turns = [row["next_try_at"] for row in house.rows("delivery") if row["state"] == State.PLANNED]
        assert min(turns) > house.now
        assert len(set(turns)) == 8
        assert not house.app.office.is_done(now=house.now)

    def test_a_domain_that_refuses_us_five_times_is_left_alone_and_nobody_is_suppressed(
        self, house_of: Callable[..., House], post: SmtpServer
    ):
        house = house_of(*[GMAIL] * 9, "example.org")
        post.script("rcpt", NOT_YOU, when=lambda line: GMAIL in line)
        with capture_logs() as logs:
            assert house.send() == 1
        assert 5 <= tried(post, GMAIL) <= 6
        assert states(house)[State.HELD] == [GMAIL] * tried(post, GMAIL)
        assert states(house)[State.PLANNED] == [GMAIL] * (9 - tried(post, GMAIL))
        assert house.rows("suppression") == []
        [line] = [line for line in logs if line["event"] == "circuit_opened"]
        assert (line["destination"], line["reply"]) == (GMAIL, "550 5.7.26 We do not know you")
        # The operator mends it, and their word lets all go on at once, though they were claimed before.
        post.forget_scripts()
        house.app.pacing.forgive(GMAIL, now=house.now)
        house.hang_up()
        assert house.send() == 9 - len(states(house)[State.HELD]) > 0

    def test_a_mail_server_that_wants_less_is_left_alone_and_all_stays_due(
        self, house_of: Callable[..., House], post: SmtpServer
    ):
        """Told before anything was handed over: the next lane does not even try, and `--drain` has not ended."""
        house = house_of(*["example.org"] * 4)
        post.script("banner", Reply(421, "4.3.2 Come back later"))
        crew = crew_of(house, 3)
        with capture_logs() as logs:
            assert crew.send_due() == 0
        assert [line["destination"] for line in logs if line["event"] == "destination_slowed"] == [RELAY]
        met = post.connections
        other = crew_of(house, 3)
        assert other.send_due() == 0
        assert post.connections == met
        assert house.app.office.count_due(now=house.now) == 4

    def test_what_people_wait_for_passes_a_slow_domain_and_no_open_circuit(
        self, house_of: Callable[..., House], post: SmtpServer
    ):
        house = house_of(GMAIL)
        post.script("rcpt", LESS, times=1)
        assert house.send() == 0
        house.ask(f"maria@{GMAIL}")
        assert house.send() == 1
        post.script("rcpt", NOT_YOU)
        for number in range(6):
            house.ask(f"ben{number}@{GMAIL}")
        assert house.send() == 0
        post.forget_scripts()
        house.ask(f"carla@{GMAIL}")
        assert house.send() == 0
        rows = [row for row in house.rows("delivery") if row["kind"] == Kind.CONFIRMATION]
        assert {row["state"] for row in rows} == {State.SENT, State.HELD, State.PLANNED}

    def test_where_the_pace_cannot_be_told_all_verdicts_are_recorded(
        self, house_of: Callable[..., House], post: SmtpServer, monkeypatch: pytest.MonkeyPatch
    ):
        house = house_of(GMAIL, GMAIL, "example.org")
        post.script("rcpt", LESS, when=lambda line: GMAIL in line)
        errors = [DatabaseUnavailable("away"), ZeroDivisionError("odd")]

        def fail(*_: Any) -> None:
            raise errors.pop()

        monkeypatch.setattr(Pacing, "learn", fail)
        assert house.send() == 1
        assert errors == []
        assert {row["attempt"] for row in house.rows("delivery")} == {1}


class TestGivingBack:
    def sent_today(self, house: House) -> int:
        [row] = house.rows("warm_up")
        return int(row["sent"])

    def test_a_letter_that_does_not_leave_gives_its_place_to_another(self, house_of: Callable[..., House]):
        """Late in the night it is put back until the morning, and nothing of the day's number is used up."""
        house = house_of(*["example.org"] * 3, warm_up="5")
        house.at("2026-11-24 23:00")
        assert house.send() == 0
        assert states(house) == {State.PLANNED: ["example.org"] * 3}
        assert self.sent_today(house) == 0

    def test_what_the_last_lane_gives_back_is_not_counted(self, house_of: Callable[..., House], post: SmtpServer):
        house = house_of(*["example.org"] * 3, warm_up="5")
        post.stop()
        assert house.send() == 0
        assert states(house) == {State.PLANNED: ["example.org"] * 3}
        assert self.sent_today(house) == 0

    def test_what_cannot_be_rendered_is_not_counted(self, open_house: Callable[..., House]):
        house = open_house(warm_up="5")
        house.sequence("trust", "one")
        house.publish()
        house.reader()
        house.at(TUESDAY)
        house.plan()
        house.app.office.composer.compose = lambda *_, **__: 1 // 0  # type: ignore[method-assign,assignment]
        assert house.send() == 0
        assert states(house) == {State.HELD: ["example.org"]}
        assert self.sent_today(house) == 0


class TestConnections:
    def test_a_crew_that_is_allowed_none_claims_nothing_and_hangs_up(
        self, house_of: Callable[..., House], post: SmtpServer
    ):
        house = house_of(*["example.org"] * 4)
        crew = crew_of(house, 3)
        assert crew.connections == 3
        assert crew.send_due() == 4
        assert post.open_connections > 0
        crew.allow(1)
        assert crew.connections >= 1
        assert crew.send_due() == 0
        assert crew.connections == 1
        crew.allow(0)
        house.reader("late@example.org")
        house.plan()
        assert crew.send_due() == 0
        assert crew.connections == 0
        post.wait_for(lambda server: server.open_connections == 0, seconds=60)
        assert states(house)[State.PLANNED] == ["example.org"]
        crew.close()

    def test_a_lane_that_is_not_wanted_any_more_still_has_its_verdict_recorded(
        self, house_of: Callable[..., House], post: SmtpServer, monkeypatch: pytest.MonkeyPatch
    ):
        """The database was away when the letter was accepted; nothing else is due when it is back."""
        monkeypatch.setattr(sending, "_RECORD_PAUSES_SECONDS", (0.0,))
        house = house_of("example.org")
        crew = crew_of(house, 1)
        usual = house.app.database.write

        @contextmanager
        def until_it_is_accepted(**how: Any) -> Iterator[Any]:
            if post.ledger:
                message = "The database is away."
                raise DatabaseUnavailable(message)
            with usual(**how) as connection:
                yield connection

        monkeypatch.setattr(house.app.database, "write", until_it_is_accepted)
        with suppress(DatabaseUnavailable):
            crew.send_due()
        assert states(house) == {State.HANDING_OVER: ["example.org"]}
        monkeypatch.setattr(house.app.database, "write", usual)
        crew.allow(0)
        crew.send_due()
        assert states(house) == {State.SENT: ["example.org"]}
        assert len(post.ledger) == 1
        assert crew.connections == 0
