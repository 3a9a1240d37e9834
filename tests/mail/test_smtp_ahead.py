"""The next letter's MAIL, RCPT and DATA leave with the letter before it: what that saves, what it may never cost."""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from newsletter.domain.delivery import Outcome
from newsletter.mail import Timeouts
from newsletter.mail.base import verdict_of
from tests.mail.contract import QUICK, build_envelope, build_mailer
from tests.mail.test_smtp_pipelining import Tap as PlainTap
from tests.support.smtp_server import EXTENSIONS, Close, Delay, Do, Drip, Hang, Raw, Reply, Reset, SmtpServer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from newsletter.mail import Envelope
    from newsletter.mail.base import Verdict
    from newsletter.mail.smtp import SmtpMailer
    from tests.support.smtp_server import Security, Step

OFFERS = ["PIPELINING"]


def nth(number: int, *, body: bytes = b".Breathe in.\r\n") -> Envelope:
    """A letter whose sender, recipient and content tell its number."""
    return build_envelope(number, body=body, sender=f"b+{number}@news.example", recipient=f"reader{number}@example.org")


def group(letter: Envelope) -> bytes:
    """Its commands."""
    lines = (f"MAIL FROM:<{letter.sender}> SIZE={len(letter.content)}", f"RCPT TO:<{letter.recipient}>", "DATA", "")
    return "\r\n".join(lines).encode()


def message(letter: Envelope) -> bytes:
    """Its content and terminator, on the wire."""
    return letter.content.replace(b"\r\n.", b"\r\n..") + b".\r\n"


ONE, TWO, THREE = nth(1), nth(2), nth(3)


class Tap(PlainTap):
    """A mailer's socket that can be watched, and that fails after so many bytes, however many buffers it is given.

    Attributes:
        refusals: so many times it takes nothing of two buffers.
    """

    def __init__(self, mailer: SmtpMailer, *, refusals: int = 0, **how: Any) -> None:
        super().__init__(mailer, **how)
        self.refusals = refusals

    def sendmsg(self, buffers: Sequence[bytes]) -> int:
        if self.refusals:
            self.refusals -= 1
            raise BlockingIOError
        return self.send(b"".join(buffers))


def for_(letter: Envelope) -> Callable[[str], bool]:
    """Whether a MAIL or RCPT line belongs to this letter."""
    return lambda line: f"<{letter.sender}>" in line or f"<{letter.recipient}>" in line


def arrivals(server: SmtpServer) -> list[tuple[str, str, bytes]]:
    """The envelopes and contents that the server took, in order."""
    return [(each.sender, each.recipient, each.content) for each in server.ledger]


def as_sent(*letters: Envelope) -> list[tuple[str, str, bytes]]:
    """How letters arrive that nobody harmed."""
    return [(each.sender, each.recipient, each.content) for each in letters]


def assert_next_letter_is_unharmed(server: SmtpServer, mailer: SmtpMailer, letter: Envelope = THREE) -> None:
    """The server behaves again: the letter after the fault arrives once and whole, and its verdict is its own."""
    server.forget_scripts()
    mailer._timeouts = Timeouts()  # Nothing is meant to time out any more, on a busy machine neither.
    server.script("dot", Reply(250, "2.0.0 It is this one"), times=1, when=for_(letter))
    before = len(server.ledger)
    mailer.open(letter)
    verdict = mailer.send(letter)
    assert (verdict.outcome, verdict.reply_text) == (Outcome.ACCEPTED, "2.0.0 It is this one")
    assert arrivals(server)[before:] == as_sent(letter)


# What is written


def test_a_letter_is_one_write_with_the_commands_of_the_next(smtp_server: SmtpServer, mailer: SmtpMailer) -> None:
    tap = Tap(mailer)
    verdicts = []

    for letter, then in ((ONE, TWO), (TWO, THREE), (THREE, None)):
        mailer.open(letter)
        verdicts.append(mailer.send(letter, then=then))

    assert [verdict.outcome for verdict in verdicts] == [Outcome.ACCEPTED] * 3
    assert tap.written == [
        group(ONE),
        message(ONE) + group(TWO),
        message(TWO) + group(THREE),
        message(THREE),
    ]
    assert arrivals(smtp_server) == as_sent(ONE, TWO, THREE)
    assert smtp_server.commands == ["EHLO", *["MAIL", "RCPT", "DATA"] * 3]


def test_nothing_of_the_next_letter_leaves_before_it_is_sent(smtp_server: SmtpServer, mailer: SmtpMailer) -> None:
    begun: list[str] = []
    smtp_server.script("body", Do(lambda: begun.append("a message")))
    tap = Tap(mailer)
    mailer.send(ONE, then=TWO)
    smtp_server.wait_for(lambda server: server.commands.count("DATA") == 2)

    assert b"".join(tap.written) == group(ONE) + message(ONE) + group(TWO)
    assert begun == ["a message"]
    assert arrivals(smtp_server) == as_sent(ONE)

    assert mailer.send(TWO).outcome is Outcome.ACCEPTED
    assert arrivals(smtp_server) == as_sent(ONE, TWO)


