"""What a mail server's reply says about itself or about the recipient's domain.

It speaks of itself, through which all letters go, where it says so before a recipient was named, where it closes
the conversation (421), and where it says Amazon's 454. All else is taken for the domain's, and is the mail server's
own as well where letters to five domains in a row hear the same: a server behind which others stand cannot be told
from them by one reply. Who is wrongly counted for one waits a little; nobody is suppressed by any of this.

A plain "not now" (450, 451, 452) may be about a server or about one letter. It is taken for "slow down" where a domain
says it to five letters in a row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime

from newsletter.domain.delivery import Outcome
from newsletter.domain.destination import RELAY, Destination
from newsletter.mail.base import Stage, Verdict

SLOWED_IN_A_ROW = 5
"""So many domains in a row whose letters were told to slow down: the mail server means all of them."""

BUSY_IN_A_ROW = 5
"""So often in a row a destination has to say "not now", without an acceptance between, to mean all letters."""

_MOST_BUSY = 1000
"""So many destinations are counted at a time; the one longest unheard is forgotten."""

_LONGEST_REPLY = 200
_OF_ITSELF = frozenset({421, 454})
_BEFORE_A_RECIPIENT = frozenset({Stage.OPEN.value, Stage.MAIL.value})
_ADDRESS = re.compile(r"""("[^"]*"|[^\s<>"(),;:]+)@[^\s<>"(),;]*""")


class Ear:
    """One process's ear; it remembers what was said without an acceptance since."""

    def __init__(self) -> None:
        self._slowed: set[str] = set()  # domains, told to slow down or to come later
        self._busy: dict[str, int] = {}  # how often in a row a destination said "not now", the latest last

    @property
    def remembers(self) -> bool:
        """Whether an acceptance makes a difference to it."""
        return bool(self._slowed or self._busy)

    def concerns(self, domain: str, verdict: Verdict) -> Iterator[str]:
        """The destinations that a verdict may be news of; the domain before the mail server."""
        if verdict.outcome is Outcome.ACCEPTED:
            self._slowed.clear()
            for name in (domain, RELAY):
                self._busy.pop(name, None)
                yield name
        elif verdict.policy:
            if not is_before_a_recipient(verdict):
                yield domain
            yield RELAY
        elif verdict.slow_down or verdict.busy:
            yield from self._who_wants_less(domain, verdict)

    def _who_wants_less(self, domain: str, verdict: Verdict) -> Iterator[str]:
        of_itself = verdict.reply_code in _OF_ITSELF or is_before_a_recipient(verdict)
        name = RELAY if of_itself else domain
        if verdict.slow_down or self._has_said_it_often(name):
            yield name
        if not of_itself:
            self._slowed.add(domain)
            if len(self._slowed) >= SLOWED_IN_A_ROW:
                self._slowed.clear()
                yield RELAY

    def _has_said_it_often(self, name: str) -> bool:
        times = self._busy.pop(name, 0) + 1
        if times >= BUSY_IN_A_ROW:
            return True
        self._busy[name] = times
        if len(self._busy) > _MOST_BUSY:
            del self._busy[next(iter(self._busy))]
        return False


def hear(told: dict[str, Destination], name: str, domain: str, verdict: Verdict, *, now: datetime) -> None:
    """Let one of some destinations take in a verdict that may be news of it.

    A policy refusal counts for the mail server where it is the first of its domain: five of a single large domain
    are that domain's own, and a list of small ones would never come to five of any.
    """
    known = told.get(name)
    if known is None:
        return
    if verdict.outcome is Outcome.ACCEPTED:
        told[name] = known.accept(now=now)
    elif not verdict.policy:
        told[name] = known.slow_down(said(verdict), now=now)
    elif (
        name != RELAY
        or known.is_open
        or is_before_a_recipient(verdict)
        or (domain in told and told[domain].refusals == 1)
    ):
        told[name] = known.refuse(said(verdict), now=now)


def said(verdict: Verdict) -> str:
    """A reply for the log and the operator: one line without any address."""
    text = _ADDRESS.sub("…", verdict.reply_text)
    return f"{verdict.reply_code or ''} {text}".strip()[:_LONGEST_REPLY]


def is_before_a_recipient(verdict: Verdict) -> bool:
    """Whether the mail server spoke before it knew for whom a letter was."""
    return verdict.stage in _BEFORE_A_RECIPIENT
