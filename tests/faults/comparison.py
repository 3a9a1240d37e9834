"""The mail server's own ledger, held against the program's.

`lost`: due, and the server never had it, and nobody is told. `doubled`: the server has it twice. `unflagged`:
doubled, and not listed as possibly doubled. `early`: before its instant. `after_unsub`: to somebody whose leaving
was answered, and it was not in its handover then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.journeys.books import Books
from tests.support.program import Program
from tests.support.smtp_server import Received, SmtpServer


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the two ledgers say of each other."""

    letters: int
    sent: int
    lost: list[str]
    doubled: list[str]
    unflagged: list[str]
    flagged: int
    most_copies: int
    held: int
    message_ids_of_one_letter: int
    repeats_that_differ: int
    early: list[str] = field(default_factory=list)
    after_unsub: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.letters} letters, lost {len(self.lost)}, doubled {len(self.doubled)},"
            f" unflagged {len(self.unflagged)}, most copies {self.most_copies}, held {self.held},"
            f" early {len(self.early)}, after unsubscribing {len(self.after_unsub)}"
        )

    def keeps_the_promise(self) -> bool:
        """Whether nobody was forgotten and every double is known; a repeat is the same message."""
        return not (
            self.lost
            or self.unflagged
            or self.early
            or self.after_unsub
            or self.most_copies > 2
            or self.message_ids_of_one_letter > 1
            or self.repeats_that_differ
        )


@dataclass(frozen=True, kw_only=True)
class Farewell:
    """Somebody's leaving, answered.

    Attributes:
        answered: `time.monotonic()` when the answer was there.
        in_hand: the Message-IDs that were in their handover then.
    """

    answered: float
    in_hand: frozenset[str]


def compare(
    server: SmtpServer, books: Books, program: Program | None = None, farewells: Mapping[str, Farewell] | None = None
) -> Comparison:
    """Hold the two ledgers against each other.

    Args:
        program: whose clock says what was early.
        farewells: by address, who left.
    """
    rows = books.deliveries()
    addresses = books.addresses()
    left = farewells or {}
    by_message_id: dict[str, list[Received]] = {}
    copies: dict[tuple[str, str], list[Received]] = {}
    for received in server.ledger:
        by_message_id.setdefault(received.message_id, []).append(received)
        copies.setdefault((received.recipient, subject_of(received)), []).append(received)
    doubled = [message_id for message_id, received in by_message_id.items() if len(received) > 1]
    flagged = {row.message_id for row in rows if row.doubts > 0}
    told = {row.id for row in rows if row.state in ("held", "uncertain", "failed")}
    taken_back = {row.id for row in rows if row.state == "withdrawn"}
    return Comparison(
        letters=len(rows),
        sent=sum(row.state == "sent" for row in rows),
        lost=[
            f"{addresses[row.subscriber_id]} {row.step} {row.state}"
            for row in rows
            if row.message_id not in by_message_id and row.id not in told | taken_back
        ],
        doubled=doubled,
        unflagged=[message_id for message_id in doubled if message_id not in flagged],
        flagged=len(flagged),
        most_copies=max((len(received) for received in copies.values()), default=0),
        held=sum(row.state == "held" for row in rows),
        message_ids_of_one_letter=max(
            (len({received.message_id for received in same}) for same in copies.values()), default=0
        ),
        repeats_that_differ=sum(len({received.content for received in same}) > 1 for same in by_message_id.values()),
        early=[
            row.message_id
            for row in rows
            for received in by_message_id.get(row.message_id, [])
            if program is not None and program.time_at(received.monotonic) < row.due_at
        ],
        after_unsub=[
            received.message_id
            for received in server.ledger
            if (farewell := left.get(received.recipient))
            and received.monotonic > farewell.answered
            and received.message_id not in farewell.in_hand
        ],
    )


def subject_of(received: Received) -> str:
    """The subject of a message, as it stands there."""
    lines = received.content.split(b"\r\n\r\n")[0].decode("ascii").splitlines()
    return next(line for line in lines if line.startswith("Subject: "))
