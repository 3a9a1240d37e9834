"""How people come, change their mind, rest and go."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from threading import Barrier
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from sqlalchemy import update

from newsletter.domain.delivery import Kind
from newsletter.domain.delivery import State as DeliveryState
from newsletter.domain.subscription import State
from newsletter.errors import AddressError, InvalidChoice, NotAllowed, NotFound, TokenExpired, TokenForged
from newsletter.service.subscribing import SignUp
from newsletter.store import erasing, handovers, tables
from newsletter.tokens import Purpose
from tests.support.building import House, Reader, local
from tests.support.smtp_server import Reply

if TYPE_CHECKING:
    from newsletter.service.views import ConfirmationView

HELP_LINES = """
DE: [{name: One, kind: crisis, phone: "1", hours: "24/7"}]
AT: [{name: Two, kind: crisis, phone: "2", hours: "24/7"}]
"*": [{name: All, kind: crisis, web: "https://help.example.org/", hours: "24/7"}]
"""
FIRST_TUESDAY = local("2026-11-24 09:00")
ASKED = [Kind.CONFIRMATION, Kind.ALREADY_SUBSCRIBED]


@pytest.fixture
def house(house: House) -> House:
    """A house with "trust" (three letters, the reader says when they begin) and "note" (without an end)."""
    house.content.write("help-lines.yaml", HELP_LINES)
    house.sequence("trust", "one", "two", "three")
    house.sequence("note", "spring", "summer", on_finish="repeat")
    house.publish()
    return house


def confirm_token(reader: Reader) -> str:
    """The token of the newest confirmation that arrived."""
    return [mail for mail in reader.mails() if "confirm" in mail.subject][-1].token("confirm")


def look(house: House, token: str) -> ConfirmationView:
    """What the confirm page shows."""
    return house.app.subscribing.confirmation(token, now=house.now)


def press(house: House, token: str, *, start_now: bool = False) -> str:
    """The button on the confirm page."""
    return house.app.subscribing.confirm(token, start_now=start_now, now=house.now)


def come_back(house: House, reader: Reader, *, start_now: bool = False, **form: str) -> None:
    """The form, the mail and the button for somebody who is known."""
    house.ask(reader.address, **form)
    house.work()
    press(house, confirm_token(reader), start_now=start_now)


def asked_mails(house: House, address: str) -> int:
    """How many mails that are no letters were planned for an address that is known."""
    return sum(len(Reader(house, address).deliveries(kind=kind)) for kind in ASKED)


class TestAsking:
    def test_a_request_is_pending_until_it_is_confirmed(self, house: House):
        """A request writes a pending subscription and sends one confirmation, and then nothing ever."""
        maria = house.ask()
        assert maria.state() is State.PENDING
        assert maria.due() is None
        house.live(weeks=4)
        assert [mail.subject for mail in maria.mails()] == ["Please confirm your address"]
        assert maria.state() is State.PENDING

    def test_what_was_typed_is_kept_and_what_was_not_is_the_sites_own(self, house: House):
        """Slot, zone, country and mode are the reader's; where nothing was chosen the site's slot stands."""
        ben = house.ask("ben@example.org", slot="sun 21:30", timezone="Asia/Tokyo", country="at", discreet=True)
        assert str(ben.record.slot) == "sun 21:30 Asia/Tokyo"
        assert (ben.record.country, ben.record.discreet) == ("AT", True)
        house.app.subscribing.request(SignUp(email="eve@example.org"), now=house.now)
        eve = Reader(house, "eve@example.org")
        assert str(eve.record.slot) == "thu 08:00 Europe/Berlin"
        assert (eve.record.country, eve.record.discreet) == (None, False)
        assert eve.state("trust") is State.PENDING

    def test_what_cannot_be_is_refused_by_its_name(self, house: House):
        """A choice that cannot be names its field, and nothing is written."""
        before = house.everything()
        for field, value in (
            ("weekday", "someday"),
            ("time", "25:00"),
            ("time", "8"),
            ("timezone", "Mars/Olympus"),
            ("country", "FR"),
            ("country", "*"),
        ):
            with pytest.raises(InvalidChoice) as refused:
                house.ask(slot="tue 09:00", **{field: value})
            assert refused.value.field == field
        with pytest.raises(AddressError):
            house.ask("maria@")
        with pytest.raises(NotFound):
            house.ask(sequence="unheard-of")
        assert house.everything() == before

    def test_the_form_offers_the_default_first(self, house: House):
        """The form offers every published sequence, the default first, with its letters counted where they end."""
        offers = house.app.choices.offers()
        assert [(offer.key, offer.count, offer.selected) for offer in offers] == [
            ("trust", 3, True),
            ("note", None, False),
        ]
        assert house.app.choices.countries() == ("AT", "DE")

    def test_the_same_address_written_otherwise_is_the_same_reader(self, house: House):
        """Capital letters in the domain make no second reader."""
        house.ask("maria@example.org")
        house.ask("maria@EXAMPLE.org")
        assert len(house.rows("subscriber")) == 1
        assert house.work() == 1

    def test_first_requests_at_the_same_moment_make_one_reader(self, house: House):
        """Six first requests for one address at once all succeed and make one reader and one mail."""
        barrier = Barrier(6)

        def ask(_: int) -> None:
            barrier.wait()
            house.ask()

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(ask, range(6)))
        assert [len(house.rows(table)) for table in ("subscriber", "subscription", "delivery", "notice")] == [1] * 4
        assert house.work() == 1


def test_nothing_is_offered_before_the_first_publication(open_house):
    """While nothing is published the form offers nothing, and a request is refused."""
    house = open_house()
    assert house.app.choices.offers() == ()
    assert house.app.choices.help_lines() == {}
    with pytest.raises(NotFound):
        house.ask()
    assert house.rows("subscriber") == []


class TestKnownReaders:
    def test_the_answer_is_the_same_for_everybody(self, house: House):
        """New, pending, active and left addresses all get the same answer and one mail each."""
        for name in ("active", "left"):
            house.reader(f"{name}@example.org", slot="sun 09:00")
        Reader(house, "left@example.org").leave()
        house.ask("pending@example.org")
        house.work()
        house.later(days=2)
        subjects = {}
        for name in ("new", "pending", "active", "left"):
            signup = SignUp(email=f"{name}@example.org", sequence="trust")
            assert house.app.subscribing.request(signup, now=house.now) is None
            assert house.work() == 1
            subjects[name] = Reader(house, signup.email).mails()[-1].subject
        assert subjects["new"] == subjects["pending"] == subjects["left"] == "Please confirm your address"
        assert subjects["active"] != subjects["new"]

    def test_somebody_who_has_the_letters_is_told_so(self, house: House):
        """An active reader who asks again gets an already-subscribed mail with their own page, and keeps everything."""
        maria = house.reader(slot="tue 09:00")
        before = (maria.record, maria.subscription())
        house.ask(slot="fri 18:00", country="DE", discreet=True)
        house.work()
        assert (maria.record, maria.subscription()) == before
        assert maria.deliveries(kind=Kind.CONFIRMATION) == []
        token = maria.mails()[-1].token("preferences")
        assert house.app.staying.view(token, now=house.now).subscriptions[0].state is State.ACTIVE

    @pytest.mark.parametrize("how", ["pending", "left"])
    def test_nothing_about_a_known_reader_changes_before_they_confirm(self, house: House, how: str):
        """Whoever types a known address changes neither slot nor country nor mode; the reader's own button does."""
        maria = house.ask() if how == "pending" else house.reader()
        if how == "left":
            maria.leave()
        house.work()
        house.later(days=2)
        before = maria.record
        house.ask(slot="fri 18:00", country="DE", discreet=True)
        house.work()
        assert maria.record == before
        assert maria.state() is State(how)
        press(house, confirm_token(maria))
        assert str(maria.record.slot) == "fri 18:00 Europe/Berlin"
        assert (maria.record.country, maria.record.discreet) == ("DE", True)
        assert maria.due() == local("2026-11-27 18:00")

    def test_a_second_sequence_does_not_move_the_first(self, house: House):
        """Confirming another sequence keeps the slot at which letters come already."""
        maria = house.reader(slot="tue 09:00")
        house.sign_up(sequence="note", slot="fri 18:00")
        assert str(maria.record.slot) == "tue 09:00 Europe/Berlin"
        assert [maria.state(key) for key in ("trust", "note")] == [State.ACTIVE, State.ACTIVE]


