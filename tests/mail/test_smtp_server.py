"""The tests' own mail server, seen through another client: smtplib."""

from __future__ import annotations

import smtplib
import ssl
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from tests.mail.contract import build_envelope
from tests.support.smtp_server import Close, Delay, Drip, Endless, Hang, Raw, Reply, Reset, SmtpServer

if TYPE_CHECKING:
    from tests.support.smtp_server import Security, Step

LETTER = build_envelope().content


def connect(server: SmtpServer) -> smtplib.SMTP:
    return smtplib.SMTP(server.host, server.port, local_hostname="client.example", timeout=5)


def test_what_it_took_is_in_the_ledger(smtp_server: SmtpServer) -> None:
    before = datetime.now(UTC)
    with connect(smtp_server) as client:
        client.sendmail("a@example.org", ["b@example.org"], LETTER + b".dot\r\n")

    [received] = smtp_server.ledger
    assert (received.sender, received.recipients) == ("a@example.org", ("b@example.org",))
    assert received.content == LETTER + b".dot\r\n"
    assert received.wire == LETTER + b"..dot\r\n"
    assert received.message_id == "<1@news.example>"
    assert received.peer[0] == "127.0.0.1"
    assert (received.connection, received.encrypted) == (1, False)
    assert before <= received.at <= datetime.now(UTC)
    assert received.monotonic <= time.monotonic()


def test_the_ledger_is_written_before_the_answer(smtp_server: SmtpServer) -> None:
    smtp_server.script("dot", Hang())
    client = connect(smtp_server)
    client.mail("a@example.org")
    client.rcpt("b@example.org")
    client.putcmd("data")
    client.getreply()
    client.send(LETTER + b".\r\n")

    smtp_server.wait_for(lambda server: server.ledger)
    client.close()


@pytest.mark.parametrize(
    ("step", "keep", "kept"),
    [
        (Reply(250, "Ok"), None, 1),
        (Reply(451, "Later"), None, 0),
        (Reply(554, "Never"), None, 0),
        (Close(), None, 1),
        (Reset(), None, 1),
        (Close(), False, 0),
        (Raw(b"what\r\n"), None, 1),
        (Reply(250, "A lie"), False, 0),
        (Reply(554, "Another lie"), True, 1),
    ],
)
def test_the_ledger_holds_what_the_server_is_responsible_for(
    smtp_server: SmtpServer, step: Step, keep: bool | None, kept: int
) -> None:
    smtp_server.script("dot", step, keep=keep)
    client = connect(smtp_server)
    try:
        client.sendmail("a@example.org", ["b@example.org"], LETTER)
    except (smtplib.SMTPException, ConnectionError):
        pass
    finally:
        client.close()

    assert len(smtp_server.ledger) == kept


def test_a_script_applies_as_often_as_said_and_to_whom(smtp_server: SmtpServer) -> None:
    smtp_server.script("rcpt", Reply(451, "4.3.0 Once"), times=1)
    smtp_server.script("rcpt", Reply(550, "5.1.1 Gone"), when=lambda line: "gone@" in line)
    with connect(smtp_server) as client:
        client.mail("a@example.org")
        assert client.rcpt("b@example.org")[0] == 451
        assert client.rcpt("gone@example.org")[0] == 550
        assert client.rcpt("b@example.org")[0] == 250
        smtp_server.forget_scripts()
        assert client.rcpt("gone@example.org")[0] == 250


def test_an_unknown_stage_is_told(smtp_server: SmtpServer) -> None:
    with pytest.raises(ValueError, match="No stage 'end'"):
        smtp_server.script("end", Close())


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (Reply(250, "One\nTwo"), b"250-One\r\n250 Two\r\n"),
        (Raw(b"\0what"), b"\0what"),
        (Drip(b"250 Ok\r\n", 0.001), b"250 Ok\r\n"),
        (Endless(b"250-x\r\n", limit_bytes=70_000), b"250-x\r\n" * (65536 // 7)),
        (Close(), b""),
    ],
)
def test_each_step_says_what_it_is_for(smtp_server: SmtpServer, step: Step, said: bytes) -> None:
    smtp_server.script("noop", step, Close())
    with connect(smtp_server) as client:
        client.send("NOOP\r\n")
        assert client.sock is not None
        heard = b""
        while len(heard) < len(said) and (more := client.sock.recv(65536)):
            heard += more
        assert heard == said
        client.close()


