"""Reading YAML and JSON text that strangers wrote: plain data, bounded, with the place of every fault.

YAML is read by the rules of version 1.2: only true and false are booleans (``no`` is a text), dates are texts, keys are
texts. Anchors, aliases and merge keys work, but count in full, so a small text cannot become a huge document.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
    StreamStartEvent,
)

MAX_BYTES = 2_000_000
MAX_DEPTH = 20
MAX_VALUES = 200_000

Path = tuple[str | int, ...]

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT = re.compile(r"[-+]?[0-9]{1,30}\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]{1,30}(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?\Z")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_TAGS = {
    "tag:yaml.org,2002:str": str,
    "tag:yaml.org,2002:int": int,
    "tag:yaml.org,2002:float": float,
}


class Unreadable(Exception):
    """A document that cannot be read. ``path`` is where in the document; empty when it is the text as a whole."""

    def __init__(self, message: str, code: str, path: Path = ()) -> None:
        super().__init__(message)
        self.message, self.code, self.path = message, code, path


@dataclass(slots=True)
class _Anchor:
    value: Any
    values: int  # how many values it stands for


@dataclass(slots=True)
class Document:
    """A document that was read: its data, keys that were there twice, and the line of each value (YAML only)."""

    data: Any
    faults: list[Unreadable] = field(default_factory=list)
    lines: dict[Path, int] = field(default_factory=dict)

    def line(self, path: Path) -> int | None:
        """The line of the value at a path, or of the nearest one around it; None when that is not known."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path) or None if path else None


