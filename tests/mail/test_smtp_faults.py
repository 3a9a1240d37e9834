"""A mail server that misbehaves: each fault at each stage has one verdict, and harms no other letter."""

from __future__ import annotations

import contextlib
import time
import tracemalloc
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from newsletter.domain.delivery import Outcome
from newsletter.errors import RelayUnavailable
from newsletter.mail import Timeouts, parse_mail_url
from newsletter.mail.smtp import SmtpMailer
from tests.mail.contract import QUICK, build_envelope
from tests.support.smtp_server import Close, Delay, Drip, Endless, Hang, Raw, Reply, Reset, SmtpServer, Step

if TYPE_CHECKING:
    from collections.abc import Iterator

STAGES = ("mail", "rcpt", "data", "dot")

# What counts as an answer, and what it means before the dot and at it.
ANSWERS: dict[str, tuple[list[Step], Outcome, Outcome]] = {
    "later": ([Reply(451, "4.3.0 Later")], Outcome.DEFERRED, Outcome.DEFERRED),
    "later, without an enhanced code": ([Reply(452, "Full")], Outcome.DEFERRED, Outcome.DEFERRED),
    "greylisted": ([Reply(450, "4.2.0 Greylisted\nfor 5 minutes")], Outcome.DEFERRED, Outcome.DEFERRED),
    "policy": ([Reply(550, "5.7.1 Relaying denied")], Outcome.REFUSED, Outcome.REFUSED),
    "authentication failed": ([Reply(550, "5.7.26 No DKIM")], Outcome.REFUSED, Outcome.REFUSED),
    "later, and a farewell": ([Reply(451, "4.3.0 Later"), Close()], Outcome.DEFERRED, Outcome.DEFERRED),
    "shutting down": ([Reply(421, "4.3.2 Shutting down"), Close()], Outcome.UNAVAILABLE, Outcome.DEFERRED),
    "421 and open": ([Reply(421, "4.7.0 Slow down")], Outcome.UNAVAILABLE, Outcome.DEFERRED),
}

# What is no answer: before the dot the letter certainly did not go, at the dot nobody knows.
FAULTS: dict[str, list[Step]] = {
    "hangs up": [Close()],
    "resets": [Reset()],
    "falls silent": [Hang()],
    "drips": [Drip(b"250 2.0.0 Ok, and so on and so on\r\n", 0.1)],
    "half a reply": [Raw(b"250 2.0.0 O"), Close()],
    "no code": [Raw(b"welcome\r\n")],
    "a short code": [Raw(b"25\r\n")],
    "a code alone but unfinished": [Raw(b"250"), Close()],
    "999": [Raw(b"999 what\r\n")],
    "100": [Raw(b"100 what\r\n")],
    "no space after the code": [Raw(b"250Ok\r\n")],
    "binary": [Raw(bytes(range(256)) + b"\r\n")],
    "NUL": [Raw(b"250 2.0.0 O\0k\r\n")],
    "an empty line": [Raw(b"\r\n")],
    "a space before the code": [Raw(b" 250 2.0.0 Ok\r\n")],
    "two codes in one reply": [Raw(b"250-2.0.0 Ok\r\n550 5.1.1 No\r\n")],
    "a longer reply cut short": [Raw(b"250-2.0.0 Ok\r\n"), Close()],
    "a reply without end": [Endless(b"250-and more\r\n")],
    "a line without end": [Endless(b"2")],
    "a line of a megabyte": [Raw(b"250 " + b"x" * 2**20 + b"\r\n")],
}

# A yes that belongs to another stage.
MISPLACED = {
    "mail": Reply(354, "Go ahead"),
    "rcpt": Reply(354, "Go ahead"),
    "data": Reply(250),
    "dot": Reply(354),
}


@pytest.fixture(params=["by turns", "pipelined"])
def smtp_server(request: pytest.FixtureRequest) -> Iterator[SmtpServer]:
    """Every fault meets both ways of a transaction."""
    with SmtpServer() as server:
        if request.param == "pipelined":
            server.extensions.append("PIPELINING")
        yield server


@pytest.fixture
def mailer(smtp_server: SmtpServer) -> Iterator[SmtpMailer]:
    mailer = SmtpMailer(parse_mail_url(smtp_server.url), local_hostname="worker.example", timeouts=QUICK)
    yield mailer
    mailer.close()


