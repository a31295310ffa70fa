"""A statement as an Excel workbook: a summary, its lines, and a sheet for each breakdown.

A cell's number is a float, which keeps fifteen digits: exact to the nano-dollar below a million USD. So every amount
also stands beside it as text, exact at any size. Texts are written as texts: what begins with "=" is no formula.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from apps.costs.exports.sums import DIMENSIONS, Book, Line, Sum
from portal.money import NANO, usd_text

VERSION = "xlsx/2"

_NO_MAGIC = {"strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False}
_USD = "#,##0.00#######"
_COUNT = "#,##0"
_QUANTITY = "#,##0.#########"


def write(book: Book) -> Iterator[bytes]:
    """The file: the same bytes for the same statement, whenever and wherever it is made."""
    import xlsxwriter  # takes long to import, and few processes write a workbook

    file = io.BytesIO()
    with xlsxwriter.Workbook(file, {"in_memory": True, **_NO_MAGIC}) as workbook:
        extract = book.extract
        # The time at which it is made would be another in every file.
        workbook.set_properties({"title": _title(book), "created": extract.ends_at.replace(tzinfo=None)})
        formats = _Formats(workbook)
        _summary(workbook.add_worksheet("Summary"), formats, book)
        _table(workbook.add_worksheet("Lines"), formats, _line_columns(book), book.lines)
        for dimension, title in DIMENSIONS.items():
            sheet = workbook.add_worksheet(f"By {title.lower()}")
            _table(sheet, formats, _sum_columns(book, dimension, title), book.breakdowns[dimension])
    yield file.getvalue()


class _Formats:
    def __init__(self, workbook: Any) -> None:
        self.title = workbook.add_format({"bold": True, "font_size": 16})
        self.warning = workbook.add_format({"bold": True, "font_color": "#B45309"})
        self.header = workbook.add_format({"bold": True, "bottom": 1, "bg_color": "#F3F4F6", "text_wrap": True})
        self.label = workbook.add_format({"font_color": "#4B5563"})
        self.note = workbook.add_format({"font_color": "#4B5563", "text_wrap": True, "valign": "top"})
        self.number = {pattern: workbook.add_format({"num_format": pattern}) for pattern in _PATTERNS}
        total = {"bold": True, "top": 1}
        self.total = workbook.add_format(total)
        self.total_number = {pattern: workbook.add_format({**total, "num_format": pattern}) for pattern in _PATTERNS}
        self.right = workbook.add_format({"align": "right"})
        self.total_right = workbook.add_format({**total, "align": "right"})


_PATTERNS = (_USD, _COUNT, _QUANTITY)


class _Column:
    """A column of a table. ``pattern`` is a number's format, None for a text; ``total`` adds it up below."""

    def __init__(
        self, title: str, width: int, value: Callable[[Any], Any], pattern: str | None = None, total: bool = False
    ) -> None:
        self.title, self.width, self.value, self.pattern, self.total = title, width, value, pattern, total


def _amounts() -> list[_Column]:
    return [
        _Column("Amount, USD", 18, lambda row: row.amount, _USD, total=True),
        _Column("Exact amount, USD", 20, lambda row: usd_text(row.amount)),
    ]


def _counts() -> list[_Column]:
    return [
        _Column("Entries", 12, lambda row: row.entries, _COUNT, total=True),
        _Column("Input tokens", 16, lambda row: row.input_tokens, _COUNT, total=True),
        _Column("Output tokens", 16, lambda row: row.output_tokens, _COUNT, total=True),
    ]


def _line_columns(book: Book) -> list[_Column]:
    return [
        _Column("Cost centre", 18, lambda line: line.cost_centre),
        _Column("Cost centre name", 30, lambda line: book.centre_name(line.cost_centre)),
        _Column("Kind", 16, lambda line: line.kind),
        _Column("Model", 32, lambda line: line.model),
        _Column("Agent", 26, lambda line: line.agent),
        *_counts(),
        _Column("Quantity", 16, lambda line: line.quantity, _QUANTITY),
        _Column("Unit", 14, lambda line: line.unit),
        *_amounts(),
    ]


