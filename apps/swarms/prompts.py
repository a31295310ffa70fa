"""Prompt templates: a small, safe part of Jinja in which a template can neither call anything nor run away.

A template sees ``item`` (one entry of ``for_each``) and ``results.STEP`` (what the steps it needs came to). It may
print them, pass them through the filters of ``FILTERS``, branch on them and loop over them. Everything else is refused
when the template is compiled: calls, assignments, macros, imports, arithmetic that could build something huge. What a
template prints, and how often its loops turn, is bounded. Results are data: they are never read as templates.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, Undefined, meta, nodes, pass_context
from jinja2.environment import Template
from jinja2.exceptions import SecurityError, UndefinedError
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import SandboxedEnvironment

from apps.swarms.prompt_values import FILTERS, MAX_OUTPUT, PromptError, Texts, as_text

__all__ = ["FILTERS", "PromptError", "Rehearsal", "Texts", "Uses", "check", "render", "uses"]

MAX_WORK = 1_000_000
"""Most parts of a template that one rendering may evaluate: its own, and those in its loops at every turn."""
MAX_NODES = 5_000
"""Most parts (expressions, texts, branches) of a template."""


@dataclass(frozen=True, slots=True)
class Uses:
    """What a template reads: ``item``, and the results of which steps."""

    item: bool
    results: frozenset[str]


def uses(template: str) -> Uses:
    """What a template reads. Raises PromptError with everything that is wrong with it."""
    return _compiled(template).uses


def check(template: str, names: Collection[str]) -> list[str]:
    """What is wrong with a template that may read ``names`` ("item", "results.gather"); empty when nothing is."""
    try:
        found = uses(template)
    except PromptError as error:
        return error.problems
    read = [f"results.{name}" for name in sorted(found.results)] + (["item"] if found.item else [])
    return [f"It reads {name}, which is not there." for name in read if name not in names]


def render(template: str, *, item: Any = None, results: Mapping[str, Any] | None = None) -> str:
    """The prompt's text. ``results`` maps step names to a text, or to a list of texts where the step was a fan-out.

    Raises PromptError when the template is wrong, reads what is not there, or makes more than ``MAX_OUTPUT``
    characters.
    """
    return _rendered(_compiled(template), item, results or {}, _Work(MAX_WORK))


class Rehearsal:
    """Renders prompts ahead of time, to find items that a template cannot use; its work is bounded over all of them."""

    def __init__(self) -> None:
        self._work = _Work(MAX_WORK)

    def problem(self, template: str, item: Any) -> str:
        """What is wrong with rendering the template for this item; empty when nothing is, or the work is used up."""
        try:
            _rendered(_compiled(template), item, {}, self._work)
        except _WorkUsedUp:
            return ""
        except PromptError as error:
            return str(error)
        return ""


def _rendered(compiled: _Compiled, item: Any, results: Mapping[str, Any], work: _Work) -> str:
    given = {name: _wrapped(value) for name, value in results.items()}
    pieces: list[str] = []
    size = 0
    try:
        work.spend(compiled.parts)
        for piece in compiled.template.generate({"item": item, "results": given, _WORK: work}):
            size += len(piece)
            if size > MAX_OUTPUT:
                raise PromptError(f"The prompt grows beyond {MAX_OUTPUT:,} characters.")
            pieces.append(piece)
    except PromptError:
        raise
    except Exception as error:  # whatever goes wrong here, goes wrong in the template
        raise PromptError(_sentence(error)) from error
    work.spend(size // 100)
    return "".join(pieces)


# -- values ----------------------------------------------------------------------------------------------------------


def _wrapped(value: Any) -> Any:
    return Texts(value) if isinstance(value, list) and not isinstance(value, Texts) else value


_WORK = " work"  # no identifier, so that no template can read or hide it


class _WorkUsedUp(PromptError):
    pass


@dataclass(slots=True)
class _Work:
    """How many parts of templates may still be evaluated."""

    left: int

    def spend(self, parts: int) -> None:
        self.left -= parts
        if self.left < 0:
            raise _WorkUsedUp("The loops of the prompt turn too often.")


@pass_context
def _counted(context: Context, values: Any, parts: int) -> list[Any]:
    """What a loop goes over. Only lists and the keys of mappings: characters of a text are no entries."""
    if isinstance(values, Undefined):
        str(values)  # raises, for it is a strict one
    if not isinstance(values, list | tuple | Mapping):
        raise PromptError("A loop needs a list; this is a single value. Is the step a fan-out (for_each)?")
    context[_WORK].spend(parts * len(values))
    return list(values)


TESTS = {"defined", "undefined", "none", "string", "number", "mapping", "odd", "even", "in", "true", "false"}

# -- compiling -------------------------------------------------------------------------------------------------------

_ALLOWED: tuple[type[nodes.Node], ...] = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.Name,
    nodes.Const,
    nodes.Getattr,
    nodes.Getitem,
    nodes.Slice,
    nodes.Filter,
    nodes.Test,
    nodes.If,
    nodes.For,
    nodes.CondExpr,
    nodes.Compare,
    nodes.Operand,
    nodes.And,
    nodes.Or,
    nodes.Not,
    nodes.Neg,
    nodes.Keyword,
    nodes.List,
    nodes.Tuple,
)
_WORDS: dict[type[nodes.Node], str] = {
    nodes.Call: "call functions",
    nodes.Assign: "assign (set)",
    nodes.AssignBlock: "assign (set)",
    nodes.Macro: "define macros",
    nodes.CallBlock: "call macros",
    nodes.Import: "import",
    nodes.FromImport: "import",
    nodes.Include: "include",
    nodes.Extends: "extend other templates",
    nodes.Block: "define blocks",
    nodes.FilterBlock: "filter blocks",
    nodes.With: "use with",
    nodes.Concat: "join with ~ (write the parts side by side instead)",
    nodes.Dict: "write mappings",
    nodes.BinExpr: "calculate",
}


class _Sandbox(SandboxedEnvironment):
    """Looks names up in data only: entries of mappings and lists, and what a loop tells about itself."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, LoopContext) and not attribute.startswith("_"):
            return getattr(obj, attribute, self.undefined(f"loop has no {attribute!r}"))
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, Undefined):
            str(obj)  # raises, for it is a strict one
        if isinstance(obj, Mapping):
            if argument in obj:
                return obj[argument]
            keys = ", ".join(map(repr, list(obj)[:10])) or "nothing"
            return self.undefined(f"The prompt reads {argument!r} of a mapping that has {keys}.")
        if isinstance(obj, list | tuple | str) and isinstance(argument, int | slice):
            try:
                return obj[argument]
            except IndexError:
                return self.undefined(f"The prompt reads entry {argument} of {len(obj)} (the first is 0).")
        kind = "a text" if isinstance(obj, str) else "a list" if isinstance(obj, list | tuple) else "a single value"
        return self.undefined(f"The prompt reads {argument!r} of {kind}.")


