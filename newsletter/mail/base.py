"""What all ways out share: the letter, the verdict, what each reply means, and the route in MAIL_URL."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple, NoReturn, Protocol
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from newsletter.domain.delivery import DEAD_ADDRESS_STATUSES, Outcome
from newsletter.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Stage(StrEnum):
    """How far a conversation had come when its verdict fell."""

    OPEN = "open"  # no conversation could begin
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    BODY = "body"  # the terminator's last byte had not been handed over: certainly not accepted
    DOT = "dot"  # it had been


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """One complete message for one recipient.

    Attributes:
        sender: the envelope sender as it goes on the wire; empty for the null sender.
        recipient: the address as it goes on the wire (`Address.wire`).
        content: header and body, every line ended by CRLF. Nobody mends them here: these bytes were signed.
        smtputf8: the message needs a server that offers SMTPUTF8 (RFC 6531).
        vouched: whoever wrote the content made sure of its line ends, piece by piece; to count them in each
            letter takes longer than writing it.
        has_dots: a line may begin with a dot; False only from whoever made sure of that in the same way.

    Raises:
        ValueError: an address that could end or extend the SMTP command it stands in, or content with a bare
            CR or LF (SMTP smuggling: CVE-2023-51764). Both are our own programming errors, never a reader's.
    """

    sender: str = field(repr=False)
    recipient: str = field(repr=False)
    content: bytes = field(repr=False)
    smtputf8: bool = False
    vouched: bool = field(default=False, repr=False, compare=False)
    has_dots: bool = field(default=True, repr=False, compare=False)

    def __post_init__(self) -> None:
        _refuse_injection("sender", self.sender)
        _refuse_injection("recipient", self.recipient)
        if not self.recipient:
            message = "The recipient of a letter is empty."
            raise ValueError(message)
        if self.vouched and self.content:
            return
        line_ends = self.content.count(b"\r\n")
        if not self.content or line_ends != self.content.count(b"\r") or line_ends != self.content.count(b"\n"):
            message = "A letter is empty, or has a CR or LF outside a CRLF: serialise it with the SMTP policy."
            raise ValueError(message)

    @property
    def needs_smtputf8(self) -> bool:
        """Whether only a server that offers SMTPUTF8 may be given this letter."""
        return self.smtputf8 or not (self.sender.isascii() and self.recipient.isascii())


class Verdict(NamedTuple):
    """What one attempt came to, with its evidence.

    Attributes:
        outcome: what it means for the delivery.
        stage: how far the conversation had come, one of `Stage`.
        reply_code: the server's code, or None where no usable reply came.
        reply_text: the server's words, or ours: one printable line of at most `REPLY_TEXT_LIMIT` characters.
            A server may quote the recipient's address in it: it goes into the ledger, never into a log line.
        host: the mail server's name, or "maildir".
        slow_down: the server wants less mail from us for a while, whatever becomes of this letter: 421 at any
            stage, or a 4xx that speaks of rate, reputation or load.
        busy: a 4xx that may speak of the server, and may not: it counts where several come in a row.
        policy: a 5xx because of who we are or how we send (5.7.x): our own fault, and nothing about the address.
    """

    outcome: Outcome
    stage: str
    reply_code: int | None
    reply_text: str
    host: str
    slow_down: bool = False
    policy: bool = False
    busy: bool = False


class Mailer(Protocol):
    """One connection to wherever mail goes, used by one thread at a time."""

    def open(self, letter: Envelope | None = None) -> None:
        """Make sure that a conversation is ready; cheap when one is.

        Args:
            letter: is sent next, where that is known; a conversation that waits for another one begins anew.

        Raises:
            RelayUnavailable: none could begin. Nothing was handed over.
        """

    def send(self, letter: Envelope, *, then: Envelope | None = None) -> Verdict:
        """Hand one letter over. Never raises for what a server says or does.

        Args:
            then: is sent next, as far as anybody knows. Its sender and recipient may be told the server, and
                nothing of its content.
        """

    @property
    def looks_ahead(self) -> bool:
        """Whether it makes use of knowing what is sent next."""

    def close(self) -> None:
        """End the conversation, politely if that is quick. May be called twice; `open` begins anew."""


# What a reply means -----------------------------------------------------------------------------------------

REPLY_TEXT_LIMIT = 500
"""The most characters of a reply that are kept."""

DONE, GO_ON, NOT_NOW, NEVER = 2, 3, 4, 5
"""The first digit of a reply. Source: RFC 5321, section 4.2.1."""

_BY_CLASS: Mapping[tuple[str, int], Outcome] = MappingProxyType(
    {
        (Stage.MAIL, NOT_NOW): Outcome.DEFERRED,
        (Stage.MAIL, NEVER): Outcome.REFUSED,
        (Stage.RCPT, NOT_NOW): Outcome.DEFERRED,
        (Stage.RCPT, NEVER): Outcome.REFUSED,
        (Stage.DATA, NOT_NOW): Outcome.DEFERRED,
        (Stage.DATA, NEVER): Outcome.REFUSED,
        (Stage.BODY, NOT_NOW): Outcome.DEFERRED,
        (Stage.BODY, NEVER): Outcome.REFUSED,
        (Stage.DOT, DONE): Outcome.ACCEPTED,
        (Stage.DOT, NOT_NOW): Outcome.DEFERRED,
        (Stage.DOT, NEVER): Outcome.REFUSED,
    }
)
"""What the first digit of a reply means at each stage. What is not here is nonsense at that stage."""

_BY_CODE: Mapping[tuple[str, int], Outcome] = MappingProxyType(
    {
        **{(stage, 421): Outcome.UNAVAILABLE for stage in Stage if stage is not Stage.DOT},
        (
            Stage.MAIL,
            530,
        ): Outcome.UNAVAILABLE,  # it wants a login or TLS: true of every letter, not of this one
    }
)
"""Codes that outweigh their first digit. 421 at the dot stays a 4xx: the server says it did not take it."""

_BY_STATUS_AT_RCPT: Mapping[str | None, Outcome] = MappingProxyType(
    {
        **dict.fromkeys(DEAD_ADDRESS_STATUSES, Outcome.ADDRESS_DEAD),
        "5.2.2": Outcome.DEFERRED,  # a full mailbox may be emptied
        # Microsoft's words for "no such user": 5.4.1 in business, 5.5.0 at Outlook.com. Now and then a living
        # mailbox gets them, too. Source: spamresource.com/2023/09/microsoft-multiple-types-of-invalid.html
        "5.4.1": Outcome.RECIPIENT_REFUSED,
        "5.5.0": Outcome.RECIPIENT_REFUSED,
        None: Outcome.DEFERRED,  # a bare 550 may mean anything, so it suppresses nobody
    }
)
"""What the enhanced code of a 5xx at RCPT means. Any other, 5.7.x above all, is our own fault until shown."""

_BUSY_MAILBOX = re.compile(r"\?p=ReceivingRate|is receiving mail (too quickly|at a rate)", re.IGNORECASE)
"""Gmail refuses for good, with the 5.2.1 of a disabled mailbox, where a living one gets too much mail.

