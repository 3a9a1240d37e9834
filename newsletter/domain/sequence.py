"""What an operator publishes: sequences of steps, and the library they draw on.

A `Revision` is the whole content folder as published, an immutable value. Everything below it is frozen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import StrEnum
from functools import cached_property


class Start(StrEnum):
    """When the first letter of a sequence leaves."""

    ASK = "ask"  # the confirm page offers both of the following
    FIRST_SLOT = "first_slot"  # at the reader's first slot
    AT_ONCE = "at_once"  # as soon as they confirm


class Finish(StrEnum):
    """What happens when a subscription's last letter is accepted."""

    STOP = "stop"  # the subscription is finished
    HOLD = "hold"  # it waits for steps that are added later
    REPEAT = "repeat"  # the next round begins
    CONTINUE_WITH = "continue_with"  # another sequence takes over


@dataclass(frozen=True, kw_only=True)
class OnFinish:
    """`continue_with` names the next sequence exactly when `finish` is CONTINUE_WITH."""

    finish: Finish = Finish.STOP
    continue_with: str | None = None


@dataclass(frozen=True, kw_only=True)
class Author:
    """The person who signs the letters; `email` is the Reply-To of the sequence, where given."""

    name: str
    email: str | None = None


@dataclass(frozen=True, kw_only=True)
class Reviewed:
    """Who looked at a sensitive series, and on which day."""

    by: str
    on: date


@dataclass(frozen=True, kw_only=True)
class Step:
    """One letter of a sequence.

    Attributes:
        key: the stable key from the file name.
        identity: what it is remembered by in the ledger; survives a renaming (`formerly`). Equal to the key
            unless the step was renamed or its key had belonged to another step. Set when published.
        number: the number in the file name; it orders and means nothing else.
        path: the file below the content folder, for messages.
        body_line: the line of the file at which the body begins, counted from 1.
        head_lines: the lines of the file on which the fields of its head stand, by their names;
            for messages while it is read, and neither kept nor compared.
        body: Markdown with Jinja.
        affirmation: an affirmation's key, "next", or None for no affirmation.
        related: keys of posts; ("newest",) for the newest not yet shown; () for none.
        related_discreet: shown instead of `related` to readers in discreet mode, where given.
        after: the letter leaves this long after the last one, at slot time, on whichever weekday.
        formerly: the key it had in the preceding revision.
    """

    key: str
    number: int
    path: str
    subject: str
    body: str
    identity: str = ""
    body_line: int = 1
    head_lines: dict[str, int] = field(default_factory=dict, compare=False)
    preheader: str = ""
    heading: str | None = None
    affirmation: str | None = "next"
    related: tuple[str, ...] = ("newest",)
    related_discreet: tuple[str, ...] | None = None
    after: timedelta | None = None
    formerly: str | None = None

    def __hash__(self) -> int:
        """By what it is remembered by alone: a step is looked up for every letter, and its text is long."""
        return hash((self.identity, self.key))


@dataclass(frozen=True, kw_only=True)
class Sequence:
    """An ordered series of steps.

    Attributes:
        expect: what the subscribe page says will come; empty where the operator gave none.
        deliver_late: identities of steps that this revision sends even to readers who are past them.
    """

    key: str
    title: str
    steps: tuple[Step, ...]
    description: str = ""
    expect: str = ""
    author: Author | None = None
    start: Start = Start.ASK
    on_finish: OnFinish = field(default_factory=OnFinish)
    sensitive: bool = False
    public: bool = False
    reviewed: Reviewed | None = None
    deliver_late: tuple[str, ...] = ()

    @property
    def endless(self) -> bool:
        """Whether it begins anew after its last step."""
        return self.on_finish.finish is Finish.REPEAT

    @cached_property
    def identities(self) -> frozenset[str]:
        """What its steps are remembered by."""
        return frozenset(step.identity for step in self.steps)

    def step(self, identity: str) -> Step | None:
        """The step remembered as `identity`, or None where this revision has it no more."""
        return next((step for step in self.steps if step.identity == identity), None)


@dataclass(frozen=True, kw_only=True)
class Affirmation:
    """A sentence worth keeping."""

    key: str
    text: str
    tags: tuple[str, ...] = ()

    def __hash__(self) -> int:
        """By its key alone, since it is looked up for every letter."""
        return hash(self.key)


@dataclass(frozen=True, kw_only=True)
class RelatedPost:
    """A post on the operator's site.

    Attributes:
        url: absolute, or a path below the site's address.
        why: one reason to read it, in a line.
        hide_when_discreet: its title would give the reader away.
    """

    key: str
    title: str
    url: str
    why: str = ""
    published: date | None = None
    tags: tuple[str, ...] = ()
    hide_when_discreet: bool = False

    def __hash__(self) -> int:
        """By its key alone, since it is looked up for every letter."""
        return hash(self.key)


class HelpKind(StrEnum):
    """What a help line is for."""

    CRISIS = "crisis"
    ABUSE = "abuse"
    CHILD = "child"


@dataclass(frozen=True, kw_only=True)
class HelpLine:
    """A service that somebody in need can reach.

    Attributes:
        hours: as printed; "24/7" exactly where it never closes.
        checked_on: the day somebody last looked at `source`.
    """

    name: str
    kind: HelpKind
    hours: str
    phone: str | None = None
    text: str | None = None
    chat: str | None = None
    web: str | None = None
    languages: tuple[str, ...] = ()
    cost: str | None = None
    relay: str | None = None
    source: str | None = None
    checked_on: date | None = None

    @property
    def always_open(self) -> bool:
        """Whether it answers at any hour of any day."""
        return self.hours == "24/7"

    @property
    def online(self) -> bool:
        """Whether it works without a telephone call."""
        return bool(self.chat or self.web)


FALLBACK_COUNTRY = "*"


@dataclass(frozen=True, kw_only=True)
class Revision:
    """The whole content folder, and the templates an operator overrode, as one immutable value.

    Attributes:
        sequences, affirmations, related_posts: in the order of the files.
        help_lines: by ISO country code; "*" is the international fallback.
        templates: overridden templates by their path below TEMPLATES_DIR.
    """

    sequences: tuple[Sequence, ...] = ()
    affirmations: tuple[Affirmation, ...] = ()
    related_posts: tuple[RelatedPost, ...] = ()
    help_lines: dict[str, tuple[HelpLine, ...]] = field(default_factory=dict)
    templates: dict[str, str] = field(default_factory=dict)

    def sequence(self, key: str) -> Sequence | None:
        """The sequence of that key, or None."""
        return next((sequence for sequence in self.sequences if sequence.key == key), None)

    def affirmation(self, key: str) -> Affirmation | None:
        """The affirmation of that key, or None."""
        return next((item for item in self.affirmations if item.key == key), None)

    def related_post(self, key: str) -> RelatedPost | None:
        """The related post of that key, or None."""
        return next((post for post in self.related_posts if post.key == key), None)

    def help_for(self, country: str | None) -> tuple[HelpLine, ...]:
        """The services of `country`, or the international fallback."""
        return self.help_lines.get(country or FALLBACK_COUNTRY) or self.help_lines.get(FALLBACK_COUNTRY, ())
