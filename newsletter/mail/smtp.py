"""Letters to a mail server: one kept connection for each mailer, every reply judged at its own stage."""

from __future__ import annotations

import math
import re
import ssl
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from newsletter.domain.delivery import Outcome
from newsletter.errors import RelayUnavailable, SettingsError
from newsletter.mail.base import DONE, GO_ON, Stage, Verdict, printable, verdict_of
from newsletter.mail.conversation import (
    FAILURES,
    SHUTTING_DOWN,
    Conversation,
    ConversationError,
    OutOfTurnError,
    Timeouts,
    is_positive,
    own_name,
    why,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from newsletter.mail.base import Envelope, MailRoute

STANDARD_TIMEOUTS = Timeouts()

_LEADS_ON = {Stage.MAIL: DONE, Stage.RCPT: DONE, Stage.DATA: GO_ON}
"""The first digit of the reply that leads to the next stage."""


class SmtpMailer:
    """Hands letters to one mail server over one connection that it keeps, checks and renews."""

    def __init__(
        self,
        route: MailRoute,
        *,
        local_hostname: str | None = None,
        timeouts: Timeouts = STANDARD_TIMEOUTS,
        letters_per_connection: int = 100,
        idle_unchecked: timedelta = timedelta(seconds=30),
    ) -> None:
        """Prepare, without connecting.

        Args:
            route: of kind smtp or smtps.
            local_hostname: what to say in EHLO; None asks the machine for its name.
            timeouts: how long the server may take.
            letters_per_connection: after so many letters the connection is renewed.
            idle_unchecked: a connection idle for longer is asked whether it still lives.

        Raises:
            SettingsError: the route's cafile cannot be used.
            ValueError: `local_hostname` is no word of ASCII characters.
        """
        if local_hostname is not None and not re.fullmatch(r"[!-~]+", local_hostname):
            message = "The local host name is empty, or holds a character that no host name has."
            raise ValueError(message)
        self._route = route
        self._hello = local_hostname
        self._timeouts = timeouts
        self._letters_per_connection = letters_per_connection
        self._idle_unchecked = idle_unchecked
        self._context = _context_for(route) if route.tls == "required" else None
        self._conversation: Conversation | None = None
        self._letters = 0
        self._unfinished = False  # the server still holds an envelope that came to nothing
        self._used_at = 0.0

    def open(self) -> None:
        """Make sure that a conversation is ready: clear, check, renew or begin it. Call before each letter.

        Raises:
            RelayUnavailable: none could begin. Nothing was handed over.
        """
        if self._conversation is not None and not self._is_ready(self._conversation):
            self.close()
        if self._conversation is None:
            self._begin()

    def send(self, envelope: Envelope) -> Verdict:
        """Hand one letter over. Never raises for what a server says or does, and never connects by itself.

        After anything that leaves doubt about what the server will say next, the connection is gone.
        """
        conversation = self._conversation
        if conversation is None:
            return self._verdict(Stage.OPEN, None, "No conversation is open.")
        if self._unfinished and not self._clear(conversation):
            self._drop()
            return self._verdict(Stage.MAIL, None, "The mail server did not forget the letter before this one.")
        misfit = self._misfit(conversation, envelope)
        if misfit is not None:
            return misfit
        verdict = self._hand_over(conversation, envelope)
        self._letters += 1
        self._used_at = time.monotonic()
        self._unfinished = verdict.outcome is not Outcome.ACCEPTED
        if _leaves_doubt(verdict):
            self._drop()
        return verdict

    def close(self) -> None:
        """Say QUIT and hang up. May be called twice; `open` begins anew."""
        if self._conversation is not None:
            self._conversation.say_goodbye()
        self._drop()

    def _drop(self) -> None:
        if self._conversation is not None:
            self._conversation.hang_up()
        self._conversation = None
        self._unfinished = False

    def _is_ready(self, conversation: Conversation) -> bool:
        if self._letters >= self._letters_per_connection or not conversation.is_quiet():
            return False
        if self._unfinished:
            return self._clear(conversation)
        if time.monotonic() - self._used_at <= self._idle_unchecked.total_seconds():
            return True
        return self._agrees(conversation, "NOOP")

    def _clear(self, conversation: Conversation) -> bool:
        self._unfinished = not self._agrees(conversation, "RSET")
        return not self._unfinished

    def _agrees(self, conversation: Conversation, command: str) -> bool:
        try:
            code, _ = conversation.ask(command)
        except FAILURES:
            return False
        self._used_at = time.monotonic()
        return is_positive(code)

    def _begin(self) -> None:
        if self._hello is None:
            self._hello = own_name()
        try:
            conversation = Conversation(self._route, context=self._context, hello=self._hello, timeouts=self._timeouts)
        except FAILURES as failure:
            code = failure.code if isinstance(failure, ConversationError) else None
            message = f"The mail server {self._name} {why(failure)}."
            raise RelayUnavailable(message, reply_code=code, reply_text=printable(_words_of(failure))) from failure
        self._conversation = conversation
        self._letters = 0
        self._used_at = time.monotonic()

    def _misfit(self, conversation: Conversation, envelope: Envelope) -> Verdict | None:
        """Judge, without asking again, by what the server offered in EHLO."""
        outcome = Outcome.REFUSED
        limit = conversation.size_limit_bytes
        if envelope.needs_smtputf8 and "SMTPUTF8" not in conversation.extensions:
            outcome = Outcome.RECIPIENT_REFUSED
            text = "The address has letters beyond ASCII, and the mail server does not offer SMTPUTF8."
        elif not envelope.content.isascii() and "8BITMIME" not in conversation.extensions:
            text = "The letter has 8-bit bytes, and the mail server does not offer 8BITMIME."
        elif limit is not None and len(envelope.content) > limit:
            text = f"The letter has {len(envelope.content)} bytes, and the mail server takes {limit}."
        else:
            return None
        return Verdict(outcome=outcome, stage=Stage.MAIL, reply_code=None, reply_text=text, host=self._route.host)

    def _hand_over(self, conversation: Conversation, envelope: Envelope) -> Verdict:
        before_dot = self._timeouts.message - self._timeouts.dot
        conversation.not_after = time.monotonic() + before_dot.total_seconds()
        stage = Stage.MAIL
        try:
            for stage, command in _commands(conversation, envelope):
                code, text = conversation.ask(command)
                if code // 100 != _LEADS_ON[stage]:
                    return self._verdict(stage, code, text)
            stage = Stage.BODY
            conversation.write_body(envelope.content)
        except OutOfTurnError as error:
            # A refusal may come before the body is complete, and it is an answer. At any other stage nothing
            # says what it answers.
            if stage is Stage.BODY or error.code == SHUTTING_DOWN:
                return self._verdict(stage, error.code, error.text)
            return self._verdict(stage, None, f"The mail server {error}.")
        except FAILURES as failure:
            return self._verdict(stage, None, _words_of(failure))
        finally:
            conversation.not_after = math.inf
        try:
            code, text = conversation.end_body()
        except FAILURES as failure:
            return self._verdict(Stage.DOT, None, _words_of(failure))
        return self._verdict(Stage.DOT, code, text)

    def _verdict(self, stage: Stage, code: int | None, text: str) -> Verdict:
        return verdict_of(stage, code, text, host=self._route.host)

    @property
    def _name(self) -> str:
        host = f"[{self._route.host}]" if ":" in self._route.host else self._route.host
        return f"{host}:{self._route.port}"


def _commands(conversation: Conversation, envelope: Envelope) -> Iterator[tuple[Stage, str]]:
    options = ""
    if "SIZE" in conversation.extensions:
        options += f" SIZE={len(envelope.content)}"
    if not envelope.content.isascii():
        options += " BODY=8BITMIME"
    if envelope.needs_smtputf8:
        options += " SMTPUTF8"
    yield Stage.MAIL, f"MAIL FROM:<{envelope.sender}>{options}"
    yield Stage.RCPT, f"RCPT TO:<{envelope.recipient}>"
    yield Stage.DATA, "DATA"


def _leaves_doubt(verdict: Verdict) -> bool:
    return (
        verdict.outcome in {Outcome.UNAVAILABLE, Outcome.NO_ANSWER}
        or verdict.stage == Stage.BODY
        or verdict.reply_code == SHUTTING_DOWN
    )


def _words_of(failure: Exception) -> str:
    said = failure.text if isinstance(failure, ConversationError) else ""
    return said or f"The mail server {why(failure)}."


def _context_for(route: MailRoute) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=route.cafile)
    except OSError as error:  # ssl.SSLError is one, too
        message = f"NEWSLETTER_MAIL_URL: the cafile {route.cafile} cannot be used ({error.strerror or error})."
        raise SettingsError(message) from error
