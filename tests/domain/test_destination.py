"""A destination is slowed where it wants less, left alone where it refuses us, and served again when it accepts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from newsletter.domain.destination import (
    FIRST_CLOSURE,
    FIRST_PAUSE,
    LONGEST_CLOSURE,
    LONGEST_PAUSE,
    RECOVER_AFTER,
    REFUSALS_IN_A_ROW,
    SLOWEST,
    TRIAL,
    Destination,
    Waiting,
)
from newsletter.domain.rates import Rate

NOW = datetime(2026, 11, 26, 7, tzinfo=UTC)
NO = "550 5.7.26 not you"
LESS = "450 4.7.28 not so fast"
GMAIL = Destination(name="gmail.com")
FIVE = [Waiting(seed=str(number), has_waited=False) for number in range(5)]


def refused(times: int, *, there: Destination = GMAIL, now: datetime = NOW) -> Destination:
    for _ in range(times):
        there = there.refuse(NO, now=now)
    return there


def slowed(times: int, *, now: datetime = NOW) -> tuple[Destination, datetime]:
    """Slowed again as soon as each pause is over; and the end of the last one."""
    there = GMAIL
    for _ in range(times):
        there = there.slow_down(LESS, now=now)
        assert there.slowed_until is not None
        now = there.slowed_until
    return there, now


class TestCircuit:
    def test_five_refusals_in_a_row_open_it(self):
        assert not refused(4).is_open
        opened = refused(REFUSALS_IN_A_ROW)
        assert opened.is_open
        assert (opened.opened_at, opened.reply) == (NOW, NO)

    def test_an_acceptance_between_begins_the_row_anew(self):
        there = refused(4, there=refused(4).accept(now=NOW))
        assert not there.is_open
        assert refused(1, there=there).is_open

    def test_while_it_is_open_nobody_leaves(self):
        turns, there = refused(5).admit(FIVE, configured=None, now=NOW + timedelta(minutes=40))
        assert all(turn is not None and turn >= NOW + 0.8 * FIRST_CLOSURE for turn in turns)
        assert there == refused(5)

    def test_refusals_of_what_was_under_way_make_it_no_longer(self):
        assert refused(9) == refused(5)

    def test_when_its_time_has_come_one_letter_is_tried_and_the_others_wait_for_its_answer(self):
        opened = refused(5)
        assert opened.retry_at is not None
        turns, trying = opened.admit(FIVE, configured=None, now=opened.retry_at)
        assert turns[0] is None
        assert all(turn is not None and turn >= opened.retry_at + TRIAL for turn in turns[1:])
        assert trying.tried_at == opened.retry_at
        turns, _ = trying.admit(FIVE, configured=None, now=opened.retry_at + timedelta(seconds=1))
        assert None not in turns

    def test_where_the_one_that_was_tried_is_never_heard_of_the_next_one_is(self):
        opened = refused(5)
        assert opened.retry_at is not None
        trying = opened.on_trial(now=opened.retry_at)
        turns, _ = trying.admit(FIVE, configured=None, now=opened.retry_at + TRIAL)
        assert turns.count(None) == 1

    def test_each_trial_that_is_refused_doubles_the_time_from_an_hour_to_a_day(self):
        there, now, waits = refused(5), NOW, []
        for _ in range(8):
            assert there.retry_at is not None
            waits.append(there.retry_at - now)
            now = there.retry_at
            there = there.on_trial(now=now).refuse(NO, now=now)
        for wait, hours in zip(waits, [1, 2, 4, 8, 16, 24, 24, 24], strict=True):
            assert 0.8 <= wait / timedelta(hours=hours) <= 1.2
        assert max(waits) <= LONGEST_CLOSURE
        assert there.opened_at == NOW

    def test_an_acceptance_closes_it_and_all_may_leave(self):
        opened = refused(5)
        assert opened.retry_at is not None
        closed = opened.on_trial(now=opened.retry_at).accept(now=opened.retry_at)
        assert not closed.is_troubled
        assert closed.admit(FIVE, configured=None, now=opened.retry_at)[0] == [None] * 5
        assert refused(4, there=closed).is_open is False


class TestSlowing:
    def test_each_time_it_rests_twice_as_long_within_bounds(self):
        now, there = NOW, GMAIL
        for level in range(1, SLOWEST + 4):
            there = there.slow_down(LESS, now=now)
            assert there.slowed_until is not None
            pause = there.slowed_until - now
            doubled = min(FIRST_PAUSE * 2 ** min(level - 1, SLOWEST - 1), LONGEST_PAUSE)
            assert 0.8 * doubled <= pause <= min(1.2 * doubled, LONGEST_PAUSE)
            now = there.slowed_until
        assert there.level == SLOWEST

    def test_each_time_its_rate_is_halved(self):
        intervals = [slowed(level)[0].rate(None) for level in range(1, SLOWEST + 1)]
        for before, after in pairwise(intervals):
            assert before is not None
            assert after is not None
            assert after.interval == 2 * before.interval

    def test_a_rate_that_was_set_still_counts_where_it_is_lower(self):
        low, high = Rate.parse("1/hour"), Rate.parse("1000/second")
        there, _ = slowed(1)
        assert there.rate(low) == low
        assert there.rate(high) == there.rate(None)
        assert GMAIL.rate(high) == high
        assert GMAIL.rate(None) is None

    def test_letters_under_way_that_hear_the_same_make_it_no_slower(self):
        once = GMAIL.slow_down(LESS, now=NOW)
        assert once.slow_down(LESS, now=NOW + timedelta(seconds=1)) == once

    def test_while_it_rests_nobody_leaves_and_then_one_after_the_other(self):
        there, until = slowed(1)
        turns, _ = there.admit(FIVE, configured=None, now=NOW)
        assert all(turn is not None and turn >= until for turn in turns)
        assert len(set(turns)) == len(turns)

    def test_nobody_waits_for_more_than_some_minutes_where_the_rate_may_soon_rise(self):
        there, until = slowed(SLOWEST)
        crowd = [Waiting(seed=str(number), has_waited=False) for number in range(5000)]
        turns, after = there.admit(crowd, configured=None, now=until)
        assert max(turn for turn in turns if turn is not None) <= until + timedelta(minutes=19)
        assert after.line.queued_until is not None
        assert after.line.queued_until <= until + timedelta(minutes=15)

    def test_an_acceptance_a_minute_later_doubles_its_rate(self):
        there, now = slowed(3)
        assert there.accept(now=NOW) == there
        levels = []
        for _ in range(3):
            now += RECOVER_AFTER
            there = there.accept(now=now)
            levels.append(there.level)
            assert there.accept(now=now + timedelta(seconds=59)) == there
        assert levels == [2, 1, 0]
        assert there.rate(None) is None
        assert there.line.queued_until is None

    def test_an_acceptance_where_there_is_no_trouble_is_no_news(self):
        assert GMAIL.accept(now=NOW) == GMAIL


class TestOperator:
    def test_the_operators_word_ends_all_trouble_and_no_rate(self):
        there = refused(5, there=slowed(4)[0]).let_go(7, configured=Rate.parse("1/second"), now=NOW)
        forgiven = there.forgive()
        assert not forgiven.is_troubled
        assert forgiven.line.free_at == there.line.free_at
        assert forgiven.kept_until(now=NOW) is None


steps = st.lists(st.tuples(st.sampled_from(["refuse", "slow", "accept", "ask"]), st.integers(0, 7200)), max_size=80)


@given(steps=steps)
def test_whatever_is_said_the_rules_hold(steps: list[tuple[str, int]]):
    """Levels stay within bounds, a circuit is open only after five in a row, and every wait has an end."""
    there, now, in_a_row = GMAIL, NOW, 0
    for what, seconds in steps:
        now += timedelta(seconds=seconds)
        match what:
            case "refuse":
                there, in_a_row = there.refuse(NO, now=now), in_a_row + 1
            case "accept":
                there, in_a_row = there.accept(now=now), 0
            case "slow":
                there = there.slow_down(LESS, now=now)
            case _:
                turns, there = there.admit(FIVE, configured=None, now=now)
                assert all(turn is None or turn > now for turn in turns)
                assert not there.is_open or turns.count(None) <= 1
        assert 0 <= there.level <= SLOWEST
        assert there.is_open == (in_a_row >= REFUSALS_IN_A_ROW)
        assert there.is_open == (there.retry_at is not None)
        kept = there.kept_until(now=now)
        assert kept is None or now < kept <= now + LONGEST_CLOSURE
