"""A revision, a step of it, and the facts of one reader, set as a letter."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from itertools import product
from pathlib import Path
from threading import Lock
from typing import Any

from jinja2 import Template
from markupsafe import Markup

from newsletter.domain.delivery import Kind
from newsletter.domain.sequence import Affirmation, RelatedPost, Revision, Sequence, Step
from newsletter.errors import ContentError, RenderError
from newsletter.rendering import help_lines
from newsletter.rendering.facts import LetterFacts, Links, NoticeFacts, Rendered, Site
from newsletter.rendering.markdown import read_body
from newsletter.rendering.plates import PLACEHOLDERS, Plate
from newsletter.rendering.proofreading import proofread
from newsletter.rendering.sandbox import refuse_in_content
from newsletter.rendering.templates import Templates, in_words, where
from newsletter.rendering.text import tidied

__all__ = ["LetterFacts", "Links", "NoticeFacts", "Rendered", "Site", "Typesetter"]

HTML_LIMIT_BYTES = 90_000  # Gmail cuts a letter off at about 102 KB, and its way to unsubscribe with it
MOST_DOTS = 16
_KEPT_PLATES = 256
_PADDING = Markup("&#8199;&#65279;&#847;" * 60)
_MACROS = {"html": "email/macros.html", "txt": "email/macros.txt"}
_WORDS = "email/words.txt"
_NO_DATE = date(2000, 1, 1)

BODY_VARIABLES: Mapping[str, frozenset[str]] = {
    "reader": frozenset({"country"}),
    "letter": frozenset({"number", "total"}),
    "site": frozenset({"name", "url"}),
    "links": frozenset({"unsubscribe", "preferences", "pause", "too_much"}),
    "help_lines": frozenset(),
    "affirmation": frozenset(),
}
"""What an operator's text may print."""

HEAD_VARIABLES: Mapping[str, frozenset[str]] = {
    name: BODY_VARIABLES[name] for name in ("reader", "letter", "site")
}
"""What a subject, preheader or heading may print."""


class _Block:
    """Something that a letter prints at most once; remembers whether its own text did."""

    def __init__(self, markup: str) -> None:
        self._markup = markup
        self.printed = False

    def __html__(self) -> str:
        self.printed = True
        return self._markup

    def __str__(self) -> str:
        self.printed = True
        return self._markup


@dataclass(frozen=True, kw_only=True)
class _CompiledStep:
    """A step's own words as templates, and which line of its file each hole came from."""

    subject: Template
    preheader: Template
    heading: Template
    html: Template
    text: Template
    lines: Mapping[str, Mapping[int, int]]


