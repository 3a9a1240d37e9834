"""From "due" to a letter: when it is planned, for whom, and what a full week or a late hour does to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import pairwise
from threading import Barrier, Thread
from typing import ClassVar
from zoneinfo import ZoneInfo

import pytest

from newsletter.domain.delivery import State as DeliveryState
from newsletter.domain.subscription import State
from newsletter.store import subscriptions
from tests.support.building import House, Reader, letter, local
from tests.support.smtp_server import Reply, Session, SmtpServer

HOURS = timedelta(hours=1)


@dataclass(frozen=True)
class Meanwhile:
    """Something happens while the mail server takes its time."""

    action: Callable[[], object]
    speaks: ClassVar[bool] = False

    def take(self, session: Session) -> None:
        self.action()


@pytest.fixture
def series(house: House) -> House:
    """A house with a series of three letters."""
    house.sequence("trust", "one", "two", "three")
    house.publish()
    return house


def arrivals(reader: Reader, zone: str = "Europe/Berlin") -> list[str]:
    """When each letter left, on the reader's wall clock."""
    return [f"{mail.date.astimezone(ZoneInfo(zone)):%a %d %b %H:%M}" for mail in reader.letters()]


class TestTheSlot:
    """A letter leaves at its reader's slot, one a week, in order."""

    def test_letters_come_one_a_week_in_order(self, series: House):
        """A series of three takes three weeks, at the slot, and is over."""
        maria = series.reader()
        series.live(weeks=5)
        assert maria.steps() == ["one", "two", "three"]
        assert arrivals(maria) == ["Tue 24 Nov 09:00", "Tue 01 Dec 09:00", "Tue 08 Dec 09:00"]
        assert (maria.state(), maria.due()) == (State.FINISHED, None)

    def test_nothing_leaves_before_its_time(self, series: House):
        """A second before the slot nothing is planned; at the slot it is."""
        maria = series.reader()
        series.at(local("2026-11-24 09:00") - timedelta(seconds=1))
        assert (series.plan(), series.work()) == (0, 0)
        series.later(seconds=1)
        assert series.work() == 1
        assert maria.steps() == ["one"]

    def test_each_reader_has_their_own_clock(self, series: House):
        """The same slot in other zones is another instant; clocks that change move nobody's hour."""
        series.at("2027-03-22 12:00")
        readers = {
            zone: series.reader(f"{zone[-4:].lower()}@example.org", zone=zone)
            for zone in ("Europe/Berlin", "America/New_York", "Asia/Tokyo")
        }
        series.live(weeks=2)
        for zone, reader in readers.items():
            assert arrivals(reader, zone) == ["Tue 23 Mar 09:00", "Tue 30 Mar 09:00"]
        berlin = [mail.date for mail in readers["Europe/Berlin"].letters()]
        assert berlin[1] - berlin[0] == timedelta(days=7) - HOURS

    def test_two_weeks_never_come_at_once(self, series: House):
        """After three weeks of silence there is one letter, the next in the series, and a week to the one after."""
        maria = series.reader()
        series.at("2026-12-15 12:00")
        assert series.work() == 1
        assert series.work() == 0
        series.live(weeks=2)
        assert arrivals(maria) == ["Tue 15 Dec 12:00", "Tue 22 Dec 09:00", "Tue 29 Dec 09:00"]

    def test_nothing_is_planned_while_nothing_is_published(self, house: House):
        """Without a revision there is nothing to plan."""
        assert house.plan() == 0


