"""The only place where Jinja that somebody else wrote is run.

Two walls, each enough for most of what has ever been tried on Jinja's sandbox:

- An operator's own text (`refuse_in_content`) may print and compare the variables that it is given. There are no
  calls, no attributes besides the documented ones, no arithmetic that can grow, no macros, imports or blocks. What is
  not on the list is refused when the file is read, with its line.
- A template may do more, within Jinja's immutable sandbox and below fixed bounds: of strings, of loops and
  calls together, and of what one rendering puts out.

Nothing of the program can be reached from either: the context holds strings, numbers, dicts and tuples only.
Source: Jinja advisories CVE-2016-10745, CVE-2019-10906, CVE-2024-56326, CVE-2025-27516.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NoReturn

from jinja2 import BaseLoader, StrictUndefined, Template, nodes
from jinja2.exceptions import SecurityError, TemplateSyntaxError
from jinja2.filters import FILTERS
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS
from jinja2.visitor import NodeTransformer
from markupsafe import Markup, escape

STRING_LIMIT = 100_000  # characters of any one string, items of any list
NUMBER_LIMIT = 10**12
STEP_LIMIT = 3_000  # turns of loops and calls in one rendering
OUTPUT_LIMIT = 400_000  # characters that one rendering may put out
SOURCE_LIMIT = 200_000  # characters of one template

FILTER_NAMES = (
    *("abs", "capitalize", "count", "d", "default", "e", "escape", "first", "int", "last", "length", "lower"),
    *("title", "trim", "upper"),
)
TEST_NAMES = (
    *("defined", "divisibleby", "eq", "equalto", "even", "false", "ge", "gt", "in", "le", "lt", "mapping", "ne", "none"),
    *("number", "odd", "sequence", "string", "true", "undefined", "==", "!=", "<", "<=", ">", ">="),
)
STRING_METHODS = frozenset({"lower", "upper", "strip", "startswith", "endswith"})
DICT_METHODS = frozenset({"items", "keys", "values", "get"})


class TooMuch(SecurityError):
    """A template asked for more than any letter needs."""


@dataclass(slots=True)
class _Budget:
    steps: int = STEP_LIMIT
    output: int = OUTPUT_LIMIT

    def spend_step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise TooMuch(f"it loops and calls more than {STEP_LIMIT} times")

    def spend_output(self, characters: int) -> None:
        self.output -= characters
        if self.output < 0:
            raise TooMuch(f"it puts out more than {OUTPUT_LIMIT} characters")


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

    def render_bounded(self, template: Template, context: Mapping[str, Any]) -> str:
        """The template's output; raises `TooMuch` beyond the bounds, else whatever Jinja raises."""
        budget = _Budget()
        token = _budget.set(budget)
        try:
            parts = []
            for part in template.generate(context):
                budget.spend_output(len(part))
                parts.append(part)
            return "".join(parts)
        finally:
            _budget.reset(token)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > SOURCE_LIMIT:
            raise TemplateSyntaxError(f"it is longer than {SOURCE_LIMIT} characters", 1, name, filename)
        tree = super()._parse(source, name, filename)
        bounded = _Bounder(name, filename).visit(tree)
        assert isinstance(bounded, nodes.Template)
        return bounded

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Only what is on the list: a few methods of strings and dicts, and Jinja's own loop and macro."""
        if not super().is_safe_attribute(obj, attr, value):
            return False
        if isinstance(obj, str):
            return attr in STRING_METHODS
        if isinstance(obj, dict):
            return attr in DICT_METHODS
        return type(obj).__module__ in {"jinja2.runtime", "jinja2.environment"}

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Refuse `format` altogether: its widths eat memory, and it was the way out of the sandbox three times."""
        if super().wrap_str_format(value) is not None:
            raise SecurityError("str.format is not available")
        return None

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: B902, N805
        """Call something from a template, counted."""
        budget = _budget.get()
        if budget is not None:
            budget.spend_step()
        result = super().call(__context, __obj, *args, **kwargs)
        if isinstance(result, str):
            _check_size(len(result))
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Calculate with numbers, and join strings, within the bounds."""
        if isinstance(left, Undefined) or isinstance(right, Undefined):
            return super().call_binop(context, operator, left, right)  # raises, naming the variable
        if isinstance(left, (int, float)) and isinstance(right, (int, float)):
            if operator == "**":
                raise TooMuch("powers are not available")
            if abs(left) > NUMBER_LIMIT or abs(right) > NUMBER_LIMIT:
                raise TooMuch(f"it calculates with numbers beyond {NUMBER_LIMIT}")
            return super().call_binop(context, operator, left, right)
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            _check_size(len(left) + len(right))
            return super().call_binop(context, operator, left, right)
        raise SecurityError(f"{operator!r} is for numbers only")


