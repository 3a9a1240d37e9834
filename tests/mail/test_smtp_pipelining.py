"""MAIL, RCPT and DATA in one write, a message with its terminator in another: what each byte and reply decides."""

from __future__ import annotations

import itertools
import math
import socket
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from newsletter.domain.delivery import Outcome
from newsletter.mail.base import verdict_of
from newsletter.mail.smtp import SmtpMailer
from tests.mail.contract import QUICK, MailerContract, build_envelope, build_mailer
from tests.mail.test_smtp import SmtpMailbox
from tests.support.smtp_server import Close, Delay, Raw, Reply, SmtpServer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.support.smtp_server import Step

OFFERS = ["PIPELINING"]
ENVELOPE = build_envelope(body=b".Breathe in.\r\n")
GROUP = b"MAIL FROM:<b+token@news.example> SIZE=%d\r\nRCPT TO:<maria@example.org>\r\nDATA\r\n" % len(ENVELOPE.content)
MESSAGE = ENVELOPE.content.replace(b"\r\n.", b"\r\n..") + b".\r\n"


class Tap:
    """A mailer's socket that can be watched, and that fails after so many bytes.

    Attributes:
        written: what each `send` was given.

    Args:
        mailer: with an open conversation.
        out: so many bytes go out, then `failure` is raised.
        failure: what is raised then; None: the rest is taken and lost on its way.
        most: so many bytes go out at a time.
        pieces: how many bytes come in at a time.
    """

    def __init__(
        self,
        mailer: SmtpMailer,
        *,
        out: float = math.inf,
        failure: type[OSError] | None = ConnectionResetError,
        most: float = math.inf,
        pieces: Iterable[int] = (),
    ) -> None:
        assert mailer._conversation is not None
        assert mailer._conversation._wire.socket is not None
        self.written: list[bytes] = []
        self._out = out
        self._failure = failure
        self._most = most
        self._pieces = itertools.chain(pieces, itertools.repeat(2**16))
        self._socket = mailer._conversation._wire.socket
        mailer._conversation._wire.socket = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def send(self, data: bytes) -> int:
        self.written.append(bytes(data))
        part = data[: int(min(len(data), self._out, self._most))]
        if part:
            assert self._socket.send(part) == len(part)
            self._out -= len(part)
        if self._out or len(part) == len(data):
            return len(part)
        if self._failure is None:
            self._socket.shutdown(socket.SHUT_WR)
            return len(data)
        if part:
            return len(part)
        raise self._failure

    def recv(self, limit: int) -> bytes:
        return self._socket.recv(min(limit, next(self._pieces)))


class TestContract(MailerContract):
    """Pipelined SMTP keeps what every mailer promises."""

    @pytest.fixture
    def mailbox(self, smtp_server: SmtpServer) -> SmtpMailbox:
        return SmtpMailbox(smtp_server)


# What is written


def test_a_letter_is_two_writes(smtp_server: SmtpServer, mailer: SmtpMailer) -> None:
    tap = Tap(mailer)

    assert mailer.send(ENVELOPE).outcome is Outcome.ACCEPTED
    assert tap.written == [GROUP, MESSAGE]
    assert smtp_server.ledger[0].content == ENVELOPE.content


def test_where_pipelining_is_not_offered_each_command_waits_for_its_turn() -> None:
    with SmtpServer() as server:
        mailer = build_mailer(server)
        mailer.open()
        tap = Tap(mailer)

        assert mailer.send(ENVELOPE).outcome is Outcome.ACCEPTED
        assert tap.written == [*GROUP.splitlines(keepends=True), MESSAGE]
        mailer.close()


def test_what_was_offered_before_tls_is_no_leave_to_pipeline() -> None:
    with SmtpServer(security="starttls", extensions=[]) as server:
        server.script("ehlo", Reply(250, "test.example\nSTARTTLS\nPIPELINING"), times=1)
        mailer = build_mailer(server)
        mailer.open()
        tap = Tap(mailer)

        assert mailer.send(ENVELOPE).outcome is Outcome.ACCEPTED
        assert len(tap.written) == 4
        mailer.close()