def test_a_letter_that_was_foretold_may_itself_come_late(smtp_server: SmtpServer) -> None:
    """Its time begins when it is sent, and nobody asks a server whether it lives that waits for a letter."""
    mailer = build_mailer(smtp_server, timeouts=QUICK, idle_unchecked=timedelta(0))
    mailer.open()
    mailer.send(ONE, then=TWO)
    time.sleep(QUICK.command.total_seconds() + 0.1)
    mailer.open(TWO)

    assert mailer.send(TWO).outcome is Outcome.ACCEPTED
    assert arrivals(smtp_server) == as_sent(ONE, TWO)
    assert "NOOP" not in smtp_server.commands
    assert smtp_server.connections == 1
    mailer.close()


def test_one_who_says_only_then_what_comes_next_is_believed(smtp_server: SmtpServer, mailer: SmtpMailer) -> None:
    """`open` need not be told of the letter."""
    mailer.send(ONE, then=TWO)
    mailer.open()

    assert mailer.send(TWO).outcome is Outcome.ACCEPTED
    assert smtp_server.connections == 1


def test_a_server_that_does_not_pipeline_is_told_nothing_ahead() -> None:
    with SmtpServer() as server:
        mailer = build_mailer(server)
        mailer.open()
        tap = Tap(mailer)

        assert not mailer.looks_ahead
        assert mailer.send(ONE, then=TWO).outcome is Outcome.ACCEPTED
        assert tap.written == [*group(ONE).splitlines(keepends=True), message(ONE)]
        mailer.open(THREE)
        assert mailer.send(THREE).outcome is Outcome.ACCEPTED
        assert arrivals(server) == as_sent(ONE, THREE)
        assert server.connections == 1
        mailer.close()


def test_it_looks_ahead_while_it_talks_to_a_server_that_pipelines(smtp_server: SmtpServer) -> None:
    mailer = build_mailer(smtp_server)
    looks = [mailer.looks_ahead]
    mailer.open()
    looks.append(mailer.looks_ahead)
    mailer.close()
    looks.append(mailer.looks_ahead)

    assert looks == [False, True, False]


