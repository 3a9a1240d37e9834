"""What every `Mailer` promises, as one class of tests that each adapter inherits."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from newsletter.domain.delivery import Outcome
from newsletter.errors import RelayUnavailable
from newsletter.mail import Envelope, Timeouts, parse_mail_url
from newsletter.mail.smtp import SmtpMailer

if TYPE_CHECKING:
    from newsletter.mail import Mailer
    from tests.support.smtp_server import SmtpServer

# Short enough for a test that waits until one is used up, long enough for a busy machine.
QUICK = Timeouts(
    connect=timedelta(seconds=2),
    command=timedelta(seconds=0.5),
    dot=timedelta(seconds=0.6),
    message=timedelta(seconds=3),
)


def build_envelope(
    number: int = 1,
    *,
    body: bytes = b"Breathe in.\r\n",
    sender: str = "b+token@news.example",
    recipient: str = "maria@example.org",
    smtputf8: bool = False,
) -> Envelope:
    """A letter that can be told apart by its number."""
    header = b"Message-ID: <%d@news.example>\r\nSubject: Letter %d\r\n\r\n" % (number, number)
    return Envelope(sender=sender, recipient=recipient, content=header + body, smtputf8=smtputf8)


def build_mailer(server: SmtpServer, **options: Any) -> SmtpMailer:
    """A mailer for a server that checks no certificate and asks for no name."""
    return SmtpMailer(parse_mail_url(server.url), local_hostname="worker.example", **options)


class Mailbox(Protocol):
    """Where an adapter's letters arrive."""

    def open_mailer(self) -> Mailer:
        """A new mailer to it."""

    def arrived(self) -> list[bytes]:
        """The contents of all letters there, in any order."""

    def break_down(self) -> None:
        """Make it so that no letter can be handed over."""


class MailerContract:
    """Inherit it, and provide the fixture `mailbox`."""

    def test_an_accepted_letter_has_arrived_byte_for_byte(self, mailbox: Mailbox) -> None:
        envelope = build_envelope(body=b".\r\n..\r\n.leading\r\n\r\n. \r\ntrailing.\r\n")
        mailer = mailbox.open_mailer()
        mailer.open()

        verdict = mailer.send(envelope)

        assert verdict.outcome is Outcome.ACCEPTED
        assert verdict.stage == "dot"
        assert verdict.host
        assert mailbox.arrived() == [envelope.content]
        mailer.close()

    # The mailbox may serve all examples, each looks only at what is new; and the adapters' classes differ in
    # nothing but the mailbox.
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors])
    @given(lines=st.lists(st.binary().map(lambda line: line.translate(None, b"\r\n")), min_size=1))
    @example(lines=[b"."])
    @example(lines=[b".", b"."])
    @example(lines=[b"", b".", b"MAIL FROM:<evil@example.org>"])
    @example(lines=[b"." * 998])
    def test_any_lines_arrive_byte_for_byte(self, mailbox: Mailbox, lines: list[bytes]) -> None:
        """Dots, NULs and 8-bit bytes wherever they stand."""
        envelope = build_envelope(body=b"".join(line + b"\r\n" for line in lines))
        mailer = mailbox.open_mailer()
        mailer.open()
        before = mailbox.arrived()

        verdict = mailer.send(envelope)

        assert verdict.outcome is Outcome.ACCEPTED
        arrived = mailbox.arrived()
        for content in before:
            arrived.remove(content)
        assert arrived == [envelope.content]
        mailer.close()

    def test_a_content_that_starts_with_a_dot_arrives_byte_for_byte(self, mailbox: Mailbox) -> None:
        mailer = mailbox.open_mailer()
        mailer.open()
        mailer.send(Envelope(sender="", recipient="maria@example.org", content=b".\r\n..x\r\n"))
        mailer.close()

        assert mailbox.arrived() == [b".\r\n..x\r\n"]

    def test_a_large_letter_arrives_whole(self, mailbox: Mailbox) -> None:
        envelope = build_envelope(body=b".A line of the usual length and a little more.\r\n" * 200_000)
        mailer = mailbox.open_mailer()
        mailer.open()

        assert mailer.send(envelope).outcome is Outcome.ACCEPTED
        assert mailbox.arrived() == [envelope.content]
        mailer.close()

    def test_many_letters_go_through_one_mailer_each_once(self, mailbox: Mailbox) -> None:
        mailer = mailbox.open_mailer()
        for number in range(20):
            mailer.open()
            assert mailer.send(build_envelope(number)).outcome is Outcome.ACCEPTED
        mailer.close()

        assert sorted(mailbox.arrived()) == sorted(build_envelope(number).content for number in range(20))

    def test_mailers_in_parallel_neither_lose_nor_mix_letters(self, mailbox: Mailbox) -> None:
        def send_some(first: int) -> None:
            mailer = mailbox.open_mailer()
            for number in range(first, first + 25):
                mailer.open()
                assert mailer.send(build_envelope(number)).outcome is Outcome.ACCEPTED
            mailer.close()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(send_some, range(0, 200, 25)))

        assert sorted(mailbox.arrived()) == sorted(build_envelope(number).content for number in range(200))

    def test_open_and_close_may_be_repeated(self, mailbox: Mailbox) -> None:
        mailer = mailbox.open_mailer()
        mailer.close()
        for _ in range(2):
            mailer.open()
            mailer.open()
            assert mailer.send(build_envelope()).outcome is Outcome.ACCEPTED
            mailer.close()
            mailer.close()

        assert len(mailbox.arrived()) == 2

    def test_without_open_nothing_is_sent_and_nothing_raised(self, mailbox: Mailbox) -> None:
        verdict = mailbox.open_mailer().send(build_envelope())

        assert verdict.outcome is Outcome.UNAVAILABLE
        assert mailbox.arrived() == []

    def test_where_nothing_can_be_handed_over_open_says_what_to_do(self, mailbox: Mailbox) -> None:
        mailbox.break_down()

        with pytest.raises(RelayUnavailable) as caught:
            mailbox.open_mailer().open()

        assert caught.value.reply_code is None
        assert caught.value.reply_text
        assert "\n" not in str(caught.value)

    def test_what_breaks_after_open_is_a_verdict(self, mailbox: Mailbox) -> None:
        mailer = mailbox.open_mailer()
        mailer.open()
        mailbox.break_down()

        assert mailer.send(build_envelope()).outcome is Outcome.UNAVAILABLE
        mailer.close()