class TestLimits:
    def test_one_a_day(self, house: House):
        """Two requests within 24 hours send one mail; the third, a day after the first, sends another."""
        maria = house.ask()
        house.ask(sequence="note")
        house.later(hours=23, minutes=59)
        house.ask()
        assert house.work() == 1
        house.later(minutes=1)
        house.ask()
        assert house.work() == 1
        assert len(maria.mails()) == 2

    def test_three_in_thirty_days(self, house: House):
        """The fourth request within thirty days sends nothing; thirty days after the first one it does."""
        start = house.now
        for day, expected in ((0, 1), (2, 1), (4, 1), (6, 0), (29, 0), (30, 1), (31, 0)):
            house.at(start + timedelta(days=day))
            house.ask()
            assert house.work() == expected, day

    def test_the_limits_outlive_the_erased_request(self, house: House):
        """Mails are counted under the keyed hash, so that erasing the pending row opens no door."""
        start = house.now
        for day, expected in ((0, 1), (8, 1), (16, 1), (24, 0)):
            house.at(start + timedelta(days=day))
            house.app.housekeeping.keep_house(now=house.now)
            assert house.rows("subscriber") == []
            house.ask()
            assert house.work() == expected, day
        assert "maria" not in str(house.rows("notice"))

    def test_already_subscribed_mails_count_too(self, house: House):
        """Confirmations and already-subscribed mails share one count."""
        maria = house.sign_up()
        house.later(hours=1)
        house.ask()
        house.work()
        assert asked_mails(house, maria.address) == 1

    def test_the_limits_are_each_addresss_own(self, house: House):
        """Ten addresses may each ask on one day."""
        for number in range(10):
            house.ask(f"reader{number}@example.org")
        assert house.work() == 10


