"""Answers as CSV, for ``?format=csv`` or ``Accept: text/csv``."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from django.http import HttpResponse
from rest_framework.renderers import BaseRenderer, JSONRenderer

from apps.api.views.base import Door


class CsvRenderer(BaseRenderer):
    """Says that a view has CSV, too. The view makes it; what it refuses is told in JSON, as everywhere."""

    media_type = "text/csv"
    format = "csv"
    charset = "utf-8"

    def render(self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None) -> bytes:
        raise NotImplementedError("views answer with CSV themselves")


class CsvDoor(Door):
    """A view that answers in JSON or in CSV."""

    renderer_classes = (JSONRenderer, CsvRenderer)

    @property
    def wants_csv(self) -> bool:
        return bool(self.request.accepted_renderer.format == CsvRenderer.format)

    def handle_exception(self, exc: Exception) -> Any:
        self.request.accepted_renderer = JSONRenderer()
        self.request.accepted_media_type = JSONRenderer.media_type
        return super().handle_exception(exc)


def csv_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, file_name: str) -> HttpResponse:
    """A small table as a CSV file. Text that a spreadsheet would take for a formula begins with an apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_plain(value) for value in row] for row in rows)
    return HttpResponse(
        text.getvalue(),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{file_name}"'},
    )


class Exact(str):
    """Digits of ours: a negative amount is no formula."""


def _plain(value: Any) -> Any:
    if isinstance(value, str) and not isinstance(value, Exact) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value
