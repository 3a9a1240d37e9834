"""What counts as an address, what counts as the same one, and what a person is told about the others."""

from __future__ import annotations

import re
import sys
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from newsletter.domain.addresses import Address, mask_address, parse_address
from newsletter.errors import AddressError

RIGHT_TO_LEFT = "\u202e"

# Fuzz that often comes near to an address: pieces of addresses, and what is used to break them.
PIECES = [
    *("maria", "Maria", "MARIA", "m", "a" * 64, "é" * 40, "x" * 200, "example.org", "Example.ORG", "test"),
    *("ünï", "u\u0308", "用户", "ß", "İ", "\u0131", "ﬀ", "ŉ", "Σς", "\u0345", "\u212a", "\u0338"),
    *("@", "@", "@", "\uff20", "\ufe6b", ".", ".", "\u3002", "\uff0e", "-", "--", "\u037e", "\u1fef"),
    *(
        "xn--",
        "xn--bcher-kva",
        "bücher",
        "例え",
        "أمثلة",
        "localhost",
        "[127.0.0.1]",
        "[IPv6:::1]",
        "1.2.3.4",
    ),
    *("\r\n", "\n", "\r", "\t", " ", "\0", "\x1b", "\x7f", "\x85", "\u2028", "\u00a0", "\u3000"),
    *("\u200b", "\ufeff", RIGHT_TO_LEFT, "\u2066", "\ud800", "\U000e0041", "\u3164"),
    *("<", ">", '"', "\\", "(", ")", ",", ";", ":", "'", "+", "%", "!", "=", "`", "mailto:", "RCPT TO:"),
]
near_an_address = st.lists(st.sampled_from(PIECES) | st.characters(), max_size=10).map("".join)
any_text = st.one_of(
    near_an_address,
    st.text(),
    st.builds("{}@{}".format, near_an_address, st.just("example.org")),
    st.builds("{}@{}.org".format, st.just("maria"), near_an_address),
)


def refused(text: str) -> str:
    """What the person is told, or nothing where the address is accepted."""
    try:
        parse_address(text)
    except AddressError as refusal:
        return str(refusal)
    return ""


def parsed(text: str) -> Address | None:
    try:
        return parse_address(text)
    except AddressError:
        return None


