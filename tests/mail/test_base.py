"""What all ways out share: the letter, what each reply means, and the route in MAIL_URL."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from newsletter.domain.delivery import DEAD_ADDRESS_STATUSES, Outcome
from newsletter.errors import SettingsError
from newsletter.mail import Envelope, MailRoute, Stage, open_mailer, parse_mail_url
from newsletter.mail.base import REPLY_TEXT_LIMIT, enhanced_status, printable, verdict_of

CONTENT = b"Subject: x\r\n\r\nBreathe in.\r\n"

# The letter


@pytest.mark.parametrize(
    "content",
    [
        b"\n.\n",
        b"\r.\r",
        b"\n.\r\n",
        b"\r\n.\n",
        b"\r.\r\n",
        b"\r\n.\r",
        b"\n",
        b"\r",
        b"\r\r\n",
        b"\n\r\n",
        b"\n\r",
        b"\r\n\n",
        b"a\rb",
        b"a\nb",
    ],
)
def test_a_bare_line_end_is_refused(content: bytes) -> None:
    """One server's line end is another's text: that smuggles letters (CVE-2023-51764, CVE-2024-27305)."""
    with pytest.raises(ValueError, match="CRLF"):
        Envelope(sender="a@example.org", recipient="b@example.org", content=CONTENT + content + CONTENT)


@given(content=st.text(alphabet="\r\n.x", min_size=1).map(str.encode))
def test_exactly_the_contents_with_whole_line_ends_are_taken(content: bytes) -> None:
    rest = content.replace(b"\r\n", b"")
    if b"\r" in rest or b"\n" in rest:
        with pytest.raises(ValueError, match="CRLF"):
            Envelope(sender="a@example.org", recipient="b@example.org", content=content)
    else:
        Envelope(sender="a@example.org", recipient="b@example.org", content=content)


def test_an_empty_letter_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        Envelope(sender="a@example.org", recipient="b@example.org", content=b"")


@pytest.mark.parametrize(
    "address",
    [
        "b@example.org>\r\nRCPT TO:<c@example.org",
        "b@example.org\nDATA",
        "b@example.org\r",
        "b@example.org> SIZE=1",
        "<b@example.org>",
        "b @example.org",
        "b\t@example.org",
        "b\0@example.org",
        "b\x7f@example.org",
        "b\x85@example.org",
        "b\u2028@example.org",
        "b\u00a0@example.org",
        "b\u202e@example.org",
        "b\ud800@example.org",
    ],
)
def test_an_address_cannot_end_or_extend_its_command(address: str) -> None:
    """Source: GHSA-v3q9-hj7j-63hq, the same in another client."""
    with pytest.raises(ValueError, match="recipient"):
        Envelope(sender="a@example.org", recipient=address, content=CONTENT)
    with pytest.raises(ValueError, match="sender"):
        Envelope(sender=address, recipient="b@example.org", content=CONTENT)


@given(address=st.text())
def test_a_taken_address_is_one_word(address: str) -> None:
    try:
        envelope = Envelope(sender="", recipient=address, content=CONTENT)
    except ValueError:
        return
    wire = f"RCPT TO:<{envelope.recipient}>".encode()
    assert wire.splitlines() == [wire]
    assert len(wire.decode().split()) == 2
    assert wire.count(b">") == wire.count(b"<") == 1


def test_a_letter_has_a_recipient_and_may_have_no_sender() -> None:
    assert Envelope(sender="", recipient="b@example.org", content=CONTENT).sender == ""
    with pytest.raises(ValueError, match="recipient"):
        Envelope(sender="a@example.org", recipient="", content=CONTENT)


def test_nothing_of_a_letter_is_in_its_repr() -> None:
    """It may end up in a log; the sender holds a token."""
    shown = repr(Envelope(sender="b+token@example.org", recipient="maria@example.org", content=CONTENT))

    assert not any(secret in shown for secret in ("token", "maria", "Breathe"))


@pytest.mark.parametrize(
    ("sender", "recipient", "smtputf8", "needs"),
    [
        ("a@example.org", "b@example.org", False, False),
        ("a@example.org", "b@example.org", True, True),
        ("a@example.org", "bé@example.org", False, True),
        ("é@example.org", "b@example.org", False, True),
    ],
)
def test_letters_beyond_ascii_in_an_address_need_smtputf8(
    sender: str, recipient: str, smtputf8: bool, needs: bool
) -> None:
    envelope = Envelope(sender=sender, recipient=recipient, content=CONTENT, smtputf8=smtputf8)

    assert envelope.needs_smtputf8 is needs


# What a reply means

MEANINGS = [
    # RCPT: dead addresses, and what looks like one.
    ("rcpt", 550, "5.1.1 No such user", Outcome.ADDRESS_DEAD),
    ("rcpt", 553, "5.1.2 No such domain", Outcome.ADDRESS_DEAD),
    ("rcpt", 501, "5.1.3 Bad address", Outcome.ADDRESS_DEAD),
    ("rcpt", 551, "5.1.6 Moved away", Outcome.ADDRESS_DEAD),
    ("rcpt", 556, "5.1.10 Null MX", Outcome.ADDRESS_DEAD),
    ("rcpt", 550, "5.2.1 Disabled", Outcome.ADDRESS_DEAD),
    ("rcpt", 550, "5.1.1", Outcome.ADDRESS_DEAD),
    ("rcpt", 550, "5.1.1\n5.1.1 The account does not exist", Outcome.ADDRESS_DEAD),
    ("rcpt", 550, "No such user", Outcome.DEFERRED),
    ("rcpt", 550, "", Outcome.DEFERRED),
    ("rcpt", 551, "User not local", Outcome.DEFERRED),
    ("rcpt", 554, "Relay access denied", Outcome.DEFERRED),
    ("rcpt", 550, "<maria@example.org>: 5.1.1 unknown", Outcome.DEFERRED),
    ("rcpt", 550, "4.1.1 Contradicts itself", Outcome.DEFERRED),
    ("rcpt", 550, "2.1.1 Contradicts itself", Outcome.DEFERRED),
    ("rcpt", 550, "5.1.1.1 No code", Outcome.DEFERRED),
    ("rcpt", 550, "5.1.1111 No code", Outcome.DEFERRED),
    ("rcpt", 550, "15.1.1 No code", Outcome.DEFERRED),
    ("rcpt", 550, "5.1 No code", Outcome.DEFERRED),
    ("rcpt", 552, "5.2.2 Mailbox full", Outcome.DEFERRED),
    # RCPT: our own fault until shown otherwise.
    ("rcpt", 550, "5.1.0 Other address status", Outcome.REFUSED),
    ("rcpt", 550, "5.1.4 Ambiguous", Outcome.REFUSED),
    ("rcpt", 550, "5.1.7 Bad sender", Outcome.REFUSED),
    ("rcpt", 550, "5.1.8 Bad sender's domain", Outcome.REFUSED),
    ("rcpt", 550, "5.1.11 Not that one either", Outcome.REFUSED),
    ("rcpt", 550, "5.1.100 Not that one either", Outcome.REFUSED),
    ("rcpt", 550, "5.2.0 Other mailbox status", Outcome.REFUSED),
    ("rcpt", 552, "5.2.3 Too long", Outcome.REFUSED),
    ("rcpt", 550, "5.2.4 Mailing list", Outcome.REFUSED),
    ("rcpt", 521, "5.3.2 No mail here", Outcome.REFUSED),
    ("rcpt", 552, "5.3.4 Too big", Outcome.REFUSED),
    ("rcpt", 550, "5.4.1 Recipient address rejected: Access denied", Outcome.RECIPIENT_REFUSED),
    ("rcpt", 550, "5.5.0 Requested action not taken: mailbox unavailable", Outcome.RECIPIENT_REFUSED),
    ("rcpt", 550, "5.4.4 Cannot route", Outcome.REFUSED),
    ("rcpt", 554, "5.4.6 Loop", Outcome.REFUSED),
    ("rcpt", 503, "5.5.1 Bad sequence", Outcome.REFUSED),
    ("rcpt", 555, "5.5.4 Parameters", Outcome.REFUSED),
    ("rcpt", 550, "5.6.7 No SMTPUTF8 there", Outcome.REFUSED),
    ("rcpt", 530, "5.7.0 Authentication required", Outcome.REFUSED),
    ("rcpt", 554, "5.7.1 Relay access denied", Outcome.REFUSED),
    ("rcpt", 550, "5.7.26 Unauthenticated", Outcome.REFUSED),
    ("rcpt", 550, "5.7.515 Access denied", Outcome.REFUSED),
    ("rcpt", 550, "5.0.0 Something", Outcome.REFUSED),
    # 4xx never decides for good, whatever stands beside it.
    ("rcpt", 450, "4.2.0 Greylisted", Outcome.DEFERRED),
    ("rcpt", 451, "", Outcome.DEFERRED),
    ("rcpt", 452, "4.2.2 Mailbox full", Outcome.DEFERRED),
    ("rcpt", 450, "5.1.1 Contradicts itself", Outcome.DEFERRED),
    ("mail", 451, "4.7.28 Rate limit", Outcome.DEFERRED),
    ("mail", 452, "4.3.1 Out of space", Outcome.DEFERRED),
    ("data", 451, "4.3.0 Later", Outcome.DEFERRED),
    ("body", 452, "4.3.1 Out of space", Outcome.DEFERRED),
    ("dot", 451, "4.7.0 Try again", Outcome.DEFERRED),
    ("dot", 421, "4.3.2 Shutting down", Outcome.DEFERRED),
    # The server is going away: no attempt.
    ("open", 421, "4.3.2 Shutting down", Outcome.UNAVAILABLE),
    ("mail", 421, "4.3.2 Shutting down", Outcome.UNAVAILABLE),
    ("rcpt", 421, "4.7.0 [TSS04]", Outcome.UNAVAILABLE),
    ("data", 421, "4.3.2 Shutting down", Outcome.UNAVAILABLE),
    ("body", 421, "4.3.2 Shutting down", Outcome.UNAVAILABLE),
    ("open", 554, "5.7.1 Not you", Outcome.UNAVAILABLE),
    ("open", 535, "5.7.8 Wrong password", Outcome.UNAVAILABLE),
    ("mail", 530, "5.7.0 Authentication required", Outcome.UNAVAILABLE),
    # A refusal of anything but the recipient never touches the address.
    ("mail", 550, "5.1.1 No such user", Outcome.REFUSED),
    ("mail", 553, "Sender refused", Outcome.REFUSED),
    ("mail", 552, "5.3.4 Too big", Outcome.REFUSED),
    ("data", 554, "5.5.1 No valid recipients", Outcome.REFUSED),
    ("data", 550, "5.1.1 No such user", Outcome.REFUSED),
    ("body", 552, "5.3.4 Too big", Outcome.REFUSED),
    ("dot", 550, "5.1.1 No such user", Outcome.REFUSED),
    ("dot", 554, "5.7.1 Spam", Outcome.REFUSED),
    ("dot", 552, "", Outcome.REFUSED),
    # Accepted is one thing only.
    ("dot", 250, "2.0.0 Ok", Outcome.ACCEPTED),
    ("dot", 250, "", Outcome.ACCEPTED),
    ("dot", 251, "Will forward", Outcome.ACCEPTED),
    # No answer, or none that fits.
    ("dot", None, "", Outcome.NO_ANSWER),
    ("dot", 354, "Go ahead", Outcome.NO_ANSWER),
    ("dot", 199, "", Outcome.NO_ANSWER),
    ("dot", 999, "", Outcome.NO_ANSWER),
    ("dot", -1, "", Outcome.NO_ANSWER),
    ("mail", None, "", Outcome.UNAVAILABLE),
    ("rcpt", None, "", Outcome.UNAVAILABLE),
    ("data", None, "", Outcome.UNAVAILABLE),
    ("body", None, "", Outcome.UNAVAILABLE),
    ("open", None, "", Outcome.UNAVAILABLE),
    ("mail", 354, "Go ahead", Outcome.UNAVAILABLE),
    ("rcpt", 354, "Go ahead", Outcome.UNAVAILABLE),
    ("data", 250, "2.0.0 Ok", Outcome.UNAVAILABLE),
    ("body", 250, "2.0.0 Ok", Outcome.UNAVAILABLE),
]


@pytest.mark.parametrize(("stage", "code", "text", "outcome"), MEANINGS)
def test_what_a_reply_means(stage: str, code: int | None, text: str, outcome: Outcome) -> None:
    verdict = verdict_of(stage, code, text, host="mail.example")

    assert verdict.outcome is outcome
    assert (verdict.stage, verdict.reply_code, verdict.host) == (stage, code, "mail.example")


@pytest.mark.parametrize(
    ("code", "text", "says"),
    [
        (250, "2.0.0 Ok", ""),
        (250, "2.7.0 Ok", ""),
        (421, "", "slow"),
        (421, "4.3.0 Later", "slow"),
        (421, "4.2.2 Mailbox full", "slow"),
        (421, "4.7.0 Greylisted", "slow"),
        (421, "5.7.1 Contradicts itself", "slow"),
        (450, "4.2.0 Greylisted", ""),
        (450, "4.2.1 Mailbox busy", ""),
        (452, "4.2.2 Mailbox full", ""),
        (450, "4.1.8 Sender address rejected: Domain not found", ""),
        (451, "4.6.5 Cannot convert", ""),
        (451, "4.7.1 Later", "slow"),
        (451, "4.7.650 Later", "slow"),
        (451, "4.7.1 Greylisting in action, please come back in 00:05:00", ""),
        (450, "4.7.0 Graylisted, see the help page", ""),
        (451, "4.7.1 Try again later", ""),
        (451, "4.7.1 Service unavailable - try again later", "slow"),
        (451, "4.70.1 Another subject", ""),
        (450, "", "busy"),
        (451, "", "busy"),
        (452, "", "busy"),
        (451, "Later, 4.7.1", "busy"),
        (451, "Temporary failure, please try again later.", "busy"),
        (451, "Grey-listed, come again in 300 seconds", ""),
        (450, "Requested mail action not taken: mailbox is full", ""),
        (452, "User over quota", ""),
        (450, "User is receiving mail too quickly", ""),
        (455, "", ""),
        (452, "4.3.2 Busy", "slow"),
        (452, "4.4.5 Congested", "slow"),
        (452, "4.3.1 Out of space", "busy"),
        (451, "4.3.0 Local error", "busy"),
        (451, "4.3.0 Greylisted", ""),
        (451, "4.4.3 Directory server failure", "busy"),
        (452, "4.5.3 Too many recipients", "busy"),
        (451, "4.0.0 Later", "busy"),
        (451, "4.30.1 Another subject", ""),
        (454, "Throttling failure", "slow"),
        (454, "Throttling failure: Daily message quota exceeded", "slow"),
        (550, "5.7.26 Unauthenticated", "policy"),
        (550, "5.7.1", "policy"),
        (550, "5.70.1 Another subject", ""),
        (550, "4.7.1 Contradicts itself", ""),
        (550, "5.1.1 No such user", ""),
        (550, "5.3.0 Local error", ""),
        (554, "Spam", ""),
        (None, "4.7.1 No reply at all", ""),
        (None, "", ""),
    ],
)
@pytest.mark.parametrize("stage", list(Stage))
def test_what_a_reply_says_about_us(stage: Stage, code: int | None, text: str, says: str) -> None:
    """Whether to slow down, at once or in a row, and whether it is our own fault, is said alike at every stage."""
    verdict = verdict_of(stage, code, text, host="mail.example")
    said = {"slow": verdict.slow_down, "busy": verdict.busy, "policy": verdict.policy}
    assert [name for name, is_said in said.items() if is_said] == ([says] if says else [])


@given(
    stage=st.sampled_from(Stage),
    code=st.one_of(st.none(), st.integers(-1, 1200)),
    text=st.one_of(st.text(), st.from_regex(r"[2-5]\.\d{1,4}\.\d{1,4}( .*)?")),
)
def test_no_reply_says_more_than_it_may(stage: Stage, code: int | None, text: str) -> None:
    verdict = verdict_of(stage, code, text, host="mail.example")
    outcome = verdict.outcome

    assert verdict.slow_down + verdict.policy + verdict.busy <= 1
    assert not (
        (verdict.slow_down or verdict.policy or verdict.busy) and outcome in {Outcome.ACCEPTED, Outcome.ADDRESS_DEAD}
    )
    assert (outcome is Outcome.ACCEPTED) == (stage is Stage.DOT and code is not None and 200 <= code < 300)
    assert outcome is not Outcome.NO_ANSWER or stage is Stage.DOT
    assert outcome is not Outcome.UNAVAILABLE or stage is not Stage.DOT
    if outcome is Outcome.ADDRESS_DEAD:
        assert stage is Stage.RCPT
        assert code is not None
        assert 500 <= code < 600
        assert text.startswith(tuple(DEAD_ADDRESS_STATUSES))


@pytest.mark.parametrize(
    ("code", "text", "status"),
    [
        (250, "2.0.0 Ok", "2.0.0"),
        (450, "4.2.0", "4.2.0"),
        (550, "5.1.10 Null MX", "5.1.10"),
        (550, "5.7.515\tAccess", "5.7.515"),
        (550, "5.1.1: unknown", "5.1.1"),
        (550, "4.1.1 Contradicts itself", None),
        (550, " 5.1.1 Late", None),
        (550, "5.1.1.2 Version", None),
        (250, "Ok", None),
        (354, "3.0.0 There is no such class", None),
    ],
)
def test_an_enhanced_code_stands_at_the_front_and_agrees(code: int, text: str, status: str | None) -> None:
    assert enhanced_status(code, text) == status


@given(text=st.text(max_size=3 * REPLY_TEXT_LIMIT))
@example(text="a\r\nb\0c\x1b[31m\u202ed\u2028e\u200bf")
@example(text="x" * 10_000)
def test_a_kept_text_is_one_short_printable_line(text: str) -> None:
    kept = printable(text)

    assert kept.isprintable()
    assert len(kept) <= REPLY_TEXT_LIMIT
    assert kept == kept.strip()
    assert printable(kept) == kept


def test_a_kept_text_says_what_the_server_said() -> None:
    assert printable("5.1.1 Unbekannt:\r\n  Größe ok") == "5.1.1 Unbekannt: Größe ok"


# The route in MAIL_URL


@pytest.mark.parametrize(
    ("url", "route"),
    [
        ("smtp://mail.example.org", MailRoute(kind="smtp", host="mail.example.org", port=587)),
        ("smtp://mail.example.org/", MailRoute(kind="smtp", host="mail.example.org", port=587)),
        ("SMTP://Mail.Example.ORG:25", MailRoute(kind="smtp", host="mail.example.org", port=25)),
        ("smtps://mail.example.org", MailRoute(kind="smtps", host="mail.example.org", port=465)),
        ("smtps://mail.example.org:", MailRoute(kind="smtps", host="mail.example.org", port=465)),
        (
            "smtp://maria%40example.org:p%C3%A4ss%2F%3F%23%25@mail.example.org:2525",
            MailRoute(
                kind="smtp",
                host="mail.example.org",
                port=2525,
                user="maria@example.org",
                password="päss/?#%",
            ),
        ),
        (
            "smtp://maria:p@ss@mail.example.org",
            MailRoute(kind="smtp", host="mail.example.org", port=587, user="maria", password="p@ss"),
        ),
        (
            "smtp://mail.example.org?tls=never",
            MailRoute(kind="smtp", host="mail.example.org", port=587, tls="never"),
        ),
        (
            "smtp://mail.example.org?tls=required&cafile=/etc/ssl/our%20ca.pem",
            MailRoute(
                kind="smtp",
                host="mail.example.org",
                port=587,
                tls="required",
                cafile=Path("/etc/ssl/our ca.pem"),
            ),
        ),
        (
            "smtps://mail.example.org/?cafile=ca.pem",
            MailRoute(kind="smtps", host="mail.example.org", port=465, cafile=Path("ca.pem")),
        ),
        ("smtp://[2001:db8::25]:25", MailRoute(kind="smtp", host="2001:db8::25", port=25)),
        ("smtp://[2001:db8::25]", MailRoute(kind="smtp", host="2001:db8::25", port=587)),
        ("smtp://192.0.2.1", MailRoute(kind="smtp", host="192.0.2.1", port=587)),
        (
            "smtp://localhost:1025",
            MailRoute(kind="smtp", host="localhost", port=1025, tls="never", loopback=True),
        ),
        ("smtp://127.0.0.1", MailRoute(kind="smtp", host="127.0.0.1", port=587, tls="never", loopback=True)),
        (
            "smtp://127.255.0.3",
            MailRoute(kind="smtp", host="127.255.0.3", port=587, tls="never", loopback=True),
        ),
        ("smtp://[::1]:25", MailRoute(kind="smtp", host="::1", port=25, tls="never", loopback=True)),
        (
            "smtp://localhost?tls=required",
            MailRoute(kind="smtp", host="localhost", port=587, tls="required", loopback=True),
        ),
        (
            "smtps://localhost",
            MailRoute(kind="smtps", host="localhost", port=465, tls="required", loopback=True),
        ),
        ("maildir:./mail", MailRoute(kind="maildir", path=Path("mail"), tls="never")),
        ("maildir:/srv/mail", MailRoute(kind="maildir", path=Path("/srv/mail"), tls="never")),
        ("maildir:///srv/mail", MailRoute(kind="maildir", path=Path("/srv/mail"), tls="never")),
        ("maildir:our mail/50%#1?", MailRoute(kind="maildir", path=Path("our mail/50%#1?"), tls="never")),
    ],
)
def test_a_mail_url_is_read(url: str, route: MailRoute) -> None:
    assert parse_mail_url(url) == route


@pytest.mark.parametrize(
    "host",
    [
        "mail.example.org",
        "localhost.example.org",
        "128.0.0.1",
        "127.0.0.1.example.org",
        "127.1",
        "0.0.0.0",
        "[::2]",
        "[::ffff:10.0.0.1]",
    ],
)
def test_what_is_not_surely_this_machine_needs_tls(host: str) -> None:
    route = parse_mail_url(f"smtp://{host}")

    assert not route.loopback
    assert route.tls == "required"
    assert route.leaves_this_machine


@pytest.mark.parametrize("url", ["maildir:./mail", "smtp://localhost", "smtps://127.0.0.1"])
def test_what_stays_here_is_known(url: str) -> None:
    assert not parse_mail_url(url).leaves_this_machine


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("", "is empty"),
        ("mail.example.org", "kind"),
        ("http://mail.example.org", "kind"),
        ("smtp:mail.example.org", "host"),
        ("smtp://", "host"),
        ("smtp://:587", "host"),
        ("smtp://maria:s3cret@", "host"),
        ("smtp://maria:s3cret@:587", "host"),
        ("smtp://mail.example.org:0", "port"),
        ("smtp://mail.example.org:65536", "port"),
        ("smtp://mail.example.org:smtp", "port"),
        ("smtp://mail.example.org:-1", "port"),
        ("smtp://maria:s3cret@mail.example.org:s3cret", "port"),
        ("smtp://maria:s3cret#x@mail.example.org", "# as %23"),
        ("smtp://maria:s3cret/x@mail.example.org", "/ as %2F"),
        ("smtp://maria:s3cret?x@mail.example.org", r"\? as %3F"),
        ("smtp://maria:99#s3cret@mail.example.org", "after the host"),
        ("smtp://maria:99/s3cret@mail.example.org", "after the host"),
        ("smtp://maria:99?s3cret@mail.example.org", "option"),
        ("smtp://mail.example.org/inbox", "after the host"),
        ("smtp://maria@mail.example.org", "half a login"),
        ("smtp://maria:@mail.example.org", "half a login"),
        ("smtp://:s3cret@mail.example.org", "half a login"),
        ("smtp://maria:s3cret%ff@mail.example.org", "UTF-8"),
        ("smtp://maria:s3cret%0d%0aRSET@mail.example.org", "control character"),
        ("smtp://maria:s3cret%00@mail.example.org", "control character"),
        ("smtp://mail.example.org\r\n", "control character"),
        (" smtp://mail.example.org", "space"),
        ("smtp://mail example.org", "host name"),
        ("smtp://mail%0aexample.org", "host name"),
        ("smtp://mail..example.org", "host name"),
        (f"smtp://{'m' * 64}.example.org", "host name"),
        ("smtp://[::1", "broken"),
        ("smtp://[mail.example.org]", "broken|host name"),
        ("smtp://[12345::]", "broken"),
        ("smtp://[v1.a:b]", "broken"),
        ("smtp://mail.example.org?tls=maybe", "tls"),
        ("smtp://mail.example.org?tls=", "tls"),
        ("smtp://mail.example.org?TLS=never", "option"),
        ("smtp://mail.example.org?tls=never&tls=required", "twice"),
        ("smtp://mail.example.org?verify=no", "option"),
        ("smtp://mail.example.org?cafile=", "cafile"),
        ("smtp://mail.example.org?tls=never&cafile=ca.pem", "cafile"),
        ("smtp://localhost?cafile=ca.pem", "cafile"),
        ("smtps://mail.example.org?tls=never", "smtps"),
        ("maildir:", "folder"),
        ("maildir://mail", "two slashes"),
        ("maildir:./mail\n", "control character"),
    ],
)
def test_a_wrong_mail_url_is_refused_with_advice(url: str, fault: str) -> None:
    with pytest.raises(SettingsError, match=rf"^NEWSLETTER_MAIL_URL .*({fault})") as caught:
        parse_mail_url(url)

    assert " Write " in str(caught.value)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


@given(password=st.text(), rest=st.sampled_from(["", ":25", ":x", "?a=b"]))
@example(password="/?#", rest="")
@example(password="[", rest="")
@example(password="\u2100", rest="")  # becomes a slash when a URL is normalised
@example(password=":x", rest=":x")
def test_no_message_ever_holds_a_password(password: str, rest: str) -> None:
    """Not even one that was not encoded, and not in the errors behind the error."""
    password = f"hunter{password}2"
    error = refusal_of(f"smtp://maria:{password}@mail.example.org{rest}")
    if error is not None:
        assert password not in "".join(traceback.format_exception(error))
        assert error.__cause__ is None
        assert error.__context__ is None


def refusal_of(url: str) -> SettingsError | None:
    try:
        parse_mail_url(url)
    except SettingsError as error:
        return error
    return None


@pytest.mark.parametrize(("url", "name"), [("smtp://localhost", "SmtpMailer"), ("maildir:./mail", "MaildirMailer")])
def test_each_route_has_its_mailer(url: str, name: str) -> None:
    assert type(open_mailer(parse_mail_url(url))).__name__ == name


def test_a_maildir_without_a_path_is_our_own_fault() -> None:
    with pytest.raises(ValueError, match="path"):
        open_mailer(MailRoute(kind="maildir"))
