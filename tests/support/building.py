"""A small installation that a test can read like a story: content, readers, a mail server, and a clock.

    house.sequence("trust", "one", "two", letter("three", after="3 days"))
    house.publish()
    maria = house.reader("maria@example.org", slot="tue 09:00")
    house.live(weeks=3)
    assert maria.steps() == ["one", "two", "three"]

Everything goes through the program as `open_app` wires it; what arrived is what the mail server says. Whenever
the house has worked, it looks whether the ledger is sound, see `House.check_sound`.
"""

from __future__ import annotations

import email
import email.policy
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

from sqlalchemy import select

from newsletter.bootstrap import open_app
from newsletter.clock import FixedClock
from newsletter.domain.addresses import parse_address
from newsletter.domain.delivery import Kind
from newsletter.domain.delivery import State as DeliveryState
from newsletter.domain.subscription import State
from newsletter.service.desk import Desk
from newsletter.service.publishing import Orders, Publication
from newsletter.service.sending import Lane
from newsletter.service.subscribing import SignUp
from newsletter.settings import Settings
from newsletter.store import deliveries, events, handovers, subscriptions, tables
from newsletter.tokens import Purpose

if TYPE_CHECKING:
    from collections.abc import Callable
    from email.message import EmailMessage

    from newsletter.mail.base import Mailer
    from newsletter.store.deliveries import Delivery
    from newsletter.store.events import Event as StoryEvent
    from newsletter.store.subscriptions import Subscriber, Subscription
    from tests.support.smtp_server import Received, SmtpServer

NOW = datetime(2026, 11, 23, 11, 0, tzinfo=UTC)
"""When every story begins: a Monday noon in Berlin."""

ZONE = "Europe/Berlin"
_NAME_IN_BODY = re.compile(r"This is (\S+) of (\S+) in print (\d+)\.")
_LINK = re.compile(r"https?://\S+")
_LONGEST_WAIT = 500


@dataclass(frozen=True, kw_only=True)
class Letter:
    """One file of a sequence. `print_number`: another one makes another text of it."""

    key: str
    text: str | None = None
    print_number: int = 1
    head: dict[str, object] = field(default_factory=dict)


def letter(key: str, *, text: str | None = None, print_number: int = 1, **head: object) -> Letter:
    """A letter with something in its head, or with another text."""
    return Letter(key=key, text=text, print_number=print_number, head=head)