class TestConfirming:
    def test_the_page_says_what_comes_and_changes_nothing(self, house: House):
        """Looking at the confirm page shows title, first slot and a masked address, and writes nothing."""
        maria = house.ask()
        house.work()
        before = house.everything()
        view = look(house, confirm_token(maria))
        assert house.everything() == before
        assert (view.title, view.first_slot, view.timezone) == ("About trust", FIRST_TUESDAY, "Europe/Berlin")
        assert view.offers_choice
        assert not view.already
        assert view.preferences_token is None
        assert "maria" not in view.masked_address

    @pytest.mark.parametrize(
        ("start", "start_now", "now"),
        [
            ("ask", True, True),
            ("ask", False, False),
            ("at_once", False, True),
            ("first_slot", True, False),
        ],
    )
    def test_when_the_first_letter_leaves(self, house: House, start: str, start_now: bool, now: bool):
        """`ask` leaves it to the reader; `at_once` and `first_slot` do not ask."""
        house.sequence("trust", "one", "two", start=start)
        house.publish()
        maria = house.ask()
        house.work()
        token = confirm_token(maria)
        assert look(house, token).offers_choice is (start == "ask")
        press(house, token, start_now=start_now)
        assert maria.state() is State.ACTIVE
        assert maria.due() == (house.now if now else FIRST_TUESDAY)
        house.work()
        assert maria.steps() == (["one"] if now else [])

    def test_the_button_pressed_twice_is_harmless(self, house: House):
        """A second press changes nothing and gives the same page; the view says that it is done already."""
        maria = house.ask()
        house.work()
        token = confirm_token(maria)
        own_page = press(house, token, start_now=True)
        house.work()
        before = house.everything()
        assert press(house, token, start_now=True) == own_page
        assert look(house, token).already
        assert look(house, token).preferences_token == own_page
        assert house.everything() == before

    def test_now_is_not_offered_to_somebody_who_has_not_rested(self, house: House):
        """Who left the day after a letter and comes back waits for the first slot five days after it."""
        maria = house.sign_up(start_now=True)
        house.work()
        maria.leave()
        house.later(days=1)
        house.ask()
        house.work()
        view = look(house, confirm_token(maria))
        assert not view.offers_choice
        assert view.first_slot == local("2026-12-01 09:00")
        press(house, confirm_token(maria), start_now=True)
        assert maria.due() == view.first_slot

    def test_who_left_goes_on_where_they_stopped(self, house: House):
        """After months away the letter not yet received comes next, in the same round."""
        maria = house.reader()
        house.live("2026-12-02 12:00")
        maria.leave()
        house.later(days=100)
        come_back(house, maria, start_now=True)
        house.work()
        assert maria.steps() == ["one", "two", "three"]
        assert maria.subscription().round == 1

    @pytest.mark.parametrize("leaves", [False, True])
    def test_who_had_all_begins_the_next_round(self, house: House, leaves: bool):
        """Who finished, or finished and then left, and confirms again gets the whole series once more."""
        maria = house.reader()
        house.live(weeks=4)
        assert maria.state() is State.FINISHED
        if leaves:
            maria.leave()
        house.later(days=30)
        house.ask()
        house.work()
        view = look(house, confirm_token(maria))
        press(house, confirm_token(maria))
        assert (maria.state(), maria.subscription().round) == (State.ACTIVE, 2)
        assert maria.due() == view.first_slot
        house.live(weeks=4)
        assert maria.steps() == ["one", "two", "three"] * 2
        assert maria.state() is State.FINISHED

    def test_a_suppressed_person_comes_back_only_by_confirming(self, house: House):
        """A dead address is left and suppressed; the form alone does not revive it, the reader's button does."""
        maria = house.reader()
        house.post.script("rcpt", Reply(550, "5.1.1 No such user"), times=1)
        house.live(weeks=2)
        key = maria.record.address_key
        overseeing = house.app.overseeing
        assert (maria.state(), overseeing.suppression_reason(key)) == (State.LEFT, "address_dead")
        with pytest.raises(NotAllowed):
            house.reader()
        house.ask()
        house.work()
        assert (maria.state(), overseeing.suppression_reason(key)) == (State.LEFT, "address_dead")
        press(house, confirm_token(maria), start_now=True)
        house.work()
        assert (maria.state(), overseeing.suppression_reason(key)) == (State.ACTIVE, None)
        assert maria.steps() == ["one"]

    def test_a_pending_request_does_not_keep_the_successor_away(self, house: House):
        """Who asked for a series and never confirmed is led on to it all the same, and it is not erased."""
        house.sequence("trust", "one", on_finish="{continue_with: note}")
        house.publish()
        maria = house.reader()
        house.ask(sequence="note")
        house.live(days=2)
        assert (maria.state("trust"), maria.state("note")) == (State.FINISHED, State.ACTIVE)
        house.live(days=9)
        house.app.housekeeping.keep_house(now=house.now)
        assert maria.steps("note") == ["spring"]