@pytest.mark.parametrize(
    ("missing", "offered", "misfit", "outcome"),
    [
        ("SIZE 10485760", "SIZE 200", nth(2, body=b"x" * 200 + b"\r\n"), Outcome.REFUSED),
        ("8BITMIME", "X", nth(2, body="é\r\n".encode()), Outcome.REFUSED),
        ("SMTPUTF8", "X", build_envelope(2, recipient="maría@example.org"), Outcome.RECIPIENT_REFUSED),
    ],
)
def test_what_the_server_cannot_take_is_not_foretold(
    missing: str, offered: str, misfit: Envelope, outcome: Outcome
) -> None:
    extensions = [offered if each == missing else each for each in EXTENSIONS]
    with SmtpServer(extensions=[*extensions, "PIPELINING"]) as server:
        mailer = build_mailer(server)
        mailer.open()
        tap = Tap(mailer)

        assert mailer.send(ONE, then=misfit).outcome is Outcome.ACCEPTED
        assert b"".join(tap.written) == group(ONE) + message(ONE)
        mailer.open(misfit)
        verdict = mailer.send(misfit, then=THREE)
        assert (verdict.outcome, verdict.stage, verdict.reply_code) == (outcome, "mail", None)
        assert_next_letter_is_unharmed(server, mailer)
        assert server.connections == 1
        mailer.close()


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_connection_carries_no_more_letters_than_it_may(smtp_server: SmtpServer, limit: int) -> None:
    letters = [nth(number) for number in range(7)]
    mailer = build_mailer(smtp_server, letters_per_connection=limit)
    for letter, then in zip(letters, [*letters[1:], None], strict=True):
        mailer.open(letter)
        assert mailer.send(letter, then=then).outcome is Outcome.ACCEPTED
    mailer.close()

    assert arrivals(smtp_server) == as_sent(*letters)
    assert [each.connection for each in smtp_server.ledger] == [1 + number // limit for number in range(7)]
    begun = [heard.connection for heard in smtp_server.heard if heard.line.startswith("MAIL")]
    assert begun == [each.connection for each in smtp_server.ledger]
    smtp_server.wait_for(lambda server: server.commands.count("QUIT") == server.connections)


@pytest.mark.parametrize("beyond", range(7))
def test_a_letter_of_many_pieces_takes_the_next_commands_along(
    smtp_server: SmtpServer, mailer: SmtpMailer, beyond: int
) -> None:
    """Also where its terminator is cut in two."""
    usual = len(message(nth(1, body=b"x\r\n")))
    large = nth(1, body=b"x" * (2 * 65536 - usual + 1 + beyond) + b"\r\n")
    assert len(message(large)) == 2 * 65536 + beyond
    tap = Tap(mailer)

    assert mailer.send(large, then=TWO).outcome is Outcome.ACCEPTED
    assert mailer.send(TWO).outcome is Outcome.ACCEPTED
    assert arrivals(smtp_server) == as_sent(large, TWO)
    assert tap.written[-2].endswith(b"\n" + group(TWO))
    assert tap.written[-1] == message(TWO)


def test_a_server_that_reads_slowly_gets_both(smtp_server: SmtpServer, mailer: SmtpMailer) -> None:
    """The kernel takes a part of the letter at a time, and waits in between."""
    large = nth(1, body=b".A line of the usual length and a little more.\r\n" * 100_000)
    smtp_server.script("body", Delay(0.1), times=1)

    assert mailer.send(large, then=TWO).outcome is Outcome.ACCEPTED
    mailer.open(TWO)
    assert mailer.send(TWO).outcome is Outcome.ACCEPTED
    assert arrivals(smtp_server) == as_sent(large, TWO)


@pytest.mark.parametrize("security", ["starttls", "implicit"])
def test_over_tls_it_is_the_same_byte_for_byte(security: Security) -> None:
    letters = [
        nth(1, body=b".\r\n..\r\n.leading\r\n\r\n. \r\ntrailing.\r\n"),
        nth(2, body=b"x" * 200_000 + b"\r\n.\r\n"),
        nth(3, body=bytes(byte for byte in range(256) if byte not in b"\r\n") + b"\r\nQUIT\r\n"),
        nth(4),
    ]
    with SmtpServer(security=security, extensions=[*EXTENSIONS, "PIPELINING"]) as server:
        server.script("rcpt", Reply(550, "5.1.1 No such user"), when=for_(letters[3]))
        mailer = build_mailer(server)
        verdicts = []
        for letter, then in zip(letters, [*letters[1:], None], strict=True):
            mailer.open(letter)
            verdicts.append(mailer.send(letter, then=then).outcome)
        assert server.commands[-3:] == ["MAIL", "RCPT", "DATA"]
        assert server.connections == 1
        mailer.close()

        assert verdicts == [Outcome.ACCEPTED] * 3 + [Outcome.ADDRESS_DEAD]
        assert arrivals(server) == as_sent(*letters[:3])
        assert all(each.encrypted for each in server.ledger)


@pytest.mark.parametrize("security", ["starttls", "implicit"])
def test_over_tls_a_lost_answer_puts_only_its_own_letter_in_doubt(security: Security) -> None:
    with SmtpServer(security=security, extensions=[*EXTENSIONS, "PIPELINING"]) as server:
        server.script("dot", Close(), times=1)
        mailer = build_mailer(server)
        mailer.open()

        verdict = mailer.send(ONE, then=TWO)

        assert (verdict.outcome, verdict.stage) == (Outcome.NO_ANSWER, "dot")
        assert_next_letter_is_unharmed(server, mailer, TWO)
        mailer.close()


# The next letter is refused

REFUSALS = {
    ("mail", 451): Outcome.DEFERRED,
    ("mail", 553): Outcome.REFUSED,
    ("rcpt", 450): Outcome.DEFERRED,
    ("rcpt", 550): Outcome.ADDRESS_DEAD,
    ("data", 451): Outcome.DEFERRED,
    ("data", 554): Outcome.REFUSED,
}


@pytest.mark.parametrize("gathers", [False, True])
@pytest.mark.parametrize(("stage", "code"), REFUSALS)
def test_a_refusal_of_the_next_letter_is_its_own(
    smtp_server: SmtpServer, mailer: SmtpMailer, stage: str, code: int, *, gathers: bool
) -> None:
    """However early it is said, it is heard when that letter is sent; and it ends nothing."""
    smtp_server.gathers = gathers
    reply = Reply(code, f"{code // 100}.1.1 Not this one")
    smtp_server.script(stage, reply, when=for_(TWO))

    first = mailer.send(ONE, then=TWO)
    mailer.open(TWO)
    second = mailer.send(TWO, then=THREE)

    assert (first.outcome, first.stage) == (Outcome.ACCEPTED, "dot")
    assert second == verdict_of(stage, code, reply.text, host="127.0.0.1")
    assert second.outcome is REFUSALS[stage, code]
    assert arrivals(smtp_server) == as_sent(ONE)
    assert_next_letter_is_unharmed(smtp_server, mailer)
    assert smtp_server.connections == 1


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data"])
def test_a_farewell_to_the_next_letter_leaves_it_to_another_connection(
    smtp_server: SmtpServer, mailer: SmtpMailer, stage: str
) -> None:
    smtp_server.script(stage, Reply(421, "4.3.2 Shutting down"), Close(), when=for_(TWO), times=1)

    assert mailer.send(ONE, then=TWO).outcome is Outcome.ACCEPTED
    verdict = mailer.send(TWO)

    assert (verdict.outcome, verdict.stage, verdict.reply_code) == (Outcome.UNAVAILABLE, stage, 421)
    assert_next_letter_is_unharmed(smtp_server, mailer, TWO)
    assert smtp_server.connections == 2


@pytest.mark.parametrize("stage", ["mail", "rcpt"])
def test_a_server_that_waits_for_a_letter_it_refused_gets_none(
    smtp_server: SmtpServer, mailer: SmtpMailer, stage: str
) -> None:
    """Neither an empty letter nor the one after it."""
    smtp_server.script(stage, Reply(550, "5.1.1 No such user"), when=for_(TWO))
    smtp_server.script("data", Reply(354, "Go ahead"))

    assert mailer.send(ONE, then=TWO).outcome is Outcome.ACCEPTED
    verdict = mailer.send(TWO, then=THREE)

    assert (verdict.stage, verdict.reply_code) == (stage, 550)
    smtp_server.wait_for(lambda server: not server.open_connections)
    assert arrivals(smtp_server) == as_sent(ONE)
    assert "QUIT" not in smtp_server.commands
    assert_next_letter_is_unharmed(smtp_server, mailer)


# The letter in hand is refused


@pytest.mark.parametrize("gathers", [False, True])
@pytest.mark.parametrize(("code", "outcome"), [(451, Outcome.DEFERRED), (550, Outcome.REFUSED)])
def test_a_refusal_at_the_dot_does_not_harm_the_next(
    smtp_server: SmtpServer, mailer: SmtpMailer, code: int, outcome: Outcome, *, gathers: bool
) -> None:
    """The server has its commands already, so that no RSET may come between them and the letter."""
    smtp_server.gathers = gathers
    smtp_server.script("dot", Reply(code, f"{code // 100}.7.0 Not this one"), when=for_(ONE))
    tap = Tap(mailer)

    first = mailer.send(ONE, then=TWO)
    mailer.open(TWO)
    second = mailer.send(TWO)

    assert (first.outcome, first.stage, first.reply_code) == (outcome, "dot", code)
    assert second.outcome is Outcome.ACCEPTED
    assert arrivals(smtp_server) == as_sent(TWO)
    assert tap.written == [group(ONE), message(ONE) + group(TWO), message(TWO)]
    assert_next_letter_is_unharmed(smtp_server, mailer)


@pytest.mark.parametrize("steps", [[], [Close()]], ids=["and stays", "and hangs up"])
def test_a_farewell_at_the_dot_does_not_harm_the_next(
    smtp_server: SmtpServer, mailer: SmtpMailer, steps: list[Step]
) -> None:
    smtp_server.script("dot", Reply(421, "4.3.2 Shutting down"), *steps, when=for_(ONE))

    first = mailer.send(ONE, then=TWO)

    assert (first.outcome, first.stage, first.reply_code) == (Outcome.DEFERRED, "dot", 421)
    assert mailer.send(TWO).stage == "open"
    assert_next_letter_is_unharmed(smtp_server, mailer, TWO)
    assert arrivals(smtp_server) == as_sent(TWO)
    assert smtp_server.connections == 2


@pytest.mark.parametrize("early", [Reply(552, "5.3.4 Too big"), Reply(452, "4.3.1 Full"), Reply(250, "2.0.0 Taken")])
def test_an_answer_before_the_terminator_does_not_harm_the_next(
    smtp_server: SmtpServer, mailer: SmtpMailer, early: Reply
) -> None:
    large = nth(1, body=b".A line of the usual length and a little more.\r\n" * 200_000)
    smtp_server.script("body", early, times=1)
    tap = Tap(mailer)

    verdict = mailer.send(large, then=TWO)

    assert (verdict.stage, verdict.reply_code) == ("body", early.code)
    assert verdict.outcome in {Outcome.REFUSED, Outcome.DEFERRED, Outcome.UNAVAILABLE}
    assert group(TWO) not in b"".join(tap.written)
    assert_next_letter_is_unharmed(smtp_server, mailer, TWO)
    assert arrivals(smtp_server) == as_sent(TWO)


# The connection is lost

NO_ANSWERS: dict[str, list[Step]] = {
    "hangs up": [Close()],
    "resets": [Reset()],
    "falls silent": [Hang()],
    "half a reply": [Raw(b"250 2.0.0 O"), Close()],
    "nonsense": [Raw(b"what\r\n")],
    "drips": [Drip(b"250 2.0.0 Ok, and so on and so on\r\n", 0.1)],
    "a yes of another stage": [Reply(354, "Go ahead")],
}


@pytest.mark.parametrize("is_kept", [False, True])
@pytest.mark.parametrize("fault", NO_ANSWERS)
def test_without_an_answer_only_the_letter_in_hand_is_in_doubt(
    smtp_server: SmtpServer, fault: str, *, is_kept: bool
) -> None:
    smtp_server.script("dot", *NO_ANSWERS[fault], when=for_(ONE), keep=is_kept)
    mailer = build_mailer(smtp_server, timeouts=QUICK)
    mailer.open()

    verdict = mailer.send(ONE, then=TWO)

    assert (verdict.outcome, verdict.stage) == (Outcome.NO_ANSWER, "dot")
    assert mailer.send(TWO).stage == "open"
    assert_next_letter_is_unharmed(smtp_server, mailer, TWO)
    assert arrivals(smtp_server) == as_sent(*[ONE] * is_kept, TWO)
    assert smtp_server.connections == 2
    mailer.close()


@pytest.mark.parametrize("opens", [False, True])
@pytest.mark.parametrize(
    ("stage", "steps"),
    [
        ("dot", [Reply(250, "2.0.0 Taken"), Close()]),
        ("dot", [Reply(250, "2.0.0 Taken"), Reset()]),
        ("mail", [Close()]),
        ("mail", [Reply(250, "2.1.0 Ok"), Close()]),
        ("rcpt", [Reset()]),
        ("data", [Close()]),
        ("data", [Reply(354, "Go ahead"), Close()]),
        ("data", [Reply(354, "Go ahead"), Reset()]),
    ],
)
def test_a_connection_that_ends_behind_an_answer_takes_it_not_back(
    smtp_server: SmtpServer, mailer: SmtpMailer, stage: str, steps: list[Step], *, opens: bool
) -> None:
    """And the next letter, of which no byte left, is in no doubt."""
    smtp_server.gathers = False
    smtp_server.script(stage, *steps, when=for_(ONE if stage == "dot" else TWO), times=1)

    first = mailer.send(ONE, then=TWO)
    smtp_server.wait_for(lambda server: not server.open_connections)
    if opens:
        mailer.open(TWO)
    second = mailer.send(TWO)

    assert first.outcome is Outcome.ACCEPTED
    assert second.outcome is Outcome.UNAVAILABLE or (opens and second.outcome is Outcome.ACCEPTED)
    if second.outcome is Outcome.UNAVAILABLE:
        assert second.stage != "dot"
        assert arrivals(smtp_server) == as_sent(ONE)
        assert_next_letter_is_unharmed(smtp_server, mailer, TWO)
    assert arrivals(smtp_server) == as_sent(ONE, TWO)


# One reply too many

STRAY = [
    Reply(250, "2.0.0 Ok"),
    Reply(354, "Go ahead"),
    Reply(451, "4.3.0 Later"),
    Reply(550, "5.1.1 No such user"),
    Reply(221, "2.0.0 Bye"),
]


@pytest.mark.parametrize("gathers", [False, True])
@pytest.mark.parametrize(
    ("stage", "stray"),
    [
        *itertools.product(["dot", "mail", "rcpt"], [*STRAY, Raw(b"what\r\n"), Raw(b"\r\n")]),
        # A no behind 354 refuses a letter before it is there, and is no stray reply.
        *itertools.product(["data"], [Reply(250, "2.0.0 Ok"), Reply(354, "Go ahead"), Raw(b"what\r\n")]),
    ],
)
def test_one_reply_too_many_condemns_no_address(
    smtp_server: SmtpServer, mailer: SmtpMailer, stage: str, stray: Step, *, gathers: bool
) -> None:
    """Nor is anything in doubt: nothing of the next letter leaves to a server whose replies are out of step."""
    smtp_server.gathers = gathers
    usual = {"dot": 250, "mail": 250, "rcpt": 250, "data": 354}[stage]
    letter = ONE if stage == "dot" else TWO
    smtp_server.script(stage, Reply(usual, "2.0.0 Ok"), stray, when=for_(letter), times=1, keep=True)
    begun: list[str] = []
    smtp_server.script("body", Do(lambda: begun.append("a message")), when=for_(TWO))

    first = mailer.send(ONE, then=TWO)
    # Every reply is there before the next letter begins.
    smtp_server.wait_for(lambda server: server.commands.count("DATA") == 2)
    time.sleep(0.01)
    mailer.open(TWO)
    second = mailer.send(TWO)

    assert first.outcome is Outcome.ACCEPTED
    assert second.outcome is Outcome.UNAVAILABLE
    assert begun == []
    assert arrivals(smtp_server) == as_sent(ONE)
    assert_next_letter_is_unharmed(smtp_server, mailer, TWO)
    assert smtp_server.connections == 2


@pytest.mark.parametrize("stray", STRAY)
@pytest.mark.parametrize("refusal", [Reply(550, "5.1.1 No such user"), Reply(451, "4.2.0 Later")])
@pytest.mark.parametrize("refused_at", ["mail", "rcpt", "data"])
def test_a_stray_reply_beside_a_refusal_condemns_no_address(
    smtp_server: SmtpServer, mailer: SmtpMailer, refused_at: str, refusal: Reply, stray: Reply
) -> None:
    """Nobody can say which of them is the answer to RCPT."""
    smtp_server.gathers = True
    smtp_server.script("dot", Reply(250, "2.0.0 Taken"), stray, when=for_(ONE), times=1, keep=True)
    smtp_server.script(refused_at, refusal, when=for_(TWO), times=1)

    assert mailer.send(ONE, then=TWO).outcome is Outcome.ACCEPTED
    assert mailer.send(TWO).outcome is Outcome.UNAVAILABLE
    assert_next_letter_is_unharmed(smtp_server, mailer, TWO)


def test_a_whole_conversation_given_ahead_makes_nothing_accepted(smtp_server: SmtpServer, mailer: SmtpMailer) -> None:
    ahead = b"250 2.0.0 Taken\r\n" + b"250 Ok\r\n250 Ok\r\n354 Go\r\n250 2.0.0 Taken\r\n" * 3
    smtp_server.script("dot", Raw(ahead), when=for_(ONE), times=1)

    assert mailer.send(ONE, then=TWO).outcome is Outcome.ACCEPTED
    mailer.open(TWO)
    verdict = mailer.send(TWO, then=THREE)

    assert (verdict.outcome, verdict.stage) == (Outcome.UNAVAILABLE, "body")
    assert arrivals(smtp_server) == as_sent(ONE)
    assert_next_letter_is_unharmed(smtp_server, mailer, TWO)


# Another letter comes


def test_another_letter_than_the_one_foretold_is_not_handed_over(smtp_server: SmtpServer, mailer: SmtpMailer) -> None:
    """Without `open` nothing leaves: neither under the wrong envelope nor as a command within a message."""
    begun: list[str] = []
    smtp_server.script("body", Do(lambda: begun.append("a message")))
    mailer.send(ONE, then=TWO)

    verdict = mailer.send(THREE)

    assert (verdict.outcome, verdict.stage, verdict.reply_code) == (Outcome.UNAVAILABLE, "open", None)
    smtp_server.wait_for(lambda server: not server.open_connections)
    assert begun == ["a message"]
    assert_next_letter_is_unharmed(smtp_server, mailer)
    assert arrivals(smtp_server) == as_sent(ONE, THREE)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(THREE, id="for another reader"),
        pytest.param(nth(2, body=b"Another text.\r\n"), id="of another size"),
        pytest.param(build_envelope(3, sender=TWO.sender, recipient="else@example.org"), id="from the same sender"),
    ],
)
def test_for_another_letter_the_connection_begins_anew(
    smtp_server: SmtpServer, mailer: SmtpMailer, other: Envelope
) -> None:
    """The one foretold never arrives: no empty letter, and none that says QUIT or RSET."""
    mailer.send(ONE, then=TWO)
    mailer.open(other)
    verdict = mailer.send(other)
    mailer.close()

    assert verdict.outcome is Outcome.ACCEPTED
    smtp_server.wait_for(lambda server: not server.open_connections)
    assert arrivals(smtp_server) == as_sent(ONE, other)
    assert smtp_server.connections == 2
    assert {heard.line for heard in smtp_server.heard if heard.connection == 1} <= {
        "EHLO worker.example",
        *(group(ONE) + group(TWO)).decode().splitlines(),
    }


