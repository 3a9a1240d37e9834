"""Nobody reads along: TLS, certificates, and where a password may go."""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from newsletter.domain.delivery import Outcome
from newsletter.errors import RelayUnavailable, SettingsError
from newsletter.mail import MailRoute, Timeouts, parse_mail_url
from newsletter.mail.smtp import SmtpMailer
from tests.mail.contract import QUICK, MailerContract, build_envelope
from tests.support.smtp_server import (
    Close,
    Delay,
    Drip,
    Hang,
    Raw,
    Reply,
    Reset,
    SmtpServer,
    Step,
    make_certificate,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from newsletter.mail import Mailer
    from tests.support.smtp_server import Security

PASSWORD = "pässwörd:/?#@%"
USERS = {"maria@example.org": PASSWORD}


def build_mailer(server: SmtpServer, *, url: str | None = None, timeouts: Timeouts | None = None) -> SmtpMailer:
    return SmtpMailer(
        parse_mail_url(url or server.url), local_hostname="worker.example", timeouts=timeouts or Timeouts()
    )


@pytest.fixture(params=["starttls", "implicit"])
def secured(request: pytest.FixtureRequest) -> Iterator[SmtpServer]:
    with SmtpServer(security=request.param, users=USERS) as server:
        yield server


class SecuredMailbox:
    def __init__(self, server: SmtpServer) -> None:
        self.server = server
        server.extensions.remove("SIZE 10485760")

    def open_mailer(self) -> Mailer:
        return build_mailer(self.server)

    def arrived(self) -> list[bytes]:
        return [received.content for received in self.server.ledger]

    def break_down(self) -> None:
        self.server.stop()


class TestContract(MailerContract):
    """SMTP over TLS keeps what every mailer promises."""

    @pytest.fixture
    def mailbox(self, secured: SmtpServer) -> SecuredMailbox:
        return SecuredMailbox(secured)


def test_letters_and_password_travel_encrypted(secured: SmtpServer) -> None:
    mailer = build_mailer(secured)
    mailer.open()

    assert mailer.send(build_envelope()).outcome is Outcome.ACCEPTED
    assert secured.ledger[0].encrypted
    assert [login.accepted for login in secured.logins] == [True]
    assert [heard.line for heard in secured.heard if not heard.encrypted] == (
        ["EHLO worker.example", "STARTTLS"] if secured.security == "starttls" else []
    )
    mailer.close()


def test_no_packet_waits_for_the_one_before(secured: SmtpServer) -> None:
    """Commands and message are a packet each: Nagle's algorithm would cost 40 ms a letter."""
    mailer = build_mailer(secured)
    mailer.open()

    assert mailer._conversation is not None
    assert mailer._conversation._wire.socket is not None
    assert mailer._conversation._wire.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    mailer.close()


def assert_nothing_leaked(server: SmtpServer) -> None:
    assert server.ledger == []
    assert server.logins == []
    assert {heard.line.partition(" ")[0] for heard in server.heard} <= {"EHLO", "STARTTLS"}


def test_without_starttls_nothing_is_sent() -> None:
    """Whoever is in between may have taken it out of the answer to EHLO."""
    with SmtpServer(users=USERS) as server:
        mailer = build_mailer(server, url=f"{server.url}?tls=required")

        with pytest.raises(RelayUnavailable, match=r"does not offer STARTTLS.*\?tls=never") as caught:
            mailer.open()

        assert mailer.send(build_envelope()).outcome is Outcome.UNAVAILABLE
        assert PASSWORD not in str(caught.value)
        assert_nothing_leaked(server)


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([Reply(454, "4.7.0 TLS not available")], id="refused"),
        pytest.param([Reply(250, "Ok")], id="a yes that is none"),
        pytest.param([Raw(b"what\r\n")], id="nonsense"),
        pytest.param([Close()], id="hangs up"),
        pytest.param([Reset()], id="resets"),
        pytest.param([Hang()], id="falls silent"),
        pytest.param([Reply(220, "Go"), Hang()], id="no handshake"),
        pytest.param([Reply(220, "Go"), Close()], id="no handshake, hangs up"),
        pytest.param([Reply(220, "Go"), Drip(b"\x16\x03\x03\x40\x00" + b"x" * 40, 0.1)], id="a dripping handshake"),
        pytest.param([Raw(b"220 Go\r\n250 Ok\r\n250 Ok\r\n")], id="injected"),
        pytest.param([Raw(b"220 Go\r\n"), Delay(0.05), Raw(b"250 Ok\r\n")], id="injected later"),
    ],
)
def test_a_starttls_that_fails_never_goes_on_in_clear_text(steps: list[Step]) -> None:
    with SmtpServer(security="starttls", users=USERS) as server:
        server.script("starttls", *steps)
        mailer = build_mailer(server, timeouts=QUICK)

        with pytest.raises(RelayUnavailable):
            mailer.open()

        assert_nothing_leaked(server)
        server.forget_scripts()
        mailer.open()
        assert mailer.send(build_envelope()).outcome is Outcome.ACCEPTED
        mailer.close()