class _Bounder(NodeTransformer):
    """Puts a counter into each loop and joining, and refuses what would switch escaping off."""

    def __init__(self, name: str | None, filename: str | None) -> None:
        self._name = name
        self._filename = filename

    def visit_For(self, node: nodes.For) -> nodes.For:
        node = self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "_turns", [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        node = self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(parts, "_joined", [], [], None, None, lineno=node.lineno)

    def visit_EvalContextModifier(self, node: nodes.EvalContextModifier) -> NoReturn:
        raise TemplateSyntaxError("escaping cannot be switched off", node.lineno, self._name, self._filename)

    def visit_ScopedEvalContextModifier(self, node: nodes.ScopedEvalContextModifier) -> NoReturn:
        self.visit_EvalContextModifier(node)


def _check_size(size: int) -> None:
    if size > STRING_LIMIT:
        raise TooMuch(f"it makes a string of more than {STRING_LIMIT} characters")


def _counted_output(value: Any) -> Any:
    """Count what an expression is about to put out (Jinja's `finalize`)."""
    budget = _budget.get()
    if budget is not None and isinstance(value, str):
        budget.spend_output(len(value))
    return value


def _turns(items: Iterable[Any]) -> Iterator[Any] | Sequence[Any]:
    if isinstance(items, Undefined):
        iter(items)  # raises, naming the variable
    # A plain sequence stays one, so that `loop.length` and `loop.last` work without reading ahead.
    turns = items if isinstance(items, (tuple, list)) else tuple(items)
    budget = _budget.get()
    if budget is not None:
        for _ in turns:
            budget.spend_step()
    return turns


def _joined(parts: Sequence[Any]) -> str:
    if any(isinstance(part, Undefined) for part in parts):
        return "".join(str(part) for part in parts)  # raises, naming the variable
    _check_size(sum(len(str(part)) for part in parts))
    if any(hasattr(part, "__html__") for part in parts):
        return Markup("").join(escape(part) for part in parts)
    return "".join(str(part) for part in parts)


_CONTENT_NODES: tuple[type[nodes.Node], ...] = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Getattr),
    *(nodes.If, nodes.For, nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not),
    *(nodes.Filter, nodes.Test, nodes.Tuple, nodes.List, nodes.Add, nodes.Sub, nodes.Neg, nodes.Pos),
)
_IN_WORDS: dict[type[nodes.Node], str] = {
    nodes.Call: "calls like name() are not available; print a variable such as {{ letter.number }}",
    nodes.Getitem: "square brackets are not available; write a dot, as in {{ letter.number }}",
    nodes.Slice: "square brackets are not available",
    nodes.Concat: "~ is not available; write the words and the holes one after the other",
    nodes.Include: "a letter cannot include other files; write the text itself",
    nodes.Import: "a letter cannot import other files; write the text itself",
    nodes.FromImport: "a letter cannot import other files; write the text itself",
    nodes.Extends: "a letter cannot extend other files; the layout is added by itself",
    nodes.Assign: "{% set %} is not available; write the text itself",
    nodes.AssignBlock: "{% set %} is not available; write the text itself",
    nodes.Macro: "macros belong into templates, not into letters",
}

CONTENT_FILTERS = frozenset(FILTER_NAMES)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something in an operator's text that is refused; `line` is counted from 1 within that text."""

    line: int
    message: str