class TestTokens:
    @pytest.fixture
    def maria(self, house: House) -> Reader:
        """Somebody whose confirmation has arrived."""
        maria = house.ask()
        house.work()
        return maria

    def test_forged_and_foreign_links_open_nothing(self, house: House, maria: Reader):
        """A link that we did not make, or made for another page, is forged, and nothing is written."""
        app, now = house.app, house.now
        tokens = {
            Purpose.CONFIRM: confirm_token(maria),
            Purpose.PREFERENCES: maria.preferences_token(),
            Purpose.UNSUBSCRIBE: maria.leave_token(),
        }
        pages = {
            Purpose.CONFIRM: [
                lambda token: app.subscribing.confirmation(token, now=now),
                lambda token: app.subscribing.confirm(token, start_now=True, now=now),
            ],
            Purpose.PREFERENCES: [
                lambda token: app.staying.view(token, now=now),
                lambda token: app.staying.pause(token, weeks=1, now=now),
                lambda token: app.staying.resume(token, now=now),
                lambda token: app.staying.change(
                    token, weekday="fri", time="09:00", timezone="UTC", country=None, discreet=False, now=now
                ),
            ],
            Purpose.UNSUBSCRIBE: [
                lambda token: app.leaving.view(token, now=now),
                lambda token: app.leaving.leave(token, only_this=False, now=now),
            ],
        }
        before = house.everything()
        for page, ways in pages.items():
            wrong = ["", "nonsense", tokens[page][:-1], *(tokens[other] for other in tokens if other is not page)]
            for way in ways:
                for token in wrong:
                    with pytest.raises(TokenForged):
                        way(token)
        assert house.everything() == before

    def test_a_confirmation_works_for_seven_days(self, house: House, maria: Reader):
        """A confirmation link works until seven days after it was asked for, and then is expired."""
        token, asked = confirm_token(maria), house.now
        house.at(asked + timedelta(days=7, seconds=-1))
        assert not look(house, token).already
        house.at(asked + timedelta(days=7))
        for attempt in (look, press):
            with pytest.raises(TokenExpired):
                attempt(house, token)
        assert maria.state() is State.PENDING

    def test_a_used_confirmation_does_not_bring_back_who_left(self, house: House, maria: Reader):
        """A confirmation that was used is expired once its reader has left."""
        token = confirm_token(maria)
        press(house, token)
        maria.leave()
        for attempt in (look, press):
            with pytest.raises(TokenExpired):
                attempt(house, token)
        assert maria.state() is State.LEFT

    def test_links_of_somebody_who_was_erased_are_expired(self, house: House, maria: Reader):
        """Nothing is left behind the links of an erased reader, but leaving still answers."""
        confirm, own, leave = confirm_token(maria), maria.preferences_token(), maria.leave_token()
        with house.app.database.write() as connection:
            erasing.erase_subscriber(connection, maria.record.id)
        with pytest.raises(TokenExpired):
            look(house, confirm)
        with pytest.raises(TokenExpired):
            house.app.staying.view(own, now=house.now)
        assert house.app.leaving.view(leave, now=house.now).gone
        house.app.leaving.leave(leave, only_this=False, now=house.now)
        assert house.rows("subscriber") == []

    def test_links_that_the_reader_called_off(self, house: House, maria: Reader):
        """Own-page links of an earlier generation are expired; leaving still works."""
        press(house, confirm_token(maria))
        old, leave = maria.preferences_token(), maria.leave_token()
        with house.app.database.write() as connection:
            connection.execute(update(tables.subscriber).values(link_generation=2))
        with pytest.raises(TokenExpired):
            house.app.staying.view(old, now=house.now)
        with pytest.raises(TokenExpired):
            house.app.staying.pause(old, weeks=1, now=house.now)
        assert house.app.staying.view(maria.preferences_token(), now=house.now)
        house.app.leaving.leave(leave, only_this=False, now=house.now)
        assert maria.state() is State.LEFT

    def test_a_confirmation_of_something_else_is_expired(self, house: House, maria: Reader):
        """A confirm token for an email that is no confirmation, or is not there, opens nothing."""
        letter = house.reader("ben@example.org")
        house.live(days=2)
        for identifier in (letter.delivery().id, uuid4()):
            with pytest.raises(TokenExpired):
                look(house, house.app.signer.sign(Purpose.CONFIRM, identifier))


