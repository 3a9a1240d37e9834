"""The only place where Jinja that somebody else wrote is run.

Two walls, each enough for most of what was ever tried on Jinja's sandbox:

- An operator's own text (`refuse_in_content`) may print and compare the variables that it is given. There are
  no calls, no attributes besides the documented ones, no arithmetic that can grow, no macros, imports or
  blocks. What is not on the list is refused when the file is read, with its line.
- A template may do more, within Jinja's immutable sandbox and below fixed bounds: of strings, of loops and
  calls together, and of what one rendering puts out.

Nothing of the program can be reached from either: a context holds strings, numbers, dicts and tuples only.
Source: Jinja's advisories CVE-2016-10745, CVE-2019-10906, CVE-2024-56326 and CVE-2025-27516.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, cast

from jinja2 import StrictUndefined, nodes
from jinja2.exceptions import SecurityError, TemplateSyntaxError
from jinja2.filters import FILTERS
from jinja2.runtime import Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS
from jinja2.visitor import NodeTransformer
from markupsafe import Markup, escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from jinja2 import BaseLoader, Template
    from jinja2.runtime import Context

STRING_LIMIT = 100_000  # characters of any one string that is put together
NUMBER_LIMIT = 10**12
STEP_LIMIT = 3_000  # turns of loops and calls in one rendering
OUTPUT_LIMIT = 400_000  # characters that one rendering may put out
SOURCE_LIMIT = 200_000  # characters of one template

FILTER_NAMES = frozenset(
    {
        *("abs", "capitalize", "count", "d", "default", "e", "escape", "first", "int", "last", "length"),
        *("lower", "title", "trim", "upper"),
    }
)
TEST_NAMES = frozenset(
    {
        *("defined", "divisibleby", "eq", "equalto", "even", "false", "ge", "gt", "in", "le", "lt"),
        *("mapping", "ne", "none", "number", "odd", "sequence", "string", "true", "undefined"),
        *("==", "!=", "<", "<=", ">", ">="),
    }
)
DICT_METHODS = frozenset({"items", "keys", "values", "get"})
_JINJAS_OWN = frozenset({"jinja2.runtime", "jinja2.environment"})


class TooMuchError(SecurityError):
    """A template asked for more than any letter needs."""


class NothingThereError(SecurityError):
    """A template prints None."""


@dataclass(slots=True)
class _Budget:
    steps: int = STEP_LIMIT
    output: int = OUTPUT_LIMIT

    def spend_steps(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            message = f"it loops and calls more than {STEP_LIMIT} times"
            raise TooMuchError(message)

    def spend_output(self, characters: int) -> None:
        self.output -= characters
        if self.output < 0:
            message = f"it puts out more than {OUTPUT_LIMIT} characters"
            raise TooMuchError(message)


# A context variable, so that two threads rendering at once count apart.
_budget: ContextVar[_Budget | None] = ContextVar("rendering_budget", default=None)


class LetterEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox with nothing in it, and with bounds."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self, loader: BaseLoader | None) -> None:
        super().__init__(
            loader=loader,
            autoescape=lambda name: name is None or not name.endswith(".txt"),
            undefined=StrictUndefined,
            finalize=_counted_output,
            auto_reload=False,
            cache_size=-1,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        self.globals.clear()
        self.filters = {name: FILTERS[name] for name in FILTER_NAMES}
        self.filters |= {"_turns": _turns, "_joined": _joined}
        self.tests = {name: TESTS[name] for name in TEST_NAMES}

    def render_bounded(self, template: Template, context: Mapping[str, object]) -> str:
        """The template's output.

        Raises:
            TooMuchError: the template went beyond its bounds.
            Exception: whatever else is raised in a template; the traceback has the template's frames.
        """
        budget = _Budget()
        token = _budget.set(budget)
        try:
            parts = []
            # Not `template.generate`: it rewrites tracebacks and takes the template's name out of them.
            for part in template.root_render_func(template.new_context(dict(context))):
                budget.spend_output(len(part))
                parts.append(part)
            return "".join(parts)
        finally:
            _budget.reset(token)

    def parse_unbounded(self, source: str) -> nodes.Template:
        """The tree as it was written, only to be looked at."""
        return super()._parse(source, None, None)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > SOURCE_LIMIT:
            message = f"it is longer than {SOURCE_LIMIT} characters"
            raise TemplateSyntaxError(message, 1, name, filename)
        tree = super()._parse(source, name, filename)
        return cast("nodes.Template", _Bounder(name, filename).visit(tree))

    def is_safe_attribute(self, obj: object, attr: str, value: object) -> bool:
        """Only what is on the list: a few methods of dicts, and Jinja's own loop and macros."""
        if not super().is_safe_attribute(obj, attr, value):
            return False
        if isinstance(obj, dict):
            return attr in DICT_METHODS
        return type(obj).__module__ in _JINJAS_OWN

    def wrap_str_format(self, value: object) -> Callable[..., str] | None:
        """Refuse `format` altogether: its widths eat memory, and it was the way out three times."""
        if super().wrap_str_format(value) is not None:
            message = "format is not available"
            raise SecurityError(message)
        return None

    def call(__self, __context: Context, __obj: object, *args: object, **kwargs: object) -> object:  # noqa: N805, PLW3201, RUF100 (Jinja's own signature: a template's keywords may have any name)
        """Call something from a template, counted."""
        budget = _budget.get()
        if budget is not None:
            budget.spend_steps(1)
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: object, right: object) -> object:
        """Calculate with numbers, and join strings, within the bounds."""
        if isinstance(left, int | float) and isinstance(right, int | float):
            if operator == "**" or max(abs(left), abs(right)) > NUMBER_LIMIT:
                message = f"it calculates with powers, or with numbers beyond {NUMBER_LIMIT}"
                raise TooMuchError(message)
        elif operator == "+" and isinstance(left, str) and isinstance(right, str):
            _check_size(len(left) + len(right))
        elif not isinstance(left, Undefined) and not isinstance(right, Undefined):
            message = f"{operator} is for numbers only"
            raise SecurityError(message)
        return super().call_binop(context, operator, left, right)


