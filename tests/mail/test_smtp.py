"""Letters to a mail server: the connection and what it is asked to carry."""

from __future__ import annotations

import socket
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from newsletter.domain.delivery import Outcome
from newsletter.errors import RelayUnavailable
from newsletter.mail import Envelope, Mailer, Timeouts, open_mailer, parse_mail_url
from newsletter.mail.conversation import own_name
from newsletter.mail.smtp import SmtpMailer
from tests.mail.contract import QUICK, MailerContract, build_envelope, build_mailer
from tests.support.smtp_server import EXTENSIONS, Delay, Reply, SmtpServer

if TYPE_CHECKING:
    from collections.abc import Iterator


class SmtpMailbox:
    def __init__(self, server: SmtpServer) -> None:
        self.server = server
        server.extensions.remove("SIZE 10485760")

    def open_mailer(self) -> Mailer:
        return open_mailer(parse_mail_url(self.server.url), local_hostname="worker.example")

    def arrived(self) -> list[bytes]:
        return [received.content for received in self.server.ledger]

    def break_down(self) -> None:
        self.server.stop()


@pytest.fixture
def mailbox(smtp_server: SmtpServer) -> SmtpMailbox:
    return SmtpMailbox(smtp_server)


class TestContract(MailerContract):
    """SMTP keeps what every mailer promises."""


@pytest.fixture
def mailer(smtp_server: SmtpServer) -> Iterator[SmtpMailer]:
    mailer = build_mailer(smtp_server)
    yield mailer
    mailer.close()


def send(mailer: SmtpMailer, envelope: Envelope | None = None) -> Outcome:
    mailer.open()
    return mailer.send(envelope or build_envelope()).outcome


def test_the_envelope_arrives_as_given(smtp_server: SmtpServer, mailer: SmtpMailer) -> None:
    send(mailer, build_envelope(sender="b+t0ken@news.example", recipient="o'hara@example.org"))

    [received] = smtp_server.ledger
    assert received.sender == "b+t0ken@news.example"
    assert received.recipients == ("o'hara@example.org",)
    assert received.message_id == "<1@news.example>"
    assert smtp_server.heard[0].line == "EHLO worker.example"


def test_the_null_sender_goes_out_as_such(smtp_server: SmtpServer, mailer: SmtpMailer) -> None:
    send(mailer, build_envelope(sender=""))

    assert smtp_server.ledger[0].sender == ""


def test_the_verdict_carries_the_servers_words(smtp_server: SmtpServer, mailer: SmtpMailer) -> None:
    smtp_server.script("dot", Reply(250, "2.0.0 Ok: queued\nas 4Zx\tR\x1b[31m\u202e"))
    mailer.open()

    verdict = mailer.send(build_envelope())

    assert verdict.reply_code == 250
    assert verdict.reply_text == "2.0.0 Ok: queued as 4Zx R [31m"
    assert verdict.host == "127.0.0.1"


def test_a_last_line_without_end_is_ended(smtp_server: SmtpServer, mailer: SmtpMailer) -> None:
    send(mailer, build_envelope(body=b"no end"))

    assert smtp_server.ledger[0].content.endswith(b"\r\nno end\r\n")


# The connection


def test_one_connection_serves_many_letters(smtp_server: SmtpServer, mailer: SmtpMailer) -> None:
    for number in range(5):
        assert send(mailer, build_envelope(number)) is Outcome.ACCEPTED

    assert smtp_server.connections == 1
    assert smtp_server.commands == ["EHLO", *["MAIL", "RCPT", "DATA"] * 5]


def test_a_connection_is_renewed_after_its_number_of_letters(smtp_server: SmtpServer) -> None:
    mailer = build_mailer(smtp_server, letters_per_connection=3)
    for number in range(7):
        send(mailer, build_envelope(number))
    mailer.close()

    smtp_server.wait_for(lambda server: server.commands.count("QUIT") == 3)
    assert [received.connection for received in smtp_server.ledger] == [1, 1, 1, 2, 2, 2, 3]


def test_refused_letters_count_towards_renewal_too(smtp_server: SmtpServer) -> None:
    smtp_server.script("rcpt", Reply(550, "5.1.1 No such user"))
    mailer = build_mailer(smtp_server, letters_per_connection=2)
    for _ in range(5):
        send(mailer)
    mailer.close()

    assert smtp_server.connections == 3


def test_an_idle_connection_is_asked_before_it_is_used(smtp_server: SmtpServer) -> None:
    mailer = build_mailer(smtp_server, idle_unchecked=timedelta(0))
    send(mailer)
    send(mailer)
    mailer.close()

    assert smtp_server.connections == 1
    assert "NOOP" in smtp_server.commands


