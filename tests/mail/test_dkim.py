"""DKIM signatures, each of them verified by dkimpy, which shares no code with the signer."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
import traceback
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import example, given
from hypothesis import strategies as st

from newsletter.bootstrap import open_app
from newsletter.errors import SettingsError
from newsletter.mail import Envelope
from newsletter.mail.canonical import relaxed_body
from newsletter.mail.dkim import DkimSigner, load_key
from newsletter.rendering.facts import Rendered
from newsletter.rendering.message import MessageHeaders, compose, encode
from newsletter.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from newsletter.bootstrap import App

KEYS = {"rsa": rsa.generate_private_key(65537, 2048), "ed25519": Ed25519PrivateKey.generate()}
SIGNERS = {kind: DkimSigner("example.org", kind, key) for kind, key in KEYS.items()}
SHORT = 1024
both_kinds = pytest.mark.parametrize("kind", list(KEYS))

LETTER = Rendered(
    subject="Three small habits", html="<p>Grüße — fine</p>\n", text="Grüße — fine\n", from_name="Joan", reply_to=None
)
HEADERS = MessageHeaders(
    from_name="Joan",
    from_address="letters@example.org",
    to="maria@example.com",
    reply_to="desk@example.org",
    date=datetime(2024, 3, 12, 8, 0, tzinfo=timezone(timedelta(hours=1))),
    message_id="<abcdefghijklmnopqrstuvwxyz@example.org>",
    list_id="k3f9.letters.example.org",
    unsubscribe_url="https://letters.example.org/unsubscribe/" + "kQ7xZm9vYmFy-_" * 15,
    unsubscribe_mailto="mailto:leave+abc@example.org?subject=unsubscribe",
    feedback_id="r7:l:k3f9:letters",
)
CONTENT = compose(encode(LETTER), HEADERS)
TOP = b"From: a@example.org\r\nDate: Tue, 12 Mar 2024 08:00:00 +0100\r\n"


def record_of(key: RSAPrivateKey | Ed25519PrivateKey) -> bytes:
    """What stands in the DNS for a key."""
    if isinstance(key, RSAPrivateKey):
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return b"v=DKIM1; k=ed25519; p=" + base64.b64encode(public)


RECORDS = {f"{kind}._domainkey.example.org.".encode(): record_of(key) for kind, key in KEYS.items()}


def is_valid(message: bytes, index: int = 0, records: dict[bytes, bytes] = RECORDS) -> bool:
    """Whether a verifier that knows our public keys agrees with the signature at `index`."""
    try:
        return dkim.DKIM(message).verify(idx=index, dnsfunc=lambda name, timeout=5: records.get(name))
    except dkim.ValidationError:  # the body's hash is another one
        return False


def signature_of(message: bytes) -> bytes:
    """The signature's field, as it stands on top."""
    return re.split(rb"\r\n(?! )", message, maxsplit=1)[0]


# What is signed


@both_kinds
def test_a_letter_is_signed(kind: str) -> None:
    """The signature stands in front of the letter, whose own bytes stay as they were."""
    signed = SIGNERS[kind].sign(CONTENT)
    assert signed.startswith(b"DKIM-Signature: ")
    assert signed == signature_of(signed) + b"\r\n" + CONTENT
    assert is_valid(signed)
    Envelope(sender="a@example.org", recipient="b@example.org", content=signed)


@both_kinds
def test_what_the_signature_says(kind: str) -> None:
    """Relaxed for header and body, no length, the Date as its time, and every header that must be covered."""
    field = b"".join(signature_of(SIGNERS[kind].sign(CONTENT)).partition(b":")[2].split()).decode()
    tags = dict(tag.split("=", 1) for tag in field.split(";"))
    assert {name: tags[name] for name in "vacdst"} == {
        "v": "1", "a": f"{kind}-sha256", "c": "relaxed/relaxed", "d": "example.org", "s": kind, "t": "1710226800",
    }  # fmt: skip
    assert set(tags) == {*"vacdstbh", "bh"} - {"l"}
    assert tags["h"].split(":") == [
        *("from", "from", "to", "to", "subject", "subject", "date", "date", "message-id", "reply-to"),
        *("list-unsubscribe", "list-unsubscribe-post", "list-id", "mime-version", "content-type"),
        *("feedback-id", "auto-submitted"),
    ]