class TestAdding:
    def add(self, house: House, consent: str | None, address: str = "maria@example.org") -> State:
        """An operator adds somebody."""
        signup = SignUp(email=address, sequence="trust", weekday="tue", time="09:00")
        return house.app.subscribing.add(signup, consent=consent, now=house.now)

    def test_with_proof_of_consent_letters_begin(self, house: House):
        """Dated proof of consent makes an active reader without a mail, and stands in their story."""
        assert self.add(house, "on paper, 2026-11-01") is State.ACTIVE
        maria = Reader(house, "maria@example.org")
        assert maria.due() == FIRST_TUESDAY
        assert [event.detail["source"] for event in maria.story("consent")] == ["on paper, 2026-11-01"]
        assert house.work() == 0

    def test_without_it_they_confirm_by_mail(self, house: House):
        """Without proof of consent the row is pending and a confirmation goes out."""
        assert self.add(house, None) is State.PENDING
        assert house.work() == 1
        assert Reader(house, "maria@example.org").mails()[0].subject == "Please confirm your address"

    def test_consent_answers_what_was_asked_for(self, house: House):
        """Consent for a pending request makes it active, and the confirmation that waits does not leave."""
        maria = house.ask()
        assert self.add(house, "on paper") is State.ACTIVE
        assert house.work() == 0
        assert maria.delivery(kind=Kind.CONFIRMATION).state is DeliveryState.WITHDRAWN

    @pytest.mark.parametrize("state", [State.ACTIVE, State.PAUSED, State.LEFT])
    def test_nobody_is_added_twice(self, house: House, state: State):
        """Who has the sequence, or left it, is not added again, and nothing changes."""
        maria = house.reader()
        if state is State.PAUSED:
            maria.pause(weeks=2)
        if state is State.LEFT:
            maria.leave()
        before = house.everything()
        with pytest.raises(NotAllowed, match=state):
            self.add(house, "on paper")
        assert house.everything() == before

    def test_without_consent_the_state_of_a_known_reader_is_told(self, house: House):
        """Adding an active reader without consent says that they are active."""
        house.reader()
        assert self.add(house, None) is State.ACTIVE

    def test_a_bad_address_or_choice_is_refused(self, house: House):
        """What the form refuses, adding refuses."""
        with pytest.raises(AddressError):
            self.add(house, "on paper", "maria")
        with pytest.raises(InvalidChoice):
            house.reader(zone="Mars/Olympus")
        assert house.rows("subscriber") == []