class TestPlanningTwice:
    """A tick too many changes nothing."""

    def test_planning_again_changes_nothing(self, series: House):
        """A second look at the same instant plans nothing more."""
        series.reader()
        series.at("2026-11-24 09:00")
        assert series.plan() == 1
        before = series.everything()
        assert series.plan() == 0
        assert series.everything() == before

    def test_many_schedulers_plan_each_letter_once(self, series: House, open_house: Callable[..., House]):
        """Four processes that plan in the same moment plan each reader's letter exactly once."""
        for number in range(24):
            series.reader(f"reader-{number}@example.org")
        houses = [series, *(open_house() for _ in range(3))]
        for house in houses:
            house.at("2026-11-24 09:00")
        planned: list[int] = []
        start = Barrier(len(houses))

        def plan(house: House) -> None:
            start.wait()
            planned.append(house.plan())

        threads = [Thread(target=plan, args=(house,)) for house in houses]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # Readers whom another process had locked are planned at the next tick.
        assert sum(planned) + series.plan() == 24
        assert len(series.rows("delivery")) == 24

    def test_planning_can_be_told_to_stop(self, series: House):
        """A process that is to end plans no further batch."""
        series.reader()
        series.at("2026-11-24 09:00")
        assert series.app.planning.plan_due(now=series.now, stop=lambda: True) == 0


class TestAfter:
    """A step's own distance to the letter before it."""

    def test_a_step_comes_so_many_days_after_the_last(self, house: House):
        """With `after: 3 days` a letter comes at slot time on that local date, on any weekday."""
        house.sequence("trust", "one", letter("two", after="3 days"), "three")
        house.publish()
        maria = house.reader()
        house.live(weeks=3)
        assert arrivals(maria) == ["Tue 24 Nov 09:00", "Fri 27 Nov 09:00", "Tue 08 Dec 09:00"]
        assert maria.subscription().due_rule is None

    def test_the_first_letter_waits_for_no_distance(self, house: House):
        """`after` on a first letter means nothing."""
        house.sequence("trust", letter("one", after="9 days"), "two")
        house.publish()
        maria = house.reader()
        house.live(weeks=1)
        assert arrivals(maria) == ["Tue 24 Nov 09:00"]

    def test_a_day_is_the_least_there_is(self, house: House):
        """With `after: 1 day` letters come on following days, across a clock change, too."""
        house.sequence("trust", "one", *(letter(key, after="1 day") for key in ("two", "three", "four")))
        house.publish()
        house.at("2027-03-26 12:00")
        maria = house.reader(slot="sat 02:30")
        house.live(weeks=1)
        assert arrivals(maria) == ["Sat 27 Mar 02:30", "Sun 28 Mar 03:30", "Mon 29 Mar 02:30", "Tue 30 Mar 02:30"]


class TestTheGap:
    """Five days at least between two letters of a series."""

    def test_another_slot_keeps_the_distance(self, series: House):
        """After a change of slot the next letter goes at the first one that is five days after the last."""
        maria = series.reader()
        series.live("2026-11-24 10:00")
        maria.change(slot="thu 18:00")
        assert maria.due() == local("2026-12-03 18:00")
        maria.change(slot="mon 07:00")
        assert maria.due() == local("2026-11-30 07:00")
        series.live(weeks=2)
        assert arrivals(maria) == ["Tue 24 Nov 09:00", "Mon 30 Nov 07:00", "Mon 07 Dec 07:00"]

    def test_a_slot_change_between_planning_and_sending_is_heeded(self, series: House):
        """A planned letter whose reader chooses another slot waits for that."""
        maria = series.reader()
        series.at("2026-11-24 09:00")
        assert series.plan() == 1
        maria.change(slot="fri 09:00")
        assert series.work() == 0
        assert maria.delivery().state is DeliveryState.WITHDRAWN
        series.live(weeks=1)
        assert arrivals(maria) == ["Fri 27 Nov 09:00"]
        assert len(maria.deliveries()) == 1

    def test_a_letter_planned_too_soon_waits_for_a_later_slot(self, series: House):
        """The gap is checked again in the handover: what would come too soon goes at its next slot."""
        maria = series.reader()
        series.live("2026-11-25 12:00")
        record = maria.subscription()
        with series.app.database.write() as connection:
            too_soon = replace(record, next_due_at=local("2026-11-26 09:00"))
            assert subscriptions.save_subscription(connection, record, too_soon)
        series.live("2026-11-27 12:00")
        assert maria.steps() == ["one"]
        assert maria.due() == local("2026-12-01 09:00")
        assert [event.detail["reason"] for event in maria.story("moved")] == ["too soon after the last letter"]
        series.live(weeks=2)
        assert maria.steps() == ["one", "two", "three"]