def test_a_letter_with_the_same_envelope_may_take_the_place(smtp_server: SmtpServer, mailer: SmtpMailer) -> None:
    """What was said of the one foretold is true of it, too; it is the letter that is sent which arrives."""
    other = nth(2, body=b".Breathe ON.\r\n")
    mailer.send(ONE, then=TWO)
    mailer.open(other)

    assert mailer.send(other).outcome is Outcome.ACCEPTED
    assert arrivals(smtp_server) == as_sent(ONE, other)
    assert smtp_server.connections == 1


def test_closed_while_a_letter_is_waited_for_nothing_arrives(smtp_server: SmtpServer, mailer: SmtpMailer) -> None:
    """A QUIT would be its first line."""
    tap = Tap(mailer)
    mailer.send(ONE, then=TWO)
    smtp_server.wait_for(lambda server: server.commands.count("DATA") == 2)

    mailer.close()

    smtp_server.wait_for(lambda server: not server.open_connections)
    assert b"".join(tap.written) == group(ONE) + message(ONE) + group(TWO)
    assert "QUIT" not in smtp_server.commands
    assert arrivals(smtp_server) == as_sent(ONE)
    assert mailer.send(TWO).stage == "open"
    assert_next_letter_is_unharmed(smtp_server, mailer, TWO)
    assert arrivals(smtp_server) == as_sent(ONE, TWO)


