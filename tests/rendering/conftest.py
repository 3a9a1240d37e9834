"""A small site, a series and a note of its own, and readers of them."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from newsletter.domain.sequence import (
    Affirmation,
    Author,
    HelpKind,
    HelpLine,
    RelatedPost,
    Revision,
    Sequence,
    Step,
)
from newsletter.rendering.facts import LetterFacts, Links, Site
from newsletter.rendering.typesetting import Typesetter

if TYPE_CHECKING:
    from collections.abc import Callable

SHIPPED_TEMPLATES = Path(__file__).parents[2] / "templates"
TOKEN = "kQ7x-" + "Zm9v_YmFy" * 22

LETTER_BODY = """\
Hello,

You lock up, set off, and turn back to try the handle. It is **locked**. At some time,
somewhere, that *second look* was worth the way back.

## What a habit is for

- It guards you from owing.
- It guards you from hearing a no.

> A gate tells you things, too.

1. Look.
2. Listen.

{% if letter.total is not none and letter.number == letter.total %}
This is the last one. You can [stop here]({{ links.unsubscribe }}).
{% else %}
Another one comes, and {{ site.name }} has [more to read](/more).
{% endif %}

::: practice Find your floor | Two minutes, eyes open
Feel what is holding you up.

Or hold something solid.
:::

::: source
Fermin and others (2022), [Scientific Reports](https://doi.org/10.1038/s41598-022-20443-3).
:::

Warmly,
Joan
"""

NOTE_BODY = """\
Hello,

There is a glass on the table that has been on its way to the kitchen for some time.

{{ help_lines }}

Warmly,
Joan
"""


@pytest.fixture
def site() -> Site:
    """A publication with a postal address of three lines."""
    return Site(
        name="The Steady Page",
        site_url="https://www.example.org/",
        base_url="https://letters.example.org",
        from_name="The Steady Page",
        from_address="letters@example.org",
        reply_to="desk@example.org",
        postal_address="The Steady Page\n12 Quiet Lane\nBristol BS1 4DJ, United Kingdom",
        replies_read=True,
        leave_url="https://www.example.org/weather",
    )


@pytest.fixture
def letter_step() -> Step:
    """A letter that uses everything a letter can have."""
    return Step(
        key="floor",
        number=3,
        path="sequences/trust/03-floor.md",
        subject="Three small habits, and what they guard",
        preheader="None of them is a fault, and nothing has to change today.",
        body=LETTER_BODY,
        body_line=7,
    )


@pytest.fixture
def note_step() -> Step:
    """A note that puts the help lines where it wants them."""
    return Step(key="glass", number=1, path="sequences/note/01-glass.md", subject="A small promise", body=NOTE_BODY)


@pytest.fixture
def series(letter_step: Step) -> Sequence:
    """A sensitive series whose letters somebody signs."""
    return Sequence(
        key="trust",
        title="Nine letters on trust",
        steps=(letter_step,),
        sensitive=True,
        author=Author(name="Joan", email="joan@example.org"),
    )


@pytest.fixture
def notes(note_step: Step) -> Sequence:
    """A sequence without an end."""
    return Sequence(key="note", title="The weekly note", steps=(note_step,))


@pytest.fixture
def revision(series: Sequence, notes: Sequence) -> Revision:
    """Both sequences and the library that they draw on."""
    return Revision(
        sequences=(series, notes),
        affirmations=(Affirmation(key="slowly", text="I can go slowly and still be going."),),
        related_posts=(
            RelatedPost(key="boss", title="How to deal with a hard boss", url="/boss/", why="On measure."),
            RelatedPost(
                key="signs",
                title="Signs of a harmful relationship",
                url="https://www.example.org/signs/",
                why="For when you wonder.",
                hide_when_discreet=True,
            ),
        ),
        help_lines={
            "GB": (
                HelpLine(
                    name="Samaritans",
                    kind=HelpKind.CRISIS,
                    hours="24/7",
                    phone="116 123",
                    web="https://www.samaritans.org/",
                    languages=("English",),
                ),
                HelpLine(name="Shout", kind=HelpKind.CRISIS, hours="24/7", text="SHOUT to 85258"),
            ),
            "DE": (
                HelpLine(
                    name="Hilfetelefon",
                    kind=HelpKind.ABUSE,
                    hours="24/7",
                    phone="116 016",
                    text="116 016",
                    chat="https://www.hilfetelefon.de/chat",
                    languages=("German", "Turkish"),
                ),
            ),
            "*": (
                HelpLine(
                    name="Find a Helpline",
                    kind=HelpKind.CRISIS,
                    hours="a directory",
                    web="https://findahelpline.com/",
                ),
            ),
        },
    )


@pytest.fixture
def links() -> Links:
    """One reader's links, with tokens as long as real ones."""
    return Links(
        unsubscribe=f"https://letters.example.org/unsubscribe/{TOKEN}",
        preferences=f"https://letters.example.org/preferences/{TOKEN}",
        pause=f"https://letters.example.org/preferences/{TOKEN}#pause",
        too_much="https://letters.example.org/too-much",
    )


@pytest.fixture
def facts(revision: Revision, links: Links) -> Callable[..., LetterFacts]:
    """Build the facts of a reader; what is not said is as for most readers."""

    def build(**changes: object) -> LetterFacts:
        usual: dict[str, object] = {
            "number": 3,
            "total": 9,
            "affirmation": revision.affirmations[0],
            "posts": revision.related_posts,
            "country": "GB",
            "discreet": False,
            "welcome_back": False,
            "local_date": date(2026, 3, 12),
            "links": links,
        }
        return LetterFacts(**(usual | changes))  # type: ignore[arg-type]

    return build


@pytest.fixture
def typesetter(revision: Revision, site: Site) -> Typesetter:
    """Sets the letters of `revision`."""
    return Typesetter(revision, site, shipped_templates=SHIPPED_TEMPLATES)


@pytest.fixture
def set_body(revision: Revision, site: Site, facts: Callable[..., LetterFacts]) -> Callable[..., object]:
    """Set a letter with a body of the test's own; returns the rendered letter."""

    def build(body: str, *, step: dict[str, object] | None = None, **changes: object) -> object:
        sequence = Sequence(key="own", title="Own", steps=())
        own = {"key": "own", "number": 1, "path": "sequences/own/01-own.md", "subject": "An own subject"}
        letter = Step(body=body, body_line=5, **(own | (step or {})))  # type: ignore[arg-type]
        setter = Typesetter(revision, site, shipped_templates=SHIPPED_TEMPLATES)
        return setter.letter(sequence, letter, facts(**changes))

    return build
