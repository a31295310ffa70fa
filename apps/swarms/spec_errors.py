"""Errors of a spec: where in the document, and what to do, in words for a person."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import ErrorDetails

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class SpecError:
    """One thing that is wrong. ``path`` is like ``tasks[1].needs[0]``; empty when it is the document as a whole.

    ``code`` is for programs and stays; ``message`` is for people. ``line`` counts from 1; None where it is not known.
    """

    path: str
    message: str
    code: str
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


@dataclass(frozen=True, slots=True)
class Found:
    """An error that was found, before the document's lines are looked up."""

    path: Path
    message: str
    code: str


class SpecInvalid(Exception):
    """A spec that cannot be run; ``errors`` has everything that is wrong with it, in the order of the document."""

    def __init__(self, errors: list[SpecError]) -> None:
        super().__init__("\n".join(map(str, errors)))
        self.errors = errors


def path_text(path: Path) -> str:
    """``("tasks", 1, "needs", 0)`` as ``tasks[1].needs[0]``; keys that are no plain words stand in quotes."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[\w-]{1,100}", part):
            text += f".{part}" if text else part
        else:
            shown = part if len(part) <= 60 else part[:59] + "…"
            text += f"[{shown!r}]"
    return text


def order_in(data: Any, path: Path) -> list[tuple[int, int]]:
    """Sorts errors as they stand in the document; what is missing comes after what its mapping has."""
    places: list[tuple[int, int]] = []
    for part in path:
        if isinstance(data, Mapping):
            keys = list(data) if len(data) <= 1000 else []
            places.append((0, keys.index(part)) if part in keys else (1, 0))
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int):
            places.append((0, part))
            data = data[part] if part < len(data) else None
        else:
            break
    return places


class Suggestions:
    """Ends a sentence about an unknown name; looks for what was meant a bounded number of times, for it is slow."""

    def __init__(self, left: int = 50, among: int = 500) -> None:
        self._left, self._among = left, among

    def end(self, sentence: str, name: str, known: Collection[str], *, but: object = None) -> str:
        """The sentence, with "; did you mean 'gather'?" or, when there are few, with what there is (``but`` one)."""
        self._left -= 1
        if self._left >= 0:
            others = [other for other in itertools.islice(known, self._among) if other not in (name, but)]
            close = difflib.get_close_matches(name[:100], others, n=1)
            if close:
                return f"{sentence}; did you mean {close[0]!r}?"
            if 0 < len(known) <= 10 and others:
                return f"{sentence}; there is {listed(others)}."
        return f"{sentence}."


def listed(names: Iterable[str], word: str = "and") -> str:
    """ "a", "a and b", "a, b and c"."""
    every = list(names)
    return f" {word} ".join(filter(None, [", ".join(every[:-1]), every[-1]])) if every else ""


# -- what pydantic found ---------------------------------------------------------------------------------------------


def explain(error: ErrorDetails, known_keys: Mapping[Path, Collection[str]], suggestions: Suggestions) -> Found:
    """A pydantic error in our words. ``known_keys`` has the keys of each kind of mapping, by its path's shape."""
    kind, ctx, value = error["type"], error.get("ctx") or {}, error.get("input")
    path: Path = tuple(part for part in error["loc"] if part != "[key]")
    message, code = _message(kind, ctx, value, is_key="[key]" in error["loc"])
    if kind == "extra_forbidden":
        name = str(path[-1])
        keys = known_keys.get(tuple("*" if i % 2 else part for i, part in enumerate(path[:-1])), ())
        message = suggestions.end("There is no such key here", name, keys)
    message = message[:1].upper() + message[1:]
    return Found(path, message if message.endswith((".", "?")) else message + ".", code)


def _message(kind: str, ctx: Mapping[str, Any], value: Any, *, is_key: bool) -> tuple[str, str]:
    match kind:
        case "missing":
            return "is missing", "required"
        case "extra_forbidden":
            return "", "unknown_key"
        case "string_type":
            quotes = f"; write it in quotes: '{value}'" if isinstance(value, int | float) else ""
            return f"must be text, not {_kind(value)}{quotes}", "wrong_type"
        case "int_type" | "int_from_float" | "int_parsing":
            return f"must be a whole number, not {_kind(value)}", "wrong_type"
        case "float_type":
            return f"must be a number, not {_kind(value)}", "wrong_type"
        case "bool_type":
            return f"must be true or false, not {_kind(value)}", "wrong_type"
        case "list_type":
            return f"must be a list, not {_kind(value)}", "wrong_type"
        case "dict_type" | "model_type" | "model_attributes_type":
            return f"must be a mapping (key: value), not {_kind(value)}", "wrong_type"
        case "literal_error":
            options = str(ctx.get("expected", "")).replace("'", "").replace(" or ", ", ").split(", ")
            return f"must be {listed(options, 'or')}, not {_shown(value)}", "not_one_of"
        case "greater_than" | "greater_than_equal":
            bound = ctx.get("gt", ctx.get("ge"))
            return f"must be {'above' if kind == 'greater_than' else 'at least'} {_number(bound)}", "out_of_range"
        case "less_than" | "less_than_equal":
            bound = ctx.get("lt", ctx.get("le"))
            return f"must be {'below' if kind == 'less_than' else 'at most'} {_number(bound)}", "out_of_range"
        case "string_too_short":
            return "must not be empty", "too_short"
        case "string_too_long":
            long = f"; it has {len(value):,}" if isinstance(value, str) else ""
            return f"must have at most {_number(ctx.get('max_length'))} characters{long}", "too_long"
        case "too_short":
            return "must not be empty", "too_short"
        case "too_long":
            return f"can have at most {_number(ctx.get('max_length'))} entries", "too_long"
        case "string_pattern_mismatch":
            what = "a name has letters, digits, - and _, and starts with a letter or digit"
            return (what if is_key else "does not have the right form"), "invalid_name"
        case "value_error":
            return str(ctx.get("error", "cannot be used")), "invalid_value"
    return f"cannot be used: {_shown(value)}", "invalid_value"


def _kind(value: Any) -> str:
    match value:
        case None:
            return "empty"
        case bool():
            return "true or false"
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text {_shown(value)}"
        case list():
            return "a list"
        case Mapping():
            return "a mapping"
    return type(value).__name__


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _number(value: Any) -> str:
    return f"{int(value) if value == int(value) else value:,}"
