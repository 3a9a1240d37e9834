"""Making content live: what it would do to people, and doing it in one transaction."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path

import structlog

from newsletter.content import snapshot
from newsletter.content.files import read_content
from newsletter.content.lint import lint
from newsletter.domain import editing, progress
from newsletter.domain.editing import Change, StepChange
from newsletter.domain.progress import Outline
from newsletter.domain.sequence import Revision, Sequence, Step
from newsletter.domain.subscription import OPEN, State, SubscriptionId
from newsletter.errors import ContentError, ContentErrors, PublishRefused
from newsletter.service import progression
from newsletter.service.editions import Edition, Editions
from newsletter.store import deliveries, events, revisions, subscriptions
from newsletter.store.database import Connection, Database
from newsletter.store.revisions import RevisionHead, Standing
from newsletter.store.subscriptions import Subscription

log = structlog.get_logger()

ALL = "all"
_BATCH = 200


@dataclass(frozen=True, kw_only=True)
class StepEffect:
    """What one change does to people.

    Attributes:
        change: without any change where an old step is delivered late.
        people_past: they stand behind it: a new step passes them by, unless it is delivered late. Where an old one
            is delivered late: those whom it had passed by.
        people_ahead: they stand before it and will meet it, or would have.
        late: it is new or had passed people by, and they get it all the same.
    """

    change: StepChange
    people_past: int = 0
    people_ahead: int = 0
    late: bool = False


@dataclass(frozen=True, kw_only=True)
class SequenceEffect:
    """What publishing does to one sequence. `readers`: its open subscriptions."""

    key: str
    title: str
    change: Change | None
    readers: int
    steps: tuple[StepEffect, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What publishing does, or did.

    Attributes:
        number: of the revision; the live one's where nothing changes.
        unchanged: the live revision holds this content already.
        sequences: those that differ.
        library: which of the library files differ, in words.
        warnings: from the lint.
        retimed: how many subscriptions got another due instant; 0 before it is done.
    """

    number: int
    unchanged: bool
    sequences: tuple[SequenceEffect, ...] = ()
    library: tuple[str, ...] = ()
    warnings: tuple[ContentError, ...] = ()
    retimed: int = 0


@dataclass(frozen=True, kw_only=True)
class Orders:
    """How the operator wants it published.

    Attributes:
        deliver_late: step keys, or "all": new steps that are sent even to readers who are past them.
        retire: sequences that may be taken back although they have readers.
    """

    deliver_late: tuple[str, ...] = ()
    retire: tuple[str, ...] = ()
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """New content, held against what is live."""

    revision: Revision
    number: int
    live: Revision | None
    publication: Publication
    removed: dict[str, tuple[str, ...]] = field(default_factory=dict)


