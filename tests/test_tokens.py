"""Links that prove themselves, and addresses remembered without being kept."""

from __future__ import annotations

import base64
import struct
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from newsletter.errors import TokenError, TokenExpired, TokenForged
from newsletter.tokens import DEVELOPMENT_KEY, DEVELOPMENT_KEY_ID, Purpose, Token, TokenSigner, key_id

NOW = datetime(2026, 11, 23, 11, 0, tzinfo=UTC)
OLD, NEW, OTHER = (name * 40 for name in "one")
SIGNER = TokenSigner([OLD])
PURPOSES = list(Purpose)


@pytest.mark.parametrize("purpose", PURPOSES)
def test_a_token_says_what_was_signed(purpose: Purpose):
    """A token gives back the id and the generation that it was made for."""
    identifier = uuid4()
    token = SIGNER.sign(purpose, identifier, generation=7)
    assert SIGNER.verify(purpose, token, now=NOW) == Token(id=identifier, generation=7)


@given(identifier=st.uuids(), generation=st.integers(0, 65535), seconds=st.integers(1, 10**8))
def test_any_id_generation_and_expiry_survives_the_way(identifier: UUID, generation: int, seconds: int):
    """Whatever id, generation and expiry are signed, the token gives them back and is safe in a URL path."""
    expires_at = NOW + timedelta(seconds=seconds)
    token = SIGNER.sign(Purpose.CONFIRM, identifier, expires_at=expires_at, generation=generation)
    assert SIGNER.verify(Purpose.CONFIRM, token, now=NOW) == Token(id=identifier, generation=generation)
    assert len(token) < 120
    assert set(token) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


@pytest.mark.parametrize("made_for", PURPOSES)
@pytest.mark.parametrize("used_for", PURPOSES)
def test_a_token_opens_nothing_but_its_own_purpose(made_for: Purpose, used_for: Purpose):
    """A token for one purpose is forged for every other."""
    token = SIGNER.sign(made_for, uuid4())
    if made_for is used_for:
        assert SIGNER.verify(used_for, token, now=NOW)
    else:
        with pytest.raises(TokenForged):
            SIGNER.verify(used_for, token, now=NOW)


def test_a_token_works_until_the_second_it_expires_in():
    """A token with an expiry works before it and is expired, not forged, from then on."""
    expires_at = NOW + timedelta(days=7)
    token = SIGNER.sign(Purpose.CONFIRM, uuid4(), expires_at=expires_at)
    assert SIGNER.verify(Purpose.CONFIRM, token, now=expires_at - timedelta(seconds=1))
    for late in (expires_at, expires_at + timedelta(days=4000)):
        with pytest.raises(TokenExpired):
            SIGNER.verify(Purpose.CONFIRM, token, now=late)


def test_a_token_without_expiry_works_for_ever():
    """An unsubscribe link works after eighty years."""
    token = SIGNER.sign(Purpose.UNSUBSCRIBE, uuid4())
    assert SIGNER.verify(Purpose.UNSUBSCRIBE, token, now=NOW.replace(year=2106))


def test_an_expired_token_of_another_purpose_is_forged():
    """Whether a token expired is told only to whoever holds one of that purpose."""
    token = SIGNER.sign(Purpose.CONFIRM, uuid4(), expires_at=NOW)
    with pytest.raises(TokenForged):
        SIGNER.verify(Purpose.PREFERENCES, token, now=NOW)


@given(data=st.data())
def test_one_changed_character_forges_a_token(data: st.DataObject):
    """Whichever character of a token is replaced by whatever else, it opens nothing."""
    token = SIGNER.sign(Purpose.UNSUBSCRIBE, UUID(int=5), generation=1)
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters().filter(lambda character: character != token[place]))
    with pytest.raises(TokenForged):
        SIGNER.verify(Purpose.UNSUBSCRIBE, token[:place] + other + token[place + 1 :], now=NOW)


@given(text=st.text())
def test_whatever_else_somebody_puts_into_a_link_is_forged(text: str):
    """Any text that we did not sign is refused, and nothing else is raised."""
    for attempt in (text, f"{SIGNER.key_id}-{text}", f"{SIGNER.key_id}-{text}.{text}"):
        with pytest.raises(TokenForged):
            SIGNER.verify(Purpose.CONFIRM, attempt, now=NOW)


def test_a_signature_over_something_else_is_forged():
    """A payload of the wrong length is refused even with a right signature."""
    short = base64.urlsafe_b64encode(struct.pack(">16s", uuid4().bytes)).decode().rstrip("=")
    signer = SIGNER._signer(SIGNER.key_id, Purpose.CONFIRM)
    for payload in (short, "", "@@@", "AA", "é".encode("utf-7").decode()):
        token = f"{SIGNER.key_id}-{signer.sign(payload.encode()).decode()}"
        with pytest.raises(TokenForged):
            SIGNER.verify(Purpose.CONFIRM, token, now=NOW)


