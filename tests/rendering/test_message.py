"""The bytes of an email, read back by the standard library."""

from __future__ import annotations

import quopri
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from email import message_from_bytes, policy
from email.message import EmailMessage
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from newsletter.errors import RenderError
from newsletter.mail.base import Envelope
from newsletter.rendering.facts import Rendered
from newsletter.rendering.forms import Form, marked_message
from newsletter.rendering.message import MessageHeaders, encode, message_id_for, quoted_printable, shared_headers
from newsletter.rendering.message import compose as compose_encoded
from newsletter.rendering.plates import PLACEHOLDERS, Plate, folded

DELIVERY = UUID("018f3c2e-7a4b-7c1d-9e2f-0a1b2c3d4e5f")
LONG_URL = "https://letters.example.org/unsubscribe/" + "kQ7xZm9vYmFy-_" * 15
LETTER = Rendered(
    subject="Three small habits",
    html="<!DOCTYPE html>\n<p>Grüße — fine</p>\n",
    text="Grüße — fine\n",
    from_name="Joan",
    reply_to=None,
)
HEADERS = MessageHeaders(
    from_name="Joan",
    from_address="letters@example.org",
    to="maria@example.com",
    reply_to="desk@example.org",
    date=datetime(2026, 3, 12, 8, 0, tzinfo=timezone(timedelta(hours=1))),
    message_id=message_id_for(DELIVERY, "letters.example.org"),
    list_id="k3f9.letters.example.org",
    unsubscribe_url=LONG_URL,
    unsubscribe_mailto="mailto:leave+abc@example.org?subject=unsubscribe",
    feedback_id="r7:l:k3f9:letters",
)

# Everything that a header may say: no controls, no halves of surrogate pairs, no line separators.
SPEAKABLE = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=50)


def compose(rendered: Rendered, headers: MessageHeaders, *, smtputf8: bool = False) -> bytes:
    return compose_encoded(encode(rendered), headers, smtputf8=smtputf8)