@pytest.mark.parametrize("most", [1, 2, 7, len(MESSAGE) - 1])
def test_a_write_that_takes_part_is_gone_on_with(smtp_server: SmtpServer, mailer: SmtpMailer, most: int) -> None:
    Tap(mailer, most=most)

    assert mailer.send(ENVELOPE).outcome is Outcome.ACCEPTED
    assert [received.wire for received in smtp_server.ledger] == [MESSAGE.removesuffix(b".\r\n")]


# Which byte decides


def test_a_connection_that_ends_within_the_group_leaves_no_doubt(smtp_server: SmtpServer, mailer: SmtpMailer) -> None:
    for out in range(len(GROUP)):
        mailer.open()
        Tap(mailer, out=out)

        verdict = mailer.send(ENVELOPE)

        assert (verdict.outcome, verdict.stage, verdict.reply_code) == (Outcome.UNAVAILABLE, "mail", None)
    assert smtp_server.connections == len(GROUP)
    assert smtp_server.ledger == []


def test_only_the_last_byte_of_the_terminator_leaves_doubt(smtp_server: SmtpServer, mailer: SmtpMailer) -> None:
    smtp_server.script("dot", Close())
    for out in range(len(MESSAGE) + 1):
        mailer.open()
        Tap(mailer, out=len(GROUP) + out)

        verdict = mailer.send(ENVELOPE)

        complete = out == len(MESSAGE)
        assert verdict.outcome is (Outcome.NO_ANSWER if complete else Outcome.UNAVAILABLE)
        assert (verdict.stage, verdict.reply_code) == ("dot" if complete else "body", None)
        if not complete:
            assert smtp_server.ledger == []
    assert len(smtp_server.ledger) == 1
    assert smtp_server.connections == len(MESSAGE) + 1


def test_bytes_that_are_lost_on_their_way_make_nothing_accepted(smtp_server: SmtpServer, mailer: SmtpMailer) -> None:
    """The kernel took them all, so that nobody here can know which of them arrived."""
    for out in range(1, len(GROUP) + len(MESSAGE)):
        mailer.open()
        Tap(mailer, out=out, failure=None)

        verdict = mailer.send(ENVELOPE)

        if out < len(GROUP):
            assert verdict.outcome is Outcome.UNAVAILABLE
            assert verdict.stage in {"mail", "rcpt", "data"}
        elif out > len(GROUP):
            assert (verdict.outcome, verdict.stage) == (Outcome.NO_ANSWER, "dot")
    assert smtp_server.ledger == []


def test_a_terminator_that_is_not_taken_in_time_leaves_no_doubt(smtp_server: SmtpServer) -> None:
    mailer = build_mailer(smtp_server, timeouts=QUICK)
    mailer.open()
    Tap(mailer, out=len(GROUP) + len(MESSAGE) - 1, failure=BlockingIOError)

    verdict = mailer.send(ENVELOPE)

    assert (verdict.outcome, verdict.stage) == (Outcome.UNAVAILABLE, "body")
    assert verdict.reply_text == "The mail server did not answer in time."
    smtp_server.wait_for(lambda server: not server.open_connections)
    assert smtp_server.ledger == []


# What the replies decide

ANSWERS = (
    Reply(250, "2.0.0 Ok"),
    Reply(354, "Go ahead"),
    Reply(421, "4.3.2 Shutting down"),
    Reply(451, "4.3.0 Later"),
    Reply(550, "5.1.1 No such user"),
    Reply(554, "5.7.1 Two\nlines"),
)
answers = st.sampled_from(ANSWERS)


@pytest.fixture(scope="module")
def kept_mailer(kept_server: SmtpServer) -> Iterator[SmtpMailer]:
    mailer = build_mailer(kept_server, letters_per_connection=10**9)
    yield mailer
    mailer.close()


