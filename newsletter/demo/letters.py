"""What is looked at in each letter that comes."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from newsletter.demo.expectations import Key, Ledger
from newsletter.domain.cadence import local_week

if TYPE_CHECKING:
    from datetime import date, time

    from newsletter.demo.mailbox import Mail

_WELCOME_BACK = "Welcome back"
_THURSDAY = 3


class Check:
    """Holds letters against the expectations.

    Args:
        timezone: the reader's.
        slot: the reader's local time on Thursdays.
    """

    def __init__(self, ledger: Ledger, *, timezone: str, slot: time) -> None:
        self._ledger = ledger
        self._timezone = timezone
        self._slot = slot

    def weekly(self, arrived: list[Mail], so_far: list[Mail]) -> None:
        """One letter came in this local week, and none of all that came so far came twice."""
        ids = {mail.message_id for mail in so_far}
        local_weeks = {local_week(mail.at, self._timezone) for mail in so_far}
        held = len(arrived) == 1 and len(ids) == len(local_weeks) == len(so_far)
        seen = f"{counted(len(so_far), 'letter')} in {counted(len(local_weeks), 'local week')}"
        seen = seen if len(arrived) == 1 else f"{len(arrived)} in one week"
        self._ledger.see(Key.WEEKLY, held, seen)

    def every(self, mail: Mail, so_far: list[Mail]) -> None:
        """Its hour, its parts, its way out."""
        zone = ZoneInfo(self._timezone)
        local = mail.at.astimezone(zone)
        at_slot = local.weekday() == _THURSDAY and local.time() == self._slot
        hours = dict.fromkeys(f"{item.at:%H:%M}" for item in so_far)
        seen = f"{', then '.join(hours)} UTC" if at_slot else f"{local:%a %d %b %H:%M}"
        self._ledger.see(Key.HOUR, at_slot, seen)
        count = f"{counted(len(so_far), 'letter')} looked at"
        kind = mail.message().get_content_type()
        has_both = kind == "multipart/alternative" and bool(mail.html().strip()) and bool(mail.text().strip())
        self._ledger.see(Key.PARTS, has_both, count if has_both else f"letter {len(so_far)} is {kind}")
        leaves = mail.unsubscribe_link() is not None
        self._ledger.see(Key.WAY_OUT, leaves, count if leaves else f"letter {len(so_far)} has none")

    def welcome(self, mail: Mail, *, back: bool) -> None:
        """Whether it says welcome back exactly where somebody comes back from a pause."""
        says_so = [_WELCOME_BACK in mail.text(), _WELCOME_BACK in mail.html()]
        if back or any(says_so):
            seen = next((line for line in mail.text().splitlines() if _WELCOME_BACK in line), "no word of it")
            self._ledger.see(Key.WELCOME_BACK, back and all(says_so), seen)

    def order(self, mail: Mail, so_far: list[Mail], expected: list[str]) -> None:
        """Whether it is the letter whose turn it is, and says its number."""
        place = len(so_far)
        if place > len(expected):
            return
        in_turn = mail.subject == expected[place - 1] and mail.position() == (place, len(expected))
        seen = f"letters 1 to {place} of {len(expected)}" if in_turn else f"{mail.subject!r} as letter {place}"
        self._ledger.see(Key.ORDER, in_turn, seen)


def counted(number: int, noun: str) -> str:
    """How many there are, as in "2 letters"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def arrival(mail: Mail) -> str:
    """A letter that comes, in a line such as "Letter 1 of 9 arrives: …"."""
    position = mail.position()
    what = f"Letter {position[0]} of {position[1]}" if position else "A weekly note"
    return f"{what} arrives: {mail.subject}"


def day_in_words(day: date) -> str:
    """A day as the site's pages write it: Thursday 15 October 2026."""
    return f"{day:%A} {day.day} {day:%B %Y}"