class Publishing:
    """Publishes a content folder.

    Args:
        countries: whose help lines must be complete.
        templates: the operator's overridden templates, or None.
    """

    def __init__(
        self,
        *,
        database: Database,
        editions: Editions,
        countries: Many[str],
        templates: Path | None,
    ) -> None:
        self._database = database
        self._editions = editions
        self._countries = countries
        self._templates = templates

    def read(self, folder: Path, *, today: date) -> tuple[Revision, tuple[ContentError, ...]]:
        """Read, lint and render everything in a folder.

        Returns:
            The content, and what the lint warns of.

        Raises:
            ContentErrors: every fault, with file and line.
        """
        content = read_content(folder, templates=self._templates)
        report = lint(content, countries=self._countries, today=today)
        faults = list(report.errors)
        typesetter = self._editions.typesetter(content)
        for sequence in content.sequences:
            for step in sequence.steps:
                try:
                    typesetter.check(sequence, step)
                except ContentError as fault:
                    faults.append(fault)
        if faults:
            raise ContentErrors(faults)
        return content, report.warnings

    def preview(self, folder: Path, *, orders: Orders, now: datetime) -> Publication:
        """What publishing a folder would do, in numbers of people; nothing happens.

        Raises:
            ContentErrors: the content is faulty.
            PublishRefused: it would break a promise.
        """
        content, warnings = self.read(folder, today=now.date())
        with self._database.read() as connection:
            draft = self._draft(connection, content, orders)
        return replace(draft.publication, warnings=warnings)

    def publish(self, folder: Path, *, orders: Orders, now: datetime) -> Publication:
        """Make a folder live, in one transaction; then re-time whoever it affects, in batches.

        Publishing the same content twice changes nothing.

        Raises:
            ContentErrors: the content is faulty; the live revision is untouched.
            PublishRefused: it would break a promise; the live revision is untouched.
        """
        content, warnings = self.read(folder, today=now.date())
        with self._database.write() as connection:
            revisions.lock_publishing(connection)
            draft = self._draft(connection, content, orders)
            if draft.publication.unchanged:
                return replace(draft.publication, warnings=warnings)
            self._go_live(connection, draft, note=orders.note, now=now)
        log.info("revision_published", number=draft.number)
        retimed = self.retime(now=now)
        return replace(draft.publication, warnings=warnings, retimed=retimed)

    def retime(self, *, now: datetime, stop: Callable[[], bool] = lambda: False) -> int:
        """Finish the re-timing of every revision that still wants it, also after an interruption.

        Args:
            stop: asked between batches; the rest is done another time.

        Returns:
            How many subscriptions got another due instant, another state, or both.
        """
        with self._database.read() as connection:
            waiting = revisions.untimed(connection)
            edition = self._editions.live(connection)
            if not waiting or edition is None:
                return 0
            first = waiting[0]
            before = self._editions.get(connection, first - 1).revision if first > 1 else None
            published = [self._editions.get(connection, number).revision for number in range(first, waiting[-1] + 1)]
        # However many revisions wait, people are moved by what is live: the others are history already.
        affected = _affected(before, published)
        moved = self._retime_followers(affected, edition, before=before, now=now, stop=stop)
        if not stop():
            with self._database.write() as connection:
                for number in waiting:
                    revisions.set_retimed(connection, number, now=now)
        return moved

    def history(self, *, limit: int = 50) -> list[RevisionHead]:
        """The newest revisions, the newest first."""
        with self._database.read() as connection:
            return revisions.list_heads(connection, limit=limit)

    def live(self) -> Edition | None:
        """The live revision, or None while nothing is published."""
        with self._database.read() as connection:
            return self._editions.live(connection)

    # How it is done

    def _draft(self, connection: Connection, content: Revision, orders: Orders) -> _Draft:
        edition = self._editions.live(connection)
        live = edition.revision if edition else None
        names = revisions.step_names(connection)
        _refuse_unknown_retirement({key for key, _ in names}, content, orders.retire)
        revision = editing.identify(content, live=live, names=names)
        standings = revisions.standings(connection, _keys(live, revision))
        passed = revisions.passed_by(connection, _keys(live, revision))
        revision = _with_late(revision, live, orders.deliver_late)
        number = (edition.number if edition else 0) + 1
        same = live is not None and editing.without_orders(live) == editing.without_orders(revision)
        has_orders = any(sequence.deliver_late for sequence in revision.sequences)
        if edition is not None and (live == revision or (same and not has_orders)):
            return _Draft(
                revision=revision, number=edition.number, live=live,
                publication=Publication(number=edition.number, unchanged=True),
            )  # fmt: skip
        outlines = editing.outlines_of(revision, number=number)
        effects, removed = [], {}
        for key in _keys(live, revision):
            before, now = live.sequence(key) if live else None, revision.sequence(key)
            readers = sum(item.count for item in standings.get(key, []))
            _refuse_careless(before, now, readers=readers, retire=orders.retire)
            history = list(edition.outlines.get(key, ())) if edition else []
            people = _People(standings=standings.get(key, []), passed=passed, history=history)
            effect = _effect(before, now, people=people, outline=outlines.get(key))
            if effect is not None:
                effects.append(effect)
            removed[key] = tuple(
                item.change.identity
                for item in (effect.steps if effect else ())
                if Change.REMOVED in item.change.changes
            )
        publication = Publication(
            number=number, unchanged=False, sequences=tuple(effects), library=_library_changes(live, revision)
        )
        return _Draft(revision=revision, number=number, live=live, publication=publication, removed=removed)

    def _go_live(self, connection: Connection, draft: _Draft, *, note: str | None, now: datetime) -> None:
        revisions.add_revision(
            connection,
            number=draft.number,
            digest=snapshot.digest(draft.revision),
            snapshot=snapshot.to_json(draft.revision),
            outlines=editing.outlines_of(draft.revision, number=draft.number),
            note=note,
            now=now,
        )
        revisions.save_step_names(connection, editing.names_of(draft.revision))
        for key, steps in draft.removed.items():
            if not steps:
                continue
            # Readers go on with what is next, at the same slot.
            for letter in deliveries.withdraw(
                connection, sequence_key=key, steps=steps, reason="the step was removed", now=now
            ):
                _make_due(connection, letter.subscription_id, letter.due_at)
        # A mended letter mends what was held for it.
        deliveries.reopen_held(connection, now=now, letters_only=True)

    def _retime_followers(
        self, keys: list[str], edition: Edition, *, before: Revision | None, now: datetime, stop: Callable[[], bool]
    ) -> int:
        moved, last = 0, None
        while keys and not stop():
            # To find the followers of a small sequence may take long: nobody waits for it, and each is read again.
            with self._database.read() as connection:
                page = subscriptions.followers(connection, keys, after=last, limit=_BATCH)
            with self._database.write() as connection:
                for record in sorted(page, key=lambda item: item.subscriber_id):
                    moved += self._retime_one(connection, edition, before, record, now=now)
            if len(page) < _BATCH:
                break
            last = page[-1].id
        return moved

    def _retime_one(
        self,
        connection: Connection,
        edition: Edition,
        before: Revision | None,
        stale: Subscription,
        *,
        now: datetime,
    ) -> bool:
        reader = subscriptions.get_subscriber(connection, stale.subscriber_id, lock=True)
        record = subscriptions.get_subscription(connection, stale.id)
        if reader is None or record is None or record.state not in OPEN:
            return False
        if edition.revision.sequence(record.sequence_key) is None:
            deliveries.withdraw(
                connection, subscriber_id=reader.id, subscription_id=record.id, reason="the sequence was retired",
                now=now,
            )  # fmt: skip
            return subscriptions.save_subscription(
                connection, record, progression.finish_retired(connection, record, now=now)
            )
        place = subscriptions.places(connection, [record])[record.id]
        old = before.sequence(record.sequence_key) if before else None
        was_next = progress.next_step(old, received=place.received, passed=place.passed) if old else None
        current, place = progression.catch_up(connection, edition, record, place)
        step = edition.upcoming(current.sequence_key, place)
        if record.id not in deliveries.open_letters(connection, [reader.id]):
            current = progression.grow(connection, reader, current, now=now) if step else current
            # Without a due instant it had run out, also during a pause; another `after` counts from the last letter.
            stale_after = record.last_letter_at is not None and step and step.after != (was_next and was_next.after)
            if step is None or current.next_due_at is None or stale_after:
                current = progression.move_on(connection, edition, reader, current, place, now=now)
        if (current.next_due_at, current.state) != (record.next_due_at, record.state):
            events.tell(
                connection, "retimed", subscriber_id=reader.id, subscription_id=record.id, now=now,
                sequence=record.sequence_key, reason=f"revision {edition.number}",
                to=current.next_due_at.isoformat() if current.next_due_at else None,
            )  # fmt: skip
            subscriptions.save_subscription(connection, record, current)
            return True
        subscriptions.save_subscription(connection, record, current)
        return False