def test_closed_when_nothing_was_foretold_it_says_goodbye(smtp_server: SmtpServer, mailer: SmtpMailer) -> None:
    mailer.send(ONE, then=TWO)
    mailer.send(TWO)
    mailer.close()

    smtp_server.wait_for(lambda server: not server.open_connections)
    assert smtp_server.commands[-1] == "QUIT"


# Which byte decides

BEFORE, WHOLE = len(group(ONE)), len(message(ONE))


@pytest.mark.parametrize("most", [1, 2, 7, WHOLE - 1, WHOLE, WHOLE + 1, WHOLE + len(group(TWO)) - 1])
@pytest.mark.parametrize("refusals", [0, 1])
def test_a_write_that_takes_part_is_gone_on_with(
    smtp_server: SmtpServer, mailer: SmtpMailer, most: int, refusals: int
) -> None:
    Tap(mailer, most=most, refusals=refusals)

    first = mailer.send(ONE, then=TWO)
    mailer.open(TWO)
    second = mailer.send(TWO)

    assert [first.outcome, second.outcome] == [Outcome.ACCEPTED] * 2
    assert arrivals(smtp_server) == as_sent(ONE, TWO)


@pytest.mark.parametrize("refusals", [0, 1])
def test_without_an_answer_the_last_byte_of_the_terminator_decides(
    smtp_server: SmtpServer, mailer: SmtpMailer, refusals: int
) -> None:
    """However much of the next letter's commands left behind it."""
    smtp_server.script("dot", Close())
    for out in range(WHOLE + len(group(TWO)) + 1):
        mailer.open()
        Tap(mailer, out=BEFORE + out, refusals=refusals)

        verdict = mailer.send(ONE, then=TWO)

        is_complete = out >= WHOLE
        assert verdict.outcome is (Outcome.NO_ANSWER if is_complete else Outcome.UNAVAILABLE)
        assert (verdict.stage, verdict.reply_code) == ("dot" if is_complete else "body", None)
        if not is_complete:
            assert smtp_server.ledger == []
    assert arrivals(smtp_server) == as_sent(*[ONE] * (1 + len(group(TWO))))


