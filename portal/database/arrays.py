"""Lists as PostgreSQL arrays, quickly: what is written in batches goes through here."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.types.array import ListDumper


class FlatListDumper(ListDumper):
    """psycopg's dumper of lists, with a short way for flat lists of one common type.

    psycopg asks a dumper and a regular expression for each element: two to six microseconds, most of what a batch of
    writes costs a worker. Here it is a tenth of that for UUIDs, moments, texts, JSON, whole numbers and truths. Other
    lists go psycopg's way.
    """

    def dump(self, obj: list[Any]) -> Buffer | None:
        flat = as_text(obj)
        return super().dump(obj) if flat is None else flat.encode()


def as_text(values: Sequence[Any]) -> str | None:
    """A flat list of one common type, or of nothing but None, as PostgreSQL writes an array; None for another list."""
    kinds = set(map(type, values)) - {type(None)}
    if not kinds:
        return f"{{{','.join(['NULL'] * len(values))}}}"
    encode = _ENCODERS.get(kinds.pop()) if len(kinds) == 1 else None
    return None if encode is None else f"{{{encode(values)}}}"


def _uuids(values: Sequence[uuid.UUID | None]) -> str:
    return ",".join(["NULL" if value is None else value.hex for value in values])


def _moments(values: Sequence[dt.datetime | None]) -> str:
    return ",".join(["NULL" if value is None else value.isoformat() for value in values])


def _texts(values: Sequence[str | None]) -> str:
    escaped = [None if value is None else value.replace("\\", "\\\\").replace('"', '\\"') for value in values]
    joined = ",".join(["NULL" if value is None else f'"{value}"' for value in escaped])
    if "\x00" in joined:
        raise psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
    return joined


def _numbers(values: Sequence[int | None]) -> str:
    return ",".join(["NULL" if value is None else str(value) for value in values])


def _truths(values: Sequence[bool | None]) -> str:
    return ",".join(["NULL" if value is None else "t" if value else "f" for value in values])


_ENCODERS: dict[type, Callable[[Any], str]] = {
    uuid.UUID: _uuids,
    dt.datetime: _moments,
    str: _texts,
    int: _numbers,
    bool: _truths,
}


def as_rows(types: Mapping[str, str], columns: Mapping[str, Sequence[Any]]) -> tuple[str, dict[str, Any]]:
    """SQL of a subquery with these columns, in the order of ``types`` (by name: in SQL), and its parameters by name.

    What is the same in all rows, as most of a batch is, travels once: arrays are what a batch costs on both sides.
    There is at least one row.
    """
    differing = [name for name in types if _differ(columns[name])] or [next(iter(types))]
    selected = (f"a.{name}" if name in differing else f"%({name})s::{kind} AS {name}" for name, kind in types.items())
    arrays = (f"%({name})s::{types[name]}[]" for name in differing)
    query = f"SELECT {', '.join(selected)} FROM unnest({', '.join(arrays)}) AS a ({', '.join(differing)})"
    return query, {name: list(columns[name]) if name in differing else columns[name][0] for name in types}


def _differ(values: Sequence[Any]) -> bool:
    first = values[0]
    return any(value is not first and value != first for value in values)


def register() -> None:
    """Makes it the dumper of lists on every connection made from now on."""
    psycopg.adapters.register_dumper(list, FlatListDumper)
