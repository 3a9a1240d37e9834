"""Letters that are written and signed for many readers at once are what each of them would get alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from hypothesis import given, settings
from hypothesis import strategies as st

from newsletter.mail.dkim import DkimSigner
from newsletter.rendering.facts import Rendered
from newsletter.rendering.forms import marked_message
from newsletter.rendering.message import MessageHeaders, shared_headers
from newsletter.rendering.plates import PLACEHOLDERS, Plate, folded
from newsletter.service.printing import Printing

SIGNERS = (
    DkimSigner("example.org", "new", Ed25519PrivateKey.generate()),
    DkimSigner("example.org", "old", generate_private_key(public_exponent=65537, key_size=2048)),
)
BEGAN = datetime(2026, 3, 12, 8, 0, tzinfo=UTC)
PIECES = st.lists(
    st.one_of(
        st.sampled_from([PLACEHOLDERS.pause, PLACEHOLDERS.unsubscribe, "\n", " ", "  ", "\t", " \n", "\n\n\n", "%b"]),
        st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r"), max_size=90),
    ),
    max_size=8,
)
URLS = st.from_regex(r"https://e\.org/([A-Za-z0-9_#-]\.?){1,110}", fullmatch=True)
OWN = st.tuples(st.from_regex(r"[a-z%]{1,20}@[a-z]{1,9}\.org", fullmatch=True), URLS)


@settings(max_examples=40)
@given(
    pieces=PIECES, subject=st.sampled_from(["Hello", "A  long   subject " * 9, "Grüße"]), own=st.lists(OWN, max_size=3)
)
def test_a_printed_letter_bears_the_signatures_of_a_letter_alone(
    pieces: list[str], subject: str, own: list[tuple[str, str]]
) -> None:
    """Byte for byte, for every reader, with two keys."""
    text = "".join(pieces)
    plate = Plate.of(Rendered(subject=subject, html=f"<p>{text}", text=text, from_name="Joan", reply_to=None))
    headers = MessageHeaders(
        from_name="Joan", from_address="joan@example.org", to="a@example.org", reply_to=None, date=BEGAN,
        message_id="<a@example.org>", list_id="k.example.org", unsubscribe_url="https://e.org/", feedback_id="r7:l",
    )  # fmt: skip
    for seconds, (to, url) in enumerate(own):
        date = BEGAN + timedelta(seconds=seconds)
        marked = shared_headers(plate, headers._replace(date=date)) + marked_message(plate, headers)
        link = folded(url.encode())
        filled = {"to": to.encode(), "message_id": b"<%d@e.org>" % seconds, "unsubscribe_url": url.encode()}
        filled |= dict.fromkeys(PLACEHOLDERS._fields, link)
        alone = Printing(marked, date=date, dkim=()).letter(filled)
        for signer in SIGNERS:
            alone = signer.sign(alone)
        assert Printing(marked, date=date, dkim=SIGNERS).letter(filled) == alone