def assert_next_letter_is_unharmed(server: SmtpServer, mailer: SmtpMailer) -> None:
    """The server behaves again: the letter after the fault arrives once, and its verdict is its own."""
    server.forget_scripts()
    mailer._timeouts = Timeouts()  # Nothing is meant to time out any more, on a busy machine neither.
    server.script("dot", Reply(250, "2.0.0 Letter 2 it is"), times=1)
    before = len(server.ledger)
    mailer.open()
    verdict = mailer.send(build_envelope(2))
    assert verdict.outcome is Outcome.ACCEPTED
    assert verdict.reply_text == "2.0.0 Letter 2 it is"
    assert [received.message_id for received in server.ledger[before:]] == ["<2@news.example>"]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_is_judged_at_its_stage(smtp_server: SmtpServer, mailer: SmtpMailer, stage: str, answer: str) -> None:
    steps, before_dot, at_dot = ANSWERS[answer]
    smtp_server.script(stage, *steps, times=1)
    mailer.open()

    verdict = mailer.send(build_envelope())

    assert verdict.outcome is (at_dot if stage == "dot" else before_dot)
    assert verdict.stage == stage
    [reply] = [step for step in steps if isinstance(step, Reply)]
    assert (verdict.reply_code, verdict.reply_text) == (reply.code, reply.text.replace("\n", " "))
    assert smtp_server.ledger == []
    assert_next_letter_is_unharmed(smtp_server, mailer)
    # An answer leaves the connection as it was, 421 and a farewell do not.
    assert smtp_server.connections == (2 if reply.code == 421 or Close() in steps else 1)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_doubt_only_at_the_dot(smtp_server: SmtpServer, mailer: SmtpMailer, stage: str, fault: str) -> None:
    smtp_server.script(stage, *FAULTS[fault], times=1)
    mailer.open()
    began = time.monotonic()

    verdict = mailer.send(build_envelope())

    assert verdict.outcome is (Outcome.NO_ANSWER if stage == "dot" else Outcome.UNAVAILABLE)
    assert (verdict.stage, verdict.reply_code) == (stage, None)
    assert verdict.reply_text.startswith("The mail server ")
    assert FAULTS[fault][-1] != Close() or verdict.reply_text == "The mail server closed the connection."
    assert time.monotonic() - began < QUICK.message.total_seconds()
    assert len(smtp_server.ledger) == (stage == "dot")
    assert mailer.send(build_envelope()).stage == "open"  # The connection is gone, not kept in doubt.
    assert_next_letter_is_unharmed(smtp_server, mailer)
    assert smtp_server.connections == 2


@pytest.mark.parametrize("stage", STAGES)
def test_a_yes_of_another_stage_is_none(smtp_server: SmtpServer, mailer: SmtpMailer, stage: str) -> None:
    smtp_server.script(stage, MISPLACED[stage], times=1)
    mailer.open()

    verdict = mailer.send(build_envelope())

    assert verdict.outcome is (Outcome.NO_ANSWER if stage == "dot" else Outcome.UNAVAILABLE)
    assert (verdict.stage, verdict.reply_code) == (stage, MISPLACED[stage].code)
    assert_next_letter_is_unharmed(smtp_server, mailer)
    assert smtp_server.connections == 2


@pytest.mark.parametrize("stage", ["banner", "ehlo", "mail", "rcpt", "data"])
def test_answers_given_ahead_are_never_taken_for_the_real_ones(
    smtp_server: SmtpServer, mailer: SmtpMailer, stage: str
) -> None:
    """A whole conversation of yeses in one packet must not make a letter "accepted"."""
    first = {"banner": b"220 Hi\r\n", "data": b"354 Go\r\n"}.get(stage, b"250 Ok\r\n")
    ahead = b"250 Ok\r\n250 Ok\r\n354 Go\r\n250 2.0.0 Taken\r\n" * 3
    smtp_server.script(stage, Raw(first + ahead), times=1)
    smtp_server.script("dot", Reply(550, "5.7.1 The real answer"), times=1)

    if stage in {"banner", "ehlo"}:
        with contextlib.suppress(RelayUnavailable):
            mailer.open()
    else:
        mailer.open()
    verdict = mailer.send(build_envelope())

    assert verdict.outcome is Outcome.UNAVAILABLE

    assert smtp_server.ledger == []
    assert_next_letter_is_unharmed(smtp_server, mailer)


@pytest.mark.parametrize("stage", ["mail", "rset"])
def test_a_stray_refusal_condemns_no_address(smtp_server: SmtpServer, mailer: SmtpMailer, stage: str) -> None:
    """What stands unread before RCPT is no answer to RCPT, even if it says that somebody is not known."""
    if stage == "rset":
        smtp_server.script("rcpt", Reply(451, "4.3.0 Later"), times=1)
        mailer.open()
        mailer.send(build_envelope())
    smtp_server.script(stage, Raw(b"250 Ok\r\n550 5.1.1 No such user\r\n"), times=1)
    mailer.open()

    verdict = mailer.send(build_envelope())

    assert verdict.outcome is Outcome.UNAVAILABLE
    assert verdict.reply_code is None
    assert "out of turn: 550 5.1.1" in verdict.reply_text
    assert_next_letter_is_unharmed(smtp_server, mailer)