class _Bounder(NodeTransformer):
    """Puts a counter into each loop and joining, and refuses what would switch escaping off."""

    def __init__(self, name: str | None, filename: str | None) -> None:
        self._name = name
        self._filename = filename

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 (Jinja's visitor looks for this name)
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "_turns", [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802 (as above)
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(parts, "_joined", [], [], None, None, lineno=node.lineno)

    def visit_EvalContextModifier(self, node: nodes.EvalContextModifier) -> NoReturn:  # noqa: N802 (as above)
        message = "escaping cannot be switched off"
        raise TemplateSyntaxError(message, node.lineno, self._name, self._filename)

    def visit_ScopedEvalContextModifier(self, node: nodes.ScopedEvalContextModifier) -> NoReturn:  # noqa: N802 (as above)
        self.visit_EvalContextModifier(node)


def _check_size(size: int) -> None:
    if size > STRING_LIMIT:
        message = f"it makes a string of more than {STRING_LIMIT} characters"
        raise TooMuchError(message)


def _counted_output(value: object) -> object:
    """Count what an expression is about to put out (Jinja's `finalize`)."""
    if value is None:
        # "None" is nothing that anybody meant to write to a reader.
        message = "it prints a value that some readers do not have; ask with {% if … %} first"
        raise NothingThereError(message)
    budget = _budget.get()
    if budget is not None and isinstance(value, str):
        budget.spend_output(len(value))
    return value


def _turns(items: Iterable[object]) -> Sequence[object]:
    """What a loop runs over, its turns counted in advance."""
    turns = tuple(items)  # raises for an undefined variable, naming it
    budget = _budget.get()
    if budget is not None:
        budget.spend_steps(len(turns))
    return turns


def _joined(parts: Sequence[object]) -> str:
    """What `~` joins; markup and words give markup, the words escaped."""
    words = [part if isinstance(part, Markup) else str(part) for part in parts]
    _check_size(sum(map(len, words)))
    if any(isinstance(word, Markup) for word in words):
        return Markup("").join(map(escape, words))
    return "".join(words)


_CONTENT_NODES: tuple[type[nodes.Node], ...] = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Getattr),
    *(nodes.If, nodes.For, nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not),
    *(nodes.Filter, nodes.Test, nodes.Tuple, nodes.List, nodes.Add, nodes.Sub, nodes.Neg, nodes.Pos),
)
_IN_WORDS: dict[type[nodes.Node], str] = {
    nodes.Call: "calls like name() are not available; print a variable such as {{ letter.number }}",
    nodes.Getitem: "square brackets are not available; write a dot, as in {{ letter.number }}",
    nodes.Concat: "~ is not available; write the words and the holes one after the other",
    nodes.Include: "a letter cannot include other files; write the text itself",
    nodes.Import: "a letter cannot import other files; write the text itself",
    nodes.FromImport: "a letter cannot import other files; write the text itself",
    nodes.Extends: "a letter cannot extend other files; the layout is added by itself",
    nodes.Assign: "{% set %} is not available; write the text itself",
    nodes.AssignBlock: "{% set %} is not available; write the text itself",
    nodes.Scope: "this tag is not available in letters",
    nodes.Macro: "macros belong into templates, not into letters",
}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something in an operator's text that is refused; `line` is counted from 1 within that text."""

    line: int
    message: str


