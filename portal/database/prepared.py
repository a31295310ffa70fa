"""Queries that Django writes once and that are asked again and again with other values.

To write a query of some parts costs Django more than PostgreSQL takes to answer it. What is asked at every request is
written once in the life of a process; which rows it is about is still said by the QuerySets of the models.
"""

from __future__ import annotations

import datetime as dt
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from django.db import connection
from django.db.models import QuerySet

_STAND_INS: Mapping[type, Callable[[], Any]] = {
    uuid.UUID: uuid.uuid4,
    str: lambda: uuid.uuid4().hex,
    dt.datetime: lambda: dt.datetime(2000, 1, 1, microsecond=uuid.uuid4().int % 1_000_000, tzinfo=dt.UTC),
}


class Prepared:
    """``Prepared(write, user=UUID, now=datetime)``: ``write(user=..., now=...)`` makes a QuerySet of ``values_list``.

    It is called once, with values that stand in for the real ones. Where they come out among the query's parameters,
    the real ones are put in; so ``write`` may only hand them on, and must not look at them.
    """

    def __init__(self, write: Callable[..., QuerySet[Any, Any]], **kinds: type) -> None:
        self._write = write
        self._kinds = kinds
        self._lock = threading.Lock()
        self._written: tuple[str, list[tuple[str, Any]], Any, Any] | None = None

    def rows(self, **values: Any) -> Sequence[Sequence[Any]]:
        """The rows, as the QuerySet's ``values_list`` would give them. One query."""
        query, parameters, compiler, converters = self._written or self._prepare()
        with connection.cursor() as cursor:
            cursor.execute(query, [values[name] if name else value for name, value in parameters])
            found: Sequence[Sequence[Any]] = cursor.fetchall()
        return list(compiler.apply_converters(found, converters)) if converters else found

    def _prepare(self) -> tuple[str, list[tuple[str, Any]], Any, Any]:
        with self._lock:
            if self._written is None:
                stand_ins = {name: _STAND_INS[kind]() for name, kind in self._kinds.items()}
                compiler = self._write(**stand_ins).query.get_compiler(connection=connection)
                query, parameters = compiler.as_sql()
                named = {value: name for name, value in stand_ins.items()}
                placed = [(named.get(each, "") if _may_stand_in(each) else "", each) for each in parameters]
                if missing := set(self._kinds) - {name for name, _ in placed}:
                    raise ValueError(f"The query has no parameter for {', '.join(sorted(missing))}.")
                columns = [column for column, *_ in compiler.select[: compiler.col_count]]
                self._written = query, placed, compiler, compiler.get_converters(columns)
            return self._written


def _may_stand_in(value: Any) -> bool:
    return type(value) in _STAND_INS