@given(
    mail=st.one_of(st.just(ANSWERS[0]), answers),
    rcpt=st.one_of(st.just(ANSWERS[0]), answers),
    data=st.one_of(st.just(ANSWERS[1]), answers),
    dot=answers,
    gathers=st.booleans(),
    pieces=st.lists(st.integers(1, 30)),
)
@example(mail=ANSWERS[0], rcpt=ANSWERS[0], data=ANSWERS[1], dot=ANSWERS[0], gathers=True, pieces=[1] * 200)
@example(mail=ANSWERS[0], rcpt=ANSWERS[4], data=ANSWERS[1], dot=ANSWERS[0], gathers=True, pieces=[])
@example(mail=ANSWERS[0], rcpt=ANSWERS[4], data=ANSWERS[0], dot=ANSWERS[0], gathers=False, pieces=[])
def test_the_first_no_is_the_verdict_however_the_replies_arrive(
    kept_server: SmtpServer,
    kept_mailer: SmtpMailer,
    mail: Reply,
    rcpt: Reply,
    data: Reply,
    dot: Reply,
    gathers: bool,
    pieces: list[int],
) -> None:
    """Split anywhere, or all in one packet."""
    kept_server.forget_scripts()
    kept_server.gathers = gathers
    kept_mailer.open()
    said = {"mail": mail, "rcpt": rcpt, "data": data, "dot": dot}
    for stage, reply in said.items():
        kept_server.script(stage, reply)
    tap = Tap(kept_mailer, pieces=pieces)

    verdict = kept_mailer.send(ENVELOPE)

    wanted = {"mail": 2, "rcpt": 2, "data": 3, "dot": None}
    stage, reply = next((stage, reply) for stage, reply in said.items() if reply.code // 100 != wanted[stage])
    expected = verdict_of(stage, reply.code, reply.text, host="127.0.0.1")
    if stage in {"mail", "rcpt"} and data.code == 250 and expected.outcome is not Outcome.UNAVAILABLE:
        # No server says so to DATA: the replies are out of step, and the no may not be for RCPT.
        assert (verdict.outcome, verdict.stage, verdict.reply_code) == (Outcome.UNAVAILABLE, stage, None)
    else:
        assert verdict == expected
    assert tap.written == ([GROUP, MESSAGE] if stage == "dot" else [GROUP])
    assert_next_letter_is_unharmed(kept_server, kept_mailer)


@pytest.mark.parametrize("stage", ["mail", "rcpt"])
def test_where_a_message_is_waited_for_after_a_no_the_connection_ends(
    smtp_server: SmtpServer, mailer: SmtpMailer, stage: str
) -> None:
    """Neither a message nor a lone dot: the server might take it for one."""
    smtp_server.script(stage, Reply(550, "5.1.1 No such user"))
    smtp_server.script("data", Reply(354, "Go ahead"))
    tap = Tap(mailer)

    verdict = mailer.send(ENVELOPE)

    assert verdict.outcome is (Outcome.REFUSED if stage == "mail" else Outcome.ADDRESS_DEAD)
    assert (verdict.stage, verdict.reply_code) == (stage, 550)
    assert tap.written == [GROUP]
    smtp_server.wait_for(lambda server: not server.open_connections)
    assert mailer.send(ENVELOPE).stage == "open"
    assert_next_letter_is_unharmed(smtp_server, mailer)
    assert smtp_server.connections == 2
    assert smtp_server.commands.count("QUIT") == 0


def test_after_a_no_to_the_whole_group_the_connection_is_cleared_and_kept(
    smtp_server: SmtpServer, mailer: SmtpMailer
) -> None:
    smtp_server.script("rcpt", Reply(550, "5.1.1 No such user"), times=1)

    assert mailer.send(ENVELOPE).outcome is Outcome.ADDRESS_DEAD
    assert_next_letter_is_unharmed(smtp_server, mailer)
    assert smtp_server.connections == 1
    assert smtp_server.commands == ["EHLO", "MAIL", "RCPT", "DATA", "RSET", "MAIL", "RCPT", "DATA"]


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([Close()], id="hangs up"),
        pytest.param([Raw(b"what\r\n")], id="nonsense"),
        pytest.param([Raw(b"55"), Close()], id="half a reply"),
        pytest.param([Reply(421, "4.3.2 Shutting down")], id="421"),
        pytest.param([Reply(503, "5.5.1 RCPT first"), Close()], id="hangs up later"),
        pytest.param([Delay(60)], id="falls silent"),
    ],
)
def test_what_comes_after_a_no_takes_it_not_back(smtp_server: SmtpServer, steps: list[Step]) -> None:
    smtp_server.script("rcpt", Reply(550, "5.1.1 No such user"), times=1)
    smtp_server.script("data", *steps, times=1)
    mailer = build_mailer(smtp_server, timeouts=QUICK)
    mailer.open()

    verdict = mailer.send(ENVELOPE)

    assert (verdict.outcome, verdict.stage, verdict.reply_code) == (Outcome.ADDRESS_DEAD, "rcpt", 550)
    assert_next_letter_is_unharmed(smtp_server, mailer)
    assert smtp_server.connections == 2
    mailer.close()