def refuse_in_content(
    environment: LetterEnvironment,
    source: str,
    variables: Mapping[str, frozenset[str]],
    *,
    only_printed: Sequence[str] = (),
) -> list[Fault]:
    """What of an operator's text is not allowed, in the order of its lines; empty where all is well.

    Args:
        environment: its grammar is the operator's.
        source: text with Jinja holes.
        variables: the names that it may use, with their attributes; a name without any is printed itself.
        only_printed: names whose attributes may be printed, and neither compared nor changed.
    """
    judge = _ContentJudge(variables, only_printed)
    try:
        judge.look(environment.parse_unbounded(source), printed=False)
    except TemplateSyntaxError as error:
        return [Fault(line=error.lineno, message=f"{(error.message or 'this is no Jinja').rstrip('.')}.")]
    except (RecursionError, ValueError, OverflowError):
        return [Fault(line=1, message="this Jinja is too long or too deeply nested; write it more simply.")]
    return sorted(judge.faults, key=lambda fault: fault.line)


class _ContentJudge:
    def __init__(self, variables: Mapping[str, frozenset[str]], only_printed: Sequence[str]) -> None:
        self._variables = variables
        self._only_printed = only_printed
        self._loop_names: set[str] = set()
        self.faults: list[Fault] = []

    def look(self, node: nodes.Node, *, printed: bool) -> None:
        """Judge `node` and all below it; `printed` where its value goes straight into the letter."""
        match node:
            case nodes.Name(ctx="load"):
                self._look_at_name(node)
            case nodes.Getattr():
                self._look_at_attribute(node, printed=printed)
            case nodes.For():
                self._look_at_loop(node)
            case _:
                message = _refusal(node)
                if message is not None:
                    self._refuse(node, message)
                    return
                for child in node.iter_child_nodes():
                    self.look(child, printed=isinstance(node, nodes.Output))

    def _refuse(self, node: nodes.Node, message: str) -> None:
        # A scope has no line of its own; what it holds has.
        line = node.lineno or next((child.lineno for child in node.iter_child_nodes() if child.lineno), 1)
        self.faults.append(Fault(line=line, message=f"{message}."))

    def _look_at_name(self, node: nodes.Name) -> None:
        if node.name in self._loop_names:
            return
        attributes = self._variables.get(node.name)
        if attributes is None:
            self._refuse(node, f"there is no {node.name!r}; there are {', '.join(self._all_names())}")
        elif attributes:
            choice = ", ".join(self._full(node.name))
            self._refuse(node, f"{node.name!r} cannot be used alone; write one of {choice}")

    def _look_at_attribute(self, node: nodes.Getattr, *, printed: bool) -> None:
        owner = node.node
        if not isinstance(owner, nodes.Name) or owner.name in self._loop_names:
            self._refuse(node, f"there is no attribute {node.attr!r}")
            return
        full = f"{owner.name}.{node.attr}"
        attributes = self._variables.get(owner.name)
        if attributes is None:
            self._look_at_name(owner)
        elif node.attr not in attributes:
            self._refuse(node, f"there is no {full!r}; write {', '.join(self._full(owner.name))}")
        elif owner.name in self._only_printed and not printed:
            self._refuse(node, f"{full!r} can be printed and nothing else")

    def _look_at_loop(self, node: nodes.For) -> None:
        if node.recursive:
            self._refuse(node, "a recursive loop is not available")
        self.look(node.iter, printed=False)
        targets = [node.target] if isinstance(node.target, nodes.Name) else node.target.find_all(nodes.Name)
        self._loop_names |= {target.name for target in targets}
        for child in (*node.body, *node.else_, *([node.test] if node.test else [])):
            self.look(child, printed=False)

    def _full(self, name: str) -> list[str]:
        return [f"{name}.{attribute}" for attribute in sorted(self._variables[name])] or [name]

    def _all_names(self) -> list[str]:
        return [full for name in self._variables for full in self._full(name)]


def _refusal(node: nodes.Node) -> str | None:
    """Why a letter may not hold this kind of node, or None where it may."""
    match node:
        case nodes.Filter() if node.name not in FILTER_NAMES:
            return f"there is no filter {node.name!r}; there are {', '.join(sorted(FILTER_NAMES))}"
        case nodes.Test() if node.name not in TEST_NAMES:
            return f"there is no test {node.name!r}; there are {', '.join(sorted(TEST_NAMES))}"
        case nodes.Const(value=int(value)) if abs(value) > NUMBER_LIMIT:
            return "this number is too large"
        case _ if isinstance(node, _CONTENT_NODES):
            return None
    return _IN_WORDS.get(type(node), f"{type(node).__name__.lower()} is not available in letters")