class TestPreferences:
    def test_the_page_shows_slot_place_and_a_masked_address(self, house: House):
        """The own page shows what is kept, the letters received and those to come; what is pending is left out."""
        maria = house.reader(country="DE", discreet=True)
        house.ask(sequence="note")
        house.live("2026-11-24 12:00")
        before = house.everything()
        view = house.app.staying.view(maria.preferences_token(), now=house.now)
        assert house.everything() == before
        assert "maria" not in view.masked_address
        assert (str(view.slot), view.country, view.discreet) == ("tue 09:00 Europe/Berlin", "DE", True)
        assert (view.paused, view.paused_until) == (False, None)
        (only,) = view.subscriptions
        assert (only.key, only.title, only.state) == ("trust", "About trust", State.ACTIVE)
        assert (only.received, only.total, only.open_ended) == (1, 3, False)
        assert only.next_due_at == local("2026-12-01 09:00")
        house.app.leaving.leave(view.leave_token, only_this=False, now=house.now)
        assert maria.state() is State.LEFT

    def test_a_sequence_without_an_end_counts_all_its_rounds(self, house: House):
        """Where letters come round again, those of every round are counted and there is no total."""
        ben = house.reader("ben@example.org", "note")
        house.live(weeks=3, days=2)
        view = house.app.staying.view(ben.preferences_token(), now=house.now)
        (only,) = view.subscriptions
        assert (only.received, only.total, only.open_ended) == (4, None, True)

    def test_another_slot_moves_the_next_letter(self, house: House):
        """A letter that waits is withdrawn and comes at the new slot, once."""
        maria = house.reader()
        house.at("2026-11-24 09:00")
        house.plan()
        maria.change(slot="fri 18:00")
        assert maria.delivery().state is DeliveryState.WITHDRAWN
        assert maria.due() == local("2026-11-27 18:00")
        assert [event.detail["slot"] for event in maria.story("slot_changed")] == ["fri 18:00 Europe/Berlin"]
        house.live("2026-11-29 12:00")
        assert maria.steps() == ["one"]
        maria.change(slot="mon 07:00")
        # The Monday after is too soon after Friday's letter.
        assert maria.due() == local("2026-12-07 07:00")

    def test_the_same_slot_moves_nothing(self, house: House):
        """Country and mode are saved without touching what waits."""
        maria = house.reader()
        house.at("2026-11-24 09:00")
        house.plan()
        waiting = maria.delivery()
        maria.change(country="at", discreet=True)
        assert (maria.record.country, maria.record.discreet) == ("AT", True)
        assert maria.delivery() == waiting
        assert maria.story("slot_changed") == []
        maria.change(country="", discreet=False)
        assert (maria.record.country, maria.record.discreet) == (None, False)

    def test_what_cannot_be_names_its_field_and_changes_nothing(self, house: House):
        """The own page refuses what the form refuses."""
        maria = house.reader()
        before = house.everything()
        for field, value in (("weekday", "x"), ("time", "24:00"), ("timezone", "localtime"), ("country", "FR")):
            with pytest.raises(InvalidChoice) as refused:
                maria.change(**{field: value})
            assert refused.value.field == field
        assert house.everything() == before

    def test_another_zone_is_another_instant(self, house: House):
        """Tuesday 09:00 in another zone is Tuesday 09:00 there."""
        maria = house.reader()
        maria.change(timezone="America/New_York")
        assert maria.due() == local("2026-11-24 09:00", "America/New_York")

    def test_a_slot_changed_during_a_pause_is_kept_for_its_end(self, house: House):
        """Who changes the slot while paused stays paused, and letters begin at the new slot after the pause."""
        maria = house.reader()
        maria.pause(until=date(2026, 12, 10))
        maria.change(slot="fri 18:00")
        assert (maria.state(), maria.due()) == (State.PAUSED, local("2026-12-11 18:00"))
        house.live("2026-12-12 00:00")
        assert [mail.date for mail in maria.letters()] == [local("2026-12-11 18:00")]