@both_kinds
def test_the_signature_is_folded(kind: str) -> None:
    """No line of it is longer than 76 columns, and each but the first begins with a space."""
    for headers in (HEADERS, HEADERS._replace(reply_to=None), HEADERS._replace(list_id=None, feedback_id=None)):
        first, *more = signature_of(SIGNERS[kind].sign(compose(encode(LETTER), headers))).split(b"\r\n")
        assert max(map(len, [first, *more])) <= 76
        assert all(re.match(rb" \S", line) for line in more)


@both_kinds
def test_the_same_letter_has_the_same_signature(kind: str) -> None:
    """A repeat is indistinguishable from the first, whenever and by whichever process it is signed."""
    again = DkimSigner("example.org", kind, KEYS[kind])
    assert SIGNERS[kind].sign(CONTENT) == SIGNERS[kind].sign(CONTENT) == again.sign(CONTENT)
    other = compose(encode(LETTER), HEADERS._replace(date=HEADERS.date + timedelta(seconds=1)))
    assert signature_of(SIGNERS[kind].sign(other)) != signature_of(SIGNERS[kind].sign(CONTENT))


def test_two_signatures_stand_beside_each_other() -> None:
    """With both keys each signature is valid by itself; neither covers the other."""
    signed = SIGNERS["rsa"].sign(SIGNERS["ed25519"].sign(CONTENT))
    assert re.findall(rb"a=([\w-]+);", signed) == [b"rsa-sha256", b"ed25519-sha256"]
    assert is_valid(signed, 0)
    assert is_valid(signed, 1)
    assert is_valid(signed[len(signature_of(signed)) + 2 :])


@both_kinds
def test_the_longest_names_are_signed_with(kind: str) -> None:
    """A domain and a selector as long as the DNS allows make long lines, and a valid signature."""
    domain = ".".join(["d" * 60] * 3) + ".example.org"
    signed = DkimSigner(domain, "s" * 30, KEYS[kind]).sign(CONTENT)
    name = b"%b._domainkey.%b." % (b"s" * 30, domain.encode())
    assert is_valid(signed, records={name: record_of(KEYS[kind])})


@pytest.mark.parametrize("offset", [0, 330, -480])
def test_the_time_of_signing_is_the_date(offset: int) -> None:
    """Whatever its offset from UTC; -0000 is UTC, too."""
    date = datetime(2024, 3, 12, 8, 0, tzinfo=timezone(timedelta(minutes=offset)))
    signed = SIGNERS["ed25519"].sign(compose(encode(LETTER), HEADERS._replace(date=date)))
    assert b" t=%d;" % date.timestamp() in signature_of(signed)
    nowhere = TOP.replace(b"+0100", b"-0000") + b"\r\nx\r\n"
    seconds = datetime(2024, 3, 12, 8, 0, tzinfo=UTC).timestamp()
    assert b" t=%d;" % seconds in signature_of(SIGNERS["ed25519"].sign(nowhere))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"From: a@example.org\r\n\r\nx\r\n",
        b"Date: Tue, 12 Mar 2024 08:00:00 +0100\r\n\r\nx\r\n",
        b"From: a@example.org\r\nDate: at noon\r\n\r\nx\r\n",
        b"From\r\nDate: Tue, 12 Mar 2024 08:00:00 +0100\r\n\r\nx\r\n",
    ],
)
def test_a_letter_without_from_and_date_cannot_be_signed(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"From and Date|[Ii]nvalid date"):
        SIGNERS["ed25519"].sign(content)


# Any letter

SPEAKABLE = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=60)
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=300)