class TestAnAddress:
    @pytest.mark.parametrize(
        ("typed", "text", "key", "wire"),
        [
            ("maria@example.org", "maria@example.org", "maria@example.org", "maria@example.org"),
            ("Maria@Example.ORG", "Maria@example.org", "maria@example.org", "Maria@example.org"),
            ("INFO@example.org", "INFO@example.org", "info@example.org", "INFO@example.org"),
            ("  maria@example.org \t", "maria@example.org", "maria@example.org", "maria@example.org"),
            ("\u00a0maria@example.org\u3000", "maria@example.org", "maria@example.org", "maria@example.org"),
            ("o'brien+news@example.org", *["o'brien+news@example.org"] * 3),
            ("a@bücher.de", "a@bücher.de", "a@xn--bcher-kva.de", "a@xn--bcher-kva.de"),
            ("a@BÜCHER.de", "a@bücher.de", "a@xn--bcher-kva.de", "a@xn--bcher-kva.de"),
            ("a@xn--bcher-kva.de", "a@bücher.de", "a@xn--bcher-kva.de", "a@xn--bcher-kva.de"),
            ("a@XN--BCHER-KVA.de", "a@bücher.de", "a@xn--bcher-kva.de", "a@xn--bcher-kva.de"),
            ("a@bu\u0308cher.de", "a@bücher.de", "a@xn--bcher-kva.de", "a@xn--bcher-kva.de"),
            ("a@straße.de", "a@straße.de", "a@xn--strae-oqa.de", "a@xn--strae-oqa.de"),
            ("a@\uff45xample\uff0eorg", "a@example.org", "a@example.org", "a@example.org"),
            ("用户@例え。jp", "用户@例え.jp", "用户@xn--r8jz45g.jp", "用户@xn--r8jz45g.jp"),
            ("Ünï@example.org", "Ünï@example.org", "ünï@example.org", "Ünï@example.org"),
            ("U\u0308ni\u0308@example.org", "Ünï@example.org", "ünï@example.org", "Ünï@example.org"),
            ("Straße@example.org", "Straße@example.org", "strasse@example.org", "Straße@example.org"),
            ("ΣΊΣΥΦΟΣ@example.org", "ΣΊΣΥΦΟΣ@example.org", "σίσυφοσ@example.org", "ΣΊΣΥΦΟΣ@example.org"),
        ],
    )
    def test_is_shown_looked_up_and_sent_to_in_its_own_form_each(self, typed: str, text: str, key: str, wire: str):
        address = parse_address(typed)
        assert (address.text, address.key, address.wire) == (text, key, wire)
        assert address.domain_ascii == wire.rpartition("@")[2]

    @pytest.mark.parametrize(
        ("typed", "needed"),
        [
            ("maria@example.org", False),
            ("maria@bücher.de", False),
            ("ünï@example.org", True),
            ("用户@例え.jp", True),
        ],
    )
    def test_needs_smtputf8_for_its_local_part_alone(self, typed: str, needed: bool):
        assert parse_address(typed).needs_smtputf8 is needed

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("maria@example.org", "MARIA@EXAMPLE.ORG"),
            ("ünï@bücher.de", "U\u0308NI\u0308@XN--BCHER-KVA.DE"),
            ("strasse@example.org", "STRAßE@example.org"),
            ("σίσυφος@example.org", "ΣΊΣΥΦΟΣ@example.org"),
            ("k@example.org", "\u212a@example.org"),  # the Kelvin sign
        ],
    )
    def test_is_the_same_however_it_is_written(self, one: str, other: str):
        assert parse_address(one).key == parse_address(other).key

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("maria@example.org", "maria+news@example.org"),
            ("maria@example.org", "m.aria@example.org"),
            ("maria@example.org", "maria@example.com"),
            ("a@straße.de", "a@strasse.de"),  # two domains since IDNA 2008
            ("\u0131@example.org", "i@example.org"),  # without a dot it is another letter
        ],
    )
    def test_is_another_one_where_a_server_may_mean_somebody_else(self, one: str, other: str):
        assert parse_address(one).key != parse_address(other).key

    def test_hides_itself_from_logs_and_tracebacks(self):
        address = parse_address("maria@example.org")
        assert repr(address) == str(address) == f"{address}" == "Address(m***@e***)"

    @pytest.mark.parametrize("wedge", ["\r\n", "\n", " ", "\t", "<", ">", "\0", "\x85", "\u2028", "\u00a0"])
    def test_made_without_parsing_still_cannot_end_a_command_early(self, wedge: str):
        with pytest.raises(AddressError):
            Address(text=f"a{wedge}b@example.org", key="a@example.org", domain_ascii="example.org")
        with pytest.raises(AddressError):
            Address(text="a@example.org", key="a@example.org", domain_ascii=f"example{wedge}.org")