def read(content: bytes) -> EmailMessage:
    message = message_from_bytes(content, policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


def faults(message: EmailMessage) -> list[object]:
    found = list(message.defects)
    for part in message.walk():
        found += part.defects
        found += [defect for value in part.values() for defect in value.defects]
    return found


def contents(message: EmailMessage) -> list[str]:
    """The parts, decoded, with plain line ends."""
    return [part.get_content().replace("\r\n", "\n") for part in message.iter_parts()]


class TestAWholeMessage:
    def test_it_reads_back_as_it_was_meant(self) -> None:
        message = read(compose(LETTER, HEADERS))
        assert faults(message) == []
        assert message["From"] == "Joan <letters@example.org>"
        assert message["To"] == "maria@example.com"
        assert message["Reply-To"] == "desk@example.org"
        assert message["Subject"] == "Three small habits"
        assert message["Date"].datetime == HEADERS.date
        assert message["Date"] == "Thu, 12 Mar 2026 08:00:00 +0100"
        assert message["Auto-Submitted"] == "auto-generated"
        assert message["MIME-Version"] == "1.0"
        assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
        assert contents(message) == [LETTER.text, LETTER.html]
        assert message.get_content_type() == "multipart/alternative"

    def test_each_header_stands_there_once(self) -> None:
        names = [name.casefold() for name in read(compose(LETTER, HEADERS))]
        assert len(names) == len(set(names))

    def test_what_a_letter_says_about_its_list(self) -> None:
        """The https address comes first, with the one-click header beside it; the identifiers that name nobody."""
        message = read(compose(LETTER, HEADERS))
        assert message["List-Id"] == "<k3f9.letters.example.org>"
        assert message["List-Unsubscribe"] == f"<{LONG_URL}>, <{HEADERS.unsubscribe_mailto}>"
        assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
        assert message["Feedback-ID"] == "r7:l:k3f9:letters"
        assert message["Precedence"] == "bulk"

    def test_a_notice_says_nothing_about_a_list(self) -> None:
        plain = HEADERS._replace(list_id=None, unsubscribe_url=None, unsubscribe_mailto=None, feedback_id=None)
        message = read(compose(LETTER, plain))
        assert not [name for name in message if name.startswith(("List-", "Feedback", "Precedence"))]
        assert message["Auto-Submitted"] == "auto-generated"

    def test_a_url_or_id_is_never_folded_or_encoded(self) -> None:
        """The standard library does both to a URL of 200 characters; hence our own writing."""
        content = compose(LETTER, HEADERS)
        for whole in (f"<{LONG_URL}>", "<k3f9.letters.example.org>", HEADERS.message_id):
            assert whole.encode() in content
        theirs = EmailMessage(policy=policy.SMTP)
        theirs["List-Unsubscribe"] = f"<{LONG_URL}>"
        assert b"=?utf-8?q?" in theirs.as_bytes(), "their trap is gone; EmailMessage may do"

    def test_the_same_letter_is_the_same_bytes(self) -> None:
        assert compose(LETTER, HEADERS) == compose(LETTER, HEADERS)

    def test_lines_end_in_crlf_and_are_short_and_seven_bit(self) -> None:
        content = compose(replace(LETTER, html="ü" * 5000 + "\r" + "x" * 5000), HEADERS)
        assert re.search(rb"(?<!\r)\n|\r(?!\n)", content) is None
        assert max(content) < 128
        head, _, body = content.partition(b"\r\n\r\n")
        assert all(len(line) <= 998 for line in head.split(b"\r\n"))
        assert all(len(line) <= 76 for line in body.split(b"\r\n"))

    def test_the_boundary_is_in_no_body(self) -> None:
        content = compose(LETTER, HEADERS)
        boundary = re.search(rb'boundary="([^"]+)"', content)
        assert boundary
        hostile = replace(LETTER, text=f"--{boundary.group(1).decode()}--\n", html=LETTER.html)
        assert contents(read(compose(hostile, HEADERS))) == [hostile.text, hostile.html]


class TestNamesAndSubjects:
    @given(subject=SPEAKABLE, name=SPEAKABLE)
    def test_whatever_they_say_is_read_back(self, subject: str, name: str) -> None:
        content = compose(replace(LETTER, subject=subject), HEADERS._replace(from_name=name))
        message = read(content)
        assert faults(message) == []
        assert message["Subject"] == subject.strip()
        (sender,) = message["From"].addresses
        assert sender.addr_spec == "letters@example.org"
        said = " ".join(name.split())
        if re.search(rb"^From: [^\r]*\?=\r\n =\?", content, re.MULTILINE):
            # Python's parser puts a space between two encoded words of a name, against RFC 2047, section 6.2.
            assert sender.display_name.replace(" ", "") == said.replace(" ", "")
        else:
            assert sender.display_name == said
        assert all(len(line) <= 76 or b" " not in line for line in content.split(b"\r\n\r\n")[0].split(b"\r\n")[:4])

    @pytest.mark.parametrize(
        ("name", "line"),
        [
            ("Joan", "From: Joan <letters@example.org>"),
            ("The Steady Page", "From: The Steady Page <letters@example.org>"),
            ("O'Neill, Joan", 'From: "O\'Neill, Joan" <letters@example.org>'),
            ('Joan "J" \\ B', 'From: "Joan \\"J\\" \\\\ B" <letters@example.org>'),
            ("Zoë", "From: =?utf-8?q?Zo=C3=AB?= <letters@example.org>"),
            ("=?utf-8?q?x?=", "From: =?utf-8?q?=3D=3Futf-8=3Fq=3Fx=3F=3D?= <letters@example.org>"),
            ("", "From: letters@example.org"),
        ],
    )
    def test_how_a_sender_is_written(self, name: str, line: str) -> None:
        assert f"{line}\r\n".encode() in compose(LETTER, HEADERS._replace(from_name=name))

    @pytest.mark.parametrize("character", ["\n", "\r", "\r\n", "\0", "\x1b", "\x85", "\u2028", "\ud800"])
    def test_a_line_break_or_control_is_refused(self, character: str) -> None:
        """Nothing can begin a header of its own."""
        for value in (f"a{character}Bcc: x@example.org", f"a{character}"):
            with pytest.raises(RenderError, match="Subject"):
                compose(replace(LETTER, subject=value), HEADERS)
            with pytest.raises(RenderError, match="From"):
                compose(LETTER, HEADERS._replace(from_name=value))

    def test_a_subject_that_looks_encoded_is_taken_at_its_word(self) -> None:
        subject = "=?utf-8?q?x?= or not"
        assert read(compose(replace(LETTER, subject=subject), HEADERS))["Subject"] == subject

    def test_a_subject_of_one_endless_word(self) -> None:
        message = read(compose(replace(LETTER, subject="x" * 3000), HEADERS))
        assert message["Subject"] == "x" * 3000
        assert faults(message) == []


class TestAddressesAndUrls:
    @pytest.mark.parametrize("field", ["from_address", "to", "reply_to"])
    @pytest.mark.parametrize(
        "value",
        [
            *("a@b.org\r\nBcc: c@d.org", "a@b.org, c@d.org", "A <a@b.org>", "a b@c.org", "a@b.org\n", "", "a"),
            *("a@", "@b.org", '"a"@b.org', "a@b.org (c)", "a\0@b.org", "a@b@c.org", "ä@b.org", "a@bücher.org"),
        ],
    )
    def test_anything_but_one_plain_address_is_refused(self, field: str, value: str) -> None:
        with pytest.raises(RenderError):
            compose(LETTER, HEADERS._replace(**{field: value}))

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("unsubscribe_url", "https://e.org/\r\nX: y"),
            ("unsubscribe_url", "https://e.org/>, <https://evil.example.org/"),
            ("unsubscribe_url", "https://e.org/a b"),
            ("unsubscribe_url", "mailto:a@b.org"),
            ("unsubscribe_mailto", "https://e.org/"),
            ("message_id", "<a b@c>"),
            ("message_id", "a@c"),
            ("message_id", "<a@c>\r\nX: y"),
            ("list_id", "Nine letters on trust <a.example.org>"),
            ("list_id", "a\r\nX: y"),
            ("feedback_id", "a\nb"),
        ],
    )
    def test_an_identifier_that_is_none_is_refused(self, field: str, value: str) -> None:
        with pytest.raises(RenderError):
            compose(LETTER, HEADERS._replace(**{field: value}))

    def test_a_refusal_does_not_repeat_what_it_refused(self) -> None:
        """An error may end in a log, and a log holds no address and no token."""
        for field, value in (("to", "maria@exa mple.com"), ("unsubscribe_url", "https://e.org/SECRET TOKEN")):
            with pytest.raises(RenderError) as raised:
                compose(LETTER, HEADERS._replace(**{field: value}))
            assert value not in str(raised.value)
            assert "maria" not in str(raised.value)
            assert "SECRET" not in str(raised.value)

    def test_an_address_in_other_letters_needs_smtputf8(self) -> None:
        headers = HEADERS._replace(to="jürgen@xn--bcher-kva.example")
        with pytest.raises(RenderError, match="SMTPUTF8"):
            compose(LETTER, headers)
        content = compose(LETTER, headers, smtputf8=True)
        line = "To: jürgen@xn--bcher-kva.example\r\n".encode()
        assert line in content
        assert content.replace(line, b"").isascii()

    def test_a_url_that_is_too_long_for_a_line_is_refused(self) -> None:
        with pytest.raises(RenderError, match="List-Unsubscribe header is too long"):
            compose(LETTER, HEADERS._replace(unsubscribe_url="https://e.org/" + "x" * 1000))

    def test_a_date_without_an_offset_is_refused(self) -> None:
        with pytest.raises(RenderError, match="offset"):
            compose(LETTER, HEADERS._replace(date=datetime(2026, 3, 12)))  # noqa: DTZ001 (the thing under test)

    @given(token=st.from_regex(r"[A-Za-z0-9_-]{0,300}", fullmatch=True))
    def test_every_link_of_ours_is_read_back(self, token: str) -> None:
        url = f"https://letters.example.org/unsubscribe/{token}"
        headers = HEADERS._replace(unsubscribe_url=url, unsubscribe_mailto=None)
        message = read(compose(LETTER, headers))
        assert message["List-Unsubscribe"] == f"<{url}>"
        assert faults(message) == []


