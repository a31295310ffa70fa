"""Pages: ``{"next", "previous", "results"}``, by cursors that stay right while rows are added."""

from __future__ import annotations

import base64
import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ValidationError as DjangoValidationError
from django.db import DataError
from django.db.models import Q, QuerySet
from rest_framework.exceptions import ValidationError
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import remove_query_param, replace_query_param

PAGE_SIZE = 50
LARGEST_PAGE = 200
CURSOR, SIZE = "cursor", "page_size"
BAD_CURSOR = (ValueError, TypeError, KeyError, OverflowError, RecursionError, DjangoValidationError, DataError)
"""Whatever can come of a cursor that somebody made up, from its decoding to the query."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """The row that a page lies behind (or before, when ``backwards``), by the values that order it."""

    values: tuple[Any, ...]
    backwards: bool = False

    @property
    def text(self) -> str:
        plain = [self.backwards, *(v if isinstance(v, int) else _text(v) for v in self.values)]
        return base64.urlsafe_b64encode(json.dumps(plain, separators=(",", ":")).encode()).decode().rstrip("=")

    @classmethod
    def read(cls, text: str, length: int) -> Cursor:
        """The cursor in a text; one of BAD_CURSOR when there is none in it."""
        backwards, *values = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
        if len(values) != length or not all(isinstance(v, str | int) for v in values):
            raise ValueError(text)
        return cls(tuple(values), bool(backwards))


def _text(value: Any) -> str:
    return value.isoformat() if isinstance(value, dt.datetime) else str(value)


class Pages(BasePagination):
    """Pages of 50 rows, or ``page_size`` up to 200, in the view's ``ordering``.

    The ordering must be total, with all its columns in one direction: a page begins right behind the row that its
    cursor names, however many rows were added or have equal values in the first column.
    """

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any]:
        """One page of rows. Raises ValidationError for a cursor that was not made here."""
        self._url = request.build_absolute_uri()
        self._fields, self._descending = _parse(view.ordering)
        given = request.query_params.get(CURSOR)
        try:
            self._cursor = Cursor.read(given, len(self._fields)) if given else None
            rows = self._read(queryset, _size(request.query_params.get(SIZE)))
        except BAD_CURSOR:
            if not given:
                raise
            raise ValidationError({CURSOR: ["This is not a cursor of this list."]}, code="invalid") from None
        return rows

    def _read(self, queryset: QuerySet[Any], size: int) -> list[Any]:
        backwards = self._cursor is not None and self._cursor.backwards
        descending = self._descending != backwards
        if self._cursor:
            queryset = queryset.filter(_behind(self._fields, self._cursor.values, descending))
        rows = list(queryset.order_by(*(f"-{name}" if descending else name for name in self._fields))[: size + 1])
        more = len(rows) > size
        del rows[size:]
        if backwards:
            rows.reverse()
        # Where one came from there are rows still, as far as one knows.
        self._has_next = bool(rows) and (more or backwards)
        self._has_previous = bool(rows) and (more if backwards else self._cursor is not None)
        self._ends = (rows[0], rows[-1]) if rows else None
        return rows

    def _link(self, row: Any, *, backwards: bool) -> str:
        values = tuple(getattr(row, name) for name in self._fields)
        return str(replace_query_param(self._url, CURSOR, Cursor(values, backwards).text))

    def get_paginated_response(self, data: Any) -> Response:
        first, last = self._ends or (None, None)
        following = self._link(last, backwards=False) if self._has_next else None
        before = self._link(first, backwards=True) if self._has_previous else None
        if self._cursor and first is None:  # the rows went away: back to the start
            before = str(remove_query_param(self._url, CURSOR))
        return Response({"next": following, "previous": before, "results": data})

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        return [
            {
                "name": CURSOR,
                "in": "query",
                "required": False,
                "description": "The place to go on from: take it from `next` or `previous`.",
                "schema": {"type": "string"},
            },
            {
                "name": SIZE,
                "in": "query",
                "required": False,
                "description": "Results per page.",
                "schema": {"type": "integer", "minimum": 1, "maximum": LARGEST_PAGE, "default": PAGE_SIZE},
            },
        ]

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        link = {"type": ["string", "null"], "format": "uri"}
        here = f"https://swarmdesk.example/api/v1/swarms/?{CURSOR}="
        return {
            "type": "object",
            "required": ["next", "previous", "results"],
            "properties": {
                "next": {**link, "example": f"{here}W2ZhbHNlLCIyMDI2"},
                "previous": {**link, "example": f"{here}W3RydWUsIjIwMjYt"},
                "results": schema,
            },
        }


def _parse(ordering: Sequence[str]) -> tuple[list[str], bool]:
    """The columns of an ordering, and whether it is descending."""
    (descending,) = {name.startswith("-") for name in ordering}
    return [name.lstrip("-") for name in ordering], descending


def _size(text: str | None) -> int:
    if text and text.isascii() and text.isdigit() and 0 < len(text) < 10:
        return min(max(int(text), 1), LARGEST_PAGE)
    return PAGE_SIZE


def _behind(fields: Sequence[str], values: Sequence[Any], descending: bool) -> Q:
    """Rows behind these values: (a, b) > (x, y), spelt so that an index on the first column serves it."""
    behind = "lt" if descending else "gt"
    name, value = fields[0], values[0]
    condition = Q(**{f"{name}__{behind}": value})
    if len(fields) > 1:
        condition |= Q(**{name: value}) & _behind(fields[1:], values[1:], descending)
        condition &= Q(**{f"{name}__{behind}e": value})
    return condition
