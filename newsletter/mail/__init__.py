"""The ways out: a mail server, or a local folder for trying things out."""

from __future__ import annotations

from typing import assert_never

from newsletter.fibres import BLOCKING, Waiting
from newsletter.mail.base import Envelope, Mailer, MailRoute, Stage, Verdict, parse_mail_url
from newsletter.mail.maildir import MaildirMailer
from newsletter.mail.smtp import STANDARD_TIMEOUTS, SmtpMailer
from newsletter.mail.wire import Timeouts

__all__ = [
    "STANDARD_TIMEOUTS",
    "Envelope",
    "MailRoute",
    "Mailer",
    "Stage",
    "Timeouts",
    "Verdict",
    "open_mailer",
    "parse_mail_url",
]


def open_mailer(
    route: MailRoute,
    *,
    local_hostname: str | None = None,
    timeouts: Timeouts = STANDARD_TIMEOUTS,
    letters_per_connection: int = 100,
    waiting: Waiting = BLOCKING,
) -> Mailer:
    """Make a mailer for a route, for one thread. It does not connect before its own `open`.

    Args:
        route: from `parse_mail_url`.
        local_hostname: what to say in EHLO; None asks the machine.
        timeouts: how long a mail server may take.
        letters_per_connection: after so many letters an SMTP connection is renewed.
        waiting: how to wait for a mail server.

    Raises:
        SettingsError: the route's cafile cannot be used.
    """
    match route.kind:
        case "smtp" | "smtps":
            return SmtpMailer(
                route,
                local_hostname=local_hostname,
                timeouts=timeouts,
                letters_per_connection=letters_per_connection,
                waiting=waiting,
            )
        case "maildir":
            if route.path is None:
                message = "A maildir route has a path."
                raise ValueError(message)
            return MaildirMailer(route.path)
        case _:
            assert_never(route.kind)