def load(text: str) -> Document:
    """Reads a YAML or JSON text. Raises Unreadable at a fault that stops the reading."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise Unreadable("The document holds half of a surrogate pair, which is no character.", "syntax") from None
    if size > MAX_BYTES:
        raise Unreadable(f"The document is larger than {MAX_BYTES // 1_000_000} MB.", "too_large")
    data = _json(text) if text.lstrip()[:1] == "{" else None
    return _Composer(text).document() if data is None else Document(data)


def faults(data: Any) -> list[Unreadable]:
    """What cannot be kept or is too much in data from anywhere (a parsed document, or JSON that came by the API)."""
    found = []
    characters = 0
    for count, (path, value) in enumerate(_walk(data)):
        if count >= MAX_VALUES:
            return [Unreadable(f"The document holds more than {MAX_VALUES:,} values.", "too_large")]
        if len(path) > MAX_DEPTH:
            return [Unreadable(f"The document is nested more than {MAX_DEPTH} levels deep.", "too_large", path[:3])]
        if isinstance(value, str):
            problem = _unprintable(value)
            characters += len(value)
            if characters > MAX_BYTES:  # only aliases get so far
                message = f"With its aliases written out, the document is larger than {MAX_BYTES // 1_000_000} MB."
                return [Unreadable(message, "too_large")]
        elif isinstance(value, float) and not math.isfinite(value):
            problem = "must be a finite number"
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            problem = "is a number beyond 64 bits; write it in quotes"
        elif isinstance(value, Mapping):
            bad = next((key for key in value if not isinstance(key, str) or _unprintable(key)), None)
            problem = "" if bad is None else f"has a key that is not a plain text: {bad!r}"
        else:
            problem = "" if value is None or isinstance(value, bool | int | float | list) else "is not JSON"
        if problem:
            found.append(Unreadable(problem, "invalid_value", path))
    return found


def _walk(data: Any) -> Iterator[tuple[Path, Any]]:
    waiting: list[tuple[Path, Any]] = [((), data)]
    while waiting:
        path, value = waiting.pop()
        yield path, value
        if len(path) <= MAX_DEPTH:
            if isinstance(value, Mapping):
                waiting.extend(((*path, str(key)), entry) for key, entry in value.items())
            elif isinstance(value, list):
                waiting.extend(((*path, index), entry) for index, entry in enumerate(value))


def _unprintable(text: str) -> str:
    if "\0" in text:
        return "holds a NUL character, which cannot be kept"
    return "" if text.isascii() or _encodes(text) else "holds half of a surrogate pair, which is no character"


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# -- JSON ------------------------------------------------------------------------------------------------------------


class _TwiceThere(Exception):
    """A key is there twice in one mapping."""


def _json(text: str) -> Any:
    """The data of a JSON text; None for what the YAML reader should look at: YAML in braces, or faulty JSON."""

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise _TwiceThere
        return found

    try:
        return json.loads(text, object_pairs_hook=mapping)
    except (json.JSONDecodeError, _TwiceThere):
        return None
    except (RecursionError, ValueError):
        raise Unreadable("The document is nested too deeply, or holds a number too long.", "too_large") from None


# -- YAML ------------------------------------------------------------------------------------------------------------


class _Composer:
    """Builds plain data from the events of the YAML parser, in one pass and without recursion into libyaml's trees."""

    def __init__(self, text: str) -> None:
        self._events: Iterator[Event] = yaml.parse(text, Loader=_Loader)
        self._anchors: dict[str, _Anchor] = {}
        self._count = 0
        self._read = Document(None)

    def document(self) -> Document:
        try:
            for event in self._events:
                if isinstance(event, StreamStartEvent | DocumentStartEvent):
                    continue
                if isinstance(event, StreamEndEvent):
                    raise Unreadable("The document is empty.", "empty")
                self._read.data = self._value(event, ())
                next(self._events)  # the document's end
                if not isinstance(next(self._events), StreamEndEvent):
                    raise Unreadable("There is more than one document in it (---); give one at a time.", "syntax")
                break
        except yaml.YAMLError as error:
            raise Unreadable(_place(error), "syntax") from None
        except RecursionError:
            raise Unreadable("The document is nested too deeply.", "too_large") from None
        return self._read

    def _value(self, event: Event, path: Path) -> Any:
        if isinstance(event, AliasEvent):
            anchor = self._anchors.get(event.anchor or "")
            if anchor is None:
                raise self._fault(event, f"*{event.anchor} stands for nothing that was written before it.", path)
            self._more(anchor.values)
            return anchor.value
        self._read.lines[path] = event.start_mark.line + 1 if event.start_mark else 0
        before = self._count
        self._more(1)
        if len(path) > MAX_DEPTH:
            raise Unreadable(f"The document is nested more than {MAX_DEPTH} levels deep.", "too_large", path[:3])
        value: Any
        if isinstance(event, ScalarEvent):
            value = self._scalar(event, path)
        elif isinstance(event, SequenceStartEvent):
            self._check_tag(event, "tag:yaml.org,2002:seq", path)
            value = []
            while not isinstance(inner := next(self._events), SequenceEndEvent):
                value.append(self._value(inner, (*path, len(value))))
        else:
            value = self._mapping(event, path)
        if anchor_name := getattr(event, "anchor", None):
            self._anchors[anchor_name] = _Anchor(value, self._count - before)
        return value

    def _mapping(self, event: Event, path: Path) -> dict[str, Any]:
        assert isinstance(event, MappingStartEvent)
        self._check_tag(event, "tag:yaml.org,2002:map", path)
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        while not isinstance(inner := next(self._events), MappingEndEvent):
            if isinstance(inner, AliasEvent):
                key = self._value(inner, path)
            elif isinstance(inner, ScalarEvent):
                key = inner.value
            else:
                key = None
            if not isinstance(key, str):
                raise self._fault(inner, "A key must be a plain text.", path)
            value = self._value(next(self._events), (*path, key))
            if key == "<<" and isinstance(inner, ScalarEvent) and inner.implicit[0]:
                for source in value if isinstance(value, list) else [value]:
                    if not isinstance(source, dict):
                        raise self._fault(inner, "<< takes a mapping, or a list of them.", path)
                    merged = {**source, **merged}
            elif key in own:
                self._read.faults.append(
                    self._fault(inner, f"The key {key!r} is there twice.", (*path, key), "duplicate_key")
                )
            else:
                own[key] = value
        return {**merged, **own} if merged else own

    def _scalar(self, event: ScalarEvent, path: Path) -> Any:
        text = event.value
        if event.tag and event.tag != "!":
            kind = _TAGS.get(event.tag)
            if kind is None:
                raise self._fault(event, f"Tags such as {event.tag} are not supported.", path)
            try:
                return kind(text)
            except ValueError:
                raise self._fault(event, f"{text!r} is not of the type of its tag.", path) from None
        if not event.implicit[0]:
            return text  # in quotes, or a block
        if text in _WORDS:
            return _WORDS[text]
        if _INT.match(text):
            return int(text)
        if _FLOAT.match(text):
            return float(text)
        return float(text.replace(".", "", 1)) if text.lower().lstrip("+-") in (".inf", ".nan") else text

    def _check_tag(self, event: Event, expected: str, path: Path) -> None:
        tag = getattr(event, "tag", None)
        if tag and tag not in ("!", expected):
            raise self._fault(event, f"Tags such as {tag} are not supported.", path)

    def _more(self, values: int) -> None:
        self._count += values
        if self._count > MAX_VALUES:
            raise Unreadable(f"The document holds more than {MAX_VALUES:,} values.", "too_large")

    def _fault(self, event: Event, message: str, path: Path, code: str = "syntax") -> Unreadable:
        mark = event.start_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        return Unreadable(message + where, code, path)


def _place(error: yaml.YAMLError) -> str:
    """The parser's message, with line and column."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
    where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    hint = ""
    if mark and "cannot start any token" in problem:
        hint = " (a tab? indent with spaces; put text that starts with a special character in quotes)"
    elif "mapping values are not allowed" in problem:
        hint = " (put text that holds a colon and a space in quotes)"
    return f"This is not valid YAML{where}: {problem}{hint}."
