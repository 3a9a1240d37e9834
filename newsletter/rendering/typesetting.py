"""A revision, a step of it, and the facts of one reader, set as a letter."""

from __future__ import annotations

import re
from threading import Lock
from typing import TYPE_CHECKING

from markupsafe import Markup

from newsletter.domain.delivery import Kind
from newsletter.errors import ContentError, RenderError
from newsletter.rendering import help_lines, imagined
from newsletter.rendering.facts import Encoded, LetterFacts, Links, NoticeFacts, Rendered, Site
from newsletter.rendering.plates import PLACEHOLDERS, Plate
from newsletter.rendering.proofreading import proofread
from newsletter.rendering.templates import Templates
from newsletter.rendering.text import tidied
from newsletter.rendering.wording import Wording

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from newsletter.domain.sequence import Revision, Sequence, Step

__all__ = ["Encoded", "LetterFacts", "Links", "NoticeFacts", "Rendered", "Site", "Typesetter"]

HTML_LIMIT_BYTES = 90_000  # Gmail cuts a letter off at about 102 KB, and the way to leave with it
MOST_DOTS = 16
_KEPT_PLATES = 256
_WORDS = "email/words.txt"
_MACROS = {"html": "email/macros.html", "txt": "email/macros.txt"}
# Space that no program collapses, so that the first lines of a letter are not pulled into the preview.
_PADDING = Markup("&#8199;&#65279;&#847;" * 60)  # noqa: S704 (a constant)
_EMPTY_PARAGRAPH = re.compile(r"<p[^>]*>\s*</p>")
_EMPTY_LINES = re.compile(r"\n\s*\n+")
_NO_PLATE = Plate.of(Rendered(subject="", html="", text="", from_name="", reply_to=None))


