"""Which emails carry a DKIM signature."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from newsletter.service import sending
from tests.support.building import House, letter
from tests.support.smtp_server import Close, SmtpServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FAR_FUTURE = datetime(2100, 1, 1, tzinfo=UTC)
KEY = Ed25519PrivateKey.generate()
RECORD = b"v=DKIM1; k=ed25519; p=" + base64.b64encode(KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))


@pytest.fixture
def house(open_house: Callable[..., House], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    """A house that signs, with one letter."""
    file = tmp_path / "key.pem"
    file.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    house = open_house(dkim_ed25519_selector="s1", dkim_ed25519_key_file=file)
    house.sequence("trust", letter("one"))
    house.publish()
    # A signature from the future is none, and the house lives in a time of its own.
    monkeypatch.setattr(dkim, "time", SimpleNamespace(time=FAR_FUTURE.timestamp))
    return house


def is_signed(content: bytes) -> bool:
    """Whether a verifier finds a valid signature of the sender's domain."""
    records = {b"s1._domainkey.example.org.": RECORD}
    return bool(dkim.verify(content, dnsfunc=lambda name, timeout=5: records.get(name)))


def test_every_mail_leaves_signed(house: House) -> None:
    """The confirmation as well as the letter, as the mail server has them."""
    maria = house.sign_up()
    house.live(weeks=1)
    assert [mail.step for mail in maria.mails()] == [None, "trust/one"]
    assert [is_signed(mail.content) for mail in maria.mails()] == [True, True]


def test_a_repeat_has_the_same_bytes(house: House, post: SmtpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A letter without an answer is repeated with the same signature, too."""
    monkeypatch.setattr(sending, "_LONGEST_PAUSE", timedelta())
    maria = house.reader()
    house.at("2026-11-24 09:00")
    post.script("dot", Close(), times=1)
    house.work()
    house.work()
    first, second = (received.content for received in post.ledger)
    assert first == second
    assert is_signed(second)
    assert maria.steps() == ["one", "one"]


def test_a_preview_is_unsigned(house: House) -> None:
    """Nobody gets it, so nobody answers for it."""
    revision, _ = house.app.publishing.read(house.content.root, today=house.now.date())
    sequence = revision.sequence("trust")
    assert sequence is not None
    letters = house.app.previewing.letters(revision, sequence, country=None, discreet=False, now=house.now)
    assert all(one.message.startswith(b"From: ") for one in letters)
