"""What is forgotten, and when."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import make_url

from newsletter.domain.delivery import Kind
from newsletter.domain.subscription import State
from newsletter.errors import DatabaseUnavailable
from newsletter.service import housekeeping
from newsletter.service.publishing import Publishing
from newsletter.store import erasing, remains
from newsletter.store.database import Connection
from tests.support.building import House, letter, local
from tests.support.smtp_server import Reply


@pytest.fixture
def house(house: House) -> House:
    """A house with letters that show an affirmation and a post."""
    house.content.affirmations("calm", "kind")
    house.content.posts("key: kindness")
    house.sequence("trust", letter("one", affirmation="next", related="newest"), "two", start="at_once")
    house.publish()
    return house


def keep(house: House) -> None:
    """Keep house now."""
    house.app.housekeeping.keep_house(now=house.now)


class TestUnconfirmed:
    def test_a_request_is_erased_after_seven_days(self, house: House):
        """What was never confirmed is kept while its link works, and then everything about it is gone."""
        asked = house.now
        maria = house.ask()
        house.work()
        house.at(asked + timedelta(days=7))
        keep(house)
        assert maria.state() is State.PENDING
        house.at(asked + timedelta(days=7, seconds=1))
        keep(house)
        for table in ("subscriber", "subscription", "delivery", "event"):
            assert house.rows(table) == [], table

    def test_asking_again_spares_it(self, house: House):
        """Who asks again on the sixth day is kept for seven days from then, as long as the new link works."""
        asked = house.now
        maria = house.ask()
        house.work()
        house.at(asked + timedelta(days=6))
        house.ask()
        house.work()
        house.at(asked + timedelta(days=12))
        keep(house)
        token = maria.mails()[-1].token("confirm")
        house.app.subscribing.confirm(token, start_now=False, now=house.now)
        assert maria.state() is State.ACTIVE
        house.at(asked + timedelta(days=400))
        keep(house)
        assert maria.is_known

    def test_who_confirmed_is_never_erased(self, house: House):
        """Active, paused, finished and left readers stay for as long as they wish."""
        people = [house.reader(f"reader{number}@example.org") for number in range(3)]
        people[0].leave()
        people[1].pause(weeks=52)
        house.later(days=500)
        keep(house)
        assert all(reader.is_known for reader in people)

    def test_who_left_without_ever_confirming_is_erased(self, house: House):
        """A request whose reader pressed "leave" instead is erased like any other that was not confirmed."""
        maria = house.ask()
        maria.leave()
        assert maria.state() is State.LEFT
        house.later(days=8)
        keep(house)
        assert not maria.is_known

    def test_a_dead_address_that_never_confirmed_is_erased(self, house: House):
        """A mistyped address that the mail server knows to be none is not kept; only its hash is."""
        house.post.script("rcpt", Reply(550, "5.1.1 No such user"), times=1)
        maria = house.ask("typo@example.org")
        house.work()
        key = maria.record.address_key
        assert maria.state() is State.LEFT
        house.later(days=8)
        keep(house)
        assert not maria.is_known
        assert house.app.overseeing.suppression_reason(key) == "address_dead"
        assert "typo" not in str(house.everything())

    def test_a_second_request_of_a_reader_goes_alone(self, house: House):
        """Of a reader with letters only the subscription that was never confirmed is erased."""
        house.sequence("note", "spring")
        house.publish()
        maria = house.reader()
        house.ask(sequence="note")
        house.later(days=8)
        keep(house)
        assert [item.sequence_key for item in maria.subscriptions()] == ["trust"]

    def test_many_are_erased_in_batches(self, house: House, monkeypatch: pytest.MonkeyPatch):
        """More than a batch is erased in one go, and nothing where the process is to stop."""
        monkeypatch.setattr(housekeeping, "_BATCH", 2)
        for number in range(5):
            house.ask(f"reader{number}@example.org")
        house.later(days=8)
        house.app.housekeeping.keep_house(now=house.now, stop=lambda: True)
        assert len(house.rows("subscriber")) == 5
        keep(house)
        assert house.rows("subscriber") == []


class TestDetails:
    def test_details_go_after_ninety_days_and_what_counts_stays(self, house: House):
        """Reply, host and reason are emptied ninety days after closing; outcome, affirmation and posts are kept."""
        maria = house.reader()
        house.work()
        before = maria.delivery()
        assert before.reply_code == 250
        assert before.host
        house.at(before.closed_at + timedelta(days=90))
        keep(house)
        assert maria.delivery() == before
        house.later(seconds=1)
        keep(house)
        after = maria.delivery()
        assert (after.reply_code, after.reply_text, after.host) == (None, None, None)
        for kept in ("id", "state", "received", "round", "step", "affirmation", "posts", "sent_at", "number"):
            assert getattr(after, kept) == getattr(before, kept), kept
        assert (after.affirmation, after.posts) == ("calm", ["kindness"])

    def test_what_a_form_carried_goes_too(self, house: House):
        """What somebody chose on the form is gone from their confirmation after ninety days."""
        maria = house.sign_up(country=None, slot="fri 18:00")
        assert maria.delivery(kind=Kind.CONFIRMATION).payload
        house.later(days=91)
        keep(house)
        assert not maria.delivery(kind=Kind.CONFIRMATION).payload

    def test_what_waits_keeps_its_details(self, house: House):
        """A held letter keeps what the mail server said for as long as it is held."""
        maria = house.reader()
        house.post.script("dot", Reply(554, "5.6.0 no"), times=1)
        house.work()
        house.later(days=200)
        keep(house)
        assert maria.delivery().reply_code == 554

    def test_batches(self, house: House, monkeypatch: pytest.MonkeyPatch):
        """More than a batch is emptied in one go."""
        monkeypatch.setattr(housekeeping, "_BATCH", 2)
        people = [house.reader(f"reader{number}@example.org") for number in range(5)]
        house.work()
        house.later(days=91)
        keep(house)
        assert [reader.deliveries()[0].host for reader in people] == [None] * 5


def file_of(house: House) -> Path:
    """The file of a house on SQLite."""
    return Path(str(make_url(house.app.settings.database_url).database))


def found_in(path: Path, words: list[str]) -> set[str]:
    """Which of some words stand in a SQLite file, or in what lies beside it."""
    held = b"".join(each.read_bytes() for each in path.parent.glob(f"{path.name}*"))
    return {word for word in words if word.encode() in held}


def erase(house: House, identifier: UUID) -> None:
    """Erase a reader, as whoever erases does."""
    with house.app.database.write() as connection:
        erasing.erase_subscriber(connection, identifier)


@pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)
class TestSweeping:
    """On SQLite the file and its log hold nothing of who was erased."""

    def test_nothing_of_who_was_erased_is_left(self, house: House):
        """Not the address, not their ids, not a token of a link: as soon as nobody reads what was before."""
        path = file_of(house)
        maria = house.sign_up("maria-of-the-lighthouse@example.org")
        house.at(local("2026-11-26 08:00"))
        house.work()
        tokens = [maria.mails()[0].token("confirm"), *map(maria.letters()[0].token, ("unsubscribe", "preferences"))]
        record, ids = maria.record, [maria.record.id.hex, maria.subscription().id.hex, maria.delivery().id.hex]
        words = [maria.address, "lighthouse", *ids, maria.letters()[0].message_id, *tokens]
        assert found_in(path, words) >= {maria.address, *ids}
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN")
            assert other.execute("SELECT count(*) FROM subscriber").fetchone() == (1,)
            erase(house, record.id)
            assert not house.app.housekeeping.sweep()
            assert maria.address in found_in(path, words)
            # It keeps nobody waiting meanwhile.
            house.ask("anna@example.org")
            other.execute("COMMIT")
            assert house.app.housekeeping.sweep()
            assert found_in(path, words) == set()
            assert other.execute("SELECT address FROM subscriber").fetchall() == [("anna@example.org",)]

    def test_freed_pages_are_overwritten(self, house: House):
        """Also where so many go that whole pages become free, which the file keeps."""
        path = file_of(house)
        people = [house.reader(f"keeper-{number:03}-of-the-lighthouse@example.org") for number in range(120)]
        for reader in people:
            erase(house, reader.record.id)
        assert house.app.housekeeping.sweep()
        assert found_in(path, [reader.address for reader in people]) == set()
        with closing(sqlite3.connect(path)) as other:
            assert other.execute("PRAGMA freelist_count").fetchone()[0] > 10

    def test_house_is_not_kept_before_the_log_is_empty(self, house: House):
        """What was never confirmed is gone from the log, too, when it is erased."""
        maria = house.ask("maria-of-the-lighthouse@example.org")
        house.work()
        house.later(days=8)
        keep(house)
        assert not maria.is_known
        assert found_in(file_of(house), [maria.address]) == set()

    def test_the_log_stays_where_nobody_was_erased(self, house: House):
        """To write it back costs the sending time: it is left alone without a reason."""
        house.reader()
        size = Path(f"{file_of(house)}-wal").stat().st_size
        assert size > 0
        assert house.app.housekeeping.sweep()
        assert Path(f"{file_of(house)}-wal").stat().st_size == size

    def test_who_is_erased_meanwhile_is_swept_next(self, house: House, monkeypatch: pytest.MonkeyPatch):
        """Somebody is erased between the emptying of the log and the word that it is empty: it is done once more."""
        path = file_of(house)
        maria, anna = house.reader("maria-of-the-lighthouse@example.org"), house.reader("anna@example.org")
        identifiers, usual = [anna.record.id], remains.fetch

        def fetch(connection: Connection, text: str, parameters: object) -> object:
            rows = usual(connection, text, parameters)
            if "TRUNCATE" in text and identifiers:
                erase(house, identifiers.pop())
            return rows

        erase(house, maria.record.id)
        monkeypatch.setattr(remains, "fetch", fetch)
        assert not house.app.housekeeping.sweep()
        assert found_in(path, [maria.address, anna.address]) == {anna.address}
        assert house.app.housekeeping.sweep()
        assert found_in(path, [anna.address]) == set()


class TestTheRest:
    def test_notices_are_forgotten_when_they_no_longer_count(self, house: House):
        """The count of mails under an address's hash is kept for 31 days."""
        asked = house.now
        house.ask()
        house.at(asked + timedelta(days=31))
        keep(house)
        assert len(house.rows("notice")) == 1
        house.later(seconds=1)
        keep(house)
        assert house.rows("notice") == []

    def test_the_signing_key_is_noted(self, house: House):
        """Each time it is remembered which key signs, and when last."""
        house.later(days=3)
        keep(house)
        assert [(row["key_id"], row["last_signed_at"]) for row in house.rows("signing_key")] == [
            (house.app.signer.key_id, house.now)
        ]

    def test_keeping_house_twice_changes_nothing(self, house: House):
        """Doing it again at the same instant writes nothing new."""
        house.reader()
        house.ask("ben@example.org")
        house.work()
        house.later(days=100)
        keep(house)
        before = house.everything()
        keep(house)
        assert house.everything() == before

    def test_a_subscription_that_cannot_be_moved_stops_nothing(self, house: House, monkeypatch: pytest.MonkeyPatch):
        """A failing re-timing does not keep the rest from being done; a database that is away does."""
        house.ask()
        house.later(days=8)

        def fail(*_: object, **__: object) -> int:
            raise error

        monkeypatch.setattr(Publishing, "retime", fail)
        error: Exception = DatabaseUnavailable("away")
        with pytest.raises(DatabaseUnavailable):
            keep(house)
        assert len(house.rows("subscriber")) == 1
        error = ValueError("strange")
        keep(house)
        assert house.rows("subscriber") == []