def test_a_second_answer_to_one_letter_is_not_taken_for_the_next(smtp_server: SmtpServer, mailer: SmtpMailer) -> None:
    smtp_server.script("dot", Raw(b"250 2.0.0 One\r\n250 2.0.0 Two\r\n"), times=1)
    mailer.open()

    assert mailer.send(build_envelope()).outcome is Outcome.ACCEPTED
    assert_next_letter_is_unharmed(smtp_server, mailer)
    assert smtp_server.connections == 2


def test_a_farewell_between_letters_is_not_taken_for_an_answer(smtp_server: SmtpServer, mailer: SmtpMailer) -> None:
    smtp_server.script("dot", Reply(250, "2.0.0 Ok"), Delay(0.05), Reply(421, "4.4.2 Idle"), Close(), times=1)
    mailer.open()
    mailer.send(build_envelope())
    smtp_server.wait_for(lambda server: not server.open_connections)

    verdict = mailer.send(build_envelope(3))

    assert verdict.outcome is Outcome.UNAVAILABLE
    assert verdict.reply_code == 421
    assert_next_letter_is_unharmed(smtp_server, mailer)


@pytest.mark.parametrize("fault", ["hangs up", "falls silent", "half a reply", "999", "a reply without end"])
@pytest.mark.parametrize("stage", ["rset", "noop"])
def test_a_connection_that_fails_between_letters_is_replaced(smtp_server: SmtpServer, stage: str, fault: str) -> None:
    smtp_server.script(stage, *FAULTS[fault], times=1)
    if stage == "rset":
        smtp_server.script("rcpt", Reply(451, "4.3.0 Later"), times=1)
    mailer = SmtpMailer(
        parse_mail_url(smtp_server.url),
        local_hostname="worker.example",
        timeouts=QUICK,
        idle_unchecked=timedelta(0),
    )
    mailer.open()
    mailer.send(build_envelope())

    mailer.open()

    assert smtp_server.connections == 2
    assert_next_letter_is_unharmed(smtp_server, mailer)
    mailer.close()


# While the body goes out

LARGE = b"A line of the usual length and a little more.\r\n" * 200_000


@pytest.mark.parametrize(
    ("steps", "outcome", "code"),
    [
        ([Reply(552, "5.3.4 Too big"), Close()], Outcome.REFUSED, 552),
        ([Reply(552, "5.3.4 Too big")], Outcome.REFUSED, 552),
        ([Reply(452, "4.3.1 Out of space"), Hang()], Outcome.DEFERRED, 452),
        ([Delay(0.2), Reply(452, "4.3.1 Out of space"), Hang()], Outcome.DEFERRED, 452),
        ([Reply(421, "4.3.2 Shutting down"), Close()], Outcome.UNAVAILABLE, 421),
        ([Reply(250, "2.0.0 Taken")], Outcome.UNAVAILABLE, 250),
        ([Reply(354, "Go ahead")], Outcome.UNAVAILABLE, 354),
        ([Raw(b"what\r\n")], Outcome.UNAVAILABLE, None),
        ([Reset()], Outcome.UNAVAILABLE, None),
        ([Close()], Outcome.UNAVAILABLE, None),
        ([Hang()], Outcome.UNAVAILABLE, None),
    ],
)
def test_before_the_terminator_a_letter_is_certainly_not_accepted(
    smtp_server: SmtpServer, mailer: SmtpMailer, steps: list[Step], outcome: Outcome, code: int | None
) -> None:
    smtp_server.script("body", *steps, times=1)
    mailer.open()

    verdict = mailer.send(build_envelope(body=LARGE))

    # A connection that is torn down may take the server's last words with it.
    lost = verdict.outcome is Outcome.UNAVAILABLE and verdict.reply_code is None and Close() in steps
    assert lost or (verdict.outcome, verdict.reply_code) == (outcome, code)
    assert verdict.stage == "body"
    assert smtp_server.ledger == []
    assert mailer.send(build_envelope()).stage == "open"
    assert_next_letter_is_unharmed(smtp_server, mailer)
    assert smtp_server.connections == 2


# Time and size


