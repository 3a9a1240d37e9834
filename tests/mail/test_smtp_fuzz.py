"""Whatever a server says: no exception, no false "accepted", no letter harmed by the one before."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from newsletter.domain.delivery import Outcome
from newsletter.errors import RelayUnavailable
from newsletter.mail import parse_mail_url
from newsletter.mail.smtp import SmtpMailer
from tests.mail.contract import build_envelope
from tests.support.smtp_server import Close, Raw, Reply, Reset, SmtpServer, Step

if TYPE_CHECKING:
    from collections.abc import Iterator

BEFORE_DOT = {Outcome.DEFERRED, Outcome.REFUSED, Outcome.ADDRESS_DEAD, Outcome.UNAVAILABLE}
AT_DOT = {Outcome.ACCEPTED, Outcome.DEFERRED, Outcome.REFUSED, Outcome.NO_ANSWER}

codes = st.one_of(st.sampled_from([220, 221, 250, 251, 354, 421, 450, 550, 554]), st.integers(0, 1100))
enhanced = st.sampled_from([b"", b"2.0.0 ", b"4.2.2 ", b"5.1.1 ", b"5.7.1 ", b"5.1.1", b"5.1.1000 ", b"9.9.9 "])
line_ends = st.sampled_from([b"\r\n", b"\n", b"\r", b"", b"\r\r\n", b"\0\r\n"])
reply_lines = st.builds(
    lambda code, separator, status, text, end: b"%d%b%b%b%b" % (code, separator, status, text, end),
    codes,
    st.sampled_from([b" ", b"-", b"", b"\t", b"_", b"\0"]),
    enhanced,
    st.binary(max_size=20),
    line_ends,
)
LARGE = b"A line of the usual length and a little more.\r\n" * 200_000

garbage = st.one_of(st.binary(max_size=200), st.lists(reply_lines, max_size=4).map(b"".join))


@pytest.fixture(scope="module")
def server() -> Iterator[SmtpServer]:
    with SmtpServer() as server:
        yield server


@pytest.fixture(scope="module")
def mailer(server: SmtpServer) -> Iterator[SmtpMailer]:
    mailer = SmtpMailer(parse_mail_url(server.url), local_hostname="worker.example", letters_per_connection=10**9)
    yield mailer
    mailer.close()


def says_yes(said: bytes) -> bool:
    """Whether the first reply is a 2xx, found in another way than the code under test finds it."""
    return re.match(rb"(2\d\d)(-[^\n\0]*\n\1)*( [^\n\0]*)?\r?\n", said) is not None


@given(stage=st.sampled_from(["banner", "ehlo", "mail", "rcpt", "data", "dot", "rset"]), said=garbage)
@example(stage="dot", said=b"250\r\n")
@example(stage="dot", said=b"250 \r\n")
@example(stage="dot", said=b"250-Ok\r\n250 Ok\r\n")
@example(stage="dot", said=b"250-Ok\r\n251 Ok\r\n")
@example(stage="dot", said=b"2500 Ok\r\n")
@example(stage="dot", said="٢٥٠ Ok\r\n".encode())
@example(stage="rcpt", said=b"550 5.1.1")
def test_any_bytes_at_any_stage(server: SmtpServer, mailer: SmtpMailer, stage: str, said: bytes) -> None:
    if stage in {"banner", "ehlo"}:
        mailer.close()
    server.forget_scripts()
    server.script(stage, Raw(said), Close(), times=1)
    if stage == "rset":
        server.script("rcpt", Reply(451, "4.3.0 Later"), times=1)
        mailer.open()
        assert mailer.send(build_envelope(0)).outcome is Outcome.DEFERRED
    entered = len(server.ledger)

    with contextlib.suppress(RelayUnavailable):
        mailer.open()
    verdict = mailer.send(build_envelope(1))

    if stage == "dot":
        assert verdict.outcome in AT_DOT
        assert (verdict.outcome is Outcome.ACCEPTED) == says_yes(said)
    else:
        # A fault in a greeting or a clearing that this letter did not meet leaves it unharmed.
        assert verdict.outcome in BEFORE_DOT or stage in {"banner", "ehlo", "rset"}
    if verdict.outcome is Outcome.ACCEPTED:
        assert [received.message_id for received in server.ledger[entered:]] == ["<1@news.example>"]
    assert verdict.reply_text.isprintable()
    assert len(verdict.reply_text) <= 500
    assert_next_letter_is_unharmed(server, mailer)


@given(said=garbage)
@example(said=b"250 2.0.0 Taken\r\n")
def test_any_bytes_while_the_body_goes_out(server: SmtpServer, mailer: SmtpMailer, said: bytes) -> None:
    """The letter is larger than what fits on the way, so that they come before its terminator."""
    server.forget_scripts()
    server.script("body", Raw(said), Close(), times=1)
    mailer.open()

    verdict = mailer.send(build_envelope(1, body=LARGE))

    assert verdict.outcome in BEFORE_DOT
    assert verdict.stage == "body"
    assert_next_letter_is_unharmed(server, mailer)


@given(
    stage=st.sampled_from(["mail", "rcpt", "data", "dot"]),
    said=st.lists(st.sampled_from([b"250 Ok\r\n", b"354 Go\r\n", b"550 5.1.1 No\r\n", b"421 Bye\r\n"]), min_size=1),
    end=st.sampled_from([(), (Close(),), (Reset(),)]),
)
def test_any_proper_replies_in_any_number(
    server: SmtpServer, mailer: SmtpMailer, stage: str, said: list[bytes], end: tuple[Step, ...]
) -> None:
    """Replies ahead of their commands, twice, or of the wrong kind; a "no" at the dot tells who is fooled."""
    server.forget_scripts()
    server.script(stage, Raw(b"".join(said)), *end, times=1)
    server.script("dot", Reply(554, "5.7.1 The real answer"), times=1)
    mailer.open()

    verdict = mailer.send(build_envelope(1))

    assert verdict.outcome is not Outcome.ACCEPTED or (stage == "dot" and said[0].startswith(b"250"))
    assert verdict.outcome is not Outcome.ADDRESS_DEAD or (stage == "rcpt" and said[0].startswith(b"550"))
    assert_next_letter_is_unharmed(server, mailer)


def assert_next_letter_is_unharmed(server: SmtpServer, mailer: SmtpMailer) -> None:
    server.forget_scripts()
    server.script("dot", Reply(250, "2.0.0 Letter 2 it is"), times=1)
    entered = len(server.ledger)
    mailer.open()
    verdict = mailer.send(build_envelope(2))
    if verdict.outcome is Outcome.UNAVAILABLE:
        # What the first reply left behind may arrive only now. The letter did not go, and the attempt does
        # not count; but no second time.
        assert len(server.ledger) == entered
        mailer.open()
        verdict = mailer.send(build_envelope(2))
    assert verdict.outcome is Outcome.ACCEPTED
    assert verdict.reply_text == "2.0.0 Letter 2 it is"
    assert [received.message_id for received in server.ledger[entered:]] == ["<2@news.example>"]