def _keys(live: Revision | None, revision: Revision) -> list[str]:
    """The sequences of both, in the order of the new one."""
    old = [sequence.key for sequence in live.sequences] if live else []
    return list(dict.fromkeys([*(sequence.key for sequence in revision.sequences), *old]))


def _with_late(revision: Revision, live: Revision | None, wanted: tuple[str, ...]) -> Revision:
    """`revision` with the steps that the operator names marked for late delivery."""
    if not wanted:
        return revision
    found: set[str] = set()
    sequences = []
    for sequence in revision.sequences:
        before = live.sequence(sequence.key) if live else None
        known = {step.identity for step in before.steps} if before else set()
        late = []
        for step in sequence.steps:
            named = {step.key, f"{sequence.key}/{step.key}"} & set(wanted)
            found |= named
            if named or (ALL in wanted and step.identity not in known):
                late.append(step.identity)
        sequences.append(replace(sequence, deliver_late=tuple(late)))
    unknown = [name for name in wanted if name != ALL and name not in found]
    if unknown:
        message = f"--deliver-late {unknown[0]}: no step of that key; write the key, or sequence/key."
        raise PublishRefused(message)
    return replace(revision, sequences=tuple(sequences))


def _refuse_unknown_retirement(published: set[str], content: Revision, retire: tuple[str, ...]) -> None:
    for key in retire:
        if content.sequence(key) is not None:
            message = f"--retire {key}: sequences/{key} is still in the folder; remove it first."
            raise PublishRefused(message)
        if key not in published:
            message = f"--retire {key}: no sequence of that key was published; `newsletter sequences list` shows them."
            raise PublishRefused(message)


