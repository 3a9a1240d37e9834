"""A worker claims no more than the fleet's rates allow, and nothing for a destination that wants none."""

from __future__ import annotations

from datetime import timedelta
from threading import Thread
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from sqlalchemy import event, select, text, update

from newsletter.domain.delivery import Outcome, State
from newsletter.domain.destination import RELAY
from newsletter.domain.rates import Rate
from newsletter.errors import NotFound
from newsletter.mail.base import Stage, Verdict, verdict_of
from newsletter.store import handovers, prepared, reports, tables
from tests.support.building import House

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from newsletter.service.pacing import Claim
    from tests.support.smtp_server import SmtpServer

TUESDAY = "2026-11-24 09:00"
YES = verdict_of(Stage.DOT, 250, "2.0.0 Taken", host="mail.example")
LESS = verdict_of(Stage.RCPT, 450, "4.7.28 Too fast", host="mail.example")
NOT_YOU = verdict_of(Stage.DOT, 550, "5.7.26 Unauthenticated mail of <maria@gmail.com> is refused", host="mail.example")
LATER = verdict_of(Stage.RCPT, 451, "4.3.0 Local error", host="mail.example")
BUSY = verdict_of(Stage.MAIL, 421, "4.3.2 Come back later", host="mail.example")
GMAIL = "gmail.com"


@pytest.fixture
def house_of(open_house: Callable[..., House]) -> Callable[..., House]:
    """Opens a house with one letter on trust, and a worker of its own."""
    published: list[House] = []

    def open_it(**settings: Any) -> House:
        house = open_house(**settings)
        if not published:
            house.sequence("trust", "one")
            house.publish()
        published.append(house)
        house.app.rescuing.enrol(house.worker, host="here")
        return house

    return open_it


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    """What is logged."""
    with structlog.testing.capture_logs() as lines:
        yield lines


def due(house: House, *domains: str) -> None:
    """A letter is due for a reader at each of these domains, in this order."""
    for number, domain in enumerate(domains):
        house.reader(f"reader{number:03}@{domain}")
        house.at(TUESDAY)
        house.plan()
        house.at("2026-11-23 12:00")
    house.at(TUESDAY)


def claim(house: House, *, letters: bool = True, limit: int = 200) -> Claim:
    with house.app.database.write() as connection:
        return house.app.pacing.claim(connection, owner=house.worker, letters=letters, limit=limit, now=house.now)


def learn(house: House, *verdicts: tuple[str, Verdict]) -> None:
    house.app.pacing.learn(verdicts)


def known(house: House, name: str) -> dict[str, Any]:
    """What is remembered of a destination."""
    rows = [row for row in house.rows("destination") if row["name"] == name]
    return rows[0] if rows else {}


def let_pass(house: House, name: str, elapsed: timedelta) -> None:
    """So much time passes for a destination."""
    row = known(house, name)
    instants = ("free_at", "queued_until", "slowed_until", "opened_at", "retry_at", "tried_at", "changed_at")
    earlier = {column: row[column] - elapsed for column in instants if row[column] is not None}
    with house.app.database.write() as connection:
        connection.execute(update(tables.destination).where(tables.destination.c.name == name).values(earlier))


def look_again(house: House) -> None:
    """As after the second in which another process's news may be unknown."""
    house.app.pacing._look_at = 0.0


def waits(house: House) -> list[timedelta]:
    """How long each letter that waits has been put off, the shortest first."""
    rows = [row for row in house.rows("delivery") if row["state"] == State.PLANNED]
    return sorted(row["next_try_at"] - house.now for row in rows)