@given(
    kind=st.sampled_from(list(KEYS)),
    rendered=st.builds(Rendered, subject=SPEAKABLE, html=TEXT, text=TEXT, from_name=SPEAKABLE, reply_to=st.none()),
    token=st.integers(0, 500),
    is_letter=st.booleans(),
    date=st.integers(10**9, 1_700_000_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
)
@example(kind="rsa", rendered=replace(LETTER, subject="  Grüße  " * 9, html="", text=""), token=0, is_letter=False,
         date=HEADERS.date)  # fmt: skip
@example(kind="ed25519", rendered=replace(LETTER, text="\n\n \t\n\n", html=" \n"), token=500, is_letter=True,
         date=HEADERS.date)  # fmt: skip
def test_every_letter_that_can_be_composed_is_signed(
    kind: str, rendered: Rendered, token: int, is_letter: bool, date: datetime
) -> None:
    """Encoded words, folded headers, long addresses and any text: a verifier agrees."""
    headers = HEADERS._replace(date=date, unsubscribe_url="https://letters.example.org/" + "u" * token)
    if not is_letter:
        headers = headers._replace(unsubscribe_url=None, unsubscribe_mailto=None, list_id=None, reply_to=None)
    assert is_valid(SIGNERS[kind].sign(compose(encode(rendered), headers)))


def test_a_letter_to_an_address_beyond_ascii_is_signed() -> None:
    """With SMTPUTF8 the To header is UTF-8 (RFC 6532), and is signed as it stands."""
    content = compose(encode(LETTER), HEADERS._replace(to="grüße@example.com"), smtputf8=True)
    signed = SIGNERS["ed25519"].sign(content)
    assert is_valid(signed)
    assert not is_valid(signed.replace("grüße".encode(), "grüsse".encode()))


def test_space_before_a_colon_does_not_count() -> None:
    """Old programs wrote it, and the relaxed form takes it out: RFC 6376, section 3.4.2."""
    signed = SIGNERS["ed25519"].sign(TOP + b"Subject \t: x\r\n\r\n")
    assert is_valid(signed.replace(b"Subject \t:", b"Subject:"))


PIECES = [b" ", b"\t", b"  ", b"\r\n", b"\r\n", b"a", b"=", b"=20", b".", "ß".encode(), b"\x0b", b"\xa0"]
BODIES = st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join)
VALUES = st.lists(st.sampled_from([b" ", b"\t", b"\r\n ", b"\r\n\t ", b"a", b":", "ß".encode()]), max_size=15)


@given(kind=st.sampled_from(list(KEYS)), body=BODIES, value=VALUES.map(b"".join))
@example(kind="ed25519", body=b"", value=b"")
@example(kind="rsa", body=b"\r\n\r\n\r\n", value=b"\r\n ")
@example(kind="ed25519", body=b" \t ", value=b"  a\t\t b \t")
def test_odd_space_is_signed_as_a_verifier_reads_it(kind: str, body: bytes, value: bytes) -> None:
    """Runs of space, tabs, folds, lines of space, empty lines at the end, an empty body."""
    signed = SIGNERS[kind].sign(TOP + b"SubJect:" + value + b"x\r\n\r\n" + body)
    # A body whose last line has no line end gets one on its way: RFC 5321, section 4.1.1.4.
    assert is_valid(signed if signed.endswith(b"\r\n") else signed + b"\r\n")


@given(body=BODIES)
def test_a_body_in_relaxed_form(body: bytes) -> None:
    """The rules of RFC 6376, section 3.4.4, one by one, and nothing else is changed."""
    lines = [re.sub(rb"[ \t]+", b" ", line).rstrip(b" ") for line in body.split(b"\r\n")]
    while lines and not lines[-1]:
        lines.pop()
    assert relaxed_body(body) == b"".join(line + b"\r\n" for line in lines)