def _sum_columns(book: Book, dimension: str, title: str) -> list[_Column]:
    nothing = "" if dimension == "day" else "(none)"
    columns = [_Column(title, 40, lambda row: row.name or nothing)]
    if dimension == "centre":
        columns.append(_Column("Cost centre name", 30, lambda row: book.centre_name(row.name)))
    return [*columns, *_counts(), *_amounts()]


def _title(book: Book) -> str:
    return f"Statement of {book.extract.tenant_name}, {book.extract.period}"


def _summary(sheet: Any, formats: _Formats, book: Book) -> None:
    extract = book.extract
    sheet.hide_gridlines(2)
    sheet.set_column(0, 0, 26)
    sheet.set_column(1, 2, 24)
    sheet.write_string(0, 0, _title(book), formats.title)
    if not extract.is_closed:
        sheet.write_string(1, 0, "DRAFT: the month is not closed, and its figures can still change.", formats.warning)
    facts = [
        ("Tenant", extract.tenant_name),
        ("Period", extract.period),
        ("From", f"{extract.starts_at.astimezone(extract.zone):%Y-%m-%d %H:%M} {extract.time_zone}"),
        ("To, exclusive", f"{extract.ends_at.astimezone(extract.zone):%Y-%m-%d %H:%M} {extract.time_zone}"),
        ("Status", "Closed" if extract.is_closed else "Draft"),
        ("Statement", extract.statement_id),
        ("Currency", "USD"),
    ]
    row = 3
    for label, text in facts:
        sheet.write_string(row, 0, label, formats.label)
        sheet.write_string(row, 1, text)
        row += 1
    row += 1
    for place, text in enumerate(("Kind", "Amount, USD", "Exact amount, USD")):
        sheet.write_string(row, place, text, formats.header)
    by_kind: dict[str, int] = {}
    for line in book.lines:
        by_kind[line.kind] = by_kind.get(line.kind, 0) + line.amount
    for kind, amount in by_kind.items():
        row += 1
        sheet.write_string(row, 0, kind)
        _money(sheet, row, 1, amount, formats.number[_USD], formats.right)
    row += 1
    sheet.write_string(row, 0, "Total", formats.total)
    _money(sheet, row, 1, book.total, formats.total_number[_USD], formats.total_right)
    sheet.merge_range(
        row + 2,
        0,
        row + 4,
        2,
        "Amounts are USD. Excel keeps fifteen digits of a number; the column beside each amount has all of it as text, "
        "to the nano-dollar. Users are pseudonyms.",
        formats.note,
    )


def _money(sheet: Any, row: int, column: int, amount: int, number: Any, text: Any) -> None:
    sheet.write_number(row, column, _float(amount), number)
    sheet.write_string(row, column + 1, usd_text(amount), text)


def _table(sheet: Any, formats: _Formats, columns: Sequence[_Column], rows: Sequence[Line] | Sequence[Sum]) -> None:
    sheet.freeze_panes(1, 1)
    for place, column in enumerate(columns):
        sheet.set_column(place, place, column.width)
        sheet.write_string(0, place, column.title, formats.header)
    for number, row in enumerate(rows, 1):
        for place, column in enumerate(columns):
            value = column.value(row)
            if column.pattern is None:
                sheet.write_string(number, place, value, formats.right if column.title.startswith("Exact") else None)
            elif value is not None:
                shown = _float(value) if column.pattern == _USD else value
                sheet.write_number(number, place, shown, formats.number[column.pattern])
    if rows:
        sheet.autofilter(0, 0, len(rows), len(columns) - 1)
    last = len(rows) + 1
    for place, column in enumerate(columns):
        if column.total and column.pattern:
            total = sum(column.value(row) for row in rows)
            shown = _float(total) if column.pattern == _USD else total
            sheet.write_number(last, place, shown, formats.total_number[column.pattern])
        elif column.title.startswith("Exact"):
            sheet.write_string(last, place, usd_text(sum(row.amount for row in rows)), formats.total_right)
        else:
            sheet.write_string(last, place, "" if place else "Total", formats.total)


def _float(nano: int) -> float:
    """The nearest float to an amount in USD."""
    return nano / NANO