def test_slow_replies_cannot_add_up_beyond_the_whole_message(smtp_server: SmtpServer) -> None:
    """Each reply comes within its own time; together they would shorten the wait for the last."""
    timeouts = Timeouts(command=timedelta(seconds=5), dot=timedelta(seconds=5), message=timedelta(seconds=5.5))
    for stage in STAGES:
        smtp_server.script(stage, Delay(0.3))
    mailer = SmtpMailer(parse_mail_url(smtp_server.url), local_hostname="worker.example", timeouts=timeouts)
    mailer.open()
    began = time.monotonic()

    verdict = mailer.send(build_envelope())

    assert verdict.outcome is Outcome.UNAVAILABLE
    assert verdict.stage == "rcpt"
    assert time.monotonic() - began < 2
    mailer.close()


def test_the_wait_for_the_answer_is_not_shortened_by_what_came_before(smtp_server: SmtpServer) -> None:
    timeouts = Timeouts(command=timedelta(seconds=0.6), dot=timedelta(seconds=3), message=timedelta(seconds=3.7))
    smtp_server.script("rcpt", Delay(0.2))
    smtp_server.script("dot", Delay(0.8))
    mailer = SmtpMailer(parse_mail_url(smtp_server.url), local_hostname="worker.example", timeouts=timeouts)
    mailer.open()

    assert mailer.send(build_envelope()).outcome is Outcome.ACCEPTED
    mailer.close()


def test_the_long_wait_is_for_that_answer_only(smtp_server: SmtpServer) -> None:
    timeouts = Timeouts(command=timedelta(seconds=0.5), dot=timedelta(seconds=60), message=timedelta(seconds=120))
    mailer = SmtpMailer(parse_mail_url(smtp_server.url), local_hostname="worker.example", timeouts=timeouts)
    mailer.open()
    mailer.send(build_envelope())
    smtp_server.script("mail", Hang())
    began = time.monotonic()

    assert mailer.send(build_envelope()).outcome is Outcome.UNAVAILABLE
    assert time.monotonic() - began < 5
    mailer.close()


def test_a_slow_server_within_its_time_is_waited_for(smtp_server: SmtpServer, mailer: SmtpMailer) -> None:
    for stage in ("banner", "ehlo", *STAGES):
        smtp_server.script(stage, Delay(0.1))
    mailer.open()

    assert mailer.send(build_envelope()).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize("data", [b"250-and more\r\n", b"2", b"250 x"])
@pytest.mark.parametrize("stage", ["ehlo", "dot"])
def test_a_reply_without_end_takes_no_memory(
    smtp_server: SmtpServer, mailer: SmtpMailer, stage: str, data: bytes
) -> None:
    smtp_server.script(stage, Endless(data))
    tracemalloc.start()
    try:
        with contextlib.suppress(RelayUnavailable):
            mailer.open()
        verdict = mailer.send(build_envelope())
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 2 * 2**20
    assert stage == "ehlo" or verdict.reply_text == "The mail server sent a reply without end."


def test_the_largest_reply_that_is_read_is_read_whole(smtp_server: SmtpServer, mailer: SmtpMailer) -> None:
    smtp_server.script("dot", Reply(250, "\n".join(["2.0.0 Ok"] + ["x" * 70] * 500)))
    mailer.open()

    verdict = mailer.send(build_envelope())

    assert verdict.outcome is Outcome.ACCEPTED
    assert len(verdict.reply_text) == 500


# Before a conversation could begin


@pytest.mark.parametrize("stage", ["banner", "ehlo"])
@pytest.mark.parametrize("code", [421, 451, 521, 554])
def test_a_server_that_turns_us_away_is_unavailable(
    smtp_server: SmtpServer, mailer: SmtpMailer, stage: str, code: int
) -> None:
    smtp_server.script(stage, Reply(code, "5.3.2 Not now"))
    smtp_server.script("helo", Reply(code, "5.3.2 Not now"))

    with pytest.raises(RelayUnavailable, match=f"{code} 5.3.2 Not now") as caught:
        mailer.open()

    assert caught.value.reply_code == code
    assert caught.value.reply_text == "5.3.2 Not now"
    assert mailer.send(build_envelope()).outcome is Outcome.UNAVAILABLE
    assert_next_letter_is_unharmed(smtp_server, mailer)


@pytest.mark.parametrize("stage", ["banner", "ehlo"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_greeting_is_unavailable(smtp_server: SmtpServer, mailer: SmtpMailer, stage: str, fault: str) -> None:
    smtp_server.script(stage, *FAULTS[fault])

    with pytest.raises(RelayUnavailable) as caught:
        mailer.open()

    assert str(caught.value).startswith(f"The mail server 127.0.0.1:{smtp_server.port} ")
    assert "\n" not in str(caught.value)
    assert_next_letter_is_unharmed(smtp_server, mailer)