@pytest.mark.parametrize(
    ("body", "relaxed"),
    [
        (b" C \r\nD \t E\r\n\r\n\r\n", b" C\r\nD E\r\n"),  # the example in RFC 6376, section 3.4.5
        (b"", b""),
        (b"\r\n", b""),
        (b" \t\r\n\r\n", b""),
        (b"a", b"a\r\n"),
        (b"a\r\n", b"a\r\n"),
        (b"\r\na", b"\r\na\r\n"),
        (b" " * 1000 + b"a" + b"\t" * 999 + b"\r\n" * 1000, b" a\r\n"),
    ],
)
def test_bodies_in_relaxed_form(body: bytes, relaxed: bytes) -> None:
    assert relaxed_body(body) == relaxed


# What breaks it


@both_kinds
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"=E2=80=94 fine</p>", b"=E2=80=94 fined</p>"),
        (b"--\r\n", b"--\r\nP.S.\r\n"),
        (b"From: Joan", b"From: Jane"),
        (b"letters@example.org>", b"letters@example.net>"),
        (b"To: maria@", b"To: mario@"),
        (b"Reply-To: desk@example.org\r\n", b""),
        (b"Reply-To: desk", b"Reply-To: disk"),
        (b"Subject: Three", b"Subject: Four"),
        (b"12 Mar 2024", b"13 Mar 2024"),
        (b"Message-ID: <a", b"Message-ID: <b"),
        (b"/unsubscribe/", b"/subscribe/"),
        (b"mailto:leave", b"mailto:stay"),
        (b"=One-Click", b"=Two-Click"),
        (b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n", b""),
        (b"List-Id: <k3f9", b"List-Id: <k3f8"),
        (b"MIME-Version: 1.0", b"MIME-Version: 1.1"),
        (b"multipart/alternative", b"multipart/mixed"),
        (b"Feedback-ID: r7", b"Feedback-ID: r8"),
        (b"auto-generated", b"auto-replied"),
        (b"; t=1710226800", b"; t=1710226801"),
        (b"From: Joan", b"From: Jane <jane@example.org>\r\nFrom: Joan"),
        (b"To: maria", b"To: x@example.org\r\nTo: maria"),
        (b"Subject: ", b"Subject: You have won\r\nSubject: "),
        (b"Date: ", b"Date: Tue, 12 Mar 2024 08:00:01 +0100\r\nDate: "),
    ],
)
def test_whatever_is_altered_breaks_it(kind: str, old: bytes, new: bytes) -> None:
    """Body, sender, subject, the ways to unsubscribe, a header taken out, a second one put in."""
    signed = SIGNERS[kind].sign(CONTENT).replace(b"\r\n t=", b" t=")
    altered = signed.replace(old, new)
    assert altered != signed
    assert is_valid(signed)
    assert not is_valid(altered)


@pytest.mark.parametrize("name", [b"From", b"Subject", b"To", b"Date"])
def test_a_second_header_at_either_end_breaks_it(name: bytes) -> None:
    """Mail programs differ in which of two they show: RFC 6376, section 8.15."""
    signed = SIGNERS["ed25519"].sign(CONTENT)
    second = name + b": Fri, 15 Mar 2024 08:00:00 +0100 <x@example.net>\r\n"
    assert not is_valid(second + signed)
    assert not is_valid(signed.replace(b"\r\n\r\n", b"\r\n" + second + b"\r\n", 1))


def test_what_happens_on_the_way_does_not_break_it() -> None:
    """Trace headers, folding, more or fewer spaces, and empty lines at the end."""
    signed = SIGNERS["ed25519"].sign(CONTENT)
    assert is_valid(b"Received: from a by b; Tue, 12 Mar 2024 08:00:05 +0100\r\n" + signed + b"\r\n\r\n")
    assert is_valid(signed.replace(b"Subject: Three small", b"subject:\r\n\tThree   small"))
    assert is_valid(signed.replace(b"Precedence: bulk\r\n", b""))


