"""Greeting, STARTTLS and login by `smtplib`, which reads and writes through our `Wire` here.

Its own reply reader has no bound in time or size, and its `login` tries every mechanism until an account is
locked: so `getreply` is ours, and one mechanism is tried once.
Source: RFC 5321; RFC 3207 (STARTTLS); RFC 4954 (AUTH).
"""

from __future__ import annotations

import smtplib
import ssl
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from newsletter.mail.base import DONE, NEVER, printable
from newsletter.mail.wire import ConversationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from _typeshed import ReadableBuffer

    from newsletter.mail.base import MailRoute
    from newsletter.mail.wire import Timeouts, Wire

GREETING = 220
LOGGED_IN = 235
LOGIN_GOES_ON = 334

_NO_CLEAR_TEXT = (
    "and letters are not sent in clear text; use smtps://, or add ?tls=never to NEWSLETTER_MAIL_URL if clear text is "
    "really meant"
)
_NO_TLS = f"does not offer STARTTLS, {_NO_CLEAR_TEXT}"
_INJECTED = "went on in clear text after its answer to STARTTLS; somebody may be in between"
_NO_LOGIN = (
    "offers neither AUTH PLAIN nor AUTH LOGIN, and NEWSLETTER_MAIL_URL has a user and a password; take them out, or "
    "use the port at which the server takes a login"
)
_NO_CHALLENGE = "asked for the login in a way that is not Base64"


def shake_hands(
    wire: Wire, route: MailRoute, *, context: ssl.SSLContext | None, hello: str, timeouts: Timeouts
) -> Mapping[str, str]:
    """Connect a wire, greet, secure it, log in.

    Args:
        wire: without a socket; close it whatever happens here.
        route: of kind smtp or smtps.
        context: how to check the server's certificate; None for clear text.
        hello: our own name for EHLO.
        timeouts: how long the server may take.

    Returns:
        What EHLO offered: keyword in small letters, parameters.

    Raises:
        OSError, ConversationError: any of it failed.
    """
    try:
        client = _connected(wire, route, context=context, hello=hello, timeouts=timeouts)
    except smtplib.SMTPConnectError as error:
        raise _refusal("greeted with", *_reply_of(error)) from None
    _greet(client, hello)
    if context is not None and route.kind == "smtp":
        _start_tls(client, context)
        _greet(client, hello)
    if route.user is not None and route.password is not None:
        _log_in(client, route.user, route.password)
    return client.esmtp_features


class _Client(smtplib.SMTP):
    """The standard library's client, its replies bounded in time and size."""

    ehlo_msg = "EHLO"

    def __init__(self, wire: Wire, patience_seconds: float, **options: Any) -> None:  # noqa: ANN401 - the library's
        """Connect, and read the greeting."""
        self._wire = wire
        self._patience_seconds = patience_seconds
        super().__init__(**options)

    def send(self, s: ReadableBuffer | str) -> None:
        """Write on the wire."""
        data = s.encode("ascii") if isinstance(s, str) else bytes(s)
        self._attached().say(data, deadline=self._deadline())

    def getreply(self) -> tuple[int, bytes]:
        """Read from the wire."""
        code, text = self._attached().read_reply(deadline=self._deadline())
        return code, text.encode()

    def docmd(self, cmd: str, args: str = "") -> tuple[int, bytes]:
        """Send a command and read its reply, to which nothing may be added before TLS begins."""
        code, text = super().docmd(cmd, args)
        if cmd == "STARTTLS" and code == GREETING and self.sock is not None:
            if self._wire.look():
                raise ConversationError(_INJECTED)
            self.sock.settimeout(self._patience_seconds)  # TLS is not begun on a socket that never blocks.
        return code, text

    def _attached(self) -> Wire:
        if self.sock is not None and self.sock is not self._wire.socket:
            self._wire.attach(self.sock)
        return self._wire

    def _deadline(self) -> float:
        return time.monotonic() + self._patience_seconds


class _TlsClient(_Client, smtplib.SMTP_SSL):
    """The same, with TLS from the first byte."""


class _Utf8(str):
    """An answer that `smtplib` encodes before it sends it: as ASCII, where RFC 4616 asks for UTF-8."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:  # noqa: ARG002 - always UTF-8
        return super().encode("utf-8", errors)


def _connected(
    wire: Wire, route: MailRoute, *, context: ssl.SSLContext | None, hello: str, timeouts: Timeouts
) -> _Client:
    patience_seconds = timeouts.command.total_seconds()
    if context is not None and route.kind == "smtps":
        new_client: Callable[..., _Client] = partial(_TlsClient, wire, patience_seconds, context=context)
    else:
        new_client = partial(_Client, wire, patience_seconds)
    return new_client(host=route.host, port=route.port, local_hostname=hello, timeout=timeouts.connect.total_seconds())


def _greet(client: _Client, hello: str) -> None:
    code, text = client.ehlo(hello)
    if code // 100 == NEVER:
        code, text = client.docmd("HELO", hello)
    if code // 100 != DONE:
        what = "answered EHLO with"
        raise _refusal(what, code, text)


def _start_tls(client: _Client, context: ssl.SSLContext) -> None:
    # What was offered before TLS counts for nothing (RFC 3207, 4.2): the library forgets it, too.
    try:
        client.starttls(context=context)
    except smtplib.SMTPNotSupportedError:
        raise ConversationError(_NO_TLS, lasts=True) from None
    except smtplib.SMTPResponseException as error:
        if _is_for_good(error.smtp_code):
            raise _refusal(f"refuses STARTTLS, {_NO_CLEAR_TEXT}:", *_reply_of(error), lasts=True) from None
        raise _refusal("answered STARTTLS with", *_reply_of(error)) from None


def _log_in(client: _Client, user: str, password: str) -> None:
    # One mechanism, tried once: three wrong passwords may lock an account. Here TLS is on, or the operator
    # chose clear text, or nothing leaves this machine.
    offered = client.esmtp_features.get("auth", "").upper().split()
    if "PLAIN" in offered:
        mechanism, answers = "PLAIN", [f"\0{user}\0{password}"]
    elif "LOGIN" in offered:
        mechanism, answers = "LOGIN", [user, password]
    else:
        raise ConversationError(_NO_LOGIN, lasts=True)
    what = "did not take user and password of NEWSLETTER_MAIL_URL (check both):"

    def answer(challenge: bytes | None = None) -> str:
        if not answers:
            raise _refusal(what, LOGIN_GOES_ON, challenge or b"")
        return _Utf8(answers.pop(0))

    try:
        code, text = client.auth(mechanism, answer, initial_response_ok=mechanism == "PLAIN")
    except smtplib.SMTPAuthenticationError as error:
        code, text = _reply_of(error)
    except ValueError:
        raise ConversationError(_NO_CHALLENGE) from None
    if code != LOGGED_IN:
        raise _refusal(what, code, text, lasts=_is_for_good(code))


def _reply_of(error: smtplib.SMTPResponseException) -> tuple[int, bytes]:
    said = error.smtp_error
    return error.smtp_code, said.encode() if isinstance(said, str) else said


def _is_for_good(code: int) -> bool:
    return code // 100 == NEVER


def _refusal(what: str, code: int, text: bytes, *, lasts: bool = False) -> ConversationError:
    said = text.decode("utf-8", errors="replace")
    return ConversationError(f"{what} {code} {printable(said)}", code=code, text=said, lasts=lasts)