class TestLate:
    """A letter more than two hours behind its slot."""

    def test_a_late_letter_leaves_in_waking_hours(self, series: House):
        """After an outage over a night a letter waits for eight in the morning, and its reader can see why."""
        maria = series.reader(slot="tue 20:00")
        series.at("2026-11-24 23:30")
        assert series.work() == 0
        series.live(days=1)
        assert arrivals(maria) == ["Wed 25 Nov 08:00"]
        (late,) = maria.story("late")
        assert late.detail["leaves_from"] == local("2026-11-25 08:00").isoformat()
        assert maria.due() == local("2026-12-01 20:00")

    def test_a_late_letter_leaves_at_once_by_day(self, series: House):
        """In waking hours a late letter leaves as soon as it can."""
        maria = series.reader()
        series.at("2026-11-24 19:59")
        assert series.work() == 1
        assert arrivals(maria) == ["Tue 24 Nov 19:59"]

    def test_two_hours_are_not_late(self, series: House):
        """Within two hours of its slot a letter leaves at any hour: the reader chose it."""
        maria = series.reader(slot="tue 03:00")
        series.at("2026-11-24 05:00")
        assert series.work() == 1
        assert arrivals(maria) == ["Tue 24 Nov 05:00"]

    def test_a_letter_that_becomes_late_while_it_waits_is_held_over_night(self, series: House, post: SmtpServer):
        """A retry that falls into the night, too late for the slot, waits for the morning."""
        maria = series.reader(slot="tue 22:30")
        post.script("rcpt", Reply(451, "4.2.0 Later"))
        series.live("2026-11-25 01:30")
        assert maria.steps() == []
        post.forget_scripts()
        series.live("2026-11-25 12:00")
        assert arrivals(maria) == ["Wed 25 Nov 08:00"]

    def test_where_late_letters_are_skipped_that_week_passes(self, open_house: Callable[..., House]):
        """With LATE=skip a late letter waits for its next slot, and the step is kept."""
        house = open_house(late="skip")
        house.sequence("trust", "one", "two")
        house.publish()
        maria = house.reader()
        house.at("2026-11-24 11:01")
        assert house.work() == 0
        assert maria.due() == local("2026-12-01 09:00")
        (skipped,) = maria.story("skipped")
        assert skipped.detail["reason"] == "late"
        house.live(weeks=2)
        assert maria.steps() == ["one", "two"]
        assert arrivals(maria) == ["Tue 01 Dec 09:00", "Tue 08 Dec 09:00"]

    def test_where_late_letters_are_skipped_a_planned_one_is_too(
        self, open_house: Callable[..., House], post: SmtpServer
    ):
        """With LATE=skip a letter that became late after it was planned is withdrawn, and comes a week later."""
        house = open_house(late="skip")
        house.sequence("trust", "one", "two")
        house.publish()
        maria = house.reader()
        post.script("rcpt", Reply(451, "4.2.0 Later"))
        house.at("2026-11-24 09:00")
        house.work()
        post.forget_scripts()
        house.at("2026-11-24 12:00")
        assert house.work() == 0
        assert maria.due() == local("2026-12-01 09:00")
        house.live(weeks=1)
        assert arrivals(maria) == ["Tue 01 Dec 09:00"]
        assert len(maria.deliveries()) == 1