def local(text: str, zone: str = ZONE) -> datetime:
    """The instant (UTC) at which clocks in a zone show `text`, such as "2026-11-24 09:00"."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


class ContentFolder:
    """A content folder that is written anew, sequence by sequence."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def sequence(self, key: str, *letters: str | Letter, **settings: object) -> None:
        """A sequence of exactly these letters, numbered in this order."""
        self.drop(key)
        lines = [f"{name}: {value}" for name, value in {"title": f"About {key}", **settings}.items()]
        self.write(f"sequences/{key}/sequence.yaml", "\n".join(lines) + "\n")
        for number, item in enumerate(letters, start=1):
            one = Letter(key=item) if isinstance(item, str) else item
            # Half way between the tens, so that a test may put another file beside it.
            self.write(f"sequences/{key}/{number * 10:04}-{one.key}.md", _file_of(key, one))

    def drop(self, key: str) -> None:
        """No such sequence any more."""
        shutil.rmtree(self.root / "sequences" / key, ignore_errors=True)

    def write(self, path: str, text: str) -> None:
        """Any other file."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def affirmations(self, *keys: str) -> None:
        """Affirmations whose text is their key."""
        self.write("affirmations.yaml", "".join(f"- {{key: {key}, text: I am {key}.}}\n" for key in keys))

    def posts(self, *posts: str) -> None:
        """Related posts, each written as a YAML mapping with at least `key`; titles are made from them."""
        lines = [f"- {{title: On {_yaml_key(post)}, path: /{_yaml_key(post)}, {post}}}\n" for post in posts]
        self.write("related-posts.yaml", "".join(lines))


@dataclass(frozen=True, kw_only=True)
class Mail:
    """One email as the mail server took it."""

    recipient: str
    message: EmailMessage = field(repr=False)
    content: bytes = field(repr=False)

    @property
    def subject(self) -> str:
        """Its Subject."""
        return str(self.message["Subject"])

    @property
    def message_id(self) -> str:
        """Its Message-ID."""
        return str(self.message["Message-ID"])

    @property
    def date(self) -> datetime:
        """Its Date, which is the business time of its first handover."""
        instant: datetime = self.message["Date"].datetime
        return instant.astimezone(UTC)

    @property
    def text(self) -> str:
        """Its text part, unfolded."""
        part = self.message.get_body(("plain",))
        assert part is not None
        text: str = part.get_content()
        return " ".join(text.split())

    @property
    def step(self) -> str | None:
        """Which letter it is, as "trust/one"; None for any other mail."""
        found = _NAME_IN_BODY.search(self.text)
        return f"{found[2]}/{found[1]}" if found else None

    @property
    def print_number(self) -> int | None:
        """Which print of the letter it is."""
        found = _NAME_IN_BODY.search(self.text)
        return int(found[3]) if found else None

    def token(self, page: str) -> str:
        """The token of a link to `page`, as in `token("confirm")`."""
        links: list[str] = [link for link in _LINK.findall(self.text) if f"/{page}/" in link]
        return links[0].split(f"/{page}/")[1].split("#")[0].rstrip(").>,")


class Reader:
    """One reader of the house, by address."""

    def __init__(self, house: House, address: str) -> None:
        self._house = house
        self.address = address

    @property
    def record(self) -> Subscriber:
        """The subscriber."""
        with self._house.app.database.read() as connection:
            found = subscriptions.find_subscriber(connection, address_key=parse_address(self.address).key)
        assert found is not None, f"{self.address} is not known"
        return found

    @property
    def is_known(self) -> bool:
        """Whether there is such a subscriber at all."""
        with self._house.app.database.read() as connection:
            key = parse_address(self.address).key
            return subscriptions.find_subscriber(connection, address_key=key) is not None

    def subscription(self, sequence: str = "trust") -> Subscription:
        """Their place in a sequence."""
        return {item.sequence_key: item for item in self.subscriptions()}[sequence]

    def subscriptions(self) -> list[Subscription]:
        """Their places, the oldest first."""
        with self._house.app.database.read() as connection:
            return subscriptions.subscriptions_of(connection, self.record.id)

    def state(self, sequence: str = "trust") -> State:
        """How they stand in a sequence."""
        return self.subscription(sequence).state

    def due(self, sequence: str = "trust") -> datetime | None:
        """When their next letter is due."""
        return self.subscription(sequence).next_due_at

    def deliveries(self, sequence: str | None = None, *, kind: Kind = Kind.LETTER) -> list[Delivery]:
        """Their emails of one kind in the ledger, the oldest first."""
        with self._house.app.database.read() as connection:
            items = deliveries.deliveries_of(connection, self.record.id, limit=1000)
        return [item for item in items if item.kind is kind and sequence in (None, item.sequence_key)]

    def delivery(self, sequence: str | None = None, *, kind: Kind = Kind.LETTER) -> Delivery:
        """Their newest email of one kind in the ledger."""
        return self.deliveries(sequence, kind=kind)[-1]

    def mails(self) -> list[Mail]:
        """Everything that arrived for them, in order."""
        return [mail for mail in self._house.mails() if mail.recipient == self.address]

    def letters(self) -> list[Mail]:
        """The letters that arrived for them, in order."""
        return [mail for mail in self.mails() if mail.step is not None]

    def steps(self, sequence: str = "trust") -> list[str]:
        """Which letters of a sequence arrived, in order."""
        named = [mail.step.split("/") for mail in self.letters() if mail.step is not None]
        return [step for key, step in named if key == sequence]

    def story(self, kind: str | None = None) -> list[StoryEvent]:
        """Their events."""
        with self._house.app.database.read() as connection:
            told = events.story(connection, self.record.id, limit=1000)
        return [event for event in told if kind in (None, event.kind)]

    def preferences_token(self) -> str:
        """The token of their own page."""
        record = self.record
        signer = self._house.app.signer
        return signer.sign(Purpose.PREFERENCES, record.id, generation=record.link_generation)

    def leave_token(self, sequence: str = "trust") -> str:
        """The token in the foot of a letter."""
        return self._house.app.signer.sign(Purpose.UNSUBSCRIBE, self.subscription(sequence).id)

    def change(self, **choices: Any) -> None:
        """Save their own page with something changed; `slot` as in "tue 09:00"."""
        record = self.record
        values = {
            "weekday": str(record.slot).split(" ")[0],
            "time": f"{record.slot.at:%H:%M}",
            "timezone": record.slot.timezone,
            "country": record.country,
            "discreet": record.discreet,
        }
        slot = choices.pop("slot", None)
        if slot is not None:
            values["weekday"], values["time"] = slot.split(" ")
        self._house.app.staying.change(self.preferences_token(), **{**values, **choices}, now=self._house.now)

    def pause(self, *, weeks: int | None = None, until: date | None = None) -> None:
        """Pause on their own page."""
        self._house.app.staying.pause(self.preferences_token(), weeks=weeks, until=until, now=self._house.now)

    def resume(self) -> None:
        """End the pause on their own page."""
        self._house.app.staying.resume(self.preferences_token(), now=self._house.now)

    def leave(self, sequence: str = "trust", *, only_this: bool = False) -> None:
        """Press the button behind the unsubscribe link of a letter."""
        self._house.app.leaving.leave(self.leave_token(sequence), only_this=only_this, now=self._house.now)


class House:
    """One installation with one worker, whose lanes run in the caller's thread.

    Args:
        database_url: of a migrated database.
        folder: for its content.
        post: the mail server.
        settings: others than usual, by name.
    """

    def __init__(
        self,
        database_url: str,
        folder: Path,
        *,
        post: SmtpServer,
        clock: FixedClock | None = None,
        **settings: Any,
    ) -> None:
        self.clock = clock or FixedClock(NOW)
        self.post = post
        self.content = ContentFolder(folder / "content")
        values: dict[str, Any] = {
            "database_url": database_url,
            "mail_url": post.url,
            "content_dir": self.content.root,
            "NEWSLETTER_FROM": "Letters <letters@example.org>",
            "timezone": ZONE,
            "slot": "thu 08:00",
            "countries": [],
            "smtp_connections": 4,
            **settings,
        }
        self.app = open_app(Settings.model_validate(values), clock=self.clock)
        self.worker = f"house-{uuid4().hex[:12]}"
        self.stop = Event()
        self._enrolled = False
        self._lanes: list[Lane] = []
        self._read: list[Mail] = []

    def close(self) -> None:
        """Hang up and let go of the database."""
        self.hang_up()
        self.app.close()

    # Time

    @property
    def now(self) -> datetime:
        """Business time."""
        return self.clock.now()

    def at(self, instant: datetime | str) -> None:
        """Leap, doing nothing on the way; a text is local time in Berlin."""
        self.clock.set(local(instant) if isinstance(instant, str) else instant)

    def later(self, **timedelta_parts: float) -> None:
        """Leap by so much."""
        self.clock.set(self.now + timedelta(**timedelta_parts))

    def live(self, until: datetime | str | None = None, *, weeks: float = 0, days: float = 0) -> None:
        """Live from due instant to due instant, doing everything at its time.

        Raises:
            AssertionError: something is due and does not move.
        """
        end = local(until) if isinstance(until, str) else until or self.now + timedelta(weeks=weeks, days=days)
        for _ in range(_LONGEST_WAIT):
            self.work()
            coming = self.next_instant()
            if coming is None or coming > end:
                break
            assert coming > self.now, f"something is due at {coming} and does not move"
            self.clock.set(coming)
        self.clock.set(end)
        self.work()

    def next_instant(self) -> datetime | None:
        """The next instant at which anything is due."""
        with self.app.database.read() as connection:
            instants = (subscriptions.earliest_due(connection), handovers.earliest_try(connection))
        return min((instant for instant in instants if instant is not None), default=None)

    # What an operator does

    def sequence(self, key: str, *letters: str | Letter, **settings: object) -> None:
        """Write a sequence into the content folder; nothing is published yet."""
        self.content.sequence(key, *letters, **settings)

    def publish(
        self, *, deliver_late: Iterable[str] = (), retire: Iterable[str] = (), note: str | None = None
    ) -> Publication:
        """Publish the content folder."""
        orders = Orders(deliver_late=tuple(deliver_late), retire=tuple(retire), note=note)
        return self.app.publishing.publish(self.content.root, orders=orders, now=self.now)

    def preview(self, *, deliver_late: Iterable[str] = (), retire: Iterable[str] = ()) -> Publication:
        """What publishing the content folder would do."""
        orders = Orders(deliver_late=tuple(deliver_late), retire=tuple(retire))
        return self.app.publishing.preview(self.content.root, orders=orders, now=self.now)

    # Readers

    def reader(
        self,
        address: str = "maria@example.org",
        *sequences: str,
        slot: str = "tue 09:00",
        zone: str = ZONE,
        country: str | None = None,
        discreet: bool = False,
    ) -> Reader:
        """A reader who came with proof of consent, of "trust" unless other sequences are named."""
        weekday, at = slot.split(" ")
        for sequence in sequences or ("trust",):
            signup = SignUp(
                email=address, sequence=sequence, timezone=zone, weekday=weekday, time=at, country=country,
                discreet=discreet,
            )  # fmt: skip
            self.app.subscribing.add(signup, consent="on paper, 2026-11-01", now=self.now)
        return Reader(self, address)

    def ask(
        self, address: str = "maria@example.org", sequence: str = "trust", *, slot: str = "tue 09:00", **form: Any
    ) -> Reader:
        """Somebody sends the form; nothing is mailed before the house works."""
        weekday, at = slot.split(" ")
        values = {"timezone": ZONE, "weekday": weekday, "time": at, **form}
        self.app.subscribing.request(SignUp(email=address, sequence=sequence, **values), now=self.now)
        return Reader(self, address)

    def sign_up(
        self, address: str = "maria@example.org", sequence: str = "trust", *, start_now: bool = False, **form: Any
    ) -> Reader:
        """The whole way: the form, the mail, the button."""
        reader = self.ask(address, sequence, **form)
        self.work()
        token = reader.mails()[-1].token("confirm")
        self.app.subscribing.confirm(token, start_now=start_now, now=self.now)
        return reader

    # Sending

    @property
    def lanes(self) -> list[Lane]:
        """Two lanes of one worker: what people wait for, and letters."""
        if not self._enrolled:
            self.app.rescuing.enrol(self.worker, host="here")
            self._enrolled = True
        if not self._lanes:
            self._lanes = [self.lane(letters=False), self.lane(letters=True)]
        return self._lanes

    def lane(
        self, *, letters: bool, worker: str | None = None, open_mailer: Callable[[], Mailer] | None = None
    ) -> Lane:
        """One lane more."""
        desk = Desk(self.app.office, worker=worker or self.worker, letters=letters, clock=self.clock, stop=self.stop)
        return Lane(desk, open_mailer=open_mailer or self.app.open_mailer, stop=self.stop)

    def hang_up(self) -> None:
        """Close the lanes; the next work opens new ones, which have no trouble behind them."""
        for lane in self._lanes:
            lane.close()
        self._lanes = []

    def plan(self) -> int:
        """Plan what is due."""
        return self.app.planning.plan_due(now=self.now)

    def send(self) -> int:
        """Send what is planned and due; how many were accepted."""
        return sum(lane.send_due() for lane in self.lanes)

    def work(self) -> int:
        """Plan and send until nothing is due; how many were accepted."""
        accepted = 0
        for _ in range(_LONGEST_WAIT):
            planned, sent = self.plan(), self.send()
            accepted += sent
            if not planned and not sent:
                break
        self.check_sound()
        return accepted

    def mails(self) -> list[Mail]:
        """Everything that the mail server took, in order."""
        self._read += [read_mail(received) for received in self.post.ledger[len(self._read) :]]
        return list(self._read)

    # Looking

    def rows(self, table: str) -> list[dict[str, Any]]:
        """All rows of a table."""
        with self.app.database.read() as connection:
            found = connection.execute(select(tables.metadata.tables[table]))
            return [dict(row._mapping) for row in found]

    def everything(self) -> dict[str, list[str]]:
        """All that is written anywhere, to be compared; leases left out."""
        return {
            table.name: sorted(repr(row) for row in self.rows(table.name))
            for table in tables.metadata.sorted_tables
            if table.name != "worker"
        }

    def check_sound(self) -> None:
        """Nobody is forgotten, and nobody who is gone is written to.

        Raises:
            AssertionError: an active subscription waits for nothing; or one that has ended waits for a letter.
        """
        letters = tables.delivery.c
        with self.app.database.read() as connection:
            waiting = select(letters.subscription_id, letters.state).where(
                letters.kind == Kind.LETTER, letters.closed_at.is_(None)
            )
            open_letters = {row.subscription_id: row.state for row in connection.execute(waiting)}
            people = select(tables.subscription, tables.subscriber.c.paused_until).join(tables.subscriber)
            rows = connection.execute(people).all()
        for row in rows:
            open_state = open_letters.get(row.id)
            comes = row.state == State.ACTIVE or (row.state == State.PAUSED and row.paused_until is not None)
            assert not comes or row.next_due_at is not None or open_state is not None, f"forgotten: {row}"
            if row.state in (State.FINISHED, State.WAITING):
                left_over = open_state not in (None, DeliveryState.HANDING_OVER, DeliveryState.CLAIMED)
                assert not left_over, f"{open_state} after the end: {row}"


def read_mail(received: Received) -> Mail:
    """A mail as its reader would open it."""
    message = email.message_from_bytes(received.content, policy=email.policy.default)
    return Mail(recipient=received.recipient, message=message, content=received.content)


def at_local(day: date, at: str, zone: str = ZONE) -> datetime:
    """The instant of a wall-clock time on a day."""
    return datetime.combine(day, time.fromisoformat(at), tzinfo=ZoneInfo(zone)).astimezone(UTC)


def a_stranger() -> UUID:
    """An id that nobody has."""
    return uuid4()


def _file_of(sequence: str, one: Letter) -> str:
    text = one.text or f"This is {one.key} of {sequence} in print {one.print_number}."
    head = {"subject": f"A letter called {one.key} for you today", "affirmation": "none", "related": "none"}
    lines = [f"{name}: {value}" for name, value in {**head, **one.head}.items()]
    return "\n".join(["---", *lines, "---", text, ""])


def _yaml_key(post: str) -> str:
    found = re.search(r"key: ([a-z0-9-]+)", post)
    assert found, f"{post} has no key"
    return found[1]
