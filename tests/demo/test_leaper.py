"""The clock stands while there is something to do, and leaps when there is not."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from newsletter.demo.leaper import Leaper, Stance, StandstillError
from newsletter.scheduler import drain
from newsletter.service.subscribing import SignUp

if TYPE_CHECKING:
    from newsletter.bootstrap import App
    from newsletter.clock import FixedClock

THURSDAY = datetime(2026, 11, 26, 8, tzinfo=UTC)


def leaper(app: App, clock: FixedClock, **options: float) -> Leaper:
    return Leaper(app, clock, **{"week_seconds": 0.0, "standstill_seconds": 0.1, **options})


def test_with_nothing_due_it_leaps_to_where_it_is_told(app: App, clock: FixedClock) -> None:
    until = clock.now() + timedelta(days=40)
    leaper(app, clock).advance(until)
    assert clock.now() == until


@pytest.mark.usefixtures("reader")
def test_it_stops_at_what_is_due_on_the_way_and_stands_there(app: App, clock: FixedClock) -> None:
    with pytest.raises(StandstillError, match="has not left"):
        leaper(app, clock).advance(clock.now() + timedelta(days=40))
    assert clock.now() == THURSDAY


@pytest.mark.usefixtures("reader")
def test_it_goes_on_once_the_letter_has_left(app: App, clock: FixedClock) -> None:
    clock.set(THURSDAY)
    assert not leaper(app, clock).look().is_quiet
    drain(app)
    view = leaper(app, clock).look()
    assert view.is_quiet
    assert view.next_at == THURSDAY + timedelta(weeks=1)


@pytest.mark.usefixtures("reader")
def test_drifting_leaps_to_the_next_due_instant(app: App, clock: FixedClock) -> None:
    leaper(app, clock).drift()
    assert clock.now() == THURSDAY


def test_drifting_stands_where_nothing_is_due(app: App, clock: FixedClock) -> None:
    before = clock.now()
    drifting = leaper(app, clock)
    drifting.drift()
    assert clock.now() == before
    assert drifting.stance is Stance.IDLE


@pytest.mark.usefixtures("reader")
def test_a_week_takes_its_seconds(app: App, clock: FixedClock) -> None:
    began = time.monotonic()
    leaper(app, clock, week_seconds=2.0).advance(clock.now() + timedelta(days=1))
    assert 0.25 <= time.monotonic() - began < 1.5


@pytest.mark.usefixtures("reader")
def test_it_stands_for_somebody_who_was_asked_to_confirm_and_not_for_ever(app: App, clock: FixedClock) -> None:
    app.subscribing.request(SignUp(email="visitor@example.net"), now=clock.now())
    drain(app)
    before, told = clock.now(), []
    patient = Leaper(app, clock, week_seconds=0.0, patience_seconds=0.3, on_asked=lambda: told.append(clock.now()))
    patient.drift()
    patient.drift()
    assert clock.now() == before
    assert patient.stance is Stance.ASKED
    assert told == [before]
    time.sleep(0.3)
    patient.drift()
    assert clock.now() == THURSDAY


def test_the_story_need_not_wait_for_its_own_reader(app: App, clock: FixedClock) -> None:
    app.subscribing.request(SignUp(email="visitor@example.net"), now=clock.now())
    drain(app)
    until = clock.now() + timedelta(minutes=2)
    leaper(app, clock).advance(until, patient=False)
    assert clock.now() == until


def test_the_story_goes_on_when_a_visitor_does_not_confirm(app: App, clock: FixedClock) -> None:
    app.subscribing.request(SignUp(email="visitor@example.net"), now=clock.now())
    drain(app)
    until = clock.now() + timedelta(days=1)
    leaper(app, clock, patience_seconds=0.2).advance(until)
    assert clock.now() == until