Source: https://smtpfieldmanual.com/code/550 (ReceivingRatePerm). Words decide here because they only spare.
"""

_SLOW_DOWN_CODES = frozenset({421, 454})
"""454 is Amazon's "Throttling failure", which comes without an enhanced code.

Source: https://docs.aws.amazon.com/ses/latest/dg/manage-sending-quotas-errors.html
"""

_SLOW_DOWN_STATUSES = frozenset({"4.3.2", "4.4.5"})
"""Excessive load and congestion, beside all of 4.7.x. Source: RFC 3463, sections 3.4 and 3.5."""

_BUSY_CODES = frozenset({450, 451, 452})
_BUSY_SUBJECTS = ("4.0.", "4.3.", "4.4.", "4.5.")
"""What may speak of the server: these codes without an enhanced one, or an enhanced code whose subject is its system,
the network, the protocol or nothing in particular. Addresses (4.1), mailboxes (4.2) and contents (4.6) are a letter's
own matter.

Source: RFC 5321, section 4.2.3; RFC 3463, section 2.
"""

_GREYLISTED = re.compile(r"gr[ae]y-?list|^4\.7\.1 try again later\W*$", re.IGNORECASE)
"""Whoever is greylisted is told so at the first try of each letter, however slowly they come. The second are the words
of Rspamd. Words decide here because they only spare.