class TestMessageId:
    def test_it_is_the_same_for_each_attempt_and_tells_nothing(self) -> None:
        one = message_id_for(DELIVERY, "letters.example.org")
        assert one == message_id_for(UUID(str(DELIVERY)), "letters.example.org")
        assert re.fullmatch(r"<[0-9a-f]{32}@letters\.example\.org>", one)
        assert one != message_id_for(UUID(int=DELIVERY.int + 1), "letters.example.org")
        assert DELIVERY.hex[:6] not in one


class TestQuotedPrintable:
    @given(text=st.text(st.characters(exclude_categories=("Cs",)), max_size=400))
    def test_every_text_is_read_back(self, text: str) -> None:
        encoded = quoted_printable(text)
        assert all(len(line) <= 76 for line in encoded.split(b"\r\n"))
        assert re.search(rb"(?<!\r)\n|\r(?!\n)", encoded) is None
        message = read(
            b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n" + encoded
        )
        unified = text.replace("\r\n", "\n").replace("\r", "\n")
        payload = message.get_payload(decode=True)
        assert isinstance(payload, bytes)
        assert payload.decode().replace("\r\n", "\n") == unified

    @pytest.mark.parametrize("space", [" ", "\t", "  "])
    def test_a_full_line_that_ends_in_a_space(self, space: str) -> None:
        """The standard library encodes that space and forgets the limit: 78 characters came out."""
        for length in range(60, 90):
            text = "x" * length + space + "\ny" + "é" * (length // 6) + space + "\n"
            encoded = quoted_printable(text)
            assert all(len(line) <= 76 for line in encoded.split(b"\r\n"))
            assert quopri.decodestring(encoded).decode().replace("\r\n", "\n") == text

    @given(pieces=st.lists(st.sampled_from([".", " ", "\n", "=", "é", "." * 75, "." * 200, "x" * 74]), max_size=30))
    def test_no_line_begins_with_a_dot(self, pieces: list[str]) -> None:
        text = "".join(pieces)
        encoded = quoted_printable(text)
        assert not any(line.startswith(b".") for line in encoded.split(b"\r\n"))
        assert all(len(line) <= 76 for line in encoded.split(b"\r\n"))
        assert quopri.decodestring(encoded).decode().replace("\r\n", "\n") == text

    def test_half_a_character_is_refused(self) -> None:
        with pytest.raises(RenderError, match="no character"):
            quoted_printable("a\ud83d")


class TestPlates:
    """A letter finished for many readers, with one reader's links put into it."""

    PIECES = st.lists(
        st.one_of(
            st.sampled_from([PLACEHOLDERS.pause, PLACEHOLDERS.unsubscribe, "\n", " ", ".", "=", "x" * 75, "é" * 30]),
            st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r"), max_size=90),
        ),
        max_size=8,
    )

    @given(pieces=PIECES, url=st.from_regex(r"https://e\.org/[A-Za-z0-9_=-]{0,160}", fullmatch=True))
    def test_the_encoded_part_is_the_part(self, pieces: list[str], url: str) -> None:
        plate = Plate.of(replace(LETTER, text="".join(pieces)))
        links = PLACEHOLDERS._replace(pause=url, unsubscribe=url)
        plain = "".join(pieces).replace(PLACEHOLDERS.pause, url).replace(PLACEHOLDERS.unsubscribe, url)
        content = compose_encoded(plate.encoded(links), HEADERS)
        body = content.partition(b"\r\n\r\n")[2]
        assert all(len(line) <= 76 for line in body.split(b"\r\n"))
        text, _ = read(content).iter_parts()
        payload = text.get_payload(decode=True)
        assert isinstance(payload, bytes)
        assert payload.decode().replace("\r\n", "\n") == plain

    @given(pieces=PIECES, url=st.from_regex(r"https://e\.org/[A-Za-z0-9_=&?-]{1,160}", fullmatch=True))
    def test_every_line_end_is_one(self, pieces: list[str], url: str) -> None:
        """What is put together piece by piece is vouched for: nobody counts the line ends of the whole."""
        letter = replace(LETTER, text="".join(pieces), html="".join(pieces))
        content = compose_encoded(Plate.of(letter).encoded(PLACEHOLDERS._replace(pause=url)), HEADERS)
        Envelope(sender="a@example.org", recipient="b@example.org", content=content)

    @given(pieces=PIECES, url=st.from_regex(r"[a-z]{0,4}\.{0,2}[A-Za-z0-9._&-]{1,160}", fullmatch=True))
    @example(pieces=["=" * 24 + "...." + PLACEHOLDERS.pause], url="h" * 75 + ".x")
    @example(pieces=["x" * 72 + "." * 4 + PLACEHOLDERS.pause], url=".")
    def test_no_line_begins_with_a_dot(self, pieces: list[str], url: str) -> None:
        """Nothing is doubled on the way, and what is sent is what was signed."""
        letter = replace(LETTER, text="".join(pieces), html="".join(pieces))
        encoded = Plate.of(letter).encoded(PLACEHOLDERS._replace(pause=url, unsubscribe=url))
        content = compose_encoded(encoded, HEADERS)
        assert b"\n." not in content
        assert all(len(line) <= 76 for line in content.partition(b"\r\n\r\n")[2].split(b"\r\n"))
        assert quopri.decodestring(encoded.text).decode().replace("\r\n", "\n") == letter.text.replace(
            PLACEHOLDERS.pause, url
        ).replace(PLACEHOLDERS.unsubscribe, url)

    @given(
        pieces=PIECES,
        url=st.from_regex(r"https://e\.org/([A-Za-z0-9_#-]\.?){1,110}", fullmatch=True),
        to=st.from_regex(r"[a-z]{1,20}@[a-z]{1,9}\.org", fullmatch=True),
        seconds=st.integers(0, 10**9),
    )
    def test_a_form_is_the_message_with_holes(self, pieces: list[str], url: str, to: str, seconds: int) -> None:
        """Filled for a reader it is what is composed for them, byte for byte, whoever it was made for."""
        plate = Plate.of(replace(LETTER, text="".join(pieces), html="<p>" + "".join(pieces)))
        marked = marked_message(plate, HEADERS)
        message_id = message_id_for(UUID(int=seconds), "letters.example.org")
        date = HEADERS.date + timedelta(seconds=seconds)
        headers = HEADERS._replace(to=to, message_id=message_id, unsubscribe_url=url, date=date)
        link = folded(url.encode())
        own = {"to": to.encode(), "message_id": message_id.encode(), "unsubscribe_url": url.encode()}
        form = Form(shared_headers(plate, headers) + marked)
        filled = form.filled(own | {"unsubscribe": link, "pause": link})
        assert filled == compose_encoded(plate.encoded(PLACEHOLDERS._replace(unsubscribe=url, pause=url)), headers)

    @pytest.mark.parametrize("before", ["", "x", "xx"])
    @pytest.mark.parametrize("filler", ["x", "é", "=", " "])
    def test_a_line_is_full_when_a_link_comes(self, before: str, filler: str) -> None:
        """There is room for the soft break, and no character is cut, however long the line before the link is."""
        for length in range(20, 30 if filler == "=" else 90):
            for behind in ("", "x", "xx", "xxx"):
                text = before + filler * length + behind + PLACEHOLDERS.pause + "y"
                url = "https://e.org/" + "z" * length
                encoded = Plate.of(replace(LETTER, text=text)).encoded(PLACEHOLDERS._replace(pause=url))
                assert all(len(line) <= 76 for line in encoded.text.split(b"\r\n"))
                assert quopri.decodestring(encoded.text).decode() == text.replace(PLACEHOLDERS.pause, url)

    def test_links_with_characters_that_html_escapes(self) -> None:
        letter = replace(LETTER, html=f'<a href="{PLACEHOLDERS.pause}">x</a>', text=PLACEHOLDERS.pause)
        url = "https://e.org/?a=1&b=\"'<"
        encoded = Plate.of(letter).encoded(PLACEHOLDERS._replace(pause=url))
        text, html = contents(read(compose_encoded(encoded, HEADERS)))
        assert text.strip() == url
        assert html.strip() == '<a href="https://e.org/?a=1&amp;b=&#34;&#39;&lt;">x</a>'


def test_the_date_is_written_with_its_own_offset() -> None:
    headers = HEADERS._replace(date=datetime(2026, 1, 1, tzinfo=UTC))
    assert read(compose(LETTER, headers))["Date"] == "Thu, 01 Jan 2026 00:00:00 +0000"