def test_injected_lines_are_named() -> None:
    with SmtpServer(security="starttls") as server:
        server.script("starttls", Raw(b"220 Go\r\n250 Ok\r\n"))

        with pytest.raises(RelayUnavailable, match=r"clear text.*in between"):
            build_mailer(server).open()


def test_what_was_offered_in_clear_text_counts_for_nothing() -> None:
    with SmtpServer(security="starttls", extensions=[]) as server:
        server.script("ehlo", Reply(250, "test.example\nSTARTTLS\nSMTPUTF8\nAUTH PLAIN"), times=1)
        mailer = build_mailer(server)
        mailer.open()

        assert mailer.send(build_envelope(smtputf8=True)).outcome is Outcome.RECIPIENT_REFUSED
        mailer.close()


# Certificates


@pytest.mark.parametrize("security", ["starttls", "implicit"])
def test_a_certificate_that_nobody_vouches_for_is_refused(security: Security) -> None:
    with SmtpServer(security=security, users=USERS) as server:
        mailer = build_mailer(server, url=server.url.partition("?")[0] + "?tls=required")

        with pytest.raises(RelayUnavailable, match=r"not trusted .*self-signed.*cafile") as caught:
            mailer.open()

        assert caught.value.reply_code is None
        assert_nothing_leaked(server)


@pytest.mark.parametrize("security", ["starttls", "implicit"])
@pytest.mark.parametrize(
    ("names", "days", "why"),
    [(("mail.example",), 30, "IP address mismatch"), (("127.0.0.1",), -1, "expired")],
    ids=["another's name", "expired"],
)
def test_a_trusted_certificate_must_fit(
    tmp_path: Path, security: Security, names: tuple[str, ...], days: int, why: str
) -> None:
    certificate = make_certificate(tmp_path, names=names, days=days)
    with SmtpServer(security=security, users=USERS, certificate=certificate) as server:
        with pytest.raises(RelayUnavailable, match=why):
            build_mailer(server).open()

        assert_nothing_leaked(server)