class TestTheCap:
    """One letter a reader and local week, over all sequences."""

    @pytest.fixture
    def two(self, house: House) -> House:
        """A house with a finite series of two letters and a note without end."""
        house.sequence("trust", "one", "two")
        house.sequence("note", "a", "b", on_finish="repeat")
        house.publish()
        return house

    def test_a_finite_series_comes_first_and_the_note_waits_its_turn(self, two: House):
        """While a series runs, the note finds no room; then it goes on, one letter a week in all."""
        maria = two.reader("maria@example.org", "note", "trust")
        two.live(weeks=5)
        assert [mail.step for mail in maria.letters()] == ["trust/one", "trust/two", "note/a", "note/b", "note/a"]
        assert arrivals(maria)[:3] == ["Tue 24 Nov 09:00", "Tue 01 Dec 09:00", "Tue 08 Dec 09:00"]
        moves = maria.story("moved")
        assert {event.detail["reason"] for event in moves} == {"cap"}
        assert [event.detail["to"] for event in moves] == [
            local("2026-12-01 09:00").isoformat(),
            local("2026-12-08 09:00").isoformat(),
        ]

    def test_of_two_without_end_the_longest_unserved_comes_first(self, house: House):
        """Two notes of one reader take turns."""
        house.sequence("note", "a", "b", on_finish="repeat")
        house.sequence("song", "x", "y", on_finish="repeat")
        house.publish()
        maria = house.reader("maria@example.org", "note", "song")
        house.live(weeks=6)
        assert [mail.step for mail in maria.letters()] == ["note/a", "song/x", "note/b", "song/y", "note/a", "song/x"]

    def test_of_two_series_the_one_longest_unserved_comes_first(self, house: House):
        """Two finite series of one reader take turns, too."""
        house.sequence("trust", "one", "two")
        house.sequence("anger", "red", "blue")
        house.publish()
        maria = house.reader("maria@example.org", "trust", "anger")
        house.live(weeks=5)
        assert [mail.step for mail in maria.letters()] == ["trust/one", "anger/red", "trust/two", "anger/blue"]

    def test_a_letter_of_another_series_in_the_same_week_counts(self, two: House):
        """A sequence that is confirmed after this week's letter waits for the next week."""
        maria = two.reader(slot="tue 09:00")
        two.live("2026-11-25 12:00")
        two.reader("maria@example.org", "note")
        maria.change(slot="fri 09:00")
        two.live("2026-11-29 12:00")
        assert [mail.step for mail in maria.letters()] == ["trust/one"]

    def test_a_steps_own_distance_may_exceed_the_cap(self, house: House):
        """A letter with `after` of its own comes although the week has one."""
        house.sequence("trust", "one", letter("two", after="2 days"))
        house.sequence("note", "a", on_finish="repeat")
        house.publish()
        maria = house.reader("maria@example.org", "trust", "note")
        house.live("2026-11-29 12:00")
        assert [mail.step for mail in maria.letters()] == ["trust/one", "trust/two"]

    def test_readers_do_not_take_each_others_room(self, two: House):
        """The cap is each reader's own."""
        readers = [two.reader(f"{name}@example.org", "trust", "note") for name in "ab"]
        two.live(weeks=1)
        assert [reader.steps() for reader in readers] == [["one"], ["one"]]

    def test_a_week_is_the_readers_own(self, house: House):
        """A letter on a Sunday evening and one on the Monday after are in two weeks, by the reader's clock."""
        house.sequence("trust", "one", "two")
        house.sequence("note", "a", on_finish="repeat")
        house.publish()
        maria = house.reader("maria@example.org", "trust", slot="sun 23:30", zone="Pacific/Auckland")
        house.live(local("2026-11-29 23:45", "Pacific/Auckland"))
        assert maria.steps() == ["one"]
        house.reader("maria@example.org", "note", zone="Pacific/Auckland")
        maria.change(slot="mon 00:10")
        house.live(local("2026-11-30 01:00", "Pacific/Auckland"))
        assert maria.steps("note") == ["a"]


