"""Pages: ``{"next", "previous", "results"}``, by cursors that stay right while rows are added."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError as DjangoValidationError
from django.db import DataError
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request


class Pages(CursorPagination):
    """Cursor pages of 50, or ``page_size`` up to 200. A subclass or the view says the ordering, which must be total."""

    page_size = 50
    page_size_query_param = "page_size"
    max_page_size = 200
    ordering: tuple[str, ...] = ("id",)
    cursor_query_description = "The place to go on from: take it from `next` or `previous`."
    page_size_query_description = "Results per page, at most 200."

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any] | None:
        """One page of rows. Raises ValidationError for a cursor that was not made here."""
        try:
            page: list[Any] | None = super().paginate_queryset(queryset, request, view)
        except (NotFound, DjangoValidationError, ValueError, TypeError, OverflowError, DataError):
            raise ValidationError({"cursor": ["This is not a cursor of this list."]}, code="invalid") from None
        return page

    def get_ordering(self, request: Request, queryset: Any, view: Any) -> tuple[str, ...]:
        """The view's ``ordering``, or the class's."""
        return tuple(getattr(view, "ordering", self.ordering))

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The schema of a page."""
        link = {"type": ["string", "null"], "format": "uri"}
        here = "https://swarmdesk.example/api/v1/swarms/?cursor="
        return {
            "type": "object",
            "required": ["next", "previous", "results"],
            "properties": {
                "next": {**link, "example": f"{here}cD0yMDI2"},
                "previous": {**link, "example": f"{here}cj0xJnA9"},
                "results": schema,
            },
        }