REFUSED = {
    "nothing": ("", "Write your address here"),
    "spaces alone": ("   ", "Write your address here"),
    "a command behind a line break": ("maria@example.org\r\nRCPT TO:<x@example.org>", "line break"),
    "a line feed at the end": ("maria@example.org\n", "line break"),
    "a carriage return at the end": ("maria@example.org\r", "line break"),
    "a line break alone": ("\n", "line break"),
    "a line feed before the @": ("ma\nria@example.org", "line break"),
    "a vertical tab": ("ma\vria@example.org", "line break"),
    "NEL": ("maria@example\x85.org", "line break"),
    "a line separator": ("maria@example.org\u2028", "line break"),
    "NUL": ("maria\0@example.org", "invisible"),
    "escape": ("\x1b[31mmaria@example.org", "invisible"),
    "delete": ("maria\x7f@example.org", "invisible"),
    "a C1 control": ("maria\x9b@example.org", "invisible"),
    "writing turned round": (f"{RIGHT_TO_LEFT}gro.elpmaxe@airam", "invisible"),
    "a bidi isolate": ("\u2066maria\u2069@example.org", "invisible"),
    "a bidi mark in the domain": ("maria@\u200fexample.org", "invisible"),
    "the Arabic letter mark": ("maria\u061c@example.org", "invisible"),
    "a zero width space": ("maria\u200b@example.org", "invisible"),
    "a zero width joiner": ("ma\u200dria@example.org", "invisible"),
    "a zero width non-joiner in the domain": ("maria@exa\u200cmple.org", "invisible"),
    "a word joiner": ("maria\u2060@example.org", "invisible"),
    "a byte order mark": ("\ufeffmaria@example.org", "invisible"),
    "a soft hyphen": ("ma\u00adria@example.org", "invisible"),
    "a variation selector": ("maria\ufe0f@example.org", "invisible"),
    "a grapheme joiner": ("ma\u034fria@example.org", "invisible"),
    "a variation selector of the second kind": ("maria\U000e0100@example.org", "invisible"),
    "a Mongolian variation selector": ("maria\u180b@example.org", "invisible"),
    "a Hangul filler": ("\u3164@example.org", "invisible"),
    "a blank Braille pattern": ("\u2800@example.org", "invisible"),
    "a tag character": ("maria\U000e0041@example.org", "invisible"),
    "half a character": ("maria\ud800@example.org", "invisible"),
    "a private character": ("maria\ue000@example.org", "invisible"),
    "a name and brackets": ("Maria <maria@example.org>", "Leave out the name"),
    "angle brackets": ("<maria@example.org>", "Leave out the name"),
    "a quoted local part": ('"maria"@example.org', "quotation marks"),
    "a quoted @": ('"a@b"@example.org', "quotation marks"),
    "a quoted space": ('"maria smith"@example.org', "quotation marks"),
    "a quoted quote": ('"a\\"b"@example.org', "quotation marks"),
    "an empty quotation": ('""@example.org', "quotation marks"),
    "a comment": ("maria(home)@example.org", "what stands in them"),
    "a comment behind it": ("alice@example.org)bob@example.com", "what stands in them"),
    "a comment with a space": ("maria@example.org (Maria)", "what stands in them"),
    "an IP address": ("maria@[192.0.2.1]", "name of the mail service"),
    "an IPv6 address": ("maria@[IPv6:2001:db8::1]", "name of the mail service"),
    "a link": ("mailto:maria@example.org", "mailto:"),
    "a link in capitals": ("MAILTO:maria@example.org", "mailto:"),
    "two addresses": ("maria@example.org, tom@example.org", "Write one address"),
    "two addresses and a semicolon": ("maria@example.org;tom@example.org", "Write one address"),
    "two addresses and a space": ("maria@example.org tom@example.org", "Write one address"),
    "two @": ("maria@@example.org", "Write one address"),
    "a route": ("@relay.example.org:maria@example.org", "Write one address"),
    "a space before the @": ("maria @example.org", "space"),
    "a space behind the @": ("maria@ example.org", "space"),
    "a space in the middle": ("mar ia@example.org", "space"),
    "a wide space": ("mar\u3000ia@example.org", "space"),
    "a space with a width of its own": ("mar\u2003ia@example.org", "space"),
    "a tab": ("mar\tia@example.org", "space"),
    "a comma for a dot": ("maria@example,org", "dots where dots belong"),
    "a sign that turns into a semicolon": ("a\u037eb@example.org", "comma or semicolon"),
    "a wide @": ("maria\uff20example.org", "Type it again as @"),
    "a small @": ("maria\ufe6bexample.org", "Type it again as @"),
    "no @": ("maria.example.org", "The @ is missing"),
    "nothing before the @": ("@example.org", "missing before the @"),
    "nothing behind the @": ("maria@", "missing after the @"),
    "the @ alone": ("@", "missing before the @"),
    "a dot at the beginning": (".maria@example.org", "begin with a dot"),
    "a dot before the @": ("maria.@example.org", "dot beside the @"),
    "a dot behind the @": ("maria@.example.org", "dot beside the @"),
    "a dot at the end": ("maria@example.org.", "end with a dot"),
    "an ideographic dot at the end": ("maria@例え.jp。", "end with a dot"),
    "two dots before the @": ("ma..ria@example.org", "two dots"),
    "two dots behind the @": ("maria@example..org", "two dots"),
    "two dots of two kinds": ("maria@example.。org", "two dots"),
    "no dot": ("maria@example", "has no dot"),
    "a host": ("root@localhost", "has no dot"),
    "a number for a domain": ("maria@192.0.2.1", "Is there a slip"),
    "a hyphen before a dot": ("maria@example-.org", "Is there a slip"),
    "a hyphen behind the @": ("maria@-example.org", "Is there a slip"),
    "an underscore in the domain": ("maria@exa_mple.org", "Is there a slip"),
    "a made-up A-label": ("maria@xn--0.org", "Is there a slip"),
    "two letters and two hyphens": ("maria@ab--cd.org", "Is there a slip"),
    "a backslash": ("ma\\ria@example.org", "Is there a slip"),
    "a colon": ("ma:ria@example.org", "Is there a slip"),
    "an accent without a letter": ("\u0301maria@example.org", "Is there a slip"),
    "an accent on the @": ("maria@\u0301example.org", "Is there a slip"),
    "a domain for tests": ("maria@example.test", "Is there a slip"),
    "a domain that is none": ("maria@example.invalid", "Is there a slip"),
    "a domain of the house": ("maria@printer.local", "Is there a slip"),
    "a hidden service": ("maria@example.onion", "Is there a slip"),
    "65 octets before the @": ("a" * 65 + "@example.org", "before the @ is too long"),
    "65 octets in 33 letters": ("a" + "é" * 32 + "@example.org", "before the @ is too long"),
    "64 octets that folding makes longer": ("ŉ" * 32 + "@example.org", "before the @ is too long"),
    "255 octets": ("a" * 63 + "@" + ".".join(["b" * 62] * 3) + ".cd", "too long"),
    "more octets than letters": ("a@" + ".".join(["ü" * 40] * 4) + ".de", "too long"),
    "254 octets that become more on the wire": ("a@" + "ü.bücher." * 20 + "de", "Is there a slip"),
    "a label of 64 octets": ("a@" + "b" * 64 + ".org", "Is there a slip"),
    "a novel": ("a" * 100_000 + "@example.org", "too long"),
    "many @": ("@" * 100_000, "too long"),
}