def test_a_host_name_is_checked_too(tmp_path: Path) -> None:
    for names, fits in ((("localhost",), True), (("mail.example",), False)):
        certificate = make_certificate(tmp_path, names=names)
        with SmtpServer(security="implicit", certificate=certificate) as server:
            mailer = build_mailer(server, url=server.url.replace("127.0.0.1", "localhost"))
            if fits:
                mailer.open()
                mailer.close()
            else:
                with pytest.raises(RelayUnavailable, match="mismatch"):
                    mailer.open()


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_cafile_that_cannot_be_used_is_a_fault_of_the_settings(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(SettingsError, match=r"NEWSLETTER_MAIL_URL: the cafile .*ca\.pem"):
        SmtpMailer(MailRoute(kind="smtp", host="mail.example", port=587, cafile=path))


def test_smtps_to_a_port_that_speaks_clear_text_says_so() -> None:
    with SmtpServer() as server:
        mailer = build_mailer(server, url=f"smtps://127.0.0.1:{server.port}", timeouts=QUICK)

        with pytest.raises(RelayUnavailable, match="does not speak TLS"):
            mailer.open()


def test_on_loopback_clear_text_is_the_default_even_where_starttls_is_offered() -> None:
    with SmtpServer(security="starttls", users=USERS) as server:
        mailer = build_mailer(server, url=server.url.partition("?")[0])
        mailer.open()

        assert mailer.send(build_envelope()).outcome is Outcome.ACCEPTED
        assert not server.ledger[0].encrypted
        mailer.close()


# Logging in


@pytest.mark.parametrize("mechanisms", ["PLAIN LOGIN", "LOGIN PLAIN", "PLAIN", "plain", "LOGIN", "CRAM-MD5 LOGIN"])
def test_user_and_password_arrive_as_they_are(mechanisms: str) -> None:
    with SmtpServer(users=USERS, mechanisms=mechanisms) as server:
        mailer = build_mailer(server)
        mailer.open()
        mailer.close()

        [login] = server.logins
        assert (login.user, login.password, login.accepted) == ("maria@example.org", PASSWORD, True)


def test_a_wrong_password_is_tried_once() -> None:
    """Three wrong ones may lock the account."""
    with SmtpServer(users=USERS) as server:
        url = server.url
        server.users = {"maria@example.org": "another"}

        with pytest.raises(RelayUnavailable, match=r"did not take user and password.*535 5\.7\.8") as caught:
            build_mailer(server, url=url).open()

        assert len(server.logins) == 1
        assert (caught.value.reply_code, caught.value.reply_text) == (535, "5.7.8 Not you")
        assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("mechanisms", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("code", [421, 454, 503, 530, 534, 250])
def test_a_login_that_is_not_taken_is_unavailable(mechanisms: str, code: int) -> None:
    with SmtpServer(users=USERS, mechanisms=mechanisms) as server:
        server.script("auth", Reply(code, "4.7.0 Not now"))

        with pytest.raises(RelayUnavailable) as caught:
            build_mailer(server).open()

        assert caught.value.reply_code == code


def test_a_login_is_given_once_however_often_it_is_asked_for() -> None:
    with SmtpServer(users=USERS, mechanisms="PLAIN") as server:
        server.script("auth", Reply(334, "QWdhaW4="))

        with pytest.raises(RelayUnavailable, match="did not take user and password") as caught:
            build_mailer(server).open()

        assert caught.value.reply_code == 334
        assert server.commands == ["EHLO", "AUTH"]


def test_a_login_that_is_asked_for_in_nonsense_is_not_given() -> None:
    with SmtpServer(users=USERS, mechanisms="LOGIN") as server:
        server.script("auth", Reply(334, "x"))

        with pytest.raises(RelayUnavailable, match="not Base64"):
            build_mailer(server).open()

        assert server.commands == ["EHLO", "AUTH"]


def test_a_login_that_the_server_does_not_offer_is_told() -> None:
    server = SmtpServer(users=USERS, mechanisms="GSSAPI XOAUTH2")
    with server, pytest.raises(RelayUnavailable, match="neither AUTH PLAIN nor AUTH LOGIN"):
        build_mailer(server).open()


def test_a_server_that_wants_a_login_blames_no_letter() -> None:
    """530 at MAIL is true of every letter, so the whole queue waits."""
    with SmtpServer(users=USERS) as server:
        mailer = build_mailer(server, url=f"smtp://127.0.0.1:{server.port}")
        mailer.open()

        verdict = mailer.send(build_envelope())

        assert (verdict.outcome, verdict.reply_code) == (Outcome.UNAVAILABLE, 530)
        mailer.close()


def test_nothing_that_is_shown_holds_the_password() -> None:
    with SmtpServer(users=USERS) as server:
        route = parse_mail_url(server.url)
        mailer = build_mailer(server)

        assert PASSWORD not in repr(route) + repr(mailer) + str(route)


def test_a_secured_answer_that_is_slow_is_doubt() -> None:
    """Bytes of TLS are no bytes of a reply."""
    with SmtpServer(security="implicit") as server:
        server.script("dot", Drip(b"250 2.0.0 Ok, and so on and on\r\n", 0.1))
        mailer = build_mailer(server, timeouts=QUICK)
        mailer.open()

        assert mailer.send(build_envelope()).outcome is Outcome.NO_ANSWER
        assert len(server.ledger) == 1


def test_a_secured_server_that_stops_reading_frees_the_worker() -> None:
    timeouts = Timeouts(command=timedelta(seconds=0.5), dot=timedelta(seconds=0.5), message=timedelta(seconds=1.5))
    with SmtpServer(security="implicit", extensions=[]) as server:
        server.script("body", Hang())
        mailer = build_mailer(server, timeouts=timeouts)
        mailer.open()

        verdict = mailer.send(build_envelope(body=b"x" * 70 * 2**20 + b"\r\n"))

        assert (verdict.outcome, verdict.stage) == (Outcome.UNAVAILABLE, "body")