class TestPausing:
    @pytest.mark.parametrize("weeks", [1, 4, 52])
    def test_a_pause_of_weeks(self, house: House, weeks: int):
        """A pause of n weeks ends at the first slot on or after the same weekday n weeks on."""
        maria = house.reader()
        maria.pause(weeks=weeks)
        assert maria.state() is State.PAUSED
        assert maria.record.paused_until == date(2026, 11, 23) + timedelta(weeks=weeks)
        end = maria.record.paused_until + timedelta(days=1)
        assert maria.due() == local(f"{end} 09:00")

    def test_a_pause_that_cannot_be_is_refused(self, house: House):
        """No weeks, more than 52, a day that is not to come, or one more than a year away is refused."""
        maria = house.reader()
        before = house.everything()
        today = date(2026, 11, 23)
        for weeks in (None, 0, -1, 53):
            with pytest.raises(InvalidChoice) as refused:
                maria.pause(weeks=weeks)
            assert refused.value.field == "weeks"
        for until in (today, today - timedelta(days=1), today + timedelta(days=367), date.max, date.min):
            with pytest.raises(InvalidChoice) as refused:
                maria.pause(until=until)
            assert refused.value.field == "until"
        assert house.everything() == before
        maria.pause(until=today + timedelta(days=366))
        assert maria.state() is State.PAUSED

    def test_today_is_the_readers_own(self, house: House):
        """In Auckland it is Tuesday already: a pause until Tuesday is none there."""
        maria = house.reader(zone="Pacific/Auckland")
        with pytest.raises(InvalidChoice):
            maria.pause(until=date(2026, 11, 24))
        maria.pause(until=date(2026, 11, 25))
        assert maria.due() == local("2026-12-01 09:00", "Pacific/Auckland")

    def test_a_pause_holds_everything_and_loses_nothing(self, house: House):
        """All sequences are held, what waited is withdrawn, and after the pause each goes on where it stopped."""
        maria = house.reader("maria@example.org", "trust", "note")
        house.live("2026-11-25 12:00")
        assert maria.steps("trust") == ["one"]
        house.at("2026-12-01 09:00")
        house.plan()
        maria.pause(until=date(2026, 12, 15))
        assert {maria.state("trust"), maria.state("note")} == {State.PAUSED}
        assert DeliveryState.PLANNED not in [item.state for item in maria.deliveries()]
        arrived = len(maria.mails())
        house.live("2026-12-15 08:59")
        assert len(maria.mails()) == arrived
        house.live("2027-01-12 12:00")
        assert maria.steps("trust") == ["one", "two", "three"]
        assert {maria.state("trust"), maria.state("note")} == {State.FINISHED, State.ACTIVE}
        assert maria.record.paused_until is None
        assert maria.steps("note") != []

    def test_a_second_pause_replaces_the_first(self, house: House):
        """Pausing again sets the new day."""
        maria = house.reader()
        maria.pause(weeks=1)
        maria.pause(weeks=4)
        assert maria.due() == local("2026-12-22 09:00")
        view = house.app.staying.view(maria.preferences_token(), now=house.now)
        assert (view.paused, view.paused_until) == (True, date(2026, 12, 21))

    def test_resuming_goes_on_at_the_next_slot(self, house: House):
        """Who ends a pause gets the next letter at the next slot that keeps its distance; twice is harmless."""
        maria = house.reader()
        house.live("2026-11-24 12:00")
        maria.pause(weeks=8)
        maria.resume()
        assert (maria.state(), maria.due()) == (State.ACTIVE, local("2026-12-01 09:00"))
        assert maria.record.paused_until is None
        before = house.everything()
        maria.resume()
        assert house.everything() == before

    def test_there_must_be_something_to_hold(self, house: House):
        """Who has finished or left has nothing to pause."""
        maria = house.reader()
        maria.leave()
        with pytest.raises(NotAllowed):
            maria.pause(weeks=1)
        assert maria.record.paused_until is None