def refuse_in_content(
    environment: LetterEnvironment, source: str, variables: Mapping[str, frozenset[str]], *, whole: Sequence[str]
) -> list[Fault]:
    """What of an operator's text is not allowed, in the order of its lines; empty where all is well.

    Args:
        variables: the names that it may use, with their attributes; a name without attributes is printed itself.
        whole: names whose attributes may be printed, but not compared or changed.
    """
    try:
        # The base class parses: the bounds belong into what is run, and would only be in the way here.
        tree = super(LetterEnvironment, environment)._parse(source, None, None)
    except TemplateSyntaxError as error:
        return [Fault(line=error.lineno, message=f"{(error.message or 'this is no Jinja').rstrip('.')}.")]
    except RecursionError:
        return [Fault(line=1, message="brackets are nested too deeply.")]
    judge = _ContentJudge(variables, whole)
    try:
        judge.look(tree, printed=False)
    except RecursionError:
        return [Fault(line=1, message="brackets are nested too deeply.")]
    return sorted(judge.faults, key=lambda fault: fault.line)


class _ContentJudge:
    def __init__(self, variables: Mapping[str, frozenset[str]], whole: Sequence[str]) -> None:
        self._variables = variables
        self._whole = whole
        self._loop_names: set[str] = set()
        self.faults: list[Fault] = []

    def _refuse(self, node: nodes.Node, message: str) -> None:
        self.faults.append(Fault(line=node.lineno, message=f"{message}."))

    def look(self, node: nodes.Node, *, printed: bool) -> None:
        """Judge `node` and all below it; `printed` where its value goes straight into the letter."""
        match node:
            case nodes.Name(ctx="load"):
                self._look_at_name(node)
            case nodes.Getattr():
                self._look_at_attribute(node, printed=printed)
            case nodes.For():
                self._look_at_loop(node)
            case nodes.Filter() if node.name not in CONTENT_FILTERS:
                self._refuse(node, f"there is no filter {node.name!r}; there are {', '.join(sorted(CONTENT_FILTERS))}")
            case nodes.Test() if node.name not in TEST_NAMES:
                self._refuse(node, f"there is no test {node.name!r}")
            case nodes.Const() if isinstance(node.value, int) and abs(node.value) > NUMBER_LIMIT:
                self._refuse(node, "the number is too big")
            case _ if not isinstance(node, _CONTENT_NODES):
                words = next((text for kind, text in _IN_WORDS.items() if isinstance(node, kind)), None)
                self._refuse(node, words or f"{type(node).__name__.lower()} is not available in letters")
            case _:
                for child in node.iter_child_nodes():
                    self.look(child, printed=isinstance(node, nodes.Output))

    def _look_at_name(self, node: nodes.Name) -> None:
        if node.name in self._loop_names:
            return
        attributes = self._variables.get(node.name)
        if attributes is None:
            self._refuse(node, f"there is no {node.name!r}; there are {', '.join(self._all_names())}")
        elif attributes:
            self._refuse(node, f"{node.name!r} cannot be used alone; write one of {', '.join(self._full(node.name))}")

    def _look_at_attribute(self, node: nodes.Getattr, *, printed: bool) -> None:
        owner = node.node
        if not isinstance(owner, nodes.Name) or owner.name in self._loop_names:
            self._refuse(node, f"there is no attribute {node.attr!r}")
            return
        attributes = self._variables.get(owner.name)
        if attributes is None:
            self._look_at_name(owner)
        elif node.attr not in attributes:
            choice = ", ".join(self._full(owner.name)) if attributes else owner.name
            self._refuse(node, f"there is no '{owner.name}.{node.attr}'; write {choice}")
        elif owner.name in self._whole and not printed:
            self._refuse(node, f"'{owner.name}.{node.attr}' can be printed and nothing else")

    def _look_at_loop(self, node: nodes.For) -> None:
        if node.recursive:
            self._refuse(node, "a recursive loop is not available")
        self.look(node.iter, printed=False)
        names = {target.name for target in node.target.find_all(nodes.Name)} | (
            {node.target.name} if isinstance(node.target, nodes.Name) else set()
        )
        self._loop_names |= names
        for child in (*node.body, *node.else_, *([node.test] if node.test else [])):
            self.look(child, printed=False)

    def _full(self, name: str) -> list[str]:
        return [f"{name}.{attribute}" for attribute in sorted(self._variables[name])]

    def _all_names(self) -> list[str]:
        return [full for name in self._variables for full in (self._full(name) or [name])]
