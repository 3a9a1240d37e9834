"""How a letter reads: a table of what to look again at, each with what to write instead.

Nothing here stands in the way of publishing. docs/writing.md tells operators the same, and what only a person can
judge. Words are looked for in English letters alone; lengths and marks in all.

A series marked `sensitive` is held to all of it. Another, say on gardening, is held to what concerns every inbox:
a gardener may write that seeds must be kept dry.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from newsletter.errors import ContentError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from newsletter.domain.sequence import Revision, Step
    from newsletter.domain.sequence import Sequence as Series

SUBJECT_CHARACTERS = (30, 50)
PREHEADER_CHARACTERS = (40, 100)
LETTER_WORDS = (150, 350)
NOTE_WORDS = (120, 350)
"""A note that repeats has about 150 words: a fifth fewer are no reason to speak."""
PLAIN_WORDS = (0, 600)
"""A series that is not sensitive may be as short as it likes."""
PARAGRAPH_WORDS = 100
"""With more, one paragraph fills the screen of a telephone."""
SHORTEST_TELEPHONE = 7  # digits; a shorter one is known by the file of help lines, or is a number


class Place(StrEnum):
    """Where a reader meets words, named as a warning names it."""

    SUBJECT = "subject"
    PREHEADER = "preheader"
    HEADING = "heading"
    OPENING = "beginning"  # the first two lines, which a list of mails may show
    BODY = "letter"


_HEAD = (Place.SUBJECT, Place.PREHEADER, Place.HEADING)
_OVERSEEN = (*_HEAD, Place.OPENING)
_EVERYWHERE = (*_HEAD, Place.BODY)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Words that deserve a second look.

    Attributes:
        found: matches them.
        advice: the end of the sentence "the letter says …": why, and what to write instead.
        places: where they are looked for.
        everywhere: also in a series that is not sensitive.
        any_language: what it looks for is no English word.
        unless_denied: fine after a "no" in the same clause: "nothing you must do" takes a demand back.
    """

    found: re.Pattern[str]
    advice: str
    places: tuple[Place, ...] = _EVERYWHERE
    everywhere: bool = False
    any_language: bool = False
    unless_denied: bool = False


def _words(*alternatives: str) -> re.Pattern[str]:
    r"""Whole words, whatever their capitals; a space stands for any space, so that a phrase may be wrapped."""
    return re.compile(rf"\b(?:{'|'.join(alternatives)})\b".replace(" ", r"\s+"), re.IGNORECASE)


_NUMBER = r"(?:\d+|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)"
_BY_WHOM = (
    r"(?:whoever|(?:the |any |a )?(?:one|person|people|man|woman|someone|somebody|those|them) (?:who|that))"
    r" (?:\w+ )?(?:hurts?|harm(?:s|ed)|wrong(?:s|ed)|frighten(?:s|ed)|scare[sd]|betray(?:s|ed)|abuse[sd])"
)
_TOWARDS = (
    r"(?:call|phone|text|message|visit|meet|confront|tell|face|thank|contact|write to|talk (?:to|with)"
    r"|speak (?:to|with)|reach out to|go back to|reconcile with|make (?:up|peace) with)"
)
_URGED = (
    r"(?:could|should|must|ought to|have to|need to|try to|learn to|begin to|start to|time to|ready to|able to"
    r"|choose to|decide to|help(?:s|ed)? to|want you to)"
)