def test_after_a_delay_the_usual_reply_comes(smtp_server: SmtpServer) -> None:
    smtp_server.script("noop", Delay(0.05))
    with connect(smtp_server) as client:
        began = time.monotonic()
        assert client.noop()[0] == 250
        assert time.monotonic() - began >= 0.05


def test_it_hears_every_line(smtp_server: SmtpServer) -> None:
    with connect(smtp_server) as client:
        client.noop()
        client.docmd("WHAT", "is this")

    assert [heard.line for heard in smtp_server.heard] == ["noop", "WHAT is this", "QUIT"]
    assert smtp_server.commands == ["NOOP", "WHAT", "QUIT"]


@pytest.mark.parametrize("security", ["starttls", "implicit"])
def test_it_speaks_tls_and_checks_logins(security: Security) -> None:
    with SmtpServer(security=security, users={"maria": "secret"}) as server:
        context = ssl.create_default_context(cafile=str(server.cafile))
        client: smtplib.SMTP
        if security == "implicit":
            client = smtplib.SMTP_SSL(
                server.host, server.port, local_hostname="client.example", context=context, timeout=5
            )
        else:
            client = connect(server)
            client.starttls(context=context)
        with client:
            assert client.docmd("MAIL", "FROM:<a@example.org>")[0] == 530
            client.login("maria", "secret")
            client.sendmail("a@example.org", ["b@example.org"], LETTER)

        assert server.ledger[0].encrypted
        assert [(login.user, login.accepted, login.encrypted) for login in server.logins] == [("maria", True, True)]


def test_it_keeps_the_order_of_commands(smtp_server: SmtpServer) -> None:
    with connect(smtp_server) as client:
        assert client.docmd("RCPT", "TO:<b@example.org>")[0] == 503
        assert client.docmd("DATA")[0] == 503
        assert client.docmd("MAIL", "FROM:a@example.org")[0] == 501
        assert client.mail("a@example.org")[0] == 250
        assert client.mail("a@example.org")[0] == 503
        assert client.docmd("RCPT", "TO:b@example.org")[0] == 501
        assert client.docmd("STARTTLS")[0] == 502
        client.rset()
        assert client.docmd("RCPT", "TO:<b@example.org>")[0] == 503


def test_only_crlf_dot_crlf_ends_a_message(smtp_server: SmtpServer) -> None:
    smuggled = LETTER + b"x\n.\nMAIL FROM:<evil@example.org>\r.\rx\n.\r\nx\r.\r\n"
    with connect(smtp_server) as client:
        client.mail("a@example.org")
        client.rcpt("b@example.org")
        client.docmd("DATA")
        client.send(smuggled + b"\r\n.\r\n")
        client.getreply()

    assert [received.content for received in smtp_server.ledger] == [smuggled + b"\r\n"]


def test_stopped_and_started_it_has_the_same_port_and_ledger(smtp_server: SmtpServer) -> None:
    with connect(smtp_server) as client:
        client.sendmail("a@example.org", ["b@example.org"], LETTER)
    port = smtp_server.port
    smtp_server.stop()
    with pytest.raises(ConnectionRefusedError):
        connect(smtp_server)
    smtp_server.start()
    with connect(smtp_server) as client:
        client.sendmail("a@example.org", ["b@example.org"], LETTER)

    assert smtp_server.port == port
    assert len(smtp_server.ledger) == 2


def test_stop_does_not_wait_for_hanging_or_idle_clients() -> None:
    with SmtpServer() as server:
        server.script("noop", Hang())
        clients = [connect(server) for _ in range(3)]
        clients[0].putcmd("noop")
        server.wait_for(lambda server: server.heard)
        began = time.monotonic()
        server.stop()

        assert time.monotonic() - began < 2
        assert server.open_connections == 0
        for client in clients:
            client.close()


def test_waiting_in_vain_ends(smtp_server: SmtpServer) -> None:
    with pytest.raises(TimeoutError):
        smtp_server.wait_for(lambda server: server.ledger, seconds=0.01)