def test_an_idle_connection_that_does_not_answer_is_replaced(smtp_server: SmtpServer) -> None:
    smtp_server.script("noop", Reply(421, "4.4.2 Idle for too long"), times=1)
    mailer = build_mailer(smtp_server, idle_unchecked=timedelta(0))
    send(mailer)

    assert send(mailer) is Outcome.ACCEPTED
    assert smtp_server.connections == 2
    mailer.close()


def test_a_connection_that_the_server_closed_meanwhile_is_replaced(smtp_server: SmtpServer, mailer: SmtpMailer) -> None:
    send(mailer)
    smtp_server.drop_connections()
    smtp_server.wait_for(lambda server: not server.open_connections)

    assert send(mailer) is Outcome.ACCEPTED
    assert smtp_server.connections == 2


def test_a_server_that_came_back_is_used_again(smtp_server: SmtpServer, mailer: SmtpMailer) -> None:
    send(mailer)
    smtp_server.stop()
    with pytest.raises(RelayUnavailable):
        send(mailer)
    smtp_server.start()

    assert send(mailer) is Outcome.ACCEPTED


def test_after_a_refusal_the_envelope_is_cleared_before_the_next(smtp_server: SmtpServer, mailer: SmtpMailer) -> None:
    smtp_server.script("rcpt", Reply(550, "5.1.1 No such user"), times=1)

    assert send(mailer) is Outcome.ADDRESS_DEAD
    assert send(mailer) is Outcome.ACCEPTED
    assert smtp_server.connections == 1
    assert smtp_server.commands == ["EHLO", "MAIL", "RCPT", "RSET", "MAIL", "RCPT", "DATA"]


def test_the_verdict_does_not_wait_for_the_clearing(smtp_server: SmtpServer, mailer: SmtpMailer) -> None:
    smtp_server.script("rcpt", Reply(550, "5.1.1 No such user"), times=1)
    send(mailer)

    assert "RSET" not in smtp_server.commands


@pytest.mark.parametrize("reopen", [True, False])
def test_a_connection_that_cannot_be_cleared_is_left(smtp_server: SmtpServer, reopen: bool) -> None:
    smtp_server.script("rcpt", Reply(451, "4.3.0 Later"), times=1)
    smtp_server.script("rset", Reply(502, "5.5.1 What?"), times=1)
    mailer = build_mailer(smtp_server)
    send(mailer)
    if not reopen:
        assert mailer.send(build_envelope()).outcome is Outcome.UNAVAILABLE

    assert send(mailer) is Outcome.ACCEPTED
    assert smtp_server.connections == 2
    assert smtp_server.commands.count("RSET") == 1
    mailer.close()