_environment = _Sandbox(undefined=StrictUndefined, finalize=as_text, autoescape=False, keep_trailing_newline=True)
_environment.filters = {**FILTERS, "_counted": _counted}
_environment.tests = {name: test for name, test in _environment.tests.items() if name in TESTS}
_environment.globals = {}


@dataclass(frozen=True, slots=True)
class _Compiled:
    template: Template
    uses: Uses
    parts: int


def _compiled(source: str) -> _Compiled:
    found = _compiled_or_wrong(source)
    if isinstance(found, _Compiled):
        return found
    raise PromptError(*found)


@lru_cache(maxsize=1024)
def _compiled_or_wrong(source: str) -> _Compiled | tuple[str, ...]:
    """A template, or what is wrong with it: of ten thousand tasks many have the same prompt."""
    try:
        return _compile(source)
    except PromptError as error:
        return tuple(error.problems)


def _compile(source: str) -> _Compiled:
    try:
        tree = _environment.parse(source)
        parts = sum(1 for _ in _walk(tree))
        if parts > MAX_NODES:
            raise PromptError(f"It has more than {MAX_NODES:,} parts.")
        found = _examined(tree)
        code = _environment.compile(tree)
    except TemplateSyntaxError as error:
        line = f" in line {error.lineno}" if "\n" in source else ""
        raise PromptError(f"It is not a valid template{line}: {_sentence(error)}") from error
    except PromptError:
        raise
    except Exception as error:  # Python's own compiler has limits too, with an exception for each
        raise PromptError("It is nested too deeply.") from error
    return _Compiled(Template.from_code(_environment, code, {}), found, parts)


