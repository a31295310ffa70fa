"""The lines of a statement as CSV, for people and for imports that know no FOCUS."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from apps.costs.exports.sums import Book, Line
from portal.money import usd_text

VERSION = "csv/2"
HEADER = (
    "Cost centre",
    "Cost centre name",
    "Kind",
    "Model",
    "Agent",
    "Entries",
    "Input tokens",
    "Output tokens",
    "Quantity",
    "Unit",
    "Amount, USD",
)


def write(book: Book) -> Iterator[bytes]:
    """UTF-8 with a header, lines ended by CRLF (RFC 4180), and the total in the last line."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(HEADER)
    writer.writerows(_row(line, book.centre_name(line.cost_centre)) for line in book.lines)
    label = "Total" if book.extract.is_closed else "Total (draft)"
    sums = [sum(getattr(line, name) for line in book.lines) for name in ("entries", "input_tokens", "output_tokens")]
    writer.writerow([label, "", "", "", "", *sums, "", "", usd_text(book.total)])
    yield text.getvalue().encode()


def _row(line: Line, centre_name: str) -> list[object]:
    return [
        harmless(line.cost_centre),
        harmless(centre_name),
        harmless(line.kind),
        harmless(line.model),
        harmless(line.agent),
        line.entries,
        line.input_tokens,
        line.output_tokens,
        "" if line.quantity is None else format(line.quantity, "f"),
        line.unit,
        usd_text(line.amount),
    ]


def harmless(text: str) -> str:
    """A text that no spreadsheet takes for a formula: an apostrophe stands before what could begin one."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