class TestARefusal:
    @pytest.mark.parametrize(("typed", "says"), REFUSED.values(), ids=list(REFUSED))
    def test_tells_the_person_what_to_change(self, typed: str, says: str):
        with pytest.raises(AddressError, match=re.escape(says)):
            parse_address(typed)

    @pytest.mark.parametrize(("typed", "says"), REFUSED.values(), ids=list(REFUSED))
    def test_is_kind_plain_and_short(self, typed: str, says: str):
        with pytest.raises(AddressError) as refusal:
            parse_address(typed)
        text = str(refusal.value)
        assert len(text) <= 110
        assert text[0].isupper()
        assert text.endswith((".", "?"))
        assert not re.search(r"\b(invalid|illegal|error|must|failed|syntax|local part|domain)\b|!", text)

    @pytest.mark.parametrize(
        "code_point",
        [
            *(0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F, 0x2800, 0x3164, 0xFE00),
            *(0xFE0F, 0xFFA0, 0xE0100, 0xE01EF, 0xAD, 0x61C, 0x180E, 0x200B, 0x200F, 0x202A, 0x202E, 0x2060),
            *(0x206F, 0xFEFF, 0xFFF9, 0xFFFB, 0x1BCA0, 0x1D173, 0xE0001, 0xE0020, 0xE007F),
        ],
        ids=hex,
    )
    def test_meets_everything_that_shows_nothing(self, code_point: int):
        assert "invisible" in refused(f"maria{chr(code_point)}@example.org")
        assert "invisible" in refused(f"maria@example{chr(code_point)}.org")

    @given(any_text)
    def test_never_repeats_what_was_typed(self, typed: str):
        """A form's refusals may land in a log, and an address must not."""
        assert "canary" not in refused(f"canary{typed}canary")

    @pytest.mark.parametrize("octets", [64, 63])
    def test_begins_where_the_standard_ends_before_the_at(self, octets: int):
        assert parse_address("a" * octets + "@example.org").wire.startswith("a" * octets + "@")

    def test_begins_where_the_standard_ends_for_the_whole(self):
        longest = "a" * 61 + "@" + ".".join(["b" * 62] * 3) + ".org"
        assert len(longest) == 254
        assert parse_address(longest).wire == longest
        with pytest.raises(AddressError, match="too long"):
            parse_address("a" + longest)