def test_an_endless_token_is_refused_unread():
    """A token of a megabyte is forged."""
    with pytest.raises(TokenForged):
        SIGNER.verify(Purpose.CONFIRM, SIGNER.key_id + "-" + "A" * 10**6, now=NOW)


def test_the_messages_say_what_to_do_and_hold_nothing_of_the_token():
    """A refused link is explained to a person, and the token is not repeated."""
    for token, kind in (
        ("nonsense", TokenForged),
        (SIGNER.sign(Purpose.CONFIRM, uuid4(), expires_at=NOW), TokenExpired),
    ):
        with pytest.raises(TokenError) as refused:
            SIGNER.verify(Purpose.CONFIRM, token, now=NOW)
        assert isinstance(refused.value, kind)
        assert token not in str(refused.value)
        assert str(refused.value).startswith("This link ")


class TestRotation:
    """`SECRET_KEY` is a list: the first signs, all verify."""

    def test_the_first_key_signs(self):
        """A token names the first key of the list."""
        assert TokenSigner([NEW, OLD]).sign(Purpose.CONFIRM, uuid4()).startswith(key_id(NEW) + "-")

    def test_all_keys_verify(self):
        """A link signed before a rotation still opens after it."""
        identifier = uuid4()
        token = TokenSigner([OLD]).sign(Purpose.UNSUBSCRIBE, identifier)
        assert TokenSigner([NEW, OTHER, OLD]).verify(Purpose.UNSUBSCRIBE, token, now=NOW).id == identifier

    def test_a_key_that_is_gone_opens_nothing(self):
        """A link whose key is not in the list any more is forged."""
        token = TokenSigner([OLD]).sign(Purpose.UNSUBSCRIBE, uuid4())
        with pytest.raises(TokenForged):
            TokenSigner([NEW]).verify(Purpose.UNSUBSCRIBE, token, now=NOW)

    def test_a_token_cannot_be_moved_to_another_key(self):
        """The name of one key in front of another one's signature is forged."""
        both = TokenSigner([NEW, OLD])
        token = TokenSigner([OLD]).sign(Purpose.CONFIRM, uuid4())
        with pytest.raises(TokenForged):
            both.verify(Purpose.CONFIRM, token.replace(key_id(OLD), key_id(NEW)), now=NOW)

    def test_key_ids_are_those_of_all_keys(self):
        """A signer knows the ids of all its keys, and which one signs."""
        signer = TokenSigner([NEW, OLD])
        assert signer.key_ids == {key_id(NEW), key_id(OLD)}
        assert signer.key_id == key_id(NEW)

    def test_a_key_id_tells_nothing_about_its_key(self):
        """A key's id is six hexadecimal digits, other for other keys."""
        assert len({key_id(key) for key in (OLD, NEW, OTHER, DEVELOPMENT_KEY)}) == 4
        assert all(len(key_id(key)) == 6 and int(key_id(key), 16) >= 0 for key in (OLD, NEW))
        assert key_id(DEVELOPMENT_KEY) == DEVELOPMENT_KEY_ID


class TestAddresses:
    """An address is remembered by a keyed hash."""

    def test_a_hash_carries_its_keys_id(self):
        """The hash of an address begins with the id of the first key."""
        assert TokenSigner([NEW, OLD]).hash_address("maria@example.org").startswith(key_id(NEW) + ":")

    def test_the_same_address_has_the_same_hash(self):
        """The hash depends on the address and the key alone."""
        one, same = SIGNER.hash_address("maria@example.org"), TokenSigner([OLD]).hash_address("maria@example.org")
        assert one == same
        assert one != SIGNER.hash_address("mario@example.org")
        assert one != TokenSigner([NEW]).hash_address("maria@example.org")
        assert "maria" not in one

    def test_a_rotation_forgets_nobody(self):
        """What was remembered under the old key is found after a rotation."""
        remembered = TokenSigner([OLD]).hash_address("maria@example.org")
        rotated = TokenSigner([NEW, OLD])
        assert remembered in rotated.address_hashes("maria@example.org")
        assert rotated.hash_address("maria@example.org") in rotated.address_hashes("maria@example.org")
        assert len(rotated.address_hashes("maria@example.org")) == 2

    def test_a_hash_fits_its_column(self):
        """No hash is longer than the column that holds it."""
        assert len(SIGNER.hash_address("a" * 64 + "@" + "b" * 180 + ".org")) <= 80
