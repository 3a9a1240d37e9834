"""When a refused email is tried again, and when it is given up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from newsletter.domain.retry import FIRST_PAUSE, LONGEST_PAUSE, MAX_ATTEMPTS, next_attempt

NOW = datetime(2026, 11, 26, 7, tzinfo=UTC)

a_seed = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
an_attempt = st.integers(1, MAX_ATTEMPTS - 1)


def pause(attempt: int, seed: str) -> timedelta:
    at = next_attempt(attempt, now=NOW, seed=seed)
    assert at is not None
    return at - NOW


@given(attempt=an_attempt, seed=a_seed)
def test_a_pause_lasts_five_minutes_to_four_hours(attempt: int, seed: str):
    assert timedelta(minutes=5) <= pause(attempt, seed) <= timedelta(hours=4)


@given(attempt=an_attempt, seed=a_seed)
def test_a_pause_is_the_doubled_one_give_or_take_a_fifth(attempt: int, seed: str):
    doubled = min(FIRST_PAUSE * 2 ** (attempt - 1), LONGEST_PAUSE)
    assert doubled * 0.8 <= pause(attempt, seed) <= doubled * 1.2


@given(seed=a_seed)
def test_the_pauses_grow_until_they_are_near_the_longest(seed: str):
    pauses = [pause(attempt, seed) for attempt in range(1, MAX_ATTEMPTS)]
    assert pauses[:7] == sorted(set(pauses[:7]))
    assert all(later >= LONGEST_PAUSE * 0.8 for later in pauses[6:])


@given(attempt=an_attempt, seed=a_seed, other=a_seed)
def test_the_same_arguments_give_the_same_instant_and_another_seed_another_one(attempt: int, seed: str, other: str):
    assert pause(attempt, seed) == pause(attempt, seed)
    assert (pause(attempt, seed) == pause(attempt, other)) == (seed == other)


def test_the_jitter_is_the_same_on_every_machine():
    assert pause(1, "0192f0c1") == timedelta(seconds=300, microseconds=480843)


def test_letters_refused_together_do_not_come_back_together():
    for attempt in range(1, MAX_ATTEMPTS):
        pauses = [pause(attempt, f"delivery {n}") for n in range(2000)]
        tenth = (max(pauses) - min(pauses)) / 10
        assert tenth >= timedelta(seconds=5)
        for n in range(10):
            begin = min(pauses) + n * tenth
            assert 120 < sum(begin <= one < begin + tenth for one in pauses) < 280


@given(attempt=an_attempt, seed=a_seed, later=st.timedeltas(timedelta(0), timedelta(days=3000)))
def test_a_pause_is_counted_from_now(attempt: int, seed: str, later: timedelta):
    assert next_attempt(attempt, now=NOW + later, seed=seed) == NOW + later + pause(attempt, seed)


@given(seed=a_seed)
def test_a_letter_is_given_up_after_about_three_days(seed: str):
    at, attempt = NOW, 1
    while (following := next_attempt(attempt, now=at, seed=seed)) is not None:
        at, attempt = following, attempt + 1
    assert attempt == MAX_ATTEMPTS
    assert timedelta(days=2.5) < at - NOW < timedelta(days=3.5)


@pytest.mark.parametrize("attempt", [MAX_ATTEMPTS, MAX_ATTEMPTS + 1, 10**6])
def test_what_is_given_up_stays_given_up(attempt: int):
    assert next_attempt(attempt, now=NOW, seed="x") is None


@pytest.mark.parametrize("attempt", [0, -1])
def test_what_was_never_tried_is_not_tried_again(attempt: int):
    with pytest.raises(ValueError, match="nothing to try again"):
        next_attempt(attempt, now=NOW, seed="x")