class TestAnyTextAtAll:
    @settings(max_examples=600)
    @given(any_text)
    def test_becomes_an_address_that_is_safe_on_the_wire_or_is_refused(self, text: str):
        """Nothing but an AddressError ever comes out."""
        address = parsed(text)
        if address is None:
            return
        local, at, domain = address.wire.partition("@")
        assert at
        assert re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", domain)
        assert domain == address.domain_ascii
        for form in (address.wire, address.text, address.key):
            assert form.count("@") == 1
            assert len(form.encode()) <= 254
            assert len(form.partition("@")[0].encode()) <= 64
            assert not re.search(r'[\s<>"(),:;\\\[\]]', form)
            assert not any(unicodedata.category(character)[0] in "CZ" for character in form)
            assert unicodedata.is_normalized("NFC", form)
        assert address.text.startswith(f"{local}@")

    @settings(max_examples=400)
    @given(any_text)
    @example("ΰ@example.org")
    @example("\u1fb3\u0301@example.org")
    @example("ŉ" * 21 + "@example.org")
    def test_keeps_its_key_however_often_it_is_read(self, text: str):
        address = parsed(text)
        if address is not None:
            for form in (address.text, address.wire, address.key):
                assert parse_address(form).key == address.key
            assert parse_address(address.text) == address

    def test_keeps_its_key_for_every_character_that_folding_or_composing_changes(self):
        changed = [
            character
            for character in map(chr, range(0x80, sys.maxunicode + 1))
            if unicodedata.normalize("NFD", character) != character or character.casefold() != character
        ]
        changed = [c for c in changed if not 0xAC00 < ord(c) < 0xD7A3]  # Hangul composes by rule, one is enough
        accepted = 0
        for character in changed:
            address = parsed(f"x{character}\u0301\u0345x@example.org")
            if address is not None:
                accepted += 1
                assert parse_address(address.key).key == address.key, f"U+{ord(character):04X}"
        assert accepted > 2000


class TestAMaskedAddress:
    @pytest.mark.parametrize(
        ("text", "masked"),
        [
            ("maria@example.org", "m***@e***"),
            (" Maria@Example.org ", "M***@E***"),
            ("m@e", "m***@e***"),
            ("用户@例え.jp", "用***@例***"),
            ("a@b@example.org", "a***@e***"),
            ('"quoted"@example.org', "***@e***"),
            ("\r\nmaria@\nexample.org", "m***@***"),
            (f"{RIGHT_TO_LEFT}maria@example.org", "***@e***"),
            ("@", "***@***"),
            ("maria", "***"),
            ("", "***"),
        ],
    )
    def test_shows_the_first_letters(self, text: str, masked: str):
        assert mask_address(text) == masked

    @given(any_text)
    def test_shows_no_more_than_the_first_letters_of_any_text(self, text: str):
        shown = re.fullmatch(r"(\w?)\*\*\*(?:@(\w?)\*\*\*)?", mask_address(text))
        assert shown is not None
        assert text.strip().startswith(shown[1])

    @given(any_text)
    def test_says_nothing_about_a_length(self, text: str):
        address = parsed(text)
        if address is not None:
            local, _, domain = address.text.partition("@")
            longer = f"{local}{'x' * 20}@{domain}"
            assert mask_address(longer) == mask_address(address.text)
