"""What prompts print, and the filters that values pass through: bounded, and strict about what is not there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import Undefined

MAX_OUTPUT = 500_000
"""Most characters that a template, or one filter in it, may make."""


class PromptError(Exception):
    """A template that cannot be used, or cannot be rendered with what it was given; the text is for a person."""

    def __init__(self, *problems: str) -> None:
        super().__init__(" ".join(problems))
        self.problems = list(problems)


class Texts(list[Any]):
    """The results of a fan-out: printed as numbered lines, indexed and looped over like the list it is."""

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return Texts(found) if isinstance(index, slice) else found

    def __str__(self) -> str:
        lines = []
        for number, text in enumerate(self, start=1):
            head = f"{number}. "
            lines.append(head + as_text(text).replace("\n", "\n" + " " * len(head)))
        return "\n".join(lines)


def as_text(value: Any) -> str:
    """A value as it reads in a prompt: text as it is, nothing for null, everything else as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, Undefined):
        return str(value)  # raises, for it is a strict one
    if isinstance(value, Texts):
        return str(value)
    if value is None:
        return ""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        raise PromptError("Only texts, numbers, lists and mappings can be printed in a prompt.") from None


def _join(values: Any, separator: str = "", attribute: str | None = None) -> str:
    entries = values if isinstance(values, list | tuple) else [values]
    texts = []
    size = 0
    for entry in entries:
        text = as_text(entry.get(attribute, "") if attribute and isinstance(entry, Mapping) else entry)
        size += len(text) + len(separator)
        if size > MAX_OUTPUT:
            raise PromptError(f"The prompt grows beyond {MAX_OUTPUT:,} characters.")
        texts.append(text)
    return separator.join(texts)


def _tojson(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _truncate(value: Any, length: int = 255, end: str = "…") -> str:
    text = as_text(value)
    return text if len(text) <= length else text[: max(length - len(end), 0)] + end


def _round(value: Any, digits: int = 0) -> Any:
    if not 0 <= digits <= 9:
        raise PromptError("A number can be rounded to 0 to 9 decimals.")
    return round(value, digits) if digits else round(value)


def _default(value: Any, otherwise: Any = "", also_when_empty: bool = False) -> Any:
    return otherwise if isinstance(value, Undefined) or (also_when_empty and not value) else value


def _strict(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose input must exist and whose output is bounded."""

    def bounded(value: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(value, Undefined):
            str(value)  # raises, for it is a strict one
        made = function(value, *args, **kwargs)
        if isinstance(made, str) and len(made) > MAX_OUTPUT:
            raise PromptError(f"The prompt grows beyond {MAX_OUTPUT:,} characters.")
        return made

    return bounded


def _of_text(function: Callable[[str], Any]) -> Callable[..., Any]:
    return _strict(lambda value: function(as_text(value)))


FILTERS: dict[str, Callable[..., Any]] = {
    "capitalize": _of_text(str.capitalize),
    "default": _default,
    "first": _strict(lambda values: values[0] if values else ""),
    "int": _strict(lambda value: int(value)),
    "join": _strict(_join),
    "last": _strict(lambda values: values[-1] if values else ""),
    "length": _strict(len),
    "lower": _of_text(str.lower),
    "reverse": _strict(lambda values: values[::-1]),
    "round": _strict(_round),
    "sort": _strict(sorted),
    "title": _of_text(str.title),
    "tojson": _strict(_tojson),
    "trim": _of_text(str.strip),
    "truncate": _strict(_truncate),
    "unique": _strict(lambda values: Texts({_tojson(value): value for value in values}.values())),
    "upper": _of_text(str.upper),
    "wordcount": _of_text(lambda text: len(text.split())),
}