def test_close_says_quit_and_does_not_wait_as_for_other_answers(
    smtp_server: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("newsletter.mail.conversation._GOODBYE", timedelta(seconds=0.1))
    smtp_server.script("quit", Delay(60))
    mailer = build_mailer(smtp_server)
    send(mailer)
    began = time.monotonic()
    mailer.close()

    assert smtp_server.commands[-1] == "QUIT"
    assert time.monotonic() - began < 5


# What the server offers


def test_beyond_ascii_an_address_goes_only_to_a_server_that_offers_smtputf8(
    smtp_server: SmtpServer, mailer: SmtpMailer
) -> None:
    assert send(mailer, build_envelope(recipient="jösé@xn--bcher-kva.example")) is Outcome.ACCEPTED
    assert smtp_server.ledger[0].recipient == "jösé@xn--bcher-kva.example"
    assert smtp_server.heard[1].line.endswith(" SMTPUTF8")

    smtp_server.extensions.remove("SMTPUTF8")
    mailer.close()
    mailer.open()
    verdict = mailer.send(build_envelope(recipient="jösé@xn--bcher-kva.example"))
    assert verdict.outcome is Outcome.RECIPIENT_REFUSED
    assert "SMTPUTF8" in verdict.reply_text
    assert send(mailer, build_envelope(smtputf8=True)) is Outcome.RECIPIENT_REFUSED
    assert send(mailer) is Outcome.ACCEPTED
    assert len(smtp_server.ledger) == 2


def test_a_letter_larger_than_the_server_takes_is_refused_before_it_leaves(smtp_server: SmtpServer) -> None:
    smtp_server.extensions[:] = ["SIZE 1000"]
    mailer = build_mailer(smtp_server)
    mailer.open()

    verdict = mailer.send(build_envelope(body=b"x" * 1000 + b"\r\n"))

    assert verdict.outcome is Outcome.REFUSED
    assert "1000" in verdict.reply_text
    assert smtp_server.commands == ["EHLO"]
    assert send(mailer) is Outcome.ACCEPTED
    mailer.close()


@pytest.mark.parametrize("size", ["SIZE", "SIZE 0", "SIZE many", "SIZE ٣", f"SIZE {'9' * 40}"])
def test_a_size_that_says_nothing_limits_nothing(smtp_server: SmtpServer, size: str) -> None:
    smtp_server.extensions[:] = [size]
    mailer = build_mailer(smtp_server)

    assert send(mailer) is Outcome.ACCEPTED
    assert f"SIZE={len(build_envelope().content)}" in smtp_server.heard[1].line
    mailer.close()


def test_eight_bit_bytes_go_only_to_a_server_that_offers_to_take_them(smtp_server: SmtpServer) -> None:
    mailer = build_mailer(smtp_server)
    assert send(mailer, build_envelope(body="Grüße\r\n".encode())) is Outcome.ACCEPTED
    assert "BODY=8BITMIME" in smtp_server.heard[1].line
    mailer.close()

    smtp_server.extensions[:] = []
    assert send(mailer, build_envelope(body="Grüße\r\n".encode())) is Outcome.REFUSED
    mailer.close()


def test_nothing_is_asked_for_that_was_not_offered(smtp_server: SmtpServer, mailer: SmtpMailer) -> None:
    smtp_server.extensions[:] = []
    send(mailer)

    assert smtp_server.heard[1].line == "MAIL FROM:<b+token@news.example>"


@pytest.mark.parametrize("code", [500, 502, 504, 550])
def test_a_server_without_ehlo_is_greeted_the_old_way(smtp_server: SmtpServer, code: int) -> None:
    smtp_server.script("ehlo", Reply(code, "What?\nSMTPUTF8"))
    mailer = build_mailer(smtp_server)

    assert send(mailer) is Outcome.ACCEPTED
    assert smtp_server.heard[1].line == "HELO worker.example"
    assert send(mailer, build_envelope(smtputf8=True)) is Outcome.RECIPIENT_REFUSED
    mailer.close()


def test_keywords_count_in_any_case_and_empty_lines_do_not(smtp_server: SmtpServer) -> None:
    smtp_server.script("ehlo", Reply(250, "test.example\nsize 1000\n\nSmtpUtf8"))
    mailer = build_mailer(smtp_server)

    assert send(mailer, build_envelope(smtputf8=True)) is Outcome.ACCEPTED
    assert send(mailer, build_envelope(body=b"x" * 1000)) is Outcome.REFUSED
    mailer.close()


# Names


@pytest.mark.parametrize("name", ["", "two words", "a\r\nMAIL FROM:<x@example.org>", "bücher.example", "a\0b"])
def test_our_own_name_cannot_hold_a_second_command(smtp_server: SmtpServer, name: str) -> None:
    with pytest.raises(ValueError, match="local host name"):
        SmtpMailer(parse_mail_url(smtp_server.url), local_hostname=name)


@pytest.mark.parametrize(
    ("fqdn", "name"),
    [
        ("worker.example.org", "worker.example.org"),
        ("localhost", "[127.0.0.1]"),
        ("", "[127.0.0.1]"),
        ("my_pc.local\r\nRSET", "[127.0.0.1]"),
    ],
)
def test_a_machine_without_a_full_name_says_an_address(monkeypatch: pytest.MonkeyPatch, fqdn: str, name: str) -> None:
    monkeypatch.setattr("socket.getfqdn", lambda: fqdn)

    assert own_name() == name


def test_a_name_is_asked_for_once(smtp_server: SmtpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    names = iter(["worker.example.org"])
    monkeypatch.setattr("socket.getfqdn", lambda: next(names))
    mailer = SmtpMailer(parse_mail_url(smtp_server.url), letters_per_connection=1)
    send(mailer)
    send(mailer)
    mailer.close()

    assert smtp_server.heard[0].line == "EHLO worker.example.org"
    assert smtp_server.connections == 2


def test_ipv6_is_spoken() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 on this machine: {error}")
    with SmtpServer(host="::1") as server:
        mailer = build_mailer(server)
        assert send(mailer) is Outcome.ACCEPTED
        mailer.close()
        server.stop()
        with pytest.raises(RelayUnavailable, match=r"\[::1\]:\d+ cannot be reached"):
            mailer.open()


def test_a_host_without_an_address_is_unavailable() -> None:
    mailer = open_mailer(parse_mail_url("smtp://no-such-host.invalid:587"), timeouts=QUICK)

    with pytest.raises(RelayUnavailable, match=r"no-such-host\.invalid:587 cannot be reached"):
        mailer.open()


@pytest.mark.parametrize("field", ["connect", "command", "dot"])
def test_a_timeout_of_zero_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match="positive"):
        Timeouts(**{field: timedelta(0)})


def test_the_whole_message_has_longer_than_its_answer() -> None:
    with pytest.raises(ValueError, match="longer"):
        Timeouts(message=timedelta(minutes=10))


def test_the_default_wait_for_the_answer_is_what_the_standard_asks_for() -> None:
    """RFC 5321, section 4.5.3.2.6."""
    assert Timeouts().dot >= timedelta(minutes=10)


def test_the_server_offers_what_the_tests_take_for_granted() -> None:
    assert {"8BITMIME", "SMTPUTF8"} < set(EXTENSIONS)
