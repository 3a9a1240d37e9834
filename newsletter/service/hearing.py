"""What a mail server's reply says about itself or about the recipient's domain.

It speaks of itself, through which all letters go, where it says so before a recipient was named, where it closes
the conversation (421), and where it says Amazon's 454. All else is taken for the domain's, and is the mail server's
own as well where letters to five domains in a row hear the same: a server behind which others stand cannot be told
from them by one reply. Who is wrongly counted for one waits a little; nobody is suppressed by any of this.
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

_LONGEST_REPLY = 200
_OF_ITSELF = frozenset({421, 454})
_BEFORE_A_RECIPIENT = frozenset({Stage.OPEN.value, Stage.MAIL.value})
_ADDRESS = re.compile(r"""("[^"]*"|[^\s<>"(),;:]+)@[^\s<>"(),;]*""")


class Ear:
    """One process's ear; it remembers which domains were slowed down without an acceptance since."""

    def __init__(self) -> None:
        self._slowed: set[str] = set()

    @property
    def remembers(self) -> bool:
        """Whether an acceptance makes a difference to it."""
        return bool(self._slowed)

    def concerns(self, domain: str, verdict: Verdict) -> Iterator[str]:
        """The destinations that a verdict may be news of; the domain before the mail server."""
        if verdict.outcome is Outcome.ACCEPTED:
            self._slowed.clear()
            yield domain
            yield RELAY
        elif verdict.policy:
            if not is_before_a_recipient(verdict):
                yield domain
            yield RELAY
        elif verdict.slow_down and (verdict.reply_code in _OF_ITSELF or is_before_a_recipient(verdict)):
            yield RELAY
        elif verdict.slow_down:
            self._slowed.add(domain)
            yield domain
            if len(self._slowed) >= SLOWED_IN_A_ROW:
                self._slowed.clear()
                yield RELAY


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