class Typesetter:
    """Sets every letter and notice of one revision. Safe to share between threads.

    Args:
        revision: what is live.
        site: in whose name.
        shipped_templates: the folder of the program's templates; those of the revision rule over them.
    """

    def __init__(self, revision: Revision, site: Site, *, shipped_templates: Path) -> None:
        self._revision = revision
        self._site = site
        self._templates = Templates(revision.templates, shipped=shipped_templates)
        self._wordings: dict[Step, Wording] = {}
        self._plates: dict[object, Plate] = {}
        self._lock = Lock()

    def letter(self, sequence: Sequence, step: Step, facts: LetterFacts) -> Rendered:
        """The letter of one reader, to be looked at.

        Raises:
            RenderError: the step or a template is at fault; names the file, the line and what is wrong there.
        """
        try:
            return self._set(sequence, step, facts)
        except ContentError as error:
            raise RenderError(str(error)) from error

    def encoded_letter(self, sequence: Sequence, step: Step, facts: LetterFacts) -> Encoded:
        """The letter of one reader, to be sent: the same bytes as `letter` gives, and rendered once for many.

        Raises:
            RenderError: as `letter` does.
        """
        plate = self.plate(sequence, step, facts)
        if plate is not None:
            return plate.encoded(facts.links)
        return Plate.of(self.letter(sequence, step, facts), facts.links).encoded(facts.links)

    def plate(self, sequence: Sequence, step: Step, facts: LetterFacts) -> Plate | None:
        """What all readers with these facts get, whatever their links; None where a template does not only print them.

        Raises:
            RenderError: as `letter` does.
        """
        # Only a discreet subject tells the day; all others are the same letter on any day.
        day = facts.local_date if facts.discreet else None
        key = (
            *(sequence.key, sequence.sensitive, sequence.author, step, day),
            *(facts.number, facts.total, facts.affirmation, facts.posts),
            *(facts.country, facts.discreet, facts.welcome_back),
        )
        plate = self._plates.get(key)
        if plate is None:
            plate = self._cast(sequence, step, facts)
            self._keep(key, plate)
        return None if plate is _NO_PLATE else plate

    def notice(self, kind: Kind, facts: NoticeFacts) -> Rendered:
        """An email that is no letter: a confirmation, or the answer to somebody who is on the list already.

        Raises:
            RenderError: a template is at fault, or there is none for this kind.
        """
        if kind not in {Kind.CONFIRMATION, Kind.ALREADY_SUBSCRIBED}:
            message = f"An email of the kind {kind.value!r} is not set from a template of its own."
            raise RenderError(message)
        try:
            subject = self._say(f"{kind.value}_subject")
            context = {
                "subject": subject,
                "label": subject,
                "preheader": self._say(f"{kind.value}_preheader"),
                "preheader_padding": _PADDING,
                "action_url": facts.action_url,
                "expires_text": facts.expires_text,
                "postal_lines": self._postal_lines(),
            }
            sender = self._say("neutral_sender") if facts.discreet else self._site.from_name
            return self._finished(f"email/{kind.value}", context, context, sender=(sender, self._site.reply_to))
        except ContentError as error:
            raise RenderError(str(error)) from error

    def check(self, sequence: Sequence, step: Step) -> None:
        """Set the step for imagined readers, so that no real one is the first to meet a fault.

        Raises:
            ContentError: with the file, the line where it is known, and what to write instead.
        """
        for facts in imagined.readers(self._revision, step, base_url=self._site.base_url):
            rendered = self._set(sequence, step, facts)
            fault = proofread(rendered.html, rendered.text)
            if fault is not None:
                raise ContentError(fault, path=step.path)

    def _cast(self, sequence: Sequence, step: Step, facts: LetterFacts) -> Plate:
        """The plate of all readers with these facts, or none where a template does not only print the links."""
        plate = Plate.of(self.letter(sequence, step, facts._replace(links=PLACEHOLDERS)))
        alone = Plate.of(self.letter(sequence, step, facts), facts.links)
        return plate if plate.encoded(facts.links) == alone.encoded(facts.links) else _NO_PLATE

    def _keep(self, key: object, plate: Plate) -> None:
        """Remember a plate, and forget the oldest; casting it anew costs no more than one letter."""
        with self._lock:
            self._plates[key] = plate
            while len(self._plates) > _KEPT_PLATES:
                del self._plates[next(iter(self._plates))]

    def _set(self, sequence: Sequence, step: Step, facts: LetterFacts) -> Rendered:
        wording = self._wording(step)
        own = self._own_words(facts)
        progress = ""
        if facts.discreet:
            subject = heading = label = self._say("neutral_subject", facts.local_date.day, facts.local_date.month)
            preheader = self._say("neutral_preheader")
        else:
            progress = self._say("progress", own["letter"]) if facts.total is not None else ""
            subject, heading = wording.head("subject", own), wording.head("heading", own)
            label = self._say("label", subject, progress)
            preheader = wording.head("preheader", own) or self._say("spare_preheader")
        context = {
            **own,
            "subject": subject,
            "heading": heading,
            "label": label,
            "preheader": preheader,
            "preheader_padding": _PADDING,
            "progress": progress,
            "dots": _dots(facts),
            "discreet": facts.discreet,
            "welcome_back": facts.welcome_back,
            "posts": self._posts(facts),
            "postal_lines": self._postal_lines(),
        }
        return self._finished(
            "email/letter",
            context | self._blocks(sequence, facts, own, wording, form="html"),
            context | self._blocks(sequence, facts, own, wording, form="txt"),
            sender=self._sender(sequence, facts),
            path=step.path,
        )

    def _finished(
        self,
        name: str,
        html_context: Mapping[str, object],
        text_context: Mapping[str, object],
        *,
        sender: tuple[str, str | None],
        path: str | None = None,
    ) -> Rendered:
        html = self._templates.render(f"{name}.html", html_context)
        # A condition that did not hold may leave an empty paragraph, and each tag of Jinja an empty line.
        html = _EMPTY_LINES.sub("\n", _EMPTY_PARAGRAPH.sub("", html)).strip() + "\n"
        size_bytes = len(html.encode("utf-8", "replace"))
        if size_bytes > HTML_LIMIT_BYTES:
            message = f"this makes {size_bytes // 1000} KB, and mail programs cut off so much; shorten it."
            raise ContentError(message, path=path or f"templates/{name}.html")
        text = tidied(self._templates.render(f"{name}.txt", text_context))
        return Rendered(
            subject=str(html_context["subject"]),
            html=html,
            text=text,
            from_name=sender[0],
            reply_to=sender[1],
        )

    def _wording(self, step: Step) -> Wording:
        wording = self._wordings.get(step)
        if wording is None:
            # Two threads may both do this once; they come to the same.
            wording = self._wordings[step] = Wording.of(
                step, templates=self._templates, site_url=self._site.site_url, frame=self._frame
            )
        return wording

    def _own_words(self, facts: LetterFacts) -> dict[str, object]:
        """What an operator's text may print, but for the blocks; the layout prints it too."""
        return {
            "reader": {"country": facts.country},
            "letter": {"number": facts.number, "total": facts.total},
            "site": {
                "name": self._site.name,
                "url": self._site.site_url,
                "replies_read": self._site.replies_read,
            },
            "links": {
                "unsubscribe": facts.links.unsubscribe,
                "preferences": facts.links.preferences,
                "pause": facts.links.pause,
                "too_much": facts.links.too_much,
            },
            "affirmation": facts.affirmation.text if facts.affirmation else "",
        }

    def _blocks(
        self,
        sequence: Sequence,
        facts: LetterFacts,
        own: Mapping[str, object],
        wording: Wording,
        *,
        form: str,
    ) -> dict[str, object]:
        """The body, and the blocks that follow it unless the body has printed them itself."""
        services = help_lines.views(help_lines.few(self._revision.help_for(facts.country)), say=self._say)
        within = _Block(self._macro(form, "help", services=services) if services else "")
        figure = _Block("")
        if facts.affirmation:
            caption = self._say("caption", own["letter"])
            figure = _Block(self._macro(form, "affirmation", words=facts.affirmation.text, caption=caption))
        body = wording.body(form, {**own, "help_lines": within, "affirmation_figure": figure})
        behind = ""
        if sequence.sensitive and services and not within.printed:
            title = self._say("help_title", facts.discreet)
            behind = self._macro(form, "help", services=services, title=title)
        blocks = {
            "body": body,
            "affirmation": "" if figure.printed else str(figure),
            "help_lines": behind,
        }
        # Each was rendered by a template that escapes, so that it may go into another one as it is.
        return {name: Markup(block) if form == "html" else block for name, block in blocks.items()}  # noqa: S704

    def _sender(self, sequence: Sequence, facts: LetterFacts) -> tuple[str, str | None]:
        """The sender's name, and where replies go."""
        if facts.discreet:
            return self._say("neutral_sender"), self._site.reply_to
        if sequence.author is None:
            return self._site.from_name, self._site.reply_to
        return sequence.author.name, sequence.author.email or self._site.reply_to

    def _posts(self, facts: LetterFacts) -> tuple[dict[str, str], ...]:
        base = self._site.site_url.rstrip("/")
        return tuple(
            {
                "title": post.title,
                "why": post.why,
                "url": post.url if "://" in post.url else f"{base}/{post.url.lstrip('/')}",
            }
            for post in facts.posts
            if not (facts.discreet and post.hide_when_discreet)
        )

    def _postal_lines(self) -> tuple[str, ...]:
        return tuple(line.strip() for line in self._site.postal_address.splitlines() if line.strip())

    def _say(self, macro: str, *arguments: object) -> str:
        return self._templates.call(_WORDS, macro, *arguments).strip()

    def _macro(self, form: str, macro: str, **options: object) -> str:
        return self._templates.call(_MACROS[form], macro, content="", **options)

    def _frame(self, macro: str, **options: object) -> tuple[str, str]:
        return self._templates.frame(_MACROS["html"], macro, **options)


class _Block:
    """Something that a letter prints at most once; remembers whether its own text did."""

    def __init__(self, markup: str) -> None:
        self._markup = markup
        self.printed = False

    def __html__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        self.printed = True
        return self._markup


def _dots(facts: LetterFacts) -> str:
    """A dot for each letter, filled up to this one; none where they are too many to take in at a glance."""
    if facts.total is None or facts.discreet or not 1 < facts.total <= MOST_DOTS:
        return ""
    return "●" * facts.number + "○" * (facts.total - facts.number)