def _examined(tree: nodes.Template) -> Uses:
    """What the tree reads; its loops are made to count their turns. Raises PromptError for all that is not allowed."""
    problems: dict[str, None] = {}
    steps: set[str] = set()
    named: set[int] = set()  # the Name nodes of results that are followed by a step's name
    everything = list(_walk(tree))
    for node in everything:
        if not isinstance(node, _ALLOWED):
            problems[f"A prompt cannot {_word(node)}."] = None
        elif isinstance(node, nodes.Filter) and node.name not in FILTERS:
            problems[f"There is no filter {node.name!r}; there are {', '.join(FILTERS)}."] = None
        elif isinstance(node, nodes.Test) and node.name not in TESTS:
            problems[f"There is no test {node.name!r}; there are {', '.join(sorted(TESTS))}."] = None
        elif isinstance(node, nodes.List | nodes.Tuple) and not _is_target(node) and not _is_constant(node):
            problems["A list in a prompt can hold only texts and numbers."] = None
        elif isinstance(node, nodes.For):
            if node.recursive:
                problems["A loop cannot be recursive."] = None
            parts = nodes.Const(1 + sum(1 for inner in node.body for _ in _walk(inner)))
            node.iter = nodes.Filter(node.iter, "_counted", [parts], [], None, None, lineno=node.lineno)
        elif isinstance(node, nodes.Name) and (node.name == "self" or (node.name == "results" and _is_target(node))):
            problems[f"The name {node.name!r} cannot be used like this."] = None
        if isinstance(node, nodes.Getattr | nodes.Getitem) and _is_results(node.node):
            name = node.attr if isinstance(node, nodes.Getattr) else _constant(node.arg)
            if isinstance(name, str):
                steps.add(name)
                named.add(id(node.node))
    if any(_is_results(node) and id(node) not in named for node in everything):
        problems["Write results.NAME, with the name of a step it needs."] = None
    if problems:
        raise PromptError(*problems)
    free = meta.find_undeclared_variables(tree)
    for name in sorted(free - {"item", "results"}):
        problems[f"It reads {name!r}, which is not there: a prompt sees item and results."] = None
    if problems:
        raise PromptError(*problems)
    return Uses("item" in free, frozenset(steps))


def _walk(node: nodes.Node) -> Iterator[nodes.Node]:
    waiting = [node]
    while waiting:
        found = waiting.pop()
        yield found
        waiting.extend(found.iter_child_nodes())


def _word(node: nodes.Node) -> str:
    return next((word for kind, word in _WORDS.items() if isinstance(node, kind)), f"use {type(node).__name__.lower()}")


def _is_results(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Name) and node.name == "results" and node.ctx == "load"


def _constant(node: nodes.Node) -> Any:
    return node.value if isinstance(node, nodes.Const) else None


def _is_target(node: nodes.Node) -> bool:
    return getattr(node, "ctx", "load") != "load"


def _is_constant(node: nodes.List | nodes.Tuple) -> bool:
    return all(isinstance(entry, nodes.Const) for entry in node.items)


def _sentence(error: BaseException) -> str:
    """The error's text, without the names of Python's types in it where that can be helped."""
    if isinstance(error, UndefinedError | SecurityError | TemplateSyntaxError):
        return str(error.message)
    if isinstance(error, RecursionError):
        return "What it prints is nested too deeply."
    if isinstance(error, MemoryError):
        return "What it makes is too large."
    return f"A filter or a comparison does not fit its value: {error}."
