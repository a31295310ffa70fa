"""The lines that reports add up: roll-ups up to the position, and the ledger entries behind it, as SQL.

A statement made of both sees one moment, so each entry is in it once.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Collection
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

from apps.costs.rollups import position
from apps.costs.summing import COUNTS_AS

Tenants = Collection[uuid.UUID] | None
"""Whose costs: ids of tenants, or None for all of them."""
DAY = dt.timedelta(days=1)
known_of_moment: ContextVar[dict[Any, Any] | None] = ContextVar("what is known of the moment", default=None)
"""In a snapshot, what several questions need: the position, and the days that were asked for."""


class Sums(NamedTuple):
    """What the lines of a table add up to."""

    amount: int
    entries: int
    input_tokens: int
    output_tokens: int

    def __sub__(self, other: Sums) -> Sums:
        return Sums(*(mine - theirs for mine, theirs in zip(self, other, strict=True)))


SUMMED = ", ".join(f"coalesce(sum({name}), 0)::bigint" for name in Sums._fields)


@dataclass(frozen=True, slots=True)
class Source:
    """A table of sums by day, and which columns of it and of the ledger's tail tell its lines apart.

    ``only`` is the condition for entries of the tail that the table has a line for.
    """

    table: str
    keys: str
    only: str = "true"
    has_months: bool = True
    day: str = "start"
    amount: str = "amount"

    def lines(self, tail: Tail, where: str = "true") -> str:
        """SQL of rows (keys, amount, entries, tokens) of the tail's days, roll-ups and tail, to be run with its params.

        ``where`` narrows both; it may use the columns that the roll-up table has in common with the ledger.
        """
        spans = spans_of(tail.first, tail.last) if self.has_months else [(None, tail.first, tail.last)]
        parts = [
            f"SELECT {self.keys}, {self.amount} AS amount, entries, input_tokens, output_tokens "
            f"FROM {self.table} AS u WHERE {of('u', tail.tenants)} "
            + (f"AND grain = '{grain}' " if grain else "")
            + f"AND {self.day} BETWEEN '{start}' AND '{end}' AND {where}"
            for grain, start, end in spans
        ]
        parts.append(
            f"SELECT {self.keys}, amount, 1, input_tokens, output_tokens FROM ({tail.sql}) AS tail "
            f"WHERE {self.only} AND {where}"
        )
        return " UNION ALL ".join(parts)


def spans_of(first: dt.date, last: dt.date) -> list[tuple[str | None, dt.date, dt.date]]:
    """The days as whole months and single days: (grain, first start, last start)."""
    month = first if first.day == 1 else _next_month(first)
    after = (last + DAY).replace(day=1)
    if month >= after:
        return [("day", first, last)]
    spans: list[tuple[str | None, dt.date, dt.date]] = [("month", month, after - DAY)]
    if first < month:
        spans.append(("day", first, month - DAY))
    if after <= last:
        spans.append(("day", after, last))
    return spans


def _next_month(day: dt.date) -> dt.date:
    return (day.replace(day=1) + dt.timedelta(days=32)).replace(day=1)


class Tail:
    """The ledger entries behind the position, with their day in the calendar of the roll-ups.

    The planner must see the position as a number, to take these few rows by their ids. Should the position have moved
    on since it was read, the subquery leaves out what the roll-ups have meanwhile: it only ever rises.
    """

    def __init__(self, tenants: Tenants, first: dt.date, last: dt.date) -> None:
        noon = dt.datetime(first.year, first.month, first.day, tzinfo=dt.UTC)
        self.tenants, self.first, self.last = tenants, first, last
        self.params: dict[str, Any] = {
            "tenants": None if tenants is None else list(tenants),
            "first": first,
            "last": last,
            "position": _position(),
            # No time zone is more than a day away from UTC.
            "from": noon - DAY,
            "to": noon + (last - first) + 3 * DAY,
        }
        self.sql = f"""
            SELECT * FROM (
                SELECT l.tenant_id, l.at, (l.at AT TIME ZONE coalesce(r.time_zone, t.time_zone, 'UTC'))::date AS day,
                    l.kind, {COUNTS_AS.format("l")} AS counts_as, l.model, l.agent, l.swarm_id, l.subject_id,
                    l.amount, l.input_tokens, l.output_tokens
                FROM costs_ledgerentry l LEFT JOIN costs_rolledtenant r ON r.tenant_id = l.tenant_id
                LEFT JOIN tenants_tenant t ON t.id = l.tenant_id
                WHERE l.id > %(position)s AND l.id > (SELECT entry_id FROM costs_rollupposition)
                AND l.at >= %(from)s AND l.at < %(to)s AND {of("l", tenants)}
            ) AS behind WHERE day BETWEEN %(first)s AND %(last)s
        """


def _position() -> int:
    known = known_of_moment.get()
    if known is None:
        return position()
    if "position" not in known:
        known["position"] = position()
    return int(known["position"])


def of(table: str, tenants: Tenants, column: str = "tenant_id") -> str:
    """The condition that a row belongs to one of the tenants; they are the parameter of that name."""
    return "true" if tenants is None else f"{table}.{column} = ANY(%(tenants)s::uuid[])"


def by_kind(amount: str) -> str:
    """Sums of the lines by net kind, in the order of the columns."""
    kinds = ("llm", "infrastructure", "storage", "adjustment")
    return ", ".join(f"coalesce(sum({amount}) FILTER (WHERE counts_as = '{kind}'), 0)::bigint" for kind in kinds)