def test_headers_that_come_twice_are_signed_from_the_last_on() -> None:
    """Nothing of ours has any, and a verifier would read them so: RFC 6376, section 5.4.2."""
    signed = SIGNERS["ed25519"].sign(b"Reply-To: a\r\nReply-To: b\r\n" + TOP + b"\r\nx\r\n")
    assert is_valid(signed)
    assert not is_valid(signed.replace(b"Reply-To: a\r\nReply-To: b", b"Reply-To: b\r\nReply-To: a"))


# Settings


@pytest.fixture(autouse=True)
def _in_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """PEM files, good and bad, by name."""
    private = {
        **KEYS,
        "short": rsa.generate_private_key(65537, key_size=SHORT),
        "ec": ec.generate_private_key(ec.SECP256R1()),
    }
    made = {kind: key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) for kind, key in private.items()}
    made["locked"] = KEYS["rsa"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"s3cret"))
    made["old"] = KEYS["rsa"].private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    made["public"] = KEYS["rsa"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    made["text"] = b"s3cret"
    made["broken"] = b"-----BEGIN PRIVATE KEY-----\ns3cret\n-----END PRIVATE KEY-----\n"
    made["empty"] = b""
    paths = {name: tmp_path / f"{name}.pem" for name in [*made, "missing"]}
    for name, content in made.items():
        paths[name].write_bytes(content)
    paths["folder"] = tmp_path
    return paths


@pytest.fixture
def opened() -> Iterator[list[App]]:
    """Programs to be closed."""
    apps: list[App] = []
    yield apps
    for app in apps:
        app.close()


def sign_with(opened: list[App], **settings: Any) -> bytes:
    """What a program with these settings makes of a letter."""
    opened.append(open_app(load_settings(**settings)))
    content = CONTENT
    for signer in opened[-1].office.composer._dkim:
        content = signer.sign(content)
    return content


def test_nothing_is_signed_without_a_key(opened: list[App]) -> None:
    assert sign_with(opened) == CONTENT


def test_the_keys_of_the_settings_sign(opened: list[App], files: dict[str, Path]) -> None:
    """One signature for each key, for the sender's domain or the one that is named; RSA's on top."""
    first = {"dkim_selector": "rsa", "dkim_key_file": files["rsa"]}
    second = {"dkim_ed25519_selector": "ED25519", "dkim_ed25519_key_file": files["ed25519"]}
    assert sign_with(opened, **first) == SIGNERS["rsa"].sign(CONTENT)
    assert sign_with(opened, **second) == SIGNERS["ed25519"].sign(CONTENT)
    assert sign_with(opened, **first, **second) == SIGNERS["rsa"].sign(SIGNERS["ed25519"].sign(CONTENT))
    named = sign_with(opened, **first, dkim_domain="Mail.Example.org")
    assert named == DkimSigner("mail.example.org", "rsa", KEYS["rsa"]).sign(CONTENT)


def test_a_key_in_the_older_form_is_read(files: dict[str, Path]) -> None:
    """`BEGIN RSA PRIVATE KEY`, as older tools write it."""
    key = load_key(files["old"], kind="rsa", setting="X")
    assert DkimSigner("example.org", "rsa", key).sign(CONTENT) == SIGNERS["rsa"].sign(CONTENT)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"dkim_selector": "one"}, "NEWSLETTER_DKIM_KEY_FILE: .*NEWSLETTER_DKIM_SELECTOR is not; set both"),
        ({"dkim_key_file": "a.pem"}, "NEWSLETTER_DKIM_KEY_FILE: .*set NEWSLETTER_DKIM_SELECTOR too"),
        ({"dkim_ed25519_selector": "one"}, "NEWSLETTER_DKIM_ED25519_KEY_FILE: .*ED25519_SELECTOR is not; set both"),
        ({"dkim_ed25519_key_file": "a.pem"}, "NEWSLETTER_DKIM_ED25519_KEY_FILE: .*set NEWSLETTER_DKIM_ED25519_SEL"),
        ({"dkim_selector": "one two", "dkim_key_file": "a.pem"}, "NEWSLETTER_DKIM_SELECTOR: .*write letters, digits"),
        ({"dkim_selector": "ä", "dkim_key_file": "a.pem"}, "NEWSLETTER_DKIM_SELECTOR: .*write letters, digits"),
        ({"dkim_selector": "a..b", "dkim_key_file": "a.pem"}, "NEWSLETTER_DKIM_SELECTOR: .*write letters, digits"),
        ({"dkim_selector": "a;", "dkim_key_file": "a.pem"}, "NEWSLETTER_DKIM_SELECTOR: .*write letters, digits"),
        ({"dkim_selector": "a" * 254, "dkim_key_file": "a.pem"}, "NEWSLETTER_DKIM_SELECTOR: .*write letters, digits"),
        ({"dkim_domain": "example.org"}, "NEWSLETTER_DKIM_DOMAIN: .*set NEWSLETTER_DKIM_SELECTOR and"),
        (
            {"dkim_selector": "a", "dkim_key_file": "a.pem", "dkim_domain": "a@b"},
            "NEWSLETTER_DKIM_DOMAIN: .*write letters, digits",
        ),
        (
            {
                "dkim_selector": "one",
                "dkim_key_file": "a.pem",
                "dkim_ed25519_selector": "ONE",
                "dkim_ed25519_key_file": "b.pem",
            },
            "NEWSLETTER_DKIM_ED25519_SELECTOR: .*write another one",
        ),
    ],
)
def test_settings_that_cannot_sign_are_refused(settings: dict[str, Any], fault: str) -> None:
    """One line that names the setting and says what to do."""
    with pytest.raises(SettingsError, match=f"^{fault}") as caught:
        load_settings(**settings)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("prefix", "file", "fault"),
    [
        ("dkim", "missing", r"cannot be read \(No such file or directory\)"),
        ("dkim", "folder", r"cannot be read \(Is a directory\)"),
        ("dkim", "empty", "holds no private key in PEM form; make one with: openssl genrsa"),
        ("dkim", "text", "holds no private key in PEM form"),
        ("dkim", "broken", "holds no private key in PEM form"),
        ("dkim", "public", "holds no private key in PEM form"),
        ("dkim", "locked", "has a passphrase; write the key without one"),
        ("dkim", "short", "holds an RSA key of 1024 bits, which is too short; make one with: openssl genrsa"),
        ("dkim", "ed25519", "holds a key of another kind; make one with: openssl genrsa"),
        ("dkim", "ec", "holds a key of another kind; make one with: openssl genrsa"),
        ("dkim_ed25519", "missing", "cannot be read"),
        ("dkim_ed25519", "rsa", "holds a key of another kind; make one with: openssl genpkey -algorithm ed25519"),
        ("dkim_ed25519", "text", "holds no private key in PEM form; make one with: openssl genpkey"),
    ],
)
def test_a_file_without_a_fitting_key_refuses_the_start(
    files: dict[str, Path], prefix: str, file: str, fault: str
) -> None:
    """One line that names the setting and the file, says what to do, and quotes nothing of the file."""
    settings = load_settings(**{f"{prefix}_selector": "one", f"{prefix}_key_file": files[file]})
    with pytest.raises(SettingsError) as caught:
        open_app(settings)
    name = f"NEWSLETTER_{prefix.upper()}_KEY_FILE"
    assert re.match(rf"{name}: {re.escape(str(files[file]))} {fault}", str(caught.value))
    assert len(str(caught.value).splitlines()) == 1
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_who_signs_nothing_does_not_load_cryptography() -> None:
    """Neither the command line nor a program without a key does; it takes time and memory."""
    code = (
        "import sys; from typer.testing import CliRunner; from newsletter.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "from newsletter.bootstrap import open_app; from newsletter.settings import Settings\n"
        "import newsletter.scheduler; open_app(Settings()).close()\n"
        "assert not {name for name in sys.modules if name.partition('.')[0] in {'cryptography', '_cffi_backend'}}\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