RULES: tuple[Rule, ...] = (
    # --- what might harm. The lists are short and plain on purpose: they are read, too. ---
    # Safe messaging: no ways, no drama; "not wanting to live" in plain words, with the help lines beside them.
    # So the WHO asks of whoever writes for many ("Preventing suicide: a resource for media professionals", 2023).
    Rule(
        found=_words("overdos(?:e|es|ed|ing)", "pills", "poison(?:s|ed|ing)?", "guns?", "firearms?", "razors?"),
        advice="may be read as a way of doing harm; leave the means out.",
    ),
    Rule(
        found=_words(
            "commit(?:s|ted|ting)? suicide|kill(?:s|ing)? (?:yourself|themselves)|end(?:ing)? it all",
            "(?:end|ending|take|taking) (?:your|their) (?:own )?li(?:fe|ves)",
        ),
        advice='is more than plain; write "not wanting to live", with {{ help_lines }} directly below.',
    ),
    # No practice involves whoever did the harm, and not having forgiven is a complete position.
    Rule(
        # With a capital it begins a sentence, and is a demand.
        found=_words(
            rf"{_URGED} forgive(?! yourself)|(?-i:Forgive)(?! yourself)",
            "forgiveness (?:is|will|sets|frees|heals|brings|begins)",
        ),
        advice="asks for forgiveness; not having forgiven is a complete position. Take it out.",
        unless_denied=True,
    ),
    Rule(
        found=_words(
            rf"{_TOWARDS} {_BY_WHOM}|reach out to (?:him|her|them)|clear the air|(?:your|the) abuser",
            r"give (?:him|her|them) (?:a|another|one more) (?:\w+ )?chance",
        ),
        advice="leads back to whoever did the harm; choose something that needs nobody, or somebody easy.",
        unless_denied=True,
    ),
    # Change can raise the danger, and where there is abuse specialists advise against joint counselling.
    Rule(
        found=_words(
            "(?:leave|report|stay with) (?:him|her|your (?:partner|husband|wife))",
            "(?:couples?|couple's|couples'|joint|marriage) (?:counsell?ing|therapy)",
        ),
        advice="can raise a danger that you do not see; say that a specialist line helps to think it through.",
        unless_denied=True,
    ),
    Rule(
        found=_words(
            "disorders?|syndrome|symptoms?|diagnos(?:is|es|e|ed)|c?ptsd|bipolar|borderline|narcissis(?:t|ts|tic|m)",
            "codependen(?:t|ce|cy)|attachment (?:style|type)s?|(?:anxious|avoidant) attachment|checklist|your score",
        ),
        advice="sounds like a verdict; tell of a moment that the reader may know.",
        unless_denied=True,
    ),
    # --- what somebody who looks on may read ---
    Rule(
        found=_words(
            "he|she|him|his|her|hers|hid(?:e|es|ing|den)|secret(?:s|ly)?|leave|leaving|abus(?:e|es|ed|er|ive)",
            "escap(?:e|es|ing)|partner|husband|wife|relationships?|trauma|therapy|therapist",
        ),
        advice="might be read aloud by somebody angry; write of a thing or a place that gives nobody away.",
        places=_OVERSEEN,
    ),
    # --- the voice ---
    # "It must have rained" supposes, and "a need to rest" is a noun.
    Rule(
        found=_words(
            r"must(?! (?:have|be \w+ing)\b)|mustn't",
            r"(?<!\ba\s)(?<!\bthe\s)(?<!\byour\s)(?<!\btheir\s)(?<!\bour\s)needs? to",
        ),
        advice='is an order; write "you may" or "you could".',
        unless_denied=True,
    ),
    # Not of time or place ("just before noon"), and not in the sense of fair ("a just cause", "it was just.").
    Rule(
        found=_words(
            r"(?<!\bonly\s)(?<!\bhave\s)(?<!\bhas\s)(?<!\bhad\s)(?<!'ve\s)(?<!'d\s)just(?= \w)"
            r"(?! (?:as|before|after|now|then|when|while|where|about|above|below|under|over|outside|inside|behind"
            r"|beside|in time|in case|and|or|causes?)\b)"
        ),
        advice="makes small what may be hard for the reader; take it out.",
    ),
    Rule(
        found=_words("toxic", "healing journey", "self-care", "you've got this"),
        advice="was said too often to be heard; say what you mean in everyday words.",
    ),
    Rule(
        found=_words(
            "heal(?:s|ed|ing)?|cure[sd]?|overc(?:ome|omes|oming|ame)|let(?:ting)? go of|recover(?:s|ed|ing)? from",
            "(?:you|to) move on|mov(?:e|ed|es|ing) on from",
        ),
        advice='promises what nobody can; write "may ease", or what there is to do today.',
        unless_denied=True,
    ),
    Rule(
        found=re.compile(r"!(?!\[)"),
        advice="is louder than a letter; a full stop is calmer.",
        places=_HEAD,
        everywhere=True,
        any_language=True,
    ),
    Rule(
        found=re.compile(r"!(?!\[)"),
        advice="is louder than a letter; a full stop is calmer.",
        places=(Place.BODY,),
        any_language=True,
    ),
    # --- what is not so for everybody: readers pause, take every second week, and choose their hour ---
    Rule(
        found=_words(
            rf"weeks? {_NUMBER}|last week(?! of)|next week(?! or)|(?:a|{_NUMBER}) weeks? ago|{_NUMBER} weeks in(?:to)?",
            "seven days ago",
        ),
        advice="counts weeks, and people pause; count letters, or leave it out.",
        everywhere=True,
    ),
    Rule(
        # With a capital it greets; a neighbour may say good morning at any hour.
        found=_words("(?:this|(?-i:Good)) (?:morning|afternoon|evening)"),
        advice='is another hour for whoever chose one; write "today", or nothing.',
        everywhere=True,
    ),
)  # fmt: skip

# The bare ones are refused when the letter is set; these come through.
_VAGUE_LINK = re.compile(
    r"(?:click\b.*|tap here|(?:read|see|go|look|find out)?\s?(?:it|this|more)?\s?here"
    r"|(?:read|learn|find out|see)?\s?more|(?:this|the) (?:page|site|article|post))\W*",
    re.IGNORECASE,
)

