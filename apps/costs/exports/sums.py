"""What the tables of a statement show: its lines, and its total by cost centre, model, agent, user and day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.db import connection

from apps.costs.exports.extract import Extract

MOST_ROWS = 50_000
"""Rows of a breakdown; what is beyond the dearest so many is one row, so that a sheet opens and still adds up."""

DIMENSIONS = {
    "centre": "Cost centre",
    "model": "Model",
    "agent": "Agent",
    "subject": "User",
    "day": "Day",
}
"""The breakdowns: by column, what a row of one is."""


@dataclass(frozen=True, slots=True)
class Line:
    """Entries of one cost centre, by its code, kind, model and agent.

    ``quantity`` is in ``unit``; amounts are nano-dollars.
    """

    cost_centre: str
    kind: str
    model: str
    agent: str
    entries: int
    input_tokens: int
    output_tokens: int
    quantity: Decimal | None
    unit: str
    amount: int


@dataclass(frozen=True, slots=True)
class Sum:
    """The entries with one value of a dimension; ``name`` is empty where an entry has none."""

    name: str
    entries: int
    input_tokens: int
    output_tokens: int
    amount: int


@dataclass(frozen=True, slots=True)
class Book:
    """The tables of a statement."""

    extract: Extract
    lines: Sequence[Line]
    breakdowns: Mapping[str, Sequence[Sum]]

    @property
    def total(self) -> int:
        return sum(line.amount for line in self.lines)

    def centre_name(self, code: str) -> str:
        """The name that a cost centre had; empty for what is none."""
        return self.extract.terms.names.get(code, "")


_SUMS = """
    SELECT grouping(e.kind), grouping(e.centre), grouping(e.model), grouping(e.agent), grouping(e.subject),
        grouping(e.day),
        e.centre, e.kind, e.model, e.agent, e.subject, e.day, count(*), sum(e.input_tokens)::bigint,
        sum(e.output_tokens)::bigint, trim_scale(sum(e.quantity)), sum(e.amount)::bigint
    FROM (
        SELECT l.kind, l.model, l.agent, coalesce(l.subject_id::text, '') AS subject,
            to_char(l.at AT TIME ZONE %(zone)s, 'YYYY-MM-DD') AS day, {centre} AS centre,
            l.input_tokens, l.output_tokens, l.quantity, l.amount
        FROM costs_ledgerentry l
        WHERE l.tenant_id = %(tenant_id)s AND l.at >= %(starts_at)s AND l.at < %(ends_at)s
    ) e
    GROUP BY GROUPING SETS (
        (e.centre, e.kind, e.model, e.agent), (e.centre), (e.model), (e.agent), (e.subject), (e.day)
    )
"""
_UNITS = {"infrastructure": "agent-hours", "storage": "GB-months"}


def unit_of(kind: str, quantity: Decimal | None) -> str:
    """What the quantity of a line counts; empty where nothing is counted."""
    return "" if quantity is None else _UNITS.get(kind, "")


def book_of(extract: Extract) -> Book:
    """All tables of a statement, from one reading of its entries."""
    lines: list[Line] = []
    sums: dict[str, list[Sum]] = {name: [] for name in DIMENSIONS}
    columns = ("centre", "model", "agent", "subject", "day")
    with connection.cursor() as cursor:
        cursor.execute(_SUMS.format(**extract.centre_sql()), extract.params())
        for row in cursor:
            *absent, centre, kind, model, agent, subject, day, entries, tokens_in, tokens_out, quantity, amount = row
            if not absent[0]:
                unit = unit_of(kind, quantity)
                line = Line(centre, kind, model, agent, entries, tokens_in, tokens_out, quantity, unit, amount)
                lines.append(line)
            else:
                name = columns[absent[1:].index(0)]
                value = {"centre": centre, "model": model, "agent": agent, "subject": subject, "day": day}[name]
                sums[name].append(Sum(value, entries, tokens_in, tokens_out, amount))
    lines.sort(key=lambda line: (line.cost_centre, line.kind, line.model, line.agent))
    return Book(extract, lines, {name: _ordered(name, found) for name, found in sums.items()})


def _ordered(dimension: str, sums: list[Sum]) -> list[Sum]:
    """Days in their order, everything else the dearest first."""
    if dimension == "day":
        return sorted(sums, key=lambda row: row.name)
    sums.sort(key=lambda row: (-row.amount, row.name))
    kept, rest = sums[:MOST_ROWS], sums[MOST_ROWS:]
    if rest:
        totals: list[Any] = [sum(getattr(row, field) for row in rest) for field in _NUMBERS]
        kept.append(Sum(f"{len(rest):,} more", *totals))
    return kept


_NUMBERS = ("entries", "input_tokens", "output_tokens", "amount")
