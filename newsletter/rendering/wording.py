"""A step's own words, subject and body, compiled once for all its readers."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from newsletter.errors import ContentError
from newsletter.rendering.markdown import TemplateSource, read_body
from newsletter.rendering.sandbox import refuse_in_content
from newsletter.rendering.templates import in_words, where

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jinja2 import Template

    from newsletter.domain.sequence import Step
    from newsletter.rendering.templates import Templates

BODY_VARIABLES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "reader": frozenset({"country"}),
        "letter": frozenset({"number", "total"}),
        "site": frozenset({"name", "url"}),
        "links": frozenset({"unsubscribe", "preferences", "pause", "too_much"}),
        "help_lines": frozenset(),
        "affirmation": frozenset(),
    }
)
"""What a letter's text may print."""

HEAD_VARIABLES = MappingProxyType({name: BODY_VARIABLES[name] for name in ("reader", "letter", "site")})
"""What a subject, preheader or heading may print: nothing that is a link or a block."""

_HTML, _TEXT, _HEAD = "body.html", "body.txt", "head.txt"


@dataclass(frozen=True, kw_only=True)
class Wording:
    """A step's own words as templates. Each method raises ContentError, with the line where it is known."""

    step: Step
    templates: Templates
    heads: Mapping[str, Template]
    body_html: Template
    body_text: Template
    sources: Mapping[str, TemplateSource]

    @classmethod
    def of(cls, step: Step, *, templates: Templates, site_url: str, frame: Callable[..., tuple[str, str]]) -> Wording:
        """The words of `step`, refused where they hold what no letter may hold.

        Raises:
            ContentError: the first fault, with its line and what to write instead.
        """
        judged = refuse_in_content(templates.environment, step.body, BODY_VARIABLES, only_printed=("links",))
        for fault in judged:
            raise ContentError(fault.message, path=step.path, line=step.body_line + fault.line - 1)
        body = read_body(step.body, site_url=site_url, frame=frame)
        for fault in body.faults:
            raise ContentError(fault.message, path=step.path, line=step.body_line + fault.line - 1)
        heads = {
            "subject": step.subject,
            "preheader": step.preheader,
            "heading": step.heading or step.subject,
        }
        for name, source in heads.items():
            for fault in refuse_in_content(templates.environment, source, HEAD_VARIABLES):
                message = f"{name}: {fault.message}"
                raise ContentError(message, path=step.path)
        return cls(
            step=step,
            templates=templates,
            heads={name: templates.compile(" ".join(source.split()), name=_HEAD) for name, source in heads.items()},
            body_html=templates.compile(body.html.source, name=_HTML),
            body_text=templates.compile(body.text.source, name=_TEXT),
            sources={_HTML: body.html, _TEXT: body.text},
        )

    def head(self, name: str, context: Mapping[str, object]) -> str:
        """The subject, preheader or heading."""
        return self._print(self.heads[name], context)

    def body(self, form: str, context: Mapping[str, object]) -> str:
        """The body; `form` is html or txt."""
        return self._print(self.body_html if form == "html" else self.body_text, context)

    def _print(self, template: Template, context: Mapping[str, object]) -> str:
        try:
            return self.templates.environment.render_bounded(template, context)
        except Exception as error:
            name, line = where(error) or ("", None)
            source = self.sources.get(name)
            within = source.lines.get(line or 0) if source else None
            raise ContentError(
                in_words(error),
                path=self.step.path,
                line=None if within is None else self.step.body_line + within - 1,
            ) from error