_JINJA = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
_SOURCE = re.compile(r"^ {0,3}:{3,} *source\b.*?^ {0,3}:{3,} *$", re.DOTALL | re.MULTILINE)
_NO_WORDS = re.compile(r"\]\([^)]*\)|<?\bhttps?://[^\s>)]+>?|`[^`]*`|^ {0,3}:{3,} *(?:practice\b)?|^ *>", re.MULTILINE)
_EMPHASIS = re.compile(r"(?<=\S)\*|\*(?=\S)|_")
_WORD = re.compile(r"\w+(?:['\-]\w+)*")
_CLAUSE = re.compile(r"[.!?;:,()\u2013\u2014]|\n\s*\n|\b(?:but|until|unless|before|if|so)\b", re.IGNORECASE)
_DENIAL = re.compile(
    r"\b(?:not|no|nobody|nothing|never|none|neither|nor|without|cannot|whether)\b|n't\b", re.IGNORECASE
)
_PARAGRAPH = re.compile(r"(?:(?!\n\s*\n|\n\s*(?:[-*+]|\d+[.)]) ).)+", re.DOTALL)
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)]*)\)")
_OWN_LINK = re.compile(r"\s*\{\{[-+]?\s*links\.")
_PRACTICE = re.compile(r"^ {0,3}:{3,} *practice\b", re.MULTILINE)
_DIGITS = re.compile(r"(?<![\w/.])\+?\d(?:[\d ().-]*\d)?(?!\w)")
_DATE_OR_YEARS = re.compile(r"\d{4}-(?:\d{4}|\d{2}-\d{2})")
_LANGUAGE = re.compile(r"\{%-?\s*set\s+lang\s*=\s*[\"']([\w-]+)")
_OPENING = re.compile(r"(?:\s*\S[^\n]*){0,2}")
_WORDS_FILE = "email/words.txt"
"""The template that says in which language letters are."""


def remarks(revision: Revision) -> Iterator[ContentError]:
    """What deserves a second look in the letters of `revision`, each with its line."""
    english = _is_english(revision)
    typed = _TypedHelp.of(revision)
    for series in revision.sequences:
        for step in series.steps:
            letter = _Letter(series, step, english=english)
            yield from letter.lengths()
            yield from letter.words()
            yield from letter.paragraphs()
            yield from letter.asks()
            yield from typed.within(letter)


def _is_english(revision: Revision) -> bool:
    """Whether letters are in English, as they are unless the operator's own templates say otherwise."""
    said = _LANGUAGE.search(revision.templates.get(_WORDS_FILE, ""))
    return said is None or said[1].lower().startswith("en")


def _blank(found: re.Match[str]) -> str:
    """As many spaces, and the line breaks: what follows keeps its place."""
    return re.sub(r"[^\n]", " ", found[0])


def _read(text: str) -> str:
    """The words that a reader reads, each where it was: no Jinja, addresses or marks, and one kind of apostrophe."""
    for unread in (_JINJA, _NO_WORDS, _EMPHASIS):
        text = unread.sub(_blank, text)
    return text.replace("\u2019", "'")


