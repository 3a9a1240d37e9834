"""Business time is asked for, never assumed: the machine's, a file's, or whatever somebody set."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from threading import Timer

import pytest

from newsletter.clock import FileClock, FixedClock, SystemClock
from newsletter.errors import SettingsError

NOON = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)


def test_the_system_clock_tells_the_machines_time_in_utc():
    """It is aware, in UTC, and does not stand still."""
    before = datetime.now(UTC)
    told = SystemClock().now()
    assert before <= told <= datetime.now(UTC)
    assert told.utcoffset() == timedelta()


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-26T12:00:00+00:00",
        "2026-11-26T12:00:00Z",
        "2026-11-26T13:00:00+01:00\n",
        "  2026-11-26 07:00:00-05:00  ",
    ],
)
def test_a_file_holds_an_instant_in_any_offset(tmp_path: Path, text: str):
    """Whichever offset it is written with, it is told in UTC."""
    (tmp_path / "clock").write_text(text, encoding="utf-8")
    told = FileClock(tmp_path / "clock").now()
    assert told == NOON
    assert told.utcoffset() == timedelta()


def test_a_file_is_read_again_each_time(tmp_path: Path):
    """Who writes another instant into it moves the clock, forth and back."""
    file = tmp_path / "clock"
    clock = FileClock(file)
    for instant in (NOON, NOON + timedelta(weeks=1), NOON - timedelta(days=3)):
        file.write_text(instant.isoformat(), encoding="utf-8")
        assert clock.now() == instant


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("tomorrow", "no instant"),
        ("2026-13-01T00:00:00+00:00", "no instant"),
        ("2026-11-26T12:00:00", "no offset"),
        ("2026-11-26", "no offset"),
    ],
)
def test_a_file_with_anything_else_is_refused(tmp_path: Path, text: str, advice: str):
    """The refusal names the setting, the file and what is wrong; nobody's zone is guessed."""
    file = tmp_path / "clock"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=advice) as refusal:
        FileClock(file).now()
    assert "NEWSLETTER_CLOCK" in str(refusal.value)
    assert str(file) in str(refusal.value)


def test_a_missing_file_is_refused(tmp_path: Path):
    """There is no falling back to the machine's time."""
    with pytest.raises(SettingsError, match="cannot be read"):
        FileClock(tmp_path / "nowhere").now()


def test_a_file_that_is_being_written_is_waited_for(tmp_path: Path):
    """Found empty, it is looked at again for a moment; one that stays empty is refused."""
    file = tmp_path / "clock"
    file.write_text("", encoding="utf-8")
    writer = Timer(0.05, lambda: file.write_text(NOON.isoformat(), encoding="utf-8"))
    writer.start()
    assert FileClock(file).now() == NOON
    writer.join()
    file.write_text("", encoding="utf-8")
    with pytest.raises(SettingsError, match="no instant"):
        FileClock(file).now()


def test_a_fixed_clock_stands_until_it_is_set():
    """It tells what it was last set to, in UTC."""
    clock = FixedClock(NOON)
    assert clock.now() == clock.now() == NOON
    clock.set(datetime(2026, 12, 1, 9, 0, tzinfo=timezone(timedelta(hours=1))))
    assert clock.now() == datetime(2026, 12, 1, 8, 0, tzinfo=UTC)
    assert clock.now().utcoffset() == timedelta()
