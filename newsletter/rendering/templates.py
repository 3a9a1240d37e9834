"""The shipped email templates, an operator's own in their stead, and the way from an error to its line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jinja2 import ChoiceLoader, DictLoader, FileSystemLoader, Template
from jinja2.exceptions import TemplateError, TemplateNotFound, TemplateSyntaxError
from markupsafe import Markup

from newsletter.errors import ContentError
from newsletter.rendering.sandbox import LetterEnvironment
from newsletter.rendering.text import underlined, wrapped

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_CONTENT = "qzcontentqz"


class Templates:
    """Every template of one revision, compiled at most once. Safe to share between threads."""

    def __init__(self, overridden: Mapping[str, str], *, shipped: Path) -> None:
        loader = ChoiceLoader([DictLoader(overridden), FileSystemLoader(shipped)])
        self.environment = LetterEnvironment(loader)
        self.environment.filters |= {"wrapped": wrapped, "underlined": underlined}

    def render(self, name: str, context: Mapping[str, object]) -> str:
        """The output of the template `name`, a path below the templates folder.

        Raises:
            ContentError: with the template's name, the line, and what is wrong there.
        """
        try:
            return self.environment.render_bounded(self.environment.get_template(name), context)
        except Exception as error:
            raise described(error, fallback=name) from error

    def compile(self, source: str, *, name: str) -> Template:
        """A template from `source`. `name` ends in .html or .txt, which decides about escaping."""
        code = self.environment.compile(source, name, name)
        return Template.from_code(self.environment, code, self.environment.make_globals(None), None)

    def call(self, template: str, macro: str, *arguments: object, **options: object) -> str:
        """What `macro` of `template` makes of its arguments, without empty lines at its ends.

        Raises:
            ContentError: as `render` does.
        """
        try:
            found = getattr(self.environment.get_template(template).module, macro, _lacking)
            return str(found(*arguments, **options)).strip("\n")
        except _LackingError as error:
            message = f"there is no macro {macro!r}, and the emails need it."
            raise ContentError(message, path=f"templates/{template}") from error
        except Exception as error:
            raise described(error, fallback=template) from error

    def frame(self, template: str, macro: str, **options: object) -> tuple[str, str]:
        """What `macro` puts before its content, and what it puts behind.

        Raises:
            ContentError: as `render` does.
        """
        written = self.call(template, macro, content=Markup(_CONTENT), **options)  # noqa: S704 (a constant)
        before, found, behind = written.partition(_CONTENT)
        if not found:
            message = f"the macro {macro!r} does not print its content."
            raise ContentError(message, path=f"templates/{template}")
        return before, behind


class _LackingError(Exception):
    """A macro is not there."""


def _lacking(*_: object, **__: object) -> str:
    raise _LackingError


def described(error: Exception, *, fallback: str) -> ContentError:
    """The fault for the operator: which template, which line, what is wrong."""
    if isinstance(error, TemplateNotFound):
        message = f"there is no template {error.name!r}; put it there, or take out what asks for it."
        return ContentError(message, path=f"templates/{fallback}")
    if isinstance(error, TemplateSyntaxError):
        return ContentError(in_words(error), path=f"templates/{error.name or fallback}", line=error.lineno)
    name, line = where(error) or (fallback, None)
    return ContentError(in_words(error), path=f"templates/{name}", line=line)


def where(error: Exception) -> tuple[str, int | None] | None:
    """The innermost template, and its line, in which `error` was raised; None where it was in none."""
    place: tuple[str, int | None] | None = None
    trace = error.__traceback__
    while trace is not None:
        template = trace.tb_frame.f_globals.get("__jinja_template__")
        if isinstance(template, Template) and template.name is not None:
            place = (template.name, template.get_corresponding_lineno(trace.tb_lineno))
        trace = trace.tb_next
    return place


def in_words(error: Exception) -> str:
    """What a person is told of something that Jinja or Python raised inside a template."""
    if isinstance(error, RecursionError):
        return "it calls itself without end."
    words = error.message if isinstance(error, TemplateError) and error.message else str(error)
    return (words or type(error).__name__).rstrip(".") + "."