@pytest.mark.parametrize("failure", [ConnectionResetError, BlockingIOError])
def test_what_befalls_the_next_commands_is_nothing_to_the_letter_in_hand(
    smtp_server: SmtpServer, mailer: SmtpMailer, failure: type[OSError]
) -> None:
    """Accepted is accepted; the next letter begins anew, and leaves once."""
    rounds = range(len(group(TWO)))
    for out in rounds:
        mailer.open()
        Tap(mailer, out=BEFORE + WHOLE + out, failure=failure)

        assert mailer.send(ONE, then=TWO).outcome is Outcome.ACCEPTED
        mailer.open(TWO)
        assert mailer.send(TWO).outcome is Outcome.ACCEPTED
        mailer.close()
    assert arrivals(smtp_server) == as_sent(*[ONE, TWO] * len(rounds))


def test_bytes_that_are_lost_on_their_way_put_only_the_letter_in_hand_in_doubt(
    smtp_server: SmtpServer, mailer: SmtpMailer
) -> None:
    """The kernel took them all, so that nobody here can know which of them arrived."""
    for out in range(1, WHOLE + len(group(TWO))):
        mailer.open()
        Tap(mailer, out=BEFORE + out, failure=None)
        before = len(smtp_server.ledger)

        first = mailer.send(ONE, then=TWO)

        assert (first.outcome, first.stage) == (Outcome.ACCEPTED if out >= WHOLE else Outcome.NO_ANSWER, "dot")
        assert mailer.send(TWO).outcome is Outcome.UNAVAILABLE
        assert len(smtp_server.ledger) - before == (out >= WHOLE)