@pytest.mark.parametrize("last", [b"250 2.0.0 Ok\r\n", b"503 5.5.1 RCPT first\r\n250 2.0.0 Ok\r\n"])
def test_a_no_among_replies_out_of_step_condemns_no_address(
    smtp_server: SmtpServer, mailer: SmtpMailer, last: bytes
) -> None:
    smtp_server.script("rcpt", Reply(550, "5.1.1 No such user"), times=1)
    smtp_server.script("data", Raw(last), times=1)

    verdict = mailer.send(ENVELOPE)

    assert (verdict.outcome, verdict.stage, verdict.reply_code) == (Outcome.UNAVAILABLE, "rcpt", None)
    assert verdict.reply_text == "The mail server spoke out of turn: 550 5.1.1 No such user"
    assert_next_letter_is_unharmed(smtp_server, mailer)
    assert smtp_server.connections == 2


@given(
    stage=st.sampled_from(["mail", "rcpt", "data"]),
    said=st.one_of(
        st.binary(max_size=200),
        st.lists(st.sampled_from([b"250 Ok\r\n", b"354 Go\r\n", b"550 5.1.1 No\r\n", b"250-"])).map(b"".join),
    ),
    pieces=st.lists(st.integers(1, 30)),
)
@example(stage="mail", said=b"250 Ok\r\n250 Ok\r\n354 Go\r\n250 Taken\r\n", pieces=[])
def test_any_bytes_before_the_message_make_nothing_accepted(
    kept_server: SmtpServer, kept_mailer: SmtpMailer, stage: str, said: bytes, pieces: list[int]
) -> None:
    kept_server.forget_scripts()
    kept_server.gathers = False
    kept_mailer.open()
    kept_server.script(stage, Raw(said), Close(), times=1)
    entered = len(kept_server.ledger)
    Tap(kept_mailer, pieces=pieces)

    verdict = kept_mailer.send(ENVELOPE)

    assert verdict.outcome is not Outcome.ACCEPTED
    assert len(kept_server.ledger) == entered
    assert_next_letter_is_unharmed(kept_server, kept_mailer)


# The connection


def test_a_connection_is_renewed_after_its_number_of_letters(smtp_server: SmtpServer) -> None:
    mailer = build_mailer(smtp_server, letters_per_connection=3)
    for _ in range(7):
        mailer.open()
        assert mailer.send(ENVELOPE).outcome is Outcome.ACCEPTED
    mailer.close()

    smtp_server.wait_for(lambda server: server.commands.count("QUIT") == 3)
    assert [received.connection for received in smtp_server.ledger] == [1, 1, 1, 2, 2, 2, 3]


def test_by_default_a_connection_takes_a_hundred_letters(smtp_server: SmtpServer, mailer: SmtpMailer) -> None:
    for _ in range(101):
        mailer.open()
        mailer.send(ENVELOPE)

    assert [received.connection for received in smtp_server.ledger] == [1] * 100 + [2]
    assert smtp_server.commands.count("QUIT") == 1


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data", "dot"])
def test_after_421_the_next_letter_begins_a_connection(smtp_server: SmtpServer, mailer: SmtpMailer, stage: str) -> None:
    smtp_server.script(stage, Reply(421, "4.7.0 Slow down"), times=1)

    verdict = mailer.send(ENVELOPE)

    assert verdict.outcome is (Outcome.DEFERRED if stage == "dot" else Outcome.UNAVAILABLE)
    assert (verdict.stage, verdict.reply_code) == (stage, 421)
    assert mailer.send(ENVELOPE).stage == "open"
    assert_next_letter_is_unharmed(smtp_server, mailer)
    assert smtp_server.connections == 2


def assert_next_letter_is_unharmed(server: SmtpServer, mailer: SmtpMailer) -> None:
    server.forget_scripts()
    server.script("dot", Reply(250, "2.0.0 Letter 2 it is"), times=1)
    entered = len(server.ledger)
    mailer.open()
    verdict = mailer.send(build_envelope(2))
    assert (verdict.outcome, verdict.reply_text) == (Outcome.ACCEPTED, "2.0.0 Letter 2 it is")
    assert [received.message_id for received in server.ledger[entered:]] == ["<2@news.example>"]
