"""How fast letters may leave, whoever asks and however often; and how a new sender is warmed up."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from newsletter.domain.rates import (
    BURST,
    EVERY_OTHER,
    Line,
    Progress,
    Rate,
    Rates,
    WarmUp,
    line_up,
    progress_on,
    slower,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

NOW = datetime(2026, 11, 26, 7, tzinfo=UTC)
TODAY = date(2026, 11, 26)
SECOND = timedelta(seconds=1)

rates = st.builds(
    Rate,
    letters=st.integers(1, 5000),
    per=st.sampled_from([SECOND, timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)]),
)
a_pause = st.integers(0, 2_000_000).map(lambda microseconds: timedelta(microseconds=microseconds))
asks = st.lists(st.tuples(a_pause, st.integers(1, 300), st.integers(0, 300)), max_size=40)
"""Of workers in any order: the pause before, how many are wanted, and how many of them come back unsent."""


def granted(rate: Rate, asked: Sequence[tuple[timedelta, int, int]]) -> list[tuple[datetime, int]]:
    """What a fleet is granted, and keeps, when it asks like this; the order in which workers ask is this one."""
    now, free_at, found = NOW, None, []
    for pause, wanted, back in asked:
        now += pause
        number = min(wanted, rate.room(free_at, now=now))
        free_at = rate.charge(free_at, number, now=now)
        unsent = min(back, number)
        free_at = rate.refund(free_at, unsent)
        found.append((now, number - unsent))
    return found


class TestRate:
    @given(rate=rates, asked=asks)
    def test_in_no_window_leave_more_than_the_rate_and_one_burst(self, rate: Rate, asked: list):
        found = granted(rate, asked)
        for first, (begin, _) in enumerate(found):
            total = 0
            for at, number in found[first:]:
                total += number
                assert total * rate.interval <= (at - begin) + rate.burst

    @given(rate=rates, asked=asks, pause=a_pause)
    def test_room_is_never_negative_and_grows_with_time(self, rate: Rate, asked: list, pause: timedelta):
        free_at, now = None, NOW
        for step, wanted, _ in asked:
            now += step
            free_at = rate.charge(free_at, wanted, now=now)  # more than there is room for: what people wait for
            assert 0 <= rate.room(free_at, now=now) <= rate.room(free_at, now=now + pause)

    @given(rate=rates, taken=st.integers(0, 500))
    def test_the_next_room_is_exactly_when_there_is_some(self, rate: Rate, taken: int):
        free_at = rate.charge(None, taken, now=NOW)
        at = rate.next_room(free_at, now=NOW)
        assert rate.room(free_at, now=at) >= 1
        if at > NOW:
            assert rate.room(free_at, now=at - timedelta(microseconds=1)) == 0

    @given(rate=rates)
    def test_whoever_asks_often_enough_gets_the_whole_rate(self, rate: Rate):
        steps = 200
        found = granted(rate, [(BURST, 10_000, 0)] * steps)
        passed = found[-1][0] - found[0][0]
        assert sum(number for _, number in found) >= passed // rate.interval

    def test_after_a_rest_a_quarter_of_a_second_may_leave_at_once_and_one_letter(self):
        assert Rate.parse("20/second").room(None, now=NOW) == 20 * BURST / SECOND + 1
        assert Rate.parse("2/day").room(NOW - timedelta(days=9), now=NOW) == 1

    @given(rate=rates, taken=st.integers(1, 500))
    def test_what_is_given_back_can_be_taken_again(self, rate: Rate, taken: int):
        before = rate.room(None, now=NOW)
        free_at = rate.refund(rate.charge(None, taken, now=NOW), taken)
        assert rate.room(free_at, now=NOW) == before

    @pytest.mark.parametrize(
        ("text", "letters", "per"),
        [
            ("20/second", 20, SECOND),
            (" 600 / Minute ", 600, timedelta(minutes=1)),
            ("1/hour", 1, timedelta(hours=1)),
            ("5000/day", 5000, timedelta(days=1)),
        ],
    )
    def test_a_rate_is_written_as_a_number_in_a_span(self, text: str, letters: int, per: timedelta):
        assert Rate.parse(text) == Rate(letters=letters, per=per)

    @pytest.mark.parametrize(
        "text", ["20", "second", "20/fortnight", "-1/second", "1.5/second", "20/s", "", "/second", "٣/second/"]
    )
    def test_what_is_no_rate_is_refused_with_what_to_write(self, text: str):
        with pytest.raises(ValueError, match=r"is no rate; write .* such as 20/second"):
            Rate.parse(text)

    def test_a_rate_of_zero_is_refused_with_what_to_do(self):
        with pytest.raises(ValueError, match=r"'0/hour' would never send anything; .*no limit.*newsletter stop"):
            Rate.parse("0/hour")

    def test_a_rate_beyond_all_is_refused(self):
        with pytest.raises(ValueError, match="more than 10000/second"):
            Rate.parse("10001/second")

    def test_the_slower_of_two_rates_counts_and_none_is_no_limit(self):
        quick, slow = Rate.parse("2/second"), Rate.parse("100/minute")
        assert slower(quick, slow) == slower(slow, quick) == slow
        assert slower(None, quick) == slower(quick, None) == quick
        assert slower(None, None) is None


class TestRates:
    def test_all_letters_some_domains_and_each_other_one(self):
        found = Rates.parse("20/second, GMail.com=5/second,*=600/hour")
        assert found.overall == Rate.parse("20/second")
        assert found.of("gmail.com") == Rate.parse("5/second")
        assert found.of("example.org") == Rate.parse("600/hour")
        assert found.know_domains

    def test_every_part_may_be_missing(self):
        assert Rates.parse("") == Rates()
        assert Rates.parse("20/second").of("gmail.com") is None
        assert not Rates.parse("20/second").know_domains
        assert Rates.parse("gmail.com=5/second").overall is None
        assert Rates.parse(f"{EVERY_OTHER}=5/second").of("gmail.com") == Rate.parse("5/second")

    def test_a_domain_in_its_own_script_is_the_one_that_the_dns_knows(self):
        assert Rates.parse("münchen.de=1/second").of("xn--mnchen-3ya.de") is not None

    @pytest.mark.parametrize("text", ["20/second,30/second", "a.org=1/second,A.ORG=2/second"])
    def test_two_rates_of_the_same_are_refused(self, text: str):
        with pytest.raises(ValueError, match="is the second rate of the same"):
            Rates.parse(text)

    @pytest.mark.parametrize("text", ["=1/second", "a b=1/second", "relay=1/second", "a@b.org=1/second"])
    def test_what_is_no_domain_is_refused(self, text: str):
        with pytest.raises(ValueError, match="is no domain of an address"):
            Rates.parse(text)


class TestLine:
    """Letters to a domain with a rate: those that must wait are told when to come back."""

    def test_a_batch_is_spread_evenly(self):
        rate = Rate.parse("10/second")
        turns, line = line_up(rate, Line(), [False] * 6, now=NOW)
        assert turns[:3] == [None, None, None]
        assert turns[3:] == [NOW + timedelta(milliseconds=50 + 100 * number) for number in range(3)]
        assert line.queued_until == NOW + timedelta(milliseconds=350)

    def test_whoever_comes_first_joins_the_line_behind_those_who_wait(self):
        rate = Rate.parse("10/second")
        _, line = line_up(rate, Line(), [False] * 100, now=NOW)
        later = NOW + timedelta(seconds=2)
        (turn,), _ = line_up(rate, line, [False], now=later)
        assert turn == line.queued_until
        (turn,), _ = line_up(rate, line, [True], now=later)
        assert turn is None

    @given(
        rate=rates,
        batches=st.lists(st.tuples(a_pause, st.integers(1, 30)), min_size=1, max_size=6),
        lateness=st.integers(0, 990),
    )
    def test_a_letter_is_put_off_once_only(self, rate: Rate, batches: list, lateness: int):
        """Who comes back at its turn, or before the next one, finds room, whatever else has come meanwhile.

        Who comes still later may find that others took it: the line had ended.
        """
        late = rate.interval * lateness / 1000
        arrivals = []
        now = NOW
        for pause, number in batches:
            now += pause
            arrivals += [(now, False)] * number
        line, put_off_twice = Line(), 0
        while arrivals:
            arrivals.sort()
            now, has_waited = arrivals.pop(0)
            (turn,), line = line_up(rate, line, [has_waited], now=now)
            if turn is not None:
                assert turn > now
                put_off_twice += has_waited
                arrivals.append((turn + late, True))
        assert put_off_twice == 0

    @given(rate=rates, number=st.integers(1, 30))
    def test_nobody_leaves_before_a_pause_is_over(self, rate: Rate, number: int):
        until = NOW + timedelta(minutes=5)
        turns, _ = line_up(rate, Line(), [True, False] * number, now=NOW, not_before=until)
        assert all(turn is not None and turn >= until for turn in turns)
        assert len(set(turns)) == len(turns)


class TestWarmUp:
    """So many on the first day on which letters leave, more on the next."""

    def test_the_days_grow_until_there_is_no_limit(self):
        plan = WarmUp.parse("50, 100,500")
        assert plan is not None
        assert [plan.allowance(Progress(day=day, on=TODAY, sent=0)) for day in (1, 2, 3, 4)] == [50, 100, 500, None]
        assert plan.allowance(Progress(day=2, on=TODAY, sent=30)) == 70
        assert plan.allowance(Progress(day=2, on=TODAY, sent=130)) == 0
        assert WarmUp.parse(" ") is None

    def test_a_day_on_which_nothing_leaves_is_not_counted(self):
        thursday = progress_on(TODAY, None)
        assert thursday == Progress(day=1, on=TODAY, sent=0)
        next_week = TODAY + timedelta(days=7)
        assert progress_on(next_week, thursday).day == 1
        assert progress_on(next_week, Progress(day=1, on=TODAY, sent=1)) == Progress(day=2, on=next_week, sent=0)

    def test_a_clock_that_goes_back_grants_nothing_anew(self):
        used = Progress(day=3, on=TODAY, sent=500)
        assert progress_on(TODAY - timedelta(days=1), used) == used

    @given(
        days=st.lists(st.integers(1, 100), min_size=1, max_size=5).map(sorted),
        asked=st.lists(st.tuples(st.integers(-1, 3), st.integers(1, 80)), max_size=60),
    )
    def test_no_day_sends_more_than_its_number(self, days: list[int], asked: list[tuple[int, int]]):
        plan, progress, today, sent = WarmUp(days=tuple(days)), None, TODAY, dict[date, int]()
        for step, wanted in asked:
            today += timedelta(days=step)
            progress = progress_on(today, progress)
            allowance = plan.allowance(progress)
            if allowance is None:
                break
            assert allowance >= 0
            number = min(wanted, allowance)
            progress = Progress(day=progress.day, on=progress.on, sent=progress.sent + number)
            sent[progress.on] = sent.get(progress.on, 0) + number
        for number, (_, count) in enumerate(sorted((day, count) for day, count in sent.items() if count)):
            assert count <= days[number]

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("0", "'0' is no number of letters"),
            ("50,x", "'x' is no number of letters"),
            ("-5", "'-5' is no number"),
            ("100,50", "50 is fewer than on the day before"),
        ],
    )
    def test_a_plan_that_cannot_be_is_refused_with_what_to_write(self, text: str, says: str):
        with pytest.raises(ValueError, match=rf"{says}.*such as 50,100,500,1000"):
            WarmUp.parse(text)
