"""What counts as an address we can write to, and as the same address.

An address arrives from a stranger and ends up in a mail server's command line and on a reader's page. This is
the door where everything is refused that could mean something else there. Refusals speak to the person who
typed, and never repeat what was typed: their words may land in a log.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field

from email_validator import EmailNotValidError, validate_email

from newsletter.errors import AddressError

LONGEST_OCTETS = 254
"""The whole address. Source: RFC 5321, section 4.5.3.1.3, less the two angle brackets."""

LONGEST_LOCAL_OCTETS = 64
"""The part before the @. Source: RFC 5321, section 4.5.3.1.1."""

_SURROUNDING = " \t\u00a0\u3000"  # what a phone's keyboard or a copied line leaves around an address
_DOTS = ".\u3002\uff0e\uff61"  # IDNA reads each of them as a dot. Source: RFC 3490, section 3.1
_UNWRITABLE = re.compile(r"[\s\x00-\x1f\x7f-\x9f<>]")

_INVISIBLE = re.compile(
    r"[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Letters, marks and symbols that show nothing; their category does not give them away as it does for others.
Source: Unicode's Default_Ignorable_Code_Point, and the blank Braille pattern."""

_HIDDEN = "There is an invisible character in it; copying can bring one along. Type the address by hand."
_LIKE_THIS = "It should look like maria@example.org."
_TOO_LONG = f"This is too long for an address. {_LIKE_THIS}"
_LINE_BREAK = r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]"
_ALONE = "Write the address alone, as in maria@example.org."

_REFUSALS = tuple(
    (re.compile(pattern), sentence)
    for pattern, sentence in (
        (r"\A\Z", "Write your address here, as in maria@example.org."),
        (_LINE_BREAK, "There is a line break in it. Write one address on one line."),
        (r"[<>]", f"Leave out the name and the < >. {_ALONE}"),
        (r'"', f"Leave out the quotation marks. {_ALONE}"),
        (r"[()]", f"Leave out the brackets and what stands in them. {_ALONE}"),
        (r"[\[\]]", f"Write the name of the mail service, not a number in brackets. {_LIKE_THIS}"),
        (r"^(?i:mailto:)", "Leave out the word mailto: at the beginning."),
        (r"@.*@", f"There is more than one @ in it. Write one address. {_LIKE_THIS}"),
        (r"\s", "There is a space inside the address. Leave it out."),
        (r"[,;]", "There is a comma or semicolon in it. Write one address, with dots where dots belong."),
        (r"^[^@]*[\uff20\ufe6b][^@]*$", "The @ in it is not the plain one. Type it again as @."),
        (r"^[^@]*$", f"The @ is missing. {_LIKE_THIS}"),
        (r"^@", f"Something is missing before the @. {_LIKE_THIS}"),
        (r"@$", f"Something is missing after the @. {_LIKE_THIS}"),
        (r"^\.", "An address cannot begin with a dot. Leave it out."),
        (rf"\.@|@[{_DOTS}]", "There is a dot beside the @. Leave it out."),
        (rf"[{_DOTS}]$", "An address cannot end with a dot. Leave it out."),
        (rf"\.\.|@.*[{_DOTS}]{{2}}", "There are two dots in a row. Leave one out."),
        (rf"@[^{_DOTS}]*$", "The part after the @ has no dot. It should look like example.org."),
    )
)
"""What is wrong to the eye, and what to say; the first that is found counts."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Address:
    """An address that was accepted by `parse_address`.

    Attributes:
        text: for people: the local part as it was typed, the domain in lower case and in its own script.
        key: the same for every way to write the same address; for look-ups and hashes, never to send to.
        domain_ascii: the domain as the DNS knows it.
        wire: the address for the envelope: the local part as it is, the domain in ASCII.
    """

    text: str
    key: str
    domain_ascii: str
    wire: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Make `wire`; refuse what could end an SMTP command early, even where somebody went around `parse_address`.

        Raises:
            AddressError: white space, a control character or an angle bracket.
        """
        wire = f"{self.text.rpartition('@')[0]}@{self.domain_ascii}"
        if _UNWRITABLE.search(wire):
            message = f"We cannot write to this address. {_LIKE_THIS}"
            raise AddressError(message)
        object.__setattr__(self, "wire", wire)

    @property
    def needs_smtputf8(self) -> bool:
        """Whether only a server that offers SMTPUTF8 can take it. Source: RFC 6531."""
        return not self.wire.isascii()

    def __repr__(self) -> str:
        """Masked, since tracebacks and logs show it."""
        return f"Address({mask_address(self.text)})"


def parse_address(text: str) -> Address:
    """Read one address as a person typed it; spaces around it are forgiven.

    Upper and lower case make no difference to the `key`, not even in the local part: a server may tell them
    apart, but no person means somebody else by them. Nothing is looked up in the DNS.

    Raises:
        AddressError: not one plain address; the text says to the person what to change.
    """
    typed = text.strip(_SURROUNDING)
    if len(typed) > LONGEST_OCTETS:
        raise AddressError(_TOO_LONG)
    if any(_is_hidden(character) for character in typed):
        raise AddressError(_HIDDEN)
    typed = unicodedata.normalize("NFC", typed)
    for pattern, sentence in _REFUSALS:
        if pattern.search(typed):
            raise AddressError(sentence)
    _refuse_overlong(typed)
    try:
        accepted = validate_email(typed, check_deliverability=False)
    except EmailNotValidError as error:
        message = f"We cannot write to this address. Is there a slip in it? {_LIKE_THIS}"
        raise AddressError(message) from error
    local = typed.partition("@")[0]
    folded = unicodedata.normalize("NFC", local.casefold())
    address = Address(
        text=f"{local}@{accepted.domain}",
        key=f"{folded}@{accepted.ascii_domain}",
        domain_ascii=accepted.ascii_domain,
    )
    # Folding may lengthen an address, and the key has to be an address of its own.
    _refuse_overlong(address.key)
    return address


def stored_address(text: str, *, key: str) -> Address:
    """An address that `parse_address` accepted once, from its text and key; some hundred times quicker.

    Raises:
        AddressError: it can no longer have come from there, and nothing can be written to it.
    """
    local, _, domain = text.rpartition("@")
    domain_ascii = key.rpartition("@")[2]
    if not local or not domain or not domain_ascii.isascii() or not domain_ascii:
        message = f"We cannot write to this address. {_LIKE_THIS}"
        raise AddressError(message)
    return Address(text=text, key=key, domain_ascii=domain_ascii)


def mask_address(text: str) -> str:
    """Show no more than the first letters: "m***@e***". For logs and public pages; takes any text."""
    local, at, domain = text.strip().rpartition("@")
    if not at:
        return "***"
    return f"{_initial(local)}***@{_initial(domain)}***"


def _refuse_overlong(address: str) -> None:
    local = address.partition("@")[0]
    if len(local.encode()) > LONGEST_LOCAL_OCTETS:
        message = "The part before the @ is too long for an address. Is something doubled in it?"
        raise AddressError(message)
    if len(address.encode()) > LONGEST_OCTETS:
        raise AddressError(_TOO_LONG)


def _is_hidden(character: str) -> bool:
    # Category C: control, format, surrogate, private and unassigned characters. Those for format can turn the
    # direction of writing, and make one address look like another.
    if character.isspace():
        return False  # White space is seen, and has sentences of its own.
    return unicodedata.category(character)[0] == "C" or _INVISIBLE.match(character) is not None


def _initial(part: str) -> str:
    return part[:1] if part[:1].isalnum() else ""
