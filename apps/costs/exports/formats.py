"""The formats that a statement can be had in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from django.db import models

from apps.costs.exports import focus, sums, table, workbook
from apps.costs.exports.extract import Extract


class Format(models.TextChoices):
    CSV = "csv", "CSV"
    XLSX = "xlsx", "Excel"
    FOCUS = "focus", "FOCUS 1.2"


@dataclass(frozen=True, slots=True)
class Writer:
    """How a format is written. ``is_kept``: its file is small, and depends on more than this code, so it is kept."""

    write: Callable[[Extract], Iterator[bytes]]
    version: str
    suffix: str
    content_type: str
    is_kept: bool


WRITERS = {
    Format.CSV: Writer(
        lambda extract: table.write(sums.book_of(extract)), table.VERSION, ".csv", "text/csv; charset=utf-8", True
    ),
    Format.XLSX: Writer(
        lambda extract: workbook.write(sums.book_of(extract)),
        workbook.VERSION,
        ".xlsx",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        True,
    ),
    Format.FOCUS: Writer(focus.write, focus.VERSION, "-focus.csv", "text/csv; charset=utf-8", False),
}


def file_name(extract: Extract, format: Format) -> str:
    """What the file is called: "acme-2026-10-draft.csv"."""
    draft = "" if extract.is_closed else "-draft"
    return f"{extract.tenant_slug}-{extract.period}{draft}{WRITERS[format].suffix}"