class TestLeaving:
    def test_leaving_ends_everything(self, house: House):
        """The link in any letter ends every sequence, and nothing more comes."""
        maria = house.reader("maria@example.org", "trust", "note")
        house.live("2026-11-25 12:00")
        arrived = len(maria.mails())
        view = house.app.leaving.view(maria.leave_token(), now=house.now)
        assert (view.title, view.several, view.gone) == ("About trust", True, False)
        maria.leave()
        assert {item.state for item in maria.subscriptions()} == {State.LEFT}
        assert len(maria.story("left")) == 2
        house.live(weeks=4)
        assert len(maria.mails()) == arrived
        assert house.app.leaving.view(maria.leave_token(), now=house.now).gone

    def test_leaving_one_keeps_the_others(self, house: House):
        """The second button ends the one sequence and starts no successor."""
        house.sequence("trust", "one", "two", on_finish="{continue_with: more}")
        house.sequence("more", "later")
        house.publish()
        maria = house.reader("maria@example.org", "trust", "note")
        maria.leave("trust", only_this=True)
        assert (maria.state("trust"), maria.state("note")) == (State.LEFT, State.ACTIVE)
        house.live(weeks=2)
        assert maria.steps("trust") == maria.steps("more") == []
        assert maria.steps("note") != []
        assert "more" not in [item.sequence_key for item in maria.subscriptions()]

    def test_leaving_twice_is_fine(self, house: House):
        """A second press changes nothing."""
        maria = house.reader()
        maria.leave()
        before = house.everything()
        maria.leave()
        maria.leave(only_this=True)
        assert house.everything() == before

    @pytest.mark.parametrize("stage", ["planned", "claimed", "held"])
    def test_what_waits_or_is_claimed_is_withdrawn(self, house: House, stage: str):
        """A letter that is planned, claimed or held when its reader leaves never arrives."""
        maria = house.reader()
        house.at("2026-11-24 09:00")
        if stage == "held":
            house.post.script("dot", Reply(550, "5.7.1 no"), times=1)
            house.work()
        house.plan()
        if stage == "claimed":
            assert house.lanes
            with house.app.database.write() as connection:
                assert handovers.claim_due(connection, owner=house.worker, letters=True, now=house.now, limit=9)
        assert maria.delivery().state.value == stage
        maria.leave()
        assert (maria.delivery().state, maria.delivery().reason) == (DeliveryState.WITHDRAWN, "left")
        house.app.overseeing.release(None, now=house.now)
        house.live(weeks=2)
        assert maria.letters() == []

    def test_the_confirmation_that_waits_is_withdrawn_too(self, house: House):
        """Who leaves everything is not written to for a request that was still under way."""
        maria = house.reader()
        house.ask(sequence="note")
        maria.leave()
        assert house.work() == 0
        assert maria.state("note") is State.LEFT

    def test_who_has_nothing_yet_can_leave_by_their_own_page(self, house: House):
        """The own page's leave button works for somebody whose only request is pending."""
        maria = house.ask()
        view = house.app.staying.view(maria.preferences_token(), now=house.now)
        assert view.subscriptions == ()
        assert not house.app.leaving.view(view.leave_token, now=house.now).several
        house.app.leaving.leave(view.leave_token, only_this=False, now=house.now)
        assert maria.state() is State.LEFT
        assert house.work() == 0