class TestFleet:
    def test_without_a_rate_and_without_trouble_all_is_claimed_and_little_is_asked(
        self, house_of: Callable[..., House], monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("newsletter.service.pacing.LOOK_EVERY", timedelta(hours=1))
        house = house_of()
        due(house, *["example.org"] * 3)
        asked: list[str] = []
        engine = house.app.database._engine
        event.listen(engine, "before_cursor_execute", lambda *call: asked.append(call[2]))
        usual = prepared.fetch
        monkeypatch.setattr(prepared, "fetch", lambda *call: asked.append(call[1]) or usual(*call))
        assert [len(claim(house).items) for _ in range(3)] == [3, 0, 0]
        learn(house, (GMAIL, YES), ("example.org", YES))
        assert len([statement for statement in asked if "destination" in statement]) == 1
        assert len([statement for statement in asked if "BEGIN" not in statement]) == 4

    def test_many_workers_together_get_no_more_than_the_rate(self, house_of: Callable[..., House]):
        """Six workers of two processes claim one letter after the other; the rate is 40 a second."""
        rate = Rate.parse("40/second")
        houses = [house_of(send_rate="40/second") for _ in range(2)]
        due(houses[0], *["example.org"] * 60)
        houses[1].at(TUESDAY)
        claimed: list[int] = []
        began = monotonic()
        give_up_at = began + 60

        def work(house: House, limit: int) -> None:
            while sum(claimed) < 60 and monotonic() < give_up_at:
                claimed.append(len(claim(house, limit=limit).items))
                sleep(0.01)

        threads = [Thread(target=work, args=(house, limit)) for house in houses for limit in (1, 3, 200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        elapsed = timedelta(seconds=monotonic() - began)
        assert sum(claimed) == 60
        assert 60 * rate.interval <= elapsed + rate.burst

    def test_who_asks_while_another_one_claims_waits_for_what_is_left(self, house_of: Callable[..., House]):
        house, other = house_of(send_rate="6/minute"), house_of(send_rate="6/minute")
        assert claim(house).items == []  # from now on there is something to wait for
        due(house, *["example.org"] * 3)
        other.at(TUESDAY)
        found: list[Claim] = []
        second = Thread(target=lambda: found.append(claim(other)))
        with house.app.database.write() as connection:
            first = house.app.pacing.claim(connection, owner=house.worker, letters=True, limit=9, now=house.now)
            second.start()
            second.join(timeout=0.3)  # long enough to see it go wrong; where it waits, it waits for the commit
        second.join()
        assert [len(each.items) for each in (first, *found)] == [1, 0]

    def test_where_the_rate_says_no_it_says_when_to_ask_again(self, house_of: Callable[..., House]):
        house = house_of(send_rate="6/minute")
        due(house, *["example.org"] * 3)
        assert len(claim(house).items) == 1
        nothing = claim(house)
        assert nothing.items == []
        assert nothing.more_after is not None
        assert timedelta(seconds=5) < nothing.more_after <= timedelta(seconds=10)
        let_pass(house, RELAY, timedelta(seconds=10))
        assert len(claim(house).items) == 1

    def test_where_nothing_is_due_no_room_is_used_up(self, house_of: Callable[..., House]):
        house = house_of(send_rate="6/minute")
        assert claim(house) == claim(house)
        assert known(house, RELAY)["free_at"] is None
        due(house, "example.org")
        assert len(claim(house).items) == 1

    def test_what_is_given_back_may_leave_instead(self, house_of: Callable[..., House]):
        house = house_of(send_rate="6/minute", warm_up="1")
        due(house, *["example.org"] * 2)
        assert len(claim(house).items) == 1
        assert claim(house).items == []
        with house.app.database.write() as connection:
            house.app.pacing.give_back(connection, 1, now=house.now)
        assert len(claim(house).items) == 1

    def test_what_people_wait_for_is_not_held_up_and_uses_the_rate_up(self, house_of: Callable[..., House]):
        house = house_of(send_rate="6/minute", warm_up="3")
        due(house, "example.org")
        for number in range(5):
            house.ask(f"new{number}@example.org")
        assert len(claim(house, letters=False).items) == 5
        nothing = claim(house)
        assert nothing.items == []
        assert nothing.more_after is not None
        assert nothing.more_after > timedelta(seconds=40)

    def test_workers_that_claim_and_learn_at_once_wait_for_each_other_in_no_circle(
        self, house_of: Callable[..., House]
    ):
        """Each of them locks the mail server and some of the same domains, which all are new to them."""
        houses = [house_of(send_rate="1000/second,*=2/hour", warm_up="1000") for _ in range(2)]
        domains = [f"d{number}.example.org" for number in range(8)]
        due(houses[0], *domains, *reversed(domains))
        houses[1].at(TUESDAY)
        faults: list[Exception] = []
        claimed: list[int] = []

        def work(house: House, order: list[str]) -> None:
            try:
                for domain in order:
                    learn(house, (domain, NOT_YOU), (order[0], LESS), (domain, YES), (order[-1], BUSY))
                    claimed.append(len(claim(house, limit=3).items))
                    house.app.housekeeping.keep_house(now=house.now)
            except Exception as error:  # noqa: BLE001
                faults.append(error)

        orders = [domains, domains[::-1], domains[4:] + domains[:4], domains[::2] + domains[1::2]]
        threads = [Thread(target=work, args=(houses[number % 2], order)) for number, order in enumerate(orders)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert faults == []


class TestWarmUp:
    def test_each_day_on_which_letters_leave_has_its_number(self, house_of: Callable[..., House], logged: list):
        house = house_of(warm_up="2,3")
        other = house_of(warm_up="2,3")
        due(house, *["example.org"] * 9)
        other.at(TUESDAY)
        assert [len(claim(each).items) for each in (house, other, house)] == [2, 0, 0]
        assert [line["event"] for line in logged].count("warm_up_used_up") == 2  # once for each process
        for each in (house, other):
            each.later(days=3)
        assert [len(claim(each, limit=2).items) for each in (other, house, other)] == [2, 1, 0]
        house.later(days=1)
        assert len(claim(house).items) == 4

    def test_another_plan_begins_at_its_own_first_day(self, house_of: Callable[..., House]):
        house = house_of(warm_up="1")
        due(house, *["example.org"] * 5)
        assert len(claim(house).items) == 1
        other = house_of(warm_up="2,10")
        other.at(TUESDAY)
        assert len(claim(other).items) == 2


@pytest.mark.postgres
def test_workers_that_claim_at_once_send_no_more_than_the_days_number(
    migrated_postgres_url: str, tmp_path: Path, post: SmtpServer
):
    """The second one waits until the first one has written down how much it took."""
    houses = [House(migrated_postgres_url, tmp_path, post=post, warm_up="3") for _ in range(2)]
    houses[0].sequence("trust", "one")
    houses[0].publish()
    for house in houses:
        house.app.rescuing.enrol(house.worker, host="here")
    due(houses[0], *["example.org"] * 6)
    houses[1].at(TUESDAY)
    assert len(claim(houses[0], limit=1).items) == 1  # the plan has begun: there is a row to lock
    second: list[int] = []
    thread = Thread(target=lambda: second.append(len(claim(houses[1]).items)))
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    with houses[0].app.database.write() as connection:
        found = houses[0].app.pacing.claim(connection, owner=houses[0].worker, letters=True, limit=1, now=houses[0].now)
        thread.start()
        give_up_at = monotonic() + 60
        while not second and monotonic() < give_up_at:
            with houses[0].app.database.read() as other:
                if other.scalar(waiting):
                    break
            sleep(0.01)
        assert len(found.items) == 1
    thread.join()
    assert second == [1]
    for house in houses:
        house.close()


class TestDomainRate:
    def test_letters_to_a_domain_are_spread_and_others_pass(self, house_of: Callable[..., House]):
        house = house_of(send_rate="gmail.com=6/minute")
        due(house, *[GMAIL] * 4, "example.org")
        found = claim(house)
        assert len(found.items) == 2
        first, second, third = waits(house)
        assert timedelta(seconds=8) < first < timedelta(seconds=11)
        assert second - first == third - second == timedelta(seconds=10)
        assert claim(house).items == []

    def test_each_other_domain_has_a_rate_of_its_own(self, house_of: Callable[..., House]):
        house = house_of(send_rate="*=1/hour")
        due(house, "a.example.org", "b.example.org", "a.example.org", "b.example.org")
        assert len(claim(house).items) == 2
        assert len(waits(house)) == 2

    def test_who_comes_back_at_its_turn_leaves(self, house_of: Callable[..., House]):
        house = house_of(send_rate="gmail.com=6/minute")
        due(house, *[GMAIL] * 5)
        left = [len(claim(house).items)]
        for _ in range(4):
            step = waits(house)[0]
            let_pass(house, GMAIL, step)
            house.later(seconds=step.total_seconds())
            left.append(len(claim(house).items))
        assert left == [1] * 5

    def test_those_who_queue_can_be_waited_for(self, house_of: Callable[..., House]):
        house = house_of(send_rate="gmail.com=6/minute")
        assert not house.app.pacing.somebody_queues()
        due(house, GMAIL, GMAIL)
        claim(house)
        assert house.app.pacing.somebody_queues()
        let_pass(house, GMAIL, timedelta(minutes=1))
        assert not house.app.pacing.somebody_queues()

    def test_those_who_are_put_off_do_not_use_up_the_rate_of_all(self, house_of: Callable[..., House]):
        house = house_of(send_rate="12/minute,gmail.com=1/hour")
        due(house, GMAIL, GMAIL, GMAIL, "example.org")
        assert len(claim(house).items) == 1
        let_pass(house, RELAY, timedelta(seconds=5))
        # One of Gmail's goes first, and is put off; what is behind it need not wait.
        assert claim(house).more_after == timedelta()
        assert claim(house).more_after == timedelta()
        assert len(claim(house).items) == 1
        assert len(waits(house)) == 2


class TestCircuit:
    def open_gmail(self, house: House) -> None:
        learn(house, *[(GMAIL, NOT_YOU)] * 4, ("example.org", YES), (GMAIL, NOT_YOU))

    def test_five_policy_refusals_keep_a_domains_letters_back_and_the_operator_is_told_once(
        self, house_of: Callable[..., House], logged: list
    ):
        house = house_of()
        due(house, *[GMAIL] * 3, "example.org")
        self.open_gmail(house)
        learn(house, (GMAIL, NOT_YOU))
        assert len(claim(house).items) == 1
        assert min(waits(house)) > timedelta(minutes=47)
        (line,) = [line for line in logged if line["event"] == "circuit_opened"]
        assert (line["destination"], line["log_level"]) == (GMAIL, "error")
        assert line["reply"] == "550 5.7.26 Unauthenticated mail of <…> is refused"
        with house.app.database.read() as connection:
            (kept,) = reports.status(connection, now=house.now).kept_back
        assert (kept.name, kept.reply) == (GMAIL, line["reply"])
        assert kept.refuses_since is not None

    def test_refusals_are_counted_over_all_workers(self, house_of: Callable[..., House]):
        houses = [house_of() for _ in range(2)]
        for number in range(5):
            assert known(houses[0], GMAIL).get("opened_at") is None
            learn(houses[number % 2], (GMAIL, NOT_YOU))
        assert known(houses[0], GMAIL)["opened_at"] is not None

    def test_an_acceptance_that_another_worker_hears_begins_the_row_anew(self, house_of: Callable[..., House]):
        house, other = house_of(), house_of()
        due(house, GMAIL)
        learn(house, *[(GMAIL, NOT_YOU)] * 4)
        other.at(TUESDAY)
        look_again(other)
        assert len(claim(other).items) == 1
        learn(other, (GMAIL, YES))
        learn(house, *[(GMAIL, NOT_YOU)] * 4)
        assert known(house, GMAIL)["opened_at"] is None

    def test_five_refusals_of_different_domains_are_the_mail_servers_own(self, house_of: Callable[..., House]):
        house = house_of()
        due(house, *[f"d{number}.example.org" for number in range(6)])
        learn(house, *[(f"d{number}.example.org", NOT_YOU) for number in range(5)])
        nothing = claim(house)
        assert nothing.items == []
        assert nothing.more_after is not None
        assert nothing.more_after > timedelta(minutes=47)
        assert waits(house) == [timedelta()] * 6  # nobody was put off: they leave when it takes them

    def test_five_refusals_of_one_domain_are_its_own(self, house_of: Callable[..., House]):
        houses = [house_of() for _ in range(2)]
        for number in range(5):
            learn(houses[number % 2], (GMAIL, NOT_YOU))
        assert known(houses[0], RELAY)["refusals"] == 1
        learn(houses[0], ("example.org", NOT_YOU), (GMAIL, YES))
        assert known(houses[0], RELAY)["refusals"] == 0

    def test_what_is_refused_before_a_recipient_is_named_is_the_mail_servers_own(self, house_of: Callable[..., House]):
        house = house_of()
        learn(house, *[(GMAIL, verdict_of(Stage.MAIL, 550, "5.7.60 Not your name", host="mail.example"))] * 5)
        assert known(house, RELAY)["opened_at"] is not None
        assert known(house, GMAIL) == {}

    def test_what_people_wait_for_waits_too(self, house_of: Callable[..., House]):
        house = house_of()
        house.ask(f"new@{GMAIL}")
        self.open_gmail(house)
        assert claim(house, letters=False).items == []
        assert min(waits(house)) > timedelta(minutes=47)

    def test_one_letter_of_all_workers_is_tried_when_the_time_has_come(self, house_of: Callable[..., House]):
        houses = [house_of() for _ in range(2)]
        due(houses[0], *[GMAIL] * 6)
        houses[1].at(TUESDAY)
        self.open_gmail(houses[0])
        let_pass(houses[0], GMAIL, timedelta(hours=2))
        for house in houses:
            look_again(house)
        assert sorted(len(claim(house, limit=3).items) for house in houses) == [0, 1]
        assert min(waits(houses[0])) > timedelta(minutes=11)
        learn(houses[0], (GMAIL, YES))
        assert known(houses[0], GMAIL)["opened_at"] is None

    def test_one_letter_of_all_workers_tries_the_mail_server(self, house_of: Callable[..., House]):
        houses = [house_of() for _ in range(2)]
        due(houses[0], *[f"d{number}.example.org" for number in range(6)])
        houses[1].at(TUESDAY)
        learn(houses[0], *[(f"d{number}.example.org", NOT_YOU) for number in range(5)])
        let_pass(houses[0], RELAY, timedelta(hours=2))
        for house in houses:
            look_again(house)
        assert [len(claim(house).items) for house in houses] == [1, 0]
        learn(houses[1], ("d9.example.org", NOT_YOU))
        assert known(houses[0], RELAY)["closures"] == 2

    def test_what_is_claimed_already_is_kept_back_at_once(self, house_of: Callable[..., House]):
        house = house_of()
        theirs, others = (house.reader(f"maria@{domain}").record for domain in (GMAIL, "example.org"))
        assert not house.app.pacing.keeps_back(theirs, letters=True)
        self.open_gmail(house)
        for letters in (True, False):
            assert house.app.pacing.keeps_back(theirs, letters=letters)
            assert not house.app.pacing.keeps_back(others, letters=letters)
        house.app.pacing.forgive(GMAIL, now=house.now)
        look_again(house)
        claim(house)
        assert not house.app.pacing.keeps_back(theirs, letters=True)

    def test_the_operators_word_lets_all_go_on_at_once(self, house_of: Callable[..., House]):
        house = house_of()
        due(house, *[GMAIL] * 3, "notgmail.com")
        self.open_gmail(house)
        claim(house)
        assert len(waits(house)) == 3
        house.app.pacing.forgive(GMAIL, now=house.now)
        assert waits(house) == [timedelta()] * 3
        look_again(house)
        assert len(claim(house).items) == 3

    def test_a_destination_without_trouble_cannot_be_forgiven(self, house_of: Callable[..., House]):
        house = house_of(send_rate="*=1/second")
        due(house, GMAIL)
        claim(house)
        for name in (GMAIL, "example.org"):
            with pytest.raises(NotFound, match=rf"Nothing is kept back from {name}; `newsletter status`"):
                house.app.pacing.forgive(name, now=house.now)


class TestSlowing:
    def test_a_domain_that_wants_less_rests_and_others_do_not(self, house_of: Callable[..., House], logged: list):
        house = house_of()
        due(house, *[GMAIL] * 3, "example.org")
        learn(house, (GMAIL, LESS))
        assert len(claim(house).items) == 1
        assert timedelta(seconds=10) < min(waits(house)) < max(waits(house)) < timedelta(seconds=20)
        (line,) = [line for line in logged if line["event"] == "destination_slowed"]
        assert (line["destination"], line["reply"]) == (GMAIL, "450 4.7.28 Too fast")

    @pytest.mark.parametrize(
        "verdict",
        [
            BUSY,
            verdict_of(Stage.OPEN, 421, "4.7.0 Later", host="mail.example"),
            verdict_of(Stage.RCPT, 421, "4.7.0 Closing", host="mail.example"),
            verdict_of(Stage.DOT, 454, "Throttling failure: Maximum sending rate exceeded.", host="mail.example"),
        ],
        ids=lambda verdict: f"{verdict.stage}-{verdict.reply_code}",
    )
    def test_a_mail_server_that_wants_less_rests_as_a_whole(self, house_of: Callable[..., House], verdict: Verdict):
        house = house_of()
        due(house, GMAIL, "example.org")
        house.ask("new@example.org")
        learn(house, (GMAIL, verdict))
        for letters in (True, False):
            nothing = claim(house, letters=letters)
            assert nothing.items == []
            assert nothing.more_after is not None
            assert nothing.more_after <= timedelta(seconds=20)
        assert known(house, GMAIL) == {}
        let_pass(house, RELAY, timedelta(seconds=20))
        look_again(house)
        assert len(claim(house, letters=False).items) == 1

    def test_five_domains_in_a_row_that_hear_the_same_mean_the_mail_server(self, house_of: Callable[..., House]):
        house = house_of()
        said = [(f"d{number}.example.org", LESS) for number in range(4)]
        learn(house, *said, (GMAIL, YES), *said)
        assert known(house, RELAY) == {}
        learn(house, (GMAIL, LESS))
        assert known(house, RELAY)["level"] == 1

    def test_one_domain_that_says_it_to_many_does_not(self, house_of: Callable[..., House]):
        house = house_of()
        learn(house, *[(GMAIL, LESS)] * 9)
        assert (known(house, RELAY), known(house, GMAIL)["level"]) == ({}, 1)

    @pytest.mark.parametrize(("code", "text"), [(450, ""), (451, "4.3.0 Local error"), (452, "4.3.1 Out of space")])
    def test_a_plain_not_now_counts_where_it_is_said_five_times_in_a_row(
        self, house_of: Callable[..., House], code: int, text: str
    ):
        house = house_of()
        later = verdict_of(Stage.RCPT, code, text, host="mail.example")
        learn(house, *[(GMAIL, later)] * 4, (GMAIL, YES), *[(GMAIL, later)] * 4)
        assert house.rows("destination") == []
        learn(house, (GMAIL, later))
        assert known(house, GMAIL)["level"] == 1
        # What is said while nothing is tried is the same news again; then five more have to say it.
        let_pass(house, GMAIL, timedelta(minutes=2))
        learn(house, *[(GMAIL, later)] * 4)
        assert known(house, GMAIL)["level"] == 1
        learn(house, (GMAIL, later))
        assert known(house, GMAIL)["level"] == 2

    def test_an_acceptance_elsewhere_does_not_end_the_row(self, house_of: Callable[..., House]):
        house = house_of()
        learn(house, *[(GMAIL, LATER), ("example.org", YES)] * 5)
        assert known(house, GMAIL)["level"] == 1
        assert known(house, RELAY) == {}

    def test_five_domains_that_say_it_once_mean_the_mail_server(self, house_of: Callable[..., House]):
        house = house_of()
        learn(house, *[(f"d{number}.example.org", LATER) for number in range(5)])
        assert [row["name"] for row in house.rows("destination")] == [RELAY]

    def test_said_before_a_recipient_it_is_the_mail_servers_own(self, house_of: Callable[..., House]):
        house = house_of()
        full = verdict_of(Stage.MAIL, 452, "4.3.1 Insufficient system storage", host="mail.example")
        learn(house, *[(GMAIL, full)] * 4)
        assert house.rows("destination") == []
        learn(house, ("example.org", full))
        assert [(row["name"], row["level"]) for row in house.rows("destination")] == [(RELAY, 1)]

    @pytest.mark.parametrize(
        ("code", "text"),
        [
            (452, "4.2.2 Mailbox full"),
            (450, "4.2.0 Greylisted"),
            (451, "4.7.1 Greylisting in action"),
            (452, "Over quota"),
        ],
    )
    def test_full_mailboxes_and_greylisting_choke_no_provider(
        self, house_of: Callable[..., House], code: int, text: str
    ):
        house = house_of()
        verdict = verdict_of(Stage.RCPT, code, text, host="mail.example")
        learn(house, *[(GMAIL, verdict)] * 50, *[(f"d{number}.example.org", verdict) for number in range(50)])
        assert house.rows("destination") == []

    def test_few_are_counted_at_a_time(self, house_of: Callable[..., House], monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("newsletter.service.hearing._MOST_BUSY", 2)
        house = house_of()
        learn(house, *[(GMAIL, LATER)] * 4, ("example.net", LATER), ("example.com", LATER), (GMAIL, LATER))
        assert known(house, GMAIL) == {}

    def test_it_recovers_step_by_step_and_writes_nothing_between(self, house_of: Callable[..., House]):
        house = house_of()
        for _ in range(2):
            learn(house, (GMAIL, LESS))
            let_pass(house, GMAIL, timedelta(minutes=2))
        levels = []
        for _ in range(3):
            house.app.pacing._news_from = dict.fromkeys(house.app.pacing._news_from, 0.0)
            learn(house, (GMAIL, YES), (GMAIL, YES))
            before = known(house, GMAIL)
            learn(house, (GMAIL, YES))
            assert known(house, GMAIL) == before
            levels.append(before["level"])
            let_pass(house, GMAIL, timedelta(minutes=2))
        assert levels == [1, 0, 0]

    def test_refusals_that_speak_of_the_reader_or_the_letter_are_no_trouble(self, house_of: Callable[..., House]):
        house = house_of()
        learn(
            house,
            *[(GMAIL, verdict_of(Stage.RCPT, 550, "5.1.1 Nobody here", host="mail.example"))] * 6,
            *[(GMAIL, verdict_of(Stage.RCPT, 452, "4.2.2 Mailbox full", host="mail.example"))] * 6,
            *[(GMAIL, verdict_of(Stage.DOT, 554, "5.6.0 Spam", host="mail.example"))] * 6,
            (GMAIL, Verdict(outcome=Outcome.NO_ANSWER, stage=Stage.DOT, reply_code=None, reply_text="", host="")),
        )
        assert house.rows("destination") == []

    def test_a_page_of_letters_that_are_put_off_hides_no_others(self, house_of: Callable[..., House]):
        house = house_of()
        due(house, *[GMAIL] * 5, "example.org")
        learn(house, (GMAIL, LESS))
        assert [len(claim(house, limit=2).items) for _ in range(3)] == [0, 0, 1]


class TestForgetting:
    def test_destinations_without_trouble_and_without_letters_are_forgotten(self, house_of: Callable[..., House]):
        house = house_of(send_rate="*=1/second")
        due(house, "a.example.org", "b.example.org")
        claim(house)
        learn(house, ("c.example.org", LESS), *[("d.example.org", NOT_YOU)] * 5)
        house.app.housekeeping.keep_house(now=house.now)
        assert {row["name"] for row in house.rows("destination")} >= {"a.example.org", "b.example.org", "c.example.org"}
        for name, days in {"a.example.org": 2, "c.example.org": 8, "d.example.org": 30}.items():
            let_pass(house, name, timedelta(days=days))
        house.app.housekeeping.keep_house(now=house.now)
        left = {row["name"] for row in house.rows("destination")} - {RELAY}
        assert left == {"b.example.org", "d.example.org"}


def test_a_lost_lease_puts_nobody_off(house_of: Callable[..., House]):
    """A worker that was struck off claims nothing, whatever the rate would allow, and uses nothing up."""
    house = house_of(send_rate="1/second")
    due(house, "example.org")
    assert house.app.rescuing.retire(house.worker)
    assert claim(house).items == []
    assert known(house, RELAY)["free_at"] is None
    with house.app.database.read() as connection:
        assert handovers.count_due(connection, now=house.now) == 1
        assert connection.scalar(select(tables.delivery.c.state)) == State.PLANNED