def test_a_terminator_that_is_not_taken_in_time_leaves_no_doubt(smtp_server: SmtpServer) -> None:
    mailer = build_mailer(smtp_server, timeouts=QUICK)
    mailer.open()
    Tap(mailer, out=BEFORE + WHOLE - 1, failure=BlockingIOError)

    verdict = mailer.send(ONE, then=TWO)

    assert (verdict.outcome, verdict.stage) == (Outcome.UNAVAILABLE, "body")
    assert verdict.reply_text == "The mail server did not answer in time."
    assert_next_letter_is_unharmed(smtp_server, mailer, TWO)
    assert arrivals(smtp_server) == as_sent(TWO)
    mailer.close()


# Whatever a server does


@dataclass(frozen=True)
class Fate:
    """What a server does with one letter at one stage.

    Attributes:
        steps: taken instead of the usual reply.
        lasts: each time it is tried, or only the first time.
        keep: at the dot, whether it goes into the ledger.
    """

    stage: str
    steps: tuple[Step, ...]
    lasts: bool
    keep: bool | None = None

    @property
    def verdict(self) -> Verdict | None:
        """What it means in the end, or None where the letter is taken sooner or later."""
        reply = self.steps[0] if self.steps else None
        if self.stage == "dot" and not isinstance(reply, Reply):
            return verdict_of("dot", None, "", host="127.0.0.1")
        if isinstance(reply, Reply) and reply.code >= 400 and (self.lasts or self.stage == "dot"):
            return verdict_of(self.stage, reply.code, reply.text, host="127.0.0.1")
        return None


BEFORE_DOT = ["mail", "rcpt", "data"]
TAKEN = Fate("dot", (Reply(250, "2.0.0 Taken"),), lasts=True)
FATES = [
    *[Fate(stage, (Reply(451, "4.3.0 Later"),), lasts=True) for stage in [*BEFORE_DOT, "dot"]],
    *[Fate(stage, (Reply(550, "5.1.1 No"),), lasts=True) for stage in [*BEFORE_DOT, "dot"]],
    *[Fate(stage, (Reply(421, "4.3.2 Bye"),), lasts=False) for stage in [*BEFORE_DOT, "dot"]],
    *[Fate(stage, (Reply(421, "4.3.2 Bye"), Close()), lasts=False) for stage in [*BEFORE_DOT, "dot"]],
    *[Fate(stage, (Close(),), lasts=False) for stage in BEFORE_DOT],
    *[Fate("dot", (step,), lasts=False, keep=keep) for step in (Close(), Reset()) for keep in (False, True)],
    Fate("dot", (Reply(250, "2.0.0 Taken"), Close()), lasts=False),
    *(
        ENDS_BENEATH := [
            Fate("data", (Reply(354, "Go ahead"), Close()), lasts=False),
            Fate("body", (Close(),), lasts=False),
        ]
    ),
]
"""A reply that refuses for now or for good lasts; whatever ends the connection does not."""

