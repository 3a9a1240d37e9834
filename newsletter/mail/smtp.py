"""Letters to a mail server: one kept connection for each mailer, every reply judged at its own stage."""

from __future__ import annotations

import math
import re
import ssl
import time
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from newsletter.domain.delivery import Outcome
from newsletter.errors import RelayUnavailable, SettingsError
from newsletter.fibres import BLOCKING, Waiting
from newsletter.mail.base import DONE, GO_ON, Stage, Verdict, printable, verdict_of
from newsletter.mail.conversation import SHUTTING_DOWN, Conversation, is_positive, lasts, own_name, why
from newsletter.mail.wire import FAILURES, ConversationError, OutOfTurnError, Timeouts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from newsletter.mail.base import Envelope, MailRoute

STANDARD_TIMEOUTS = Timeouts()

_LEADS_ON = {Stage.MAIL: DONE, Stage.RCPT: DONE, Stage.DATA: GO_ON}
"""The first digit of the reply that leads to the next stage, in the order of the stages."""


class _Announced(NamedTuple):
    """A letter whose commands have left behind the one before it; their replies are still to be read."""

    letter: Envelope
    commands: Sequence[str]


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
        waiting: Waiting = BLOCKING,
    ) -> None:
        """Prepare, without connecting.

        Args:
            route: of kind smtp or smtps.
            local_hostname: what to say in EHLO; None asks the machine for its name.
            timeouts: how long the server may take.
            letters_per_connection: after so many letters the connection is renewed.
            idle_unchecked: a connection idle for longer is asked whether it still lives.
            waiting: how to wait for the server.

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
        self._before_dot_seconds = (timeouts.message - timeouts.dot).total_seconds()
        self._letters_per_connection = letters_per_connection
        self._idle_unchecked = idle_unchecked
        self._waiting = waiting
        self._context = _context_for(route) if route.tls == "required" else None
        self._conversation: Conversation | None = None
        self._announced: _Announced | None = None
        self._letters = 0  # begun in this conversation
        self._unfinished = False  # the server still holds an envelope that came to nothing
        self._used_at = 0.0

    @property
    def looks_ahead(self) -> bool:
        """Whether it makes use of knowing what is sent next."""
        return self._conversation is not None and self._conversation.pipelines

    def open(self, letter: Envelope | None = None) -> None:
        """Make sure that a conversation is ready: clear, check, renew or begin it. Call before each letter.

        Args:
            letter: is sent next, where that is known; a conversation that waits for another one begins anew.

        Raises:
            RelayUnavailable: none could begin. Nothing was handed over.
        """
        if self._conversation is not None and not self._is_ready(self._conversation, letter):
            self.close()
        if self._conversation is None:
            self._begin()

    def send(self, letter: Envelope, *, then: Envelope | None = None) -> Verdict:
        """Hand one letter over. Never raises for what a server says or does, and never connects by itself.

        After anything that leaves doubt about what the server will say next, the connection is gone.

        Args:
            then: is sent next, as far as anybody knows: where the server pipelines, it is told of its sender and
                recipient together with the letter.
        """
        conversation = self._conversation
        if conversation is None:
            return self._verdict(Stage.OPEN, None, "No conversation is open.")
        announced, self._announced = self._announced, None
        obstacle = self._obstacle(conversation, letter, announced)
        if obstacle is not None:
            return obstacle
        conversation.not_after = time.monotonic() + self._before_dot_seconds
        self._unfinished = True
        if announced is None:
            self._letters += 1
            replies = conversation.ask_in_turn(_commands(conversation, letter))
        else:
            replies = conversation.hear(announced.commands)
        verdict = self._announce(conversation, replies) or self._hand_over(conversation, letter, then)
        conversation.not_after = math.inf
        self._used_at = time.monotonic()
        if verdict.outcome is Outcome.ACCEPTED:
            self._unfinished = False
        elif _leaves_doubt(verdict):
            self._drop()
        return verdict

    def close(self) -> None:
        """Say QUIT and hang up. May be called twice; `open` begins anew."""
        # Who waits for a letter would take a command for its first line.
        if self._conversation is not None and self._announced is None:
            self._conversation.say_goodbye()
        self._drop()

    def _drop(self) -> None:
        if self._conversation is not None:
            self._conversation.hang_up()
        self._conversation = None
        self._announced = None
        self._unfinished = False

    def _is_ready(self, conversation: Conversation, letter: Envelope | None) -> bool:
        if self._announced is not None:
            fits = letter is None or _commands(conversation, letter) == self._announced.commands
            return fits and conversation.is_alive()
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
        try:
            # The resolver, the handshake and the library behind it block.
            conversation = self._waiting.elsewhere(self._converse)
        except FAILURES as failure:
            code = failure.code if isinstance(failure, ConversationError) else None
            message = f"The mail server {self._name} {why(failure)}."
            raise RelayUnavailable(
                message, reply_code=code, reply_text=printable(_words_of(failure)), lasts=lasts(failure)
            ) from failure
        self._conversation = conversation
        self._letters = 0
        self._used_at = time.monotonic()

    def _converse(self) -> Conversation:
        if self._hello is None:
            self._hello = own_name()
        return Conversation(
            self._route, context=self._context, hello=self._hello, timeouts=self._timeouts, waiting=self._waiting
        )

    def _obstacle(self, conversation: Conversation, letter: Envelope, announced: _Announced | None) -> Verdict | None:
        """What keeps a letter from being sent in this conversation, as it stands."""
        if announced is not None:
            if letter is announced.letter or _commands(conversation, letter) == announced.commands:
                return None
            self._drop()
            return self._verdict(Stage.OPEN, None, "The mail server waits for another letter.")
        if self._unfinished and not self._clear(conversation):
            self._drop()
            return self._verdict(Stage.MAIL, None, "The mail server did not forget the letter before this one.")
        return self._misfit(conversation, letter)

    def _misfit(self, conversation: Conversation, envelope: Envelope) -> Verdict | None:
        """Judge, without asking again, by what the server offered in EHLO."""
        outcome = Outcome.REFUSED
        limit = conversation.size_limit_bytes
        if envelope.needs_smtputf8 and "smtputf8" not in conversation.extensions:
            outcome = Outcome.RECIPIENT_REFUSED
            text = "The address has letters beyond ASCII, and the mail server does not offer SMTPUTF8."
        elif "8bitmime" not in conversation.extensions and not envelope.content.isascii():
            text = "The letter has 8-bit bytes, and the mail server does not offer 8BITMIME."
        elif limit is not None and len(envelope.content) > limit:
            text = f"The letter has {len(envelope.content)} bytes, and the mail server takes {limit}."
        else:
            return None
        return Verdict(outcome=outcome, stage=Stage.MAIL, reply_code=None, reply_text=text, host=self._route.host)

    def _hand_over(self, conversation: Conversation, letter: Envelope, then: Envelope | None) -> Verdict:
        """Write a letter that the server waits for, and hear what became of it."""
        next_commands = self._commands_ahead(conversation, then)
        try:
            followed = conversation.write_message(letter.content, has_dots=letter.has_dots, then=next_commands)
        except OutOfTurnError as error:
            # A refusal may come before the message is complete, and it is an answer.
            return self._verdict(Stage.BODY, error.code, error.text)
        except FAILURES as failure:
            return self._verdict(Stage.BODY, None, _words_of(failure))
        try:
            code, text = conversation.read_answer()
        except FAILURES as failure:
            return self._verdict(Stage.DOT, None, _words_of(failure))
        if then is not None and next_commands:
            self._letters += 1
            self._announced = _Announced(then, next_commands)
            if not followed:
                self._drop()
        return self._verdict(Stage.DOT, code, text)

    def _commands_ahead(self, conversation: Conversation, letter: Envelope | None) -> Sequence[str]:
        """The commands of the next letter, where they may leave together with this one."""
        if letter is None or not conversation.pipelines or self._letters >= self._letters_per_connection:
            return ()
        return () if self._misfit(conversation, letter) else _commands(conversation, letter)

    def _announce(self, conversation: Conversation, replies: Iterator[tuple[int, str]]) -> Verdict | None:
        """Hear what is said to MAIL, RCPT and DATA.

        Returns:
            None where the server waits for the message, else what the first no means.
        """
        refusal: Verdict | None = None
        code = 0
        for stage, leads_on in _LEADS_ON.items():
            try:
                code, text = next(replies)
            except FAILURES as failure:
                if refusal is None:
                    return self._failed(stage, failure)
                self._drop()
                return refusal
            if refusal is None and code // 100 != leads_on:
                refusal = self._verdict(stage, code, text)
                if not conversation.pipelines or _leaves_doubt(refusal):
                    return refusal
        return None if refusal is None else self._settle(conversation, refusal, data_code=code)

    def _settle(self, conversation: Conversation, refusal: Verdict, *, data_code: int) -> Verdict:
        """Look whether the replies to a group with a no among them are in step, and whether it ended there.

        Args:
            conversation: where all replies of the group were read.
            refusal: what the first no of the group means.
            data_code: the last reply, that to DATA.
        """
        try:
            in_step = data_code // 100 != DONE and not conversation.has_spoken()
        except FAILURES:
            in_step = True  # It hung up after the last reply, which takes nothing back.
            self._drop()
        if not in_step:
            # One reply too many, or a "done" where none can be: the no may answer something else, and must not
            # condemn an address.
            text = f"The mail server spoke out of turn: {refusal.reply_code} {refusal.reply_text}"
            return self._verdict(refusal.stage, None, text)
        if data_code // 100 == GO_ON or data_code == SHUTTING_DOWN:
            # It waits for a message now. RFC 2920, 3.1, would send a lone dot, which a server that is not
            # sure of its own no delivers as an empty letter; a connection that ends is never taken for one.
            self._drop()
        return refusal

    def _failed(self, stage: Stage, failure: Exception) -> Verdict:
        if isinstance(failure, OutOfTurnError):
            # Nothing says what it answers, but for a farewell.
            if failure.code == SHUTTING_DOWN:
                return self._verdict(stage, failure.code, failure.text)
            return self._verdict(stage, None, f"The mail server {failure}.")
        return self._verdict(stage, None, _words_of(failure))

    def _verdict(self, stage: str, code: int | None, text: str) -> Verdict:
        return verdict_of(stage, code, text, host=self._route.host)

    @property
    def _name(self) -> str:
        host = f"[{self._route.host}]" if ":" in self._route.host else self._route.host
        return f"{host}:{self._route.port}"


def _commands(conversation: Conversation, envelope: Envelope) -> tuple[str, str, str]:
    options = ""
    if "size" in conversation.extensions:
        options = f" SIZE={len(envelope.content)}"
    if not envelope.content.isascii():
        options += " BODY=8BITMIME"
    if envelope.needs_smtputf8:
        options += " SMTPUTF8"
    return f"MAIL FROM:<{envelope.sender}>{options}", f"RCPT TO:<{envelope.recipient}>", "DATA"


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
