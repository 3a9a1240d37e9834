"""What a mail server's reply says about itself or about the recipient's domain.

It speaks of itself, through which all letters go, where it says so before a recipient was named, where it closes
the conversation (421), and where it says Amazon's 454. All else is taken for the domain's, and is the mail server's
own as well where five in a row hear the same whatever their domain: a server behind which others stand cannot be
told from them by one reply. Who is wrongly counted for one waits a little; nobody is suppressed by any of this.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from newsletter.domain.delivery import Outcome
from newsletter.domain.destination import RELAY
from newsletter.mail.base import Stage, Verdict

SLOWED_IN_A_ROW = 5
"""So many letters in a row that were told to slow down: the mail server means all of them."""

_LONGEST_REPLY = 200
_OF_ITSELF = frozenset({421, 454})
_BEFORE_A_RECIPIENT = frozenset({Stage.OPEN.value, Stage.MAIL.value})
_ADDRESS = re.compile(r"""("[^"]*"|[^\s<>"(),;:]+)@[^\s<>"(),;]*""")


class Ear:
    """One process's ear; it remembers how many letters in a row were told to slow down."""

    def __init__(self) -> None:
        self._slowed_in_a_row = 0

    def concerns(self, domain: str, verdict: Verdict) -> Iterator[str]:
        """The destinations that a verdict may be news of, in the order in which their rows are locked."""
        if verdict.outcome is Outcome.ACCEPTED:
            self._slowed_in_a_row = 0
            yield RELAY
            yield domain
        elif verdict.policy:
            # Counted for both: where it refuses everybody, no domain of a small list might ever come to five.
            yield RELAY
            if verdict.stage not in _BEFORE_A_RECIPIENT:
                yield domain
        elif verdict.slow_down and _speaks_of_itself(verdict):
            yield RELAY
        elif verdict.slow_down:
            self._slowed_in_a_row += 1
            if self._slowed_in_a_row >= SLOWED_IN_A_ROW:
                self._slowed_in_a_row = 0
                yield RELAY
            yield domain


def said(verdict: Verdict) -> str:
    """A reply for the log and the operator: one line without any address."""
    text = _ADDRESS.sub("…", verdict.reply_text)
    return f"{verdict.reply_code or ''} {text}".strip()[:_LONGEST_REPLY]


def _speaks_of_itself(verdict: Verdict) -> bool:
    return verdict.reply_code in _OF_ITSELF or verdict.stage in _BEFORE_A_RECIPIENT