fates = st.one_of(st.just(TAKEN), st.sampled_from(FATES))


numbers = itertools.count(1000)
"""No two letters share one: a connection of an example before may still be at work."""


def send_as_a_lane_does(mailer: SmtpMailer, letters: Sequence[Envelope], *, most: float) -> dict[str, list[Verdict]]:
    """Send each letter, and once more what was certainly not taken; the verdicts by recipient, in order."""
    verdicts: dict[str, list[Verdict]] = {letter.recipient: [] for letter in letters}
    waiting = deque(letters)
    foretold: Envelope | None = None
    for _ in range(8 * len(letters)):
        if not waiting:
            break
        letter = waiting.popleft()
        mailer.open()
        if foretold is not None and foretold is not letter:
            mailer.open(letter)
        foretold = waiting[0] if waiting else None
        conversation = mailer._conversation
        assert conversation is not None
        if not isinstance(conversation._wire.socket, Tap):
            Tap(mailer, most=most)
        verdict = mailer.send(letter, then=foretold)
        verdicts[letter.recipient].append(verdict)
        if verdict.outcome in {Outcome.UNAVAILABLE, Outcome.NO_ANSWER}:
            mailer.close()
            foretold = None
        if verdict.outcome is Outcome.UNAVAILABLE:
            # Sooner or later, as the desk happens to give it out.
            waiting.insert(len(letter.content) % (len(waiting) + 1), letter)
    mailer.close()
    assert not waiting
    return verdicts


@given(
    given_fates=st.lists(fates, min_size=1, max_size=8),
    gathers=st.booleans(),
    most=st.one_of(st.just(math.inf), st.integers(1, 200)),
    limit=st.integers(1, 9),
)
@example(given_fates=[TAKEN] * 8, gathers=False, most=math.inf, limit=9)
@example(given_fates=[TAKEN, *FATES[:4], TAKEN], gathers=True, most=math.inf, limit=9)
@example(given_fates=[fate for fate in FATES if fate.steps[-1] == Close()][-8:], gathers=False, most=7, limit=9)
def test_whatever_a_server_does_the_verdicts_say_what_it_took(
    kept_server: SmtpServer, given_fates: list[Fate], gathers: bool, most: float, limit: int
) -> None:
    """Accepted is what the server answered for, exactly once; what it has besides is in doubt, and nothing else is."""
    kept_server.forget_scripts()
    kept_server.gathers = gathers
    letters = [nth(next(numbers), body=b".Breathe in.\r\n" * (number + 1)) for number in range(len(given_fates))]
    answered_for: list[str] = []
    for letter, fate in zip(letters, given_fates, strict=True):
        note = Do(partial(answered_for.append, letter.recipient))
        steps = (note, *fate.steps) if TAKEN.steps[0] in fate.steps else fate.steps
        times = None if fate.lasts else 1
        kept_server.script(fate.stage, *steps, times=times, when=for_(letter), keep=fate.keep)
        kept_server.script("dot", note, *TAKEN.steps, when=for_(letter))
    before = len(kept_server.ledger)
    mailer = build_mailer(kept_server, letters_per_connection=limit)

    verdicts = send_as_a_lane_does(mailer, letters, most=most)

    taken = [each.recipient for each in kept_server.ledger[before:]]
    assert arrivals(kept_server)[before:] == as_sent(
        *(next(letter for letter in letters if letter.recipient == recipient) for recipient in taken)
    )
    assert len(taken) == len(set(taken))
    assert len(answered_for) == len(set(answered_for))
    for letter, fate in zip(letters, given_fates, strict=True):
        *tries, last = verdicts[letter.recipient]
        assert {each.outcome for each in tries} <= {Outcome.UNAVAILABLE}
        assert (last.outcome is Outcome.ACCEPTED) == (letter.recipient in answered_for)
        assert letter.recipient not in taken or last.outcome in {Outcome.ACCEPTED, Outcome.NO_ANSWER}
        assert last.outcome is not Outcome.ACCEPTED or letter.recipient in taken
        if fate in ENDS_BENEATH and last.outcome is Outcome.NO_ANSWER:
            continue  # The connection ended while the letter was under way.
        meant = fate.verdict or verdict_of("dot", 250, "2.0.0 Taken", host="127.0.0.1")
        assert (last.outcome, last.stage, last.reply_code) == (meant.outcome, meant.stage, meant.reply_code)
    assert {heard.line.partition(" ")[0] for heard in kept_server.heard} <= {
        "EHLO",
        "MAIL",
        "RCPT",
        "DATA",
        "RSET",
        "QUIT",
    }