def _refuse_careless(before: Sequence | None, now: Sequence | None, *, readers: int, retire: tuple[str, ...]) -> None:
    if before is not None and now is None and readers and before.key not in retire:
        message = (
            f"sequences/{before.key} is gone and has {readers} {'reader' if readers == 1 else 'readers'}. Put it back,"
            f" or say that their letters shall end: --retire {before.key}"
        )
        raise PublishRefused(message)
    if before is None or now is None:
        return
    for old, new in editing.renamed_without_saying(before, now):
        message = (
            f"{new.path}: this is the text of {old.key!r} under another name. To rename the step, add"
            f" `formerly: {old.key}` to its front matter; if it is a new letter, change its text."
        )
        raise PublishRefused(message)


@dataclass(frozen=True, kw_only=True)
class _People:
    """Where the readers of one sequence stand: by the step last received, and by what has passed them by."""

    standings: list[Standing]
    passed: dict[tuple[str, str], int]
    history: list[Outline]

    @property
    def count(self) -> int:
        return sum(item.count for item in self.standings)

    def past(self, step: str, outline: Outline | None) -> int:
        """How many stand behind a step, or at it, in `outline`; None: in the live one."""
        outlines = [*self.history, outline] if outline else self.history
        order = outlines[-1].steps if outlines else ()
        behind = set(order[order.index(step) :]) if step in order else set()
        return sum(item.count for item in self.standings if progress.standing(item.anchor, outlines) in behind)


def _effect(
    before: Sequence | None, now: Sequence | None, *, people: _People, outline: Outline | None
) -> SequenceEffect | None:
    about = now or before
    late = outline.deliver_late if outline else frozenset()
    if about is None or (before == now and not late):
        return None
    steps = []
    for change in editing.compare(before, now):
        removed = Change.REMOVED in change.changes
        past = people.past(change.identity, None if removed else outline)
        steps.append(
            StepEffect(change=change, people_past=past, people_ahead=people.count - past, late=change.identity in late)
        )
    told = {effect.change.identity for effect in steps}
    steps += [_late_effect(about, step, people, outline) for step in about.steps if step.identity in late - told]
    what = Change.NEW if before is None else Change.REMOVED if now is None else Change.CHANGED
    return SequenceEffect(key=about.key, title=about.title, change=what, readers=people.count, steps=tuple(steps))


def _late_effect(sequence: Sequence, step: Step, people: _People, outline: Outline | None) -> StepEffect:
    """What it does to deliver a step late that was there before: whom it had passed by gets it now."""
    change = StepChange(sequence_key=sequence.key, key=step.key, identity=step.identity, changes=())
    ahead = people.count - people.past(step.identity, outline)
    passed = people.passed.get((sequence.key, step.identity), 0)
    return StepEffect(change=change, people_past=passed, people_ahead=ahead, late=True)


def _library_changes(live: Revision | None, revision: Revision) -> tuple[str, ...]:
    if live is None:
        return ()
    parts = {
        "affirmations": (live.affirmations, revision.affirmations),
        "related posts": (live.related_posts, revision.related_posts),
        "help lines": (live.help_lines, revision.help_lines),
        "templates": (live.templates, revision.templates),
    }
    return tuple(name for name, (old, new) in parts.items() if old != new)


def _affected(before: Revision | None, published: Many[Revision]) -> list[str]:
    """The sequences whose readers are affected by any of several publications in a row."""
    keys: dict[str, None] = {}
    for revision in published:
        keys |= dict.fromkeys(key for key in _keys(before, revision) if _order_changed(before, revision, key))
        before = revision
    return list(keys)


def _order_changed(before: Revision | None, revision: Revision, key: str) -> bool:
    """Whether a revision can change what is due to readers of a sequence."""
    old, new = before.sequence(key) if before else None, revision.sequence(key)
    if old is None or new is None:
        return old is not new
    if new.deliver_late or old.on_finish != new.on_finish:
        return True
    return [(step.identity, step.after) for step in old.steps] != [(step.identity, step.after) for step in new.steps]


def _make_due(connection: Connection, identifier: SubscriptionId | None, due_at: datetime) -> None:
    record = subscriptions.get_subscription(connection, identifier) if identifier else None
    if record is not None and record.state is State.ACTIVE and record.next_due_at is None:
        subscriptions.save_subscription(connection, record, replace(record, next_due_at=due_at))