class Typesetter:
    """Sets every letter and notice of one revision. Safe to share between threads.

    Args:
        revision: what is live.
        site: in whose name.
        shipped_templates: the program's templates; those of the revision rule over them.
    """

    def __init__(self, revision: Revision, site: Site, *, shipped_templates: Path) -> None:
        self._revision = revision
        self._site = site
        self._templates = Templates(revision.templates, shipped=shipped_templates)
        self._compiled: dict[Step, _CompiledStep] = {}
        self._plates: OrderedDict[tuple[Any, ...], Plate | None] = OrderedDict()
        self._lock = Lock()

    def letter(self, sequence: Sequence, step: Step, facts: LetterFacts) -> Rendered:
        """The letter of one reader.

        Raises:
            RenderError: the step or a template is at fault; names the file, the line and what is wrong there.
        """
        # Only a subject in discreet mode tells the date; the same day or not, the rest is the same letter.
        day = facts.local_date if facts.discreet else _NO_DATE
        key = (sequence.key, step, replace(facts, links=PLACEHOLDERS, local_date=day))
        try:
            with self._lock:
                known = key in self._plates
                plate = self._plates.get(key)
                if known:
                    self._plates.move_to_end(key)
            if not known:
                plate = self._cast(sequence, step, facts)
                with self._lock:
                    self._plates[key] = plate
                    while len(self._plates) > _KEPT_PLATES:
                        self._plates.popitem(last=False)
            return plate.printed(facts.links) if plate is not None else self._set(sequence, step, facts)
        except ContentError as error:
            raise RenderError(str(error)) from error

    def notice(self, kind: Kind, facts: NoticeFacts) -> Rendered:
        """An email that is no letter: a confirmation, or the answer to somebody who is on the list already.

        Raises:
            RenderError: a template is at fault, or there is none for this kind.
        """
        if kind not in (Kind.CONFIRMATION, Kind.ALREADY_SUBSCRIBED):
            raise RenderError(f"An email of the kind {kind.value!r} is not set from a template.")
        try:
            subject = self._say(f"{kind.value}_subject")
            context = {
                "subject": subject,
                "label": subject,
                "preheader": self._say(kind.value),
                "preheader_padding": _PADDING,
                "action_url": facts.action_url,
                "expires_text": facts.expires_text,
                **self._about_site(),
            }
            return self._finished(
                f"email/{kind.value}",
                context,
                context,
                subject=subject,
                from_name=self._say("neutral_sender") if facts.discreet else self._site.from_name,
                reply_to=self._site.reply_to,
            )
        except ContentError as error:
            raise RenderError(str(error)) from error

    def check(self, sequence: Sequence, step: Step) -> None:
        """Set the step for imagined readers, so that no real one is the first to find a fault.

        Raises:
            ContentError: with the file, the line and what to write instead.
        """
        for facts in self._imagined(sequence, step):
            rendered = self._set(sequence, step, facts)
            fault = proofread(rendered.html, rendered.text)
            if fault is not None:
                raise ContentError(fault, path=step.path)

    # ---- setting a letter

    def _cast(self, sequence: Sequence, step: Step, facts: LetterFacts) -> Plate | None:
        """The plate for all readers with these facts; None where a template does more with links than print them."""
        plate = Plate.of(self._set(sequence, step, replace(facts, links=PLACEHOLDERS)))
        return plate if plate.printed(facts.links) == self._set(sequence, step, facts) else None

    def _set(self, sequence: Sequence, step: Step, facts: LetterFacts) -> Rendered:
        compiled = self._compile(step)
        own = self._own_words(facts)
        plain_subject = self._print(compiled, compiled.subject, step, own)
        subject = plain_subject
        if facts.discreet:
            subject = self._say("neutral_subject", facts.local_date.day, facts.local_date.month)
        counted = facts.total is not None and not facts.discreet
        progress = self._say("progress", own["letter"]) if counted else ""
        context: dict[str, Any] = {
            **own,
            **self._about_site(),
            "subject": subject,
            "label": subject if facts.discreet else self._say("label", subject, progress),
            "heading": subject if facts.discreet else self._print(compiled, compiled.heading, step, own),
            "preheader": self._preheader(compiled, step, facts, own),
            "preheader_padding": _PADDING,
            "discreet": facts.discreet,
            "welcome_back": facts.welcome_back,
            "progress": progress,
            "dots": _dots(facts) if counted else "",
            "posts": self._posts(facts),
        }
        author = sequence.author
        known_author = author is not None and not facts.discreet
        return self._finished(
            "email/letter",
            context | self._blocks(sequence, step, facts, own, compiled, form="html"),
            context | self._blocks(sequence, step, facts, own, compiled, form="txt"),
            subject=subject,
            from_name=self._say("neutral_sender") if facts.discreet else author.name if author else self._site.from_name,
            reply_to=author.email if author and known_author and author.email else self._site.reply_to,
        )

    def _own_words(self, facts: LetterFacts) -> dict[str, Any]:
        """What an operator's text may print, but for the blocks."""
        links = facts.links
        return {
            "reader": {"country": facts.country},
            "letter": {"number": facts.number, "total": facts.total},
            "site": {"name": self._site.name, "url": self._site.site_url, "replies_read": self._site.replies_read},
            "links": {
                "unsubscribe": links.unsubscribe,
                "preferences": links.preferences,
                "pause": links.pause,
                "too_much": links.too_much,
            },
            "affirmation": facts.affirmation.text if facts.affirmation else "",
        }

    def _about_site(self) -> dict[str, Any]:
        return {"postal_lines": tuple(line.strip() for line in self._site.postal_address.splitlines() if line.strip())}

    def _preheader(self, compiled: _CompiledStep, step: Step, facts: LetterFacts, own: Mapping[str, Any]) -> str:
        if facts.discreet:
            return self._say("neutral_preheader")
        return self._print(compiled, compiled.preheader, step, own) or self._say("spare_preheader")

    def _posts(self, facts: LetterFacts) -> tuple[dict[str, str], ...]:
        return tuple(
            {"title": post.title, "why": post.why, "url": self._absolute(post.url)}
            for post in facts.posts
            if not (facts.discreet and post.hide_when_discreet)
        )

    def _absolute(self, url: str) -> str:
        return f"{self._site.site_url.rstrip('/')}/{url.lstrip('/')}" if "://" not in url else url

    def _blocks(
        self,
        sequence: Sequence,
        step: Step,
        facts: LetterFacts,
        own: Mapping[str, Any],
        compiled: _CompiledStep,
        *,
        form: str,
    ) -> dict[str, Any]:
        """The body, and the blocks that follow it unless it has printed them itself."""
        kind = Markup if form == "html" else str
        services = help_lines.views(self._revision.help_for(facts.country), say=self._say)
        within = _Block(self._macro(form, "help", services=services, title=""))
        figure = _Block("")
        if facts.affirmation:
            caption = self._say("caption", own["letter"])
            figure = _Block(self._macro(form, "affirmation", words=facts.affirmation.text, caption=caption))
        template = compiled.html if form == "html" else compiled.text
        words = {**own, "help_lines": within, "affirmation_figure": figure}
        body = self._print(compiled, template, step, words)
        behind = ""
        if sequence.sensitive and not within.printed:
            title = self._say("help_title", facts.discreet)
            behind = self._macro(form, "help", services=services, title=title)
        return {
            "body": kind(body),
            "help_lines": kind(behind),
            "affirmation": kind("" if figure.printed else figure),
        }

    def _finished(
        self,
        name: str,
        html_context: Mapping[str, Any],
        text_context: Mapping[str, Any],
        *,
        subject: str,
        from_name: str,
        reply_to: str | None,
    ) -> Rendered:
        html = self._templates.render(f"{name}.html", html_context)
        # A condition that did not hold may leave an empty paragraph, and every tag of a template an empty line.
        html = re.sub(r"\n\s*\n+", "\n", re.sub(r"<p[^>]*>\s*</p>", "", html)).strip() + "\n"
        size = len(html.encode("utf-8", "replace"))
        if size > HTML_LIMIT_BYTES:
            message = f"this makes an email of {size // 1000} KB, which mail programs cut off; shorten it."
            raise ContentError(message, path=f"templates/{name}.html")
        text = tidied(self._templates.render(f"{name}.txt", text_context))
        return Rendered(subject=subject, html=html, text=text, from_name=from_name, reply_to=reply_to)

    # ---- compiling a step

    def _compile(self, step: Step) -> _CompiledStep:
        compiled = self._compiled.get(step)
        if compiled is None:
            compiled = self._compiled[step] = self._compiled_step(step)
        return compiled

    def _compiled_step(self, step: Step) -> _CompiledStep:
        environment = self._templates.environment
        for fault in refuse_in_content(environment, step.body, BODY_VARIABLES, whole=("links",)):
            raise ContentError(fault.message, path=step.path, line=step.body_line + fault.line - 1)
        body = read_body(step.body, site_url=self._site.site_url, frame=self._frame)
        for fault in body.faults:
            raise ContentError(fault.message, path=step.path, line=step.body_line + fault.line - 1)
        heads = {"subject": step.subject, "preheader": step.preheader, "heading": step.heading or step.subject}
        for name, source in heads.items():
            for fault in refuse_in_content(environment, source, HEAD_VARIABLES, whole=()):
                raise ContentError(f"{name}: {fault.message}", path=step.path)
        return _CompiledStep(
            **{name: self._templates.compile(" ".join(text.split()), name="head.txt") for name, text in heads.items()},
            html=self._templates.compile(body.html.source, name="body.html"),
            text=self._templates.compile(body.text.source, name="body.txt"),
            lines={"body.html": body.html.lines, "body.txt": body.text.lines},
        )

    def _print(self, compiled: _CompiledStep, template: Template, step: Step, context: Mapping[str, Any]) -> str:
        """What an operator's own template prints."""
        try:
            return self._templates.environment.render_bounded(template, context)
        except Exception as error:
            name, line = where(error) or ("", None)
            source_line = compiled.lines.get(name, {}).get(line or 0)
            raise ContentError(
                in_words(error),
                path=step.path,
                line=None if source_line is None else step.body_line + source_line - 1,
            ) from error

    # ---- the templates' words and blocks

    def _say(self, macro: str, *arguments: Any) -> str:
        return self._templates.call(_WORDS, macro, *arguments).strip()

    def _macro(self, form: str, macro: str, **options: Any) -> str:
        return self._templates.call(_MACROS[form], macro, content="", **options)

    def _frame(self, macro: str, **options: Any) -> tuple[str, str]:
        return self._templates.frame(_MACROS["html"], macro, **options)

    # ---- imagined readers

    def _imagined(self, sequence: Sequence, step: Step) -> Iterator[LetterFacts]:
        countries = (None, *(country for country in self._revision.help_lines if country != "*"))
        places: tuple[tuple[int, int | None], ...] = ((1, 9), (9, 9), (1, 1), (40, None))
        affirmation = self._imagined_affirmation(step)
        for discreet, country in product((False, True), countries):
            for number, total in places:
                yield LetterFacts(
                    number=number,
                    total=total,
                    affirmation=affirmation,
                    posts=self._imagined_posts(step, discreet=discreet),
                    country=country,
                    discreet=discreet,
                    welcome_back=number > 1,
                    local_date=date(2026, 3, 12),
                    links=_imagined_links(self._site.base_url),
                )

    def _imagined_affirmation(self, step: Step) -> Affirmation | None:
        if step.affirmation is None:
            return None
        if step.affirmation == "next":
            return max(self._revision.affirmations, key=lambda item: len(item.text), default=None)
        return self._revision.affirmation(step.affirmation)

    def _imagined_posts(self, step: Step, *, discreet: bool) -> tuple[RelatedPost, ...]:
        related = step.related
        if discreet and step.related_discreet is not None:
            related = step.related_discreet
        if related == ("newest",):
            return self._revision.related_posts[:1]
        return tuple(post for post in map(self._revision.related_post, related) if post is not None)


def _dots(facts: LetterFacts) -> str:
    """One dot a letter, the received ones filled; none where the series is too long to count at a glance."""
    if facts.total is None or not 1 < facts.total <= MOST_DOTS:
        return ""
    return "●" * facts.number + "○" * (facts.total - facts.number)


def _imagined_links(base_url: str) -> Links:
    base = base_url.rstrip("/")
    return Links(
        unsubscribe=f"{base}/unsubscribe/imagined",
        preferences=f"{base}/preferences/imagined",
        pause=f"{base}/preferences/imagined#pause",
        too_much=f"{base}/too-much",
    )