class TestTheEnd:
    """What happens when the last letter was accepted."""

    def test_stop_ends_it(self, series: House):
        """A series that stops finishes with its last letter; nothing is due any more."""
        maria = series.reader()
        series.live(weeks=4)
        assert maria.state() is State.FINISHED
        assert series.next_instant() is None
        assert [event.kind for event in maria.story()][-1] == "finished"

    def test_repeat_begins_the_next_round(self, house: House):
        """A sequence that repeats goes through the same letters again, round after round."""
        house.sequence("trust", "one", "two", on_finish="repeat")
        house.publish()
        maria = house.reader()
        house.live(weeks=7)
        assert maria.steps() == ["one", "two", "one", "two", "one", "two", "one"]
        assert maria.subscription().round == 4
        assert [item.round for item in maria.deliveries()] == [1, 1, 2, 2, 3, 3, 4]
        assert maria.state() is State.ACTIVE

    def test_hold_waits_for_growth(self, house: House):
        """A sequence that holds waits after its last letter, with nothing due."""
        house.sequence("trust", "one", on_finish="hold")
        house.publish()
        maria = house.reader()
        house.live(weeks=3)
        assert (maria.steps(), maria.state(), maria.due()) == (["one"], State.WAITING, None)

    def test_continue_with_goes_on_at_the_same_slot(self, house: House):
        """After the last letter the next sequence follows a week later, at the same slot."""
        house.sequence("trust", "one", "two", on_finish="{continue_with: note}")
        house.sequence("note", "a", "b", on_finish="repeat")
        house.publish()
        maria = house.reader(slot="sat 18:00")
        house.live(weeks=5)
        assert [mail.step for mail in maria.letters()] == ["trust/one", "trust/two", "note/a", "note/b", "note/a"]
        dates = [mail.date for mail in maria.letters()]
        assert {later - sooner for sooner, later in pairwise(dates)} == {timedelta(days=7)}
        assert (maria.state("trust"), maria.state("note")) == (State.FINISHED, State.ACTIVE)
        assert maria.story("continued")

    def test_continue_with_keeps_the_distance(self, house: House):
        """The first letter of what follows keeps five days to the last letter of what went before."""
        house.sequence("trust", "one", on_finish="{continue_with: note}")
        house.sequence("note", "a", on_finish="repeat")
        house.publish()
        maria = house.sign_up(start_now=True, slot="thu 09:00")
        house.live(weeks=2)
        assert arrivals(maria) == ["Mon 23 Nov 12:00", "Thu 03 Dec 09:00"]

    @pytest.mark.parametrize("left", [True, False])
    def test_continue_with_does_nothing_where_the_reader_has_it_or_left_it(self, house: House, left: bool):
        """Whoever has the following sequence, or ever left it, is not subscribed anew."""
        house.sequence("trust", "one", on_finish="{continue_with: note}")
        house.sequence("note", "a", on_finish="repeat")
        house.publish()
        maria = house.reader("maria@example.org", "trust", "note")
        if left:
            maria.leave("note", only_this=True)
        house.live("2026-11-24 12:00")
        assert maria.state("trust") is State.FINISHED
        assert len(maria.subscriptions()) == 2
        assert maria.state("note") is (State.LEFT if left else State.ACTIVE)
        assert maria.story("continued") == []

    def test_leaving_during_the_series_starts_no_successor(self, house: House):
        """Whoever leaves the series gets nothing of what would have followed."""
        house.sequence("trust", "one", "two", on_finish="{continue_with: note}")
        house.sequence("note", "a", on_finish="repeat")
        house.publish()
        maria = house.reader()
        house.live("2026-11-24 12:00")
        maria.leave(only_this=True)
        house.live(weeks=4)
        assert [mail.step for mail in maria.letters()] == ["trust/one"]
        assert len(maria.subscriptions()) == 1