Sources: https://rspamd.com/doc/modules/greylisting.html; RFC 6647, section 5
"""

_ONE_MAILBOX = re.compile(r"mailbox (is )?full|over ?quota|quota exceeded|receiving mail", re.IGNORECASE)
"""A full or busy mailbox, told without an enhanced code."""

_ENHANCED_STATUS = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?![\d.])")


def verdict_of(stage: str, code: int | None, text: str, *, host: str) -> Verdict:
    """Judge a reply that ends the conversation about a letter.

    Args:
        stage: one of `Stage`.
        code: the reply code, or None for no answer, a lost connection, a time-out or nonsense.
        text: the reply's text, or ours, as it comes.
        host: the mail server's name.
    """
    if code is not None and code // 100 == DONE and stage == Stage.DOT:
        return Verdict(Outcome.ACCEPTED, stage, code, printable(text), host)  # as below, said at once
    status = None if code is None else enhanced_status(code, text)
    outcome = _outcome_of(stage, code, status)
    if outcome is Outcome.ADDRESS_DEAD and _BUSY_MAILBOX.search(text):
        outcome = Outcome.DEFERRED
    return Verdict(
        outcome=outcome,
        stage=stage,
        reply_code=code,
        reply_text=printable(text),
        host=host,
        slow_down=_wants_less(code, status, text),
        policy=_has_subject(status, "5.7."),
        busy=_may_be_busy(code, status, text),
    )


def _wants_less(code: int | None, status: str | None, text: str) -> bool:
    if code in _SLOW_DOWN_CODES or status in _SLOW_DOWN_STATUSES:
        return True
    return _has_subject(status, "4.7.") and not _GREYLISTED.search(text)


def _may_be_busy(code: int | None, status: str | None, text: str) -> bool:
    speaks = code in _BUSY_CODES if status is None else status.startswith(_BUSY_SUBJECTS)
    if not speaks or _wants_less(code, status, text):
        return False
    return not (_GREYLISTED.search(text) or _ONE_MAILBOX.search(text))


def _has_subject(status: str | None, prefix: str) -> bool:
    return status is not None and status.startswith(prefix)


def _outcome_of(stage: str, code: int | None, status: str | None) -> Outcome:
    no_reply = Outcome.NO_ANSWER if stage == Stage.DOT else Outcome.UNAVAILABLE
    if code is None:
        return no_reply
    if (stage, code) in _BY_CODE:
        return _BY_CODE[stage, code]
    outcome = _BY_CLASS.get((stage, code // 100), no_reply)
    if stage == Stage.RCPT and code // 100 == NEVER:
        return _BY_STATUS_AT_RCPT.get(status, outcome)
    return outcome


def enhanced_status(code: int, text: str) -> str | None:
    """Find the enhanced code ("5.1.1") that a text begins with, if its class is that of the reply code.

    Source: RFC 2034, section 4; RFC 3463.
    """
    found = _ENHANCED_STATUS.match(text)
    if found is None or not found[1].startswith(str(code // 100)):
        return None
    return found[1]


def printable(text: str) -> str:
    """`text` as one line: control, bidirectional and other unprintable characters gone, length bounded."""
    visible = text[: 4 * REPLY_TEXT_LIMIT]
    if not visible.isprintable():
        visible = "".join([character if character.isprintable() else " " for character in visible])
    return " ".join(visible.split())[:REPLY_TEXT_LIMIT]


# The route in MAIL_URL --------------------------------------------------------------------------------------

_SETTING = "NEWSLETTER_MAIL_URL"
_FORMS = "smtp://user:password@host:587, smtps://user:password@host:465 or maildir:./mail"
_ENCODED = "smtp://user:password@host:587, and in the password # as %23, / as %2F, ? as %3F, @ as %40"
_DEFAULT_PORTS = MappingProxyType({"smtp": 587, "smtps": 465})
_HOST_NAME = re.compile(r"[\w-]+(\.[\w-]+)*\.?")


@dataclass(frozen=True, kw_only=True)
class MailRoute:
    """Where mail goes, as `parse_mail_url` read it.

    Attributes:
        kind: STARTTLS or plain, TLS from the first byte, or a local folder.
        host: without brackets; empty for a maildir.
        port: 0 for a maildir.
        user: the login, or None for none.
        password: present exactly where `user` is.
        tls: "required": verified TLS or nothing; "never": none, even where it is offered.
        cafile: certificates to trust instead of the system's.
        path: the maildir's folder.
        loopback: the host is this very machine.
    """

    kind: Literal["smtp", "smtps", "maildir"]
    host: str = ""
    port: int = 0
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: Literal["required", "never"] = "required"
    cafile: Path | None = None
    path: Path | None = None
    loopback: bool = False

    @property
    def leaves_this_machine(self) -> bool:
        """Whether letters on this route can reach anybody."""
        return self.kind != "maildir" and not self.loopback


def parse_mail_url(url: str) -> MailRoute:
    """Read NEWSLETTER_MAIL_URL: `smtp://…`, `smtps://…` or `maildir:PATH`.

    The options are `?tls=required|never` and `?cafile=/path`. User and password are percent-decoded, the path
    of a maildir is taken as it stands.

    Raises:
        SettingsError: names the setting and says what to write. It quotes nothing of the URL: a password with
            a stray `/`, `?` or `#` may land in any of its parts.
    """
    if not url.isprintable() or url != url.strip():
        _refuse("has a control character, or a space around it. Write", _FORMS)
    if not url:
        _refuse(
            "is empty: letters would pile up unread in a folder. Write", f"{_FORMS}; or unset it for maildir:./mail"
        )
    scheme = url.partition(":")[0].lower()
    if scheme == "maildir":
        return _maildir_route(url)
    if scheme not in ("smtp", "smtps"):
        _refuse("is of no kind that is known here. Write", _FORMS)
    split = _split(url)
    if split is None:
        _refuse("has a port that is no number below 65536, or a broken host. Write", _ENCODED)
    parts, port = split
    if parts.fragment or parts.path not in ("", "/"):
        _refuse("has something after the host. Write", _ENCODED)
    if port == 0:
        _refuse("has the port 0. Write", "host:587")
    kind: Literal["smtp", "smtps"] = "smtps" if scheme == "smtps" else "smtp"
    host = _host_of(parts)
    user, password = _login_of(parts)
    loopback = _is_loopback(host)
    tls, cafile = _tls_of(parts, kind=kind, loopback=loopback)
    return MailRoute(
        kind=kind,
        host=host,
        port=port or _DEFAULT_PORTS[kind],
        user=user,
        password=password,
        tls=tls,
        cafile=cafile,
        loopback=loopback,
    )


def _split(url: str) -> tuple[SplitResult, int | None] | None:
    # The library's errors quote the URL. Told apart by None, they are not even the context of ours.
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    return parts, port


def _decoded(text: str) -> str | None:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        return None


def _maildir_route(url: str) -> MailRoute:
    path = url.partition(":")[2]
    if path.startswith("//"):
        path = path[2:]
        if not path.startswith("/"):
            _refuse("has two slashes before a relative path. Write", "maildir:./mail or maildir:/srv/mail")
    if not path:
        _refuse("names no folder. Write", "maildir:./mail or maildir:/srv/mail")
    return MailRoute(kind="maildir", path=Path(path), tls="never")


def _host_of(parts: SplitResult) -> str:
    host = unquote(parts.hostname or "")
    if not host:
        _refuse("names no host. Write", _FORMS)
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            _refuse("has a broken IPv6 address. Write", "smtp://[2001:db8::25]:587")
    elif not _HOST_NAME.fullmatch(host):
        _refuse("has a host name with a character that no host name has. Write", _FORMS)
    elif not _can_be_looked_up(host):
        _refuse("has a host name with a part that is longer than any host name's. Write", _FORMS)
    return host


def _can_be_looked_up(host: str) -> bool:
    try:
        host.encode("idna")  # as the resolver's caller does, which raises nothing that anybody would expect
    except UnicodeError:
        return False
    return True


def _login_of(parts: SplitResult) -> tuple[str | None, str | None]:
    if parts.username is None and parts.password is None:
        return None, None
    user = _decoded(parts.username or "")
    password = _decoded(parts.password or "")
    if user is None or password is None:
        _refuse("has bytes in its login that are not UTF-8. Write", "a percent sign itself as %25")
    if not user or not password:
        _refuse("has half a login. Write", "user:password@host, or the host alone")
    if not (user.isprintable() and password.isprintable()):
        _refuse("has a control character in its login. Write", _FORMS)
    return user, password


def _tls_of(
    parts: SplitResult, *, kind: Literal["smtp", "smtps"], loopback: bool
) -> tuple[Literal["required", "never"], Path | None]:
    options = parse_qsl(parts.query, keep_blank_values=True)
    chosen = dict(options)
    if len(chosen) != len(options) or not chosen.keys() <= {"tls", "cafile"}:
        _refuse("has an option that is unknown or given twice. Write", "?tls=never or ?cafile=/path/ca.pem")
    tls = chosen.get("tls", "never" if kind == "smtp" and loopback else "required")
    if tls not in {"required", "never"}:
        _refuse("has an unknown value of tls. Write", "?tls=required or ?tls=never")
    if tls == "never" and kind == "smtps":
        _refuse("asks for smtps and for no TLS. Write", "smtp://…?tls=never if clear text is really meant")
    cafile = chosen.get("cafile")
    if cafile == "":
        _refuse("has an empty cafile. Write", "?cafile=/path/ca.pem")
    if cafile is not None and tls == "never":
        _refuse("has a cafile and uses no TLS. Write", "?tls=required&cafile=/path/ca.pem")
    return "required" if tls == "required" else "never", None if cafile is None else Path(cafile)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address in ipaddress.ip_network("127.0.0.0/8") or address == ipaddress.IPv6Address("::1")


def _refuse(fault: str, advice: str) -> NoReturn:
    message = f"{_SETTING} {fault} {advice}."
    raise SettingsError(message)


def _refuse_injection(role: str, address: str) -> None:
    if not address.isprintable() or " " in address or "<" in address or ">" in address:
        message = f"The {role} address holds a space, an angle bracket or a character that cannot be printed."
        raise ValueError(message)
