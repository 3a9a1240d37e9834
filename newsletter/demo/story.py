"""The story: a reader's autumn and winter with the letters, and what is expected at each point of it."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from newsletter.demo import letters
from newsletter.demo.expectations import Expectation, Key, Ledger
from newsletter.demo.forms import PageError
from newsletter.demo.operator import PASSED_BY, SERIES, STILL_AHEAD, Operator, in_words
from newsletter.demo.reader import Reader
from newsletter.demo.telling import Chronicle, Kind
from newsletter.domain.addresses import mask_address
from newsletter.domain.cadence import slot_instant

if TYPE_CHECKING:
    from collections.abc import Callable

    from newsletter.demo.leaper import Leaper
    from newsletter.demo.mailbox import Mail, Mailbox

NAME = "Maria"
ADDRESS = "maria@example.org"
PLACE = "Dublin"
TIMEZONE = "Europe/Dublin"
COUNTRY = "IE"
SLOT = time(8)
BEGINS = datetime(2026, 10, 11, 19, 30, tzinfo=ZoneInfo(TIMEZONE)).astimezone(UTC)
FIRST_THURSDAY = date(2026, 10, 15)
"""Ten days before the clocks go back in Dublin."""
CLOCKS_CHANGE = datetime(2026, 10, 25, 1, tzinfo=UTC)

PAUSES_IN_WEEK = 3
PAUSE_WEEKS = 2
PUBLISHES_IN_WEEK = 7
LETTERS_BEFORE_PUBLISHING = PUBLISHES_IN_WEEK - PAUSE_WEEKS
SERIES_ENDS_IN_WEEK = 12
DEFAULT_WEEKS = SERIES_ENDS_IN_WEEK + 3
SILENT_WEEKS = 3

EXPECTATIONS = (
    Expectation(key=Key.LOOKING, text="Opening the confirmation link changes nothing"),
    Expectation(key=Key.CONFIRMING, text="Its button confirms, and the page says when the first letter comes"),
    Expectation(key=Key.WEEKLY, text="One letter in each local week, none of them twice"),
    Expectation(key=Key.HOUR, text="Always Thursday 08:00 in Dublin, also across the clock change", from_week=3),
    Expectation(key=Key.ORDER, text="In the order of the series"),
    Expectation(key=Key.PARTS, text="Every letter has an HTML and a text part"),
    Expectation(key=Key.WAY_OUT, text="Every letter has a one-click way out in its headers"),
    Expectation(key=Key.PAUSE, text="Nothing comes during a pause of two weeks", from_week=5),
    Expectation(key=Key.WELCOME_BACK, text="The letter after the pause says welcome back, no other does", from_week=6),
    Expectation(key=Key.DRY_RUN, text="A dry run says in numbers what two new letters do", from_week=7),
    Expectation(key=Key.PASSED_BY, text="The new letter before their place passes them by", from_week=8),
    Expectation(key=Key.NEW_STEP, text="The new letter behind it reaches them", from_week=8),
    Expectation(key=Key.GOES_ON, text="The series ends, and weekly encouragement goes on", from_week=13),
    Expectation(key=Key.LEAVING, text="One POST to the header's link is enough to leave"),
    Expectation(key=Key.SILENCE, text="Nothing more comes after leaving"),
)


class Story:
    """Plays the story once.

    Args:
        weeks: how many local weeks it plays before the reader leaves.
    """

    def __init__(
        self,
        *,
        chronicle: Chronicle,
        ledger: Ledger,
        leaper: Leaper,
        mailbox: Mailbox,
        operator: Operator,
        site_url: str,
        weeks: int,
        now: Callable[[], datetime],
    ) -> None:
        self._chronicle = chronicle
        self._ledger = ledger
        self._leaper = leaper
        self._mailbox = mailbox
        self._operator = operator
        self._reader = Reader(site_url)
        self._weeks = weeks
        self._now = now
        self._told = 0
        self._letters: list[Mail] = []
        self._check = letters.Check(ledger, timezone=TIMEZONE, slot=SLOT)
        self._scenes = {PAUSES_IN_WEEK: self._pause, PUBLISHES_IN_WEEK: self._publish}

    def play(self) -> None:
        """From the first visit to the silence after leaving.

        Raises:
            PageError: a page is not what it should be.
            StandstillError: mail is due and does not leave.
        """
        self._open()
        self._subscribe()
        self._confirm(self._confirmation())
        for week in range(1, self._weeks + 1):
            self._live(week)
        self._leave()
        self._listen_to_silence()

    def look_for_mail(self) -> list[Mail]:
        """What arrived for the reader since last time; what came for visitors is told on the way."""
        mine = []
        arrived = self._mailbox.mails()
        for mail in arrived[self._told :]:
            if mail.to == ADDRESS:
                mine.append(mail)
            else:
                self._tell(Kind.MAIL, f"Mail for {mask_address(mail.to)}: {mail.subject}", at=mail.at)
        self._told = len(arrived)
        return mine

    # --- coming ---

    def _open(self) -> None:
        sequences, count = self._operator.publish_first()
        self._tell(Kind.OPERATOR, f"The operator publishes {sequences} sequences with {count} letters")

    def _subscribe(self) -> None:
        page = self._reader.open("/")
        self._tell(Kind.READER, f"{NAME}, in {PLACE}, asks for the nine letters on the page: Thursdays at 08:00")
        answers = {
            "sequence": SERIES, "email": ADDRESS, "weekday": "thu", "time": f"{SLOT:%H:%M}",
            "timezone": TIMEZONE, "country": COUNTRY,
        }  # fmt: skip
        self._reader.answer(page, answers, field="email")
        self._leaper.settle()

    def _confirmation(self) -> str:
        mails = self.look_for_mail()
        link = mails[0].link("/confirm/") if len(mails) == 1 else None
        if link is None:
            message = f"One confirmation was to come; {len(mails)} mails came."
            raise PageError(message)
        self._tell(Kind.MAIL, f"A mail arrives: {mails[0].subject}")
        return link

    def _confirm(self, link: str) -> None:
        self._pass(minutes=2)
        self._reader.open(link, method="HEAD")
        self._reader.open(link)
        page = self._reader.open(link)
        is_asked_still = any("slot" in button for form in page.forms() for button in form.buttons)
        mails = self.look_for_mail()
        self._ledger.see(
            Key.LOOKING, is_asked_still and not mails,
            "opened three times, by a mail scanner too: not confirmed" if is_asked_still else "it confirmed",
        )  # fmt: skip
        self._tell(Kind.READER, f"A mail scanner and then {NAME} open the link: that alone changes nothing")
        self._pass(minutes=1)
        landed = self._reader.answer(page, {}, button="slot")
        first = letters.day_in_words(FIRST_THURSDAY)
        self._ledger.see(
            Key.CONFIRMING,
            first in landed.html,
            f"first letter {first}" if first in landed.html else "no date",
        )
        self._tell(Kind.READER, f"She presses the button. Her page says: the first letter comes {first}, 08:00")

    # --- staying ---

    def _live(self, week: int) -> None:
        """One local week, and the reader's slot in it."""
        thursday = FIRST_THURSDAY + timedelta(weeks=week - 1)
        slot = slot_instant(thursday, SLOT, TIMEZONE)
        if self._now() < CLOCKS_CHANGE < slot:
            self._leaper.advance(CLOCKS_CHANGE)
            self._tell(Kind.CLOCK, f"The clocks go back in {PLACE}: 08:00 there is 08:00 UTC now, no longer 07:00")
        self._leaper.advance(slot)
        arrived = self.look_for_mail()
        if PAUSES_IN_WEEK < week <= PAUSES_IN_WEEK + PAUSE_WEEKS:
            self._rest(arrived, week=week)
        else:
            self._receive(arrived, week=week)
        if week in self._scenes:
            self._scenes[week]()

    def _receive(self, arrived: list[Mail], *, week: int) -> None:
        self._letters += arrived
        self._check.weekly(arrived, self._letters)
        for mail in arrived:
            self._check.every(mail, self._letters)
            self._check.welcome(mail, back=week == PAUSES_IN_WEEK + PAUSE_WEEKS + 1)
            self._check.order(mail, self._letters, self._expected())
            self._tell(Kind.MAIL, letters.arrival(mail))
        if week == SERIES_ENDS_IN_WEEK:
            self._tell(Kind.CLOCK, "That was the last letter of the series; a short weekly note follows it")
        if week > PUBLISHES_IN_WEEK:
            self._check_new_letters(week)
        if week > SERIES_ENDS_IN_WEEK:
            notes = self._letters[SERIES_ENDS_IN_WEEK - PAUSE_WEEKS :]
            known = set(self._operator.letters("weekly-encouragement").values())
            went_on = bool(notes) and all(note.subject in known for note in notes)
            seen = f"{letters.counted(len(notes), 'note')} so far" if went_on else "something else came"
            self._ledger.see(Key.GOES_ON, went_on, seen)

    def _rest(self, arrived: list[Mail], *, week: int) -> None:
        seen = (
            letters.counted(week - PAUSES_IN_WEEK, "week") + " without mail" if not arrived else f"{len(arrived)} mails"
        )
        self._ledger.see(Key.PAUSE, not arrived, seen)
        self._letters += arrived
        if not arrived:
            self._tell(Kind.CLOCK, "Nothing comes: the letters are paused")

    def _pause(self) -> None:
        self._until(days=2, hours=2, minutes=15)
        link = self._letters[-1].link("/preferences/") if self._letters else None
        if link is None:
            message = "No letter has a link to the reader's own page."
            raise PageError(message)
        landed = self._reader.answer(self._reader.open(link), {}, button=str(PAUSE_WEEKS))
        back = self._now().astimezone(ZoneInfo(TIMEZONE)).date() + timedelta(weeks=PAUSE_WEEKS)
        paused = f"Paused until {letters.day_in_words(back)}"
        self._tell(Kind.READER, f"{NAME} pauses for two weeks, on the page behind the link in her letter")
        is_told = paused in landed.html
        if not is_told:
            self._ledger.see(Key.PAUSE, is_told, f"her page does not say: {paused}")

    def _publish(self) -> None:
        self._until(days=4, hours=1)
        files = self._operator.drop_letters(place=LETTERS_BEFORE_PUBLISHING)
        self._tell(Kind.OPERATOR, f"The operator drops two new letters into the folder: {' and '.join(files)}")
        effects = self._operator.dry_run()
        for effect in effects:
            self._tell(Kind.OPERATOR, f"  publish --dry-run: {in_words(effect)}")
        people = {effect.change.key: (effect.people_past, effect.people_ahead) for effect in effects}
        passed, ahead = people.get(PASSED_BY, (0, 0))[0], people.get(STILL_AHEAD, (0, 0))[1]
        is_told = set(people) == {PASSED_BY, STILL_AHEAD} and passed >= 1 and ahead >= 1
        self._ledger.see(Key.DRY_RUN, is_told, f"{passed} passed by, {ahead} will get it")
        self._tell(Kind.OPERATOR, f"The operator publishes revision {self._operator.publish()}")

    def _check_new_letters(self, week: int) -> None:
        subjects = self._operator.letters(SERIES)
        received = [mail.subject for mail in self._letters]
        missed = subjects[PASSED_BY] not in received
        self._ledger.see(Key.PASSED_BY, missed, "it never came" if missed else "it came")
        place = received.index(subjects[STILL_AHEAD]) + 1 if subjects[STILL_AHEAD] in received else 0
        if place or week == PUBLISHES_IN_WEEK + 1:
            came = place == LETTERS_BEFORE_PUBLISHING + 1
            self._ledger.see(Key.NEW_STEP, came, f"it came as letter {place}" if place else "it did not come")

    def _expected(self) -> list[str]:
        """The subjects of the series as this reader is to get them."""
        subjects = self._operator.letters(SERIES)
        return [subject for key, subject in subjects.items() if key != PASSED_BY]

    # --- leaving ---

    def _leave(self) -> None:
        self._until(days=1, hours=10)
        extra = self.look_for_mail()
        if extra:
            self._ledger.see(Key.WEEKLY, not extra, f"one more within the week: {extra[0].subject!r}")
        links = [link for mail in reversed(self._letters) if (link := mail.unsubscribe_link())]
        if not links:
            self._ledger.see(Key.LEAVING, bool(links), "no letter has a one-click link")
            return
        answer = self._reader.post(links[0], {"List-Unsubscribe": "One-Click"})
        left = answer.status == HTTPStatus.OK and "set-cookie" not in answer.headers
        self._ledger.see(Key.LEAVING, left, f"answered {answer.status}")
        self._tell(Kind.READER, f"{NAME} leaves: her mail program sends one POST to the link in the header")

    def _listen_to_silence(self) -> None:
        for week in range(SILENT_WEEKS):
            thursday = FIRST_THURSDAY + timedelta(weeks=self._weeks + week)
            self._leaper.advance(slot_instant(thursday, SLOT, TIMEZONE))
            arrived = self.look_for_mail()
            seen = (
                letters.counted(week + 1, "week") + " of silence"
                if not arrived
                else f"{len(arrived)} mails after leaving"
            )
            self._ledger.see(Key.SILENCE, not arrived, seen)
            if not arrived:
                self._tell(Kind.CLOCK, "Nothing comes")

    # --- time ---

    def _pass(self, *, minutes: int) -> None:
        """A little later on the same day; the clock does not stand for the reader herself."""
        self._leaper.advance(self._now() + timedelta(minutes=minutes), patient=False)

    def _until(self, *, days: int, hours: int = 0, minutes: int = 0) -> None:
        """Live on for some days and hours, and what comes for visitors on the way."""
        self._leaper.advance(self._now() + timedelta(days=days, hours=hours, minutes=minutes))

    def _tell(self, kind: Kind, text: str, *, at: datetime | None = None) -> None:
        self._chronicle.tell(kind, text, at=at)