class _Letter:
    """One letter under the eye: its texts as they are read, and the lines they stand on."""

    def __init__(self, series: Series, step: Step, *, english: bool) -> None:
        self.series = series
        self.step = step
        self.english = english
        self.body = _SOURCE.sub(_blank, step.body)
        """Without its sources, which quote titles as they are."""
        read = _read(self.body)
        first = _OPENING.match(read)
        self.texts = {
            Place.SUBJECT: _read(step.subject),
            Place.PREHEADER: _read(step.preheader),
            Place.HEADING: _read(step.heading or ""),
            Place.OPENING: first[0] if first else "",
            Place.BODY: read,
        }

    def remark(self, message: str, place: Place, *, at: int = 0) -> ContentError:
        """A warning of what stands `at` that character of a text."""
        line = self.step.head_lines.get(place)
        if place not in _HEAD:
            line = self.step.body_line + self.step.body.count("\n", 0, at)
        return ContentError(message, path=self.step.path, line=line)

    def lengths(self) -> Iterator[ContentError]:
        """Lines that an inbox would cut, or that say little; a letter that is long on a telephone, or no letter."""
        for place, text, (least, most) in (
            (Place.SUBJECT, self.step.subject, SUBJECT_CHARACTERS),
            (Place.PREHEADER, self.step.preheader, PREHEADER_CHARACTERS),
        ):
            # With Jinja in it, it has no length yet.
            if text and "{" not in text and not least <= len(text) <= most:
                message = f"the {place} has {len(text)} characters; {least} to {most} are read best."
                yield self.remark(message, place)
        least, most = PLAIN_WORDS
        if self.series.sensitive:
            least, most = NOTE_WORDS if self.series.endless else LETTER_WORDS
        words = len(_WORD.findall(self.texts[Place.BODY]))
        if words > most:
            message = f"the letter has {words} words; {most} are plenty on a telephone. Keep the one thing it says."
            yield self.remark(message, Place.BODY)
        # Not every script parts its words.
        elif words < least and self.english:
            message = f"the letter has {words} words; below {least} it may read as a notice. Begin with a moment."
            yield self.remark(message, Place.BODY)

    def words(self) -> Iterator[ContentError]:
        """What the table finds, once a line for each rule; words that two rules find belong to the first."""
        for place, text in self.texts.items():
            taken: list[tuple[int, int]] = []
            for rule in self._rules(place):
                last_line = -1
                for found in rule.found.finditer(text):
                    line = text.count("\n", 0, found.start())
                    overlaps = any(found.start() < end and start < found.end() for start, end in taken)
                    if overlaps or line == last_line or (rule.unless_denied and _is_denied(text[: found.start()])):
                        continue
                    taken.append(found.span())
                    last_line = line
                    shown = " ".join(found[0].split())
                    yield self.remark(f"the {place} says {shown!r}, which {rule.advice}", place, at=found.start())

    def _rules(self, place: Place) -> Iterator[Rule]:
        for rule in RULES:
            held = rule.everywhere or self.series.sensitive
            if place in rule.places and held and (rule.any_language or self.english):
                yield rule

    def paragraphs(self) -> Iterator[ContentError]:
        """Walls of text; an entry of a list is a paragraph of its own."""
        for found in _PARAGRAPH.finditer(self.texts[Place.BODY]):
            words = len(_WORD.findall(found[0]))
            if words > PARAGRAPH_WORDS:
                start = found.start() + len(found[0]) - len(found[0].lstrip())
                message = f"this paragraph has {words} words; part it, so that none has more than {PARAGRAPH_WORDS}."
                yield self.remark(message, Place.BODY, at=start)

    def asks(self) -> Iterator[ContentError]:
        """More than one thing to do, and links that do not say where they lead."""
        asked = [found.start() for found in _PRACTICE.finditer(self.body)]
        for found in _LINK.finditer(self.body):
            if self.english and _VAGUE_LINK.fullmatch(found[1].strip()):
                message = f"a link says {found[1]!r}; say where it leads, as it may be read out by itself."
                yield self.remark(message, Place.BODY, at=found.start())
            # The letter's own ways out ask for nothing. A letter that is a list of links is another kind of letter.
            if self.series.sensitive and not _OWN_LINK.match(found[2]):
                asked.append(found.start())
        if len(asked) > 1:
            message = "the letter asks for more than one thing (a practice or a link each); keep the smallest."
            yield self.remark(message, Place.BODY, at=sorted(asked)[1])


def _is_denied(before: str) -> bool:
    """Whether the clause that `before` breaks off in holds a "no".

    "You must not" is an order still: its "not" comes behind.
    """
    starts = [found.end() for found in _CLAUSE.finditer(before)]
    return _DENIAL.search(before, starts[-1] if starts else 0) is not None


@dataclass(frozen=True)
class _TypedHelp:
    """Finds help lines that were typed into a letter: there they grow old, and are those of one country."""

    numbers: frozenset[str]
    hosts: frozenset[str]

    @classmethod
    def of(cls, revision: Revision) -> _TypedHelp:
        """By the numbers and addresses of the library."""
        services = [service for lines in revision.help_lines.values() for service in lines]
        ways = " / ".join(way for service in services for way in (service.phone, service.text) if way)
        pages = [page for service in services for page in (service.chat, service.web) if page]
        return cls(
            numbers=frozenset(_digits(found[0]) for found in _DIGITS.finditer(ways)),
            hosts=frozenset((urlsplit(page).hostname or "").removeprefix("www.") for page in pages) - {""},
        )

    def within(self, letter: _Letter) -> Iterator[ContentError]:
        """The numbers and addresses in `letter`, also within links. In a sensitive one any telephone number."""
        text = _JINJA.sub(_blank, letter.body)
        for found in _DIGITS.finditer(text):
            number = _digits(found[0])
            telephone = len(number) >= SHORTEST_TELEPHONE and not _DATE_OR_YEARS.fullmatch(found[0])
            if number in self.numbers or (letter.series.sensitive and telephone):
                yield self._remark(letter, found)
        for host in sorted(self.hosts):
            for found in re.finditer(rf"(?<![\w-]){re.escape(host)}(?![\w-])", text, re.IGNORECASE):
                yield self._remark(letter, found)

    def _remark(self, letter: _Letter, found: re.Match[str]) -> ContentError:
        message = (
            f"{found[0]!r} looks like a help line; write {{{{ help_lines }}}} on a line of its own, "
            "which shows those of the reader's country."
        )
        return letter.remark(message, Place.BODY, at=found.start())


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)