class TestTheStart:
    """When the first letter leaves."""

    def test_the_first_letter_can_come_at_once(self, series: House):
        """Where the reader wants it now it leaves at once, and the second at the first slot five days on."""
        maria = series.sign_up(start_now=True, slot="tue 09:00")
        series.work()
        assert maria.steps() == ["one"]
        assert maria.due() == local("2026-12-01 09:00")
        series.live(weeks=3)
        assert arrivals(maria) == ["Mon 23 Nov 12:00", "Tue 01 Dec 09:00", "Tue 08 Dec 09:00"]

    def test_the_first_letter_can_wait_for_the_slot(self, series: House):
        """Where the reader waits for their slot nothing leaves before."""
        maria = series.sign_up(start_now=False, slot="tue 09:00")
        series.work()
        assert (maria.steps(), maria.due()) == ([], local("2026-11-24 09:00"))

    @pytest.mark.parametrize(("start", "at_once"), [("at_once", True), ("first_slot", False)])
    @pytest.mark.parametrize("asked_for_now", [True, False])
    def test_a_sequence_may_leave_no_choice(self, house: House, start: str, at_once: bool, asked_for_now: bool):
        """`start: at_once` and `start: first_slot` count whatever button was pressed."""
        house.sequence("trust", "one", "two", start=start)
        house.publish()
        maria = house.sign_up(start_now=asked_for_now)
        house.work()
        assert maria.steps() == (["one"] if at_once else [])


class TestAClockThatJumps:
    """What a clock that was ahead did is set right after a day; one that is behind destroys nothing."""

    def test_a_letter_of_the_future_counts_as_of_when_the_clock_was_right_again(self, series: House):
        """The clock was a month ahead when a letter left; nobody waits for that month."""
        maria = series.reader()
        series.at("2026-12-24 09:00")
        assert series.work() == 1
        assert maria.due() == local("2026-12-29 09:00")
        series.at("2026-11-24 09:05")
        series.plan()
        series.later(days=1)
        series.plan()
        assert maria.subscription().last_letter_at == local("2026-11-24 09:05")
        assert maria.due() == local("2026-12-01 09:00")
        series.live(weeks=3)
        assert maria.steps() == ["one", "two", "three"]

    def test_a_letter_that_was_put_off_into_the_future_leaves_at_last(self, series: House, post: SmtpServer):
        """Refused for now while the clock was ahead, it does not wait for that instant again."""
        maria = series.reader()
        post.script("rcpt", Reply(451, "4.2.0 Later"), times=1)
        series.at("2026-12-24 09:00")
        assert series.work() == 0
        series.at("2026-11-24 09:05")
        assert series.work() == 0
        series.later(days=1)
        assert series.work() == 1
        assert maria.steps() == ["one"]

    def test_a_letter_planned_too_early_waits_for_its_slot(self, series: House):
        """Planned while the clock was ahead, it leaves when its slot comes."""
        maria = series.reader()
        series.at("2026-12-24 23:00")
        assert series.plan() == 1
        series.at("2026-11-20 12:00")
        assert series.work() == 0
        series.later(days=1)
        assert series.work() == 0
        assert maria.delivery().next_try_at == local("2026-11-24 09:00")
        series.at("2026-11-24 09:00")
        assert series.work() == 1

    def test_a_clock_that_falls_back_for_hours_moves_nobody(self, series: House):
        """It is the clock that is wrong, not the letters: right again, each next one is where it was."""
        maria = series.reader()
        series.at("2026-11-24 09:00")
        assert series.work() == 1
        series.at("2026-10-24 09:00")
        assert series.work() == 0
        series.later(hours=20)
        assert series.work() == 0
        series.at("2026-11-24 10:00")
        assert series.work() == 0
        assert maria.due() == local("2026-12-01 09:00")

    def test_no_letter_is_accepted_before_its_slot(self, series: House, post: SmtpServer):
        """The clock fell back while a letter was in hand: the next one is due a week after the slot all the same."""
        maria = series.reader()
        series.at("2026-11-24 09:00")
        post.script("dot", Meanwhile(lambda: series.at("2026-10-24 09:00")), times=1)
        assert series.work() == 1
        assert maria.due() == local("2026-12-01 09:00")

    def test_clocks_that_differ_by_minutes_move_nothing(self, series: House):
        """Another host's clock may be somewhat ahead."""
        maria = series.reader()
        series.at("2026-11-24 09:10")
        assert series.work() == 1
        series.at("2026-11-24 09:01")
        series.plan()
        assert maria.subscription().last_letter_at == local("2026-11-24 09:10")
