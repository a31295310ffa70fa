"""What was spent day by day, in the tenants' own calendars: one statement, remembered within a snapshot."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from django.db import connection

from apps.costs.lines import DAY, Sums, Tail, Tenants, by_kind, known_of_moment, of

_MEASURES = Sums._fields
_BESIDE = {"no_swarm": "swarm_id", "no_user": "subject_id"}
_NONE = Sums(0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Day:
    """What the tenants owe for a day. ``llm`` is net: corrections of calls are in it, not in ``adjustment``.

    ``no_swarm`` and ``no_user`` are what belongs to no swarm, and to no end user.
    """

    day: dt.date
    llm: int = 0
    infrastructure: int = 0
    storage: int = 0
    adjustment: int = 0
    active_swarms: int = 0
    entries: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    no_swarm: Sums = _NONE
    no_user: Sums = _NONE

    @property
    def total(self) -> int:
        return self.llm + self.infrastructure + self.storage + self.adjustment

    @property
    def sums(self) -> Sums:
        return Sums(self.total, self.entries, self.input_tokens, self.output_tokens)


_PLAIN = [field.name for field in fields(Day) if field.name not in ("day", *_BESIDE)]


def daily(tenants: Tenants, first: dt.date, last: dt.date) -> list[Day]:
    """Every day from ``first`` to ``last``, also those on which nothing was spent. At most two short queries."""
    known, question = known_of_moment.get(), ("days", None if tenants is None else frozenset(tenants), first, last)
    if known is not None and question in known:
        return list(known[question])
    tail = Tail(tenants, first, last)
    with connection.cursor() as cursor:
        cursor.execute(_statement(tail), tail.params)
        found = {row[0]: _day(row) for row in cursor}
    days = [found.get(day) or Day(day) for day in (first + DAY * n for n in range((last - first).days + 1))]
    if known is not None:
        known[question] = days
    return days


def sum_of(days: Sequence[Day]) -> Day:
    """The sum of days, as one Day with the first's date, and no ``active_swarms``: one swarm may be active on many."""
    summed: dict[str, Any] = {
        name: sum(getattr(day, name) for day in days) for name in _PLAIN if name != "active_swarms"
    }
    for name in _BESIDE:
        summed[name] = Sums(*map(sum, zip(*(getattr(day, name) for day in days), strict=True)))
    return Day(days[0].day, **summed)


def _day(row: Sequence[Any]) -> Day:
    day, *numbers = row
    plain, beside = numbers[: len(_PLAIN)], numbers[len(_PLAIN) :]
    size = len(_MEASURES)
    sums = [Sums(*beside[n : n + size]) for n in range(0, len(beside), size)]
    return Day(day, **dict(zip((*_PLAIN, *_BESIDE), (*plain, *sums), strict=True)))


def _statement(tail: Tail) -> str:
    columns = [*_PLAIN, *(f"{name}_{measure}" for name in _BESIDE for measure in _MEASURES)]
    behind = [
        f"coalesce(sum({measure}) FILTER (WHERE {key} IS NULL), 0)::bigint"
        for key in _BESIDE.values()
        for measure in _MEASURES
    ]
    sums = ", ".join(f"sum({name})::bigint AS {name}" for name in columns)
    return f"""
        WITH tail AS MATERIALIZED (SELECT *, 1 AS entries FROM ({tail.sql}) AS tail), line AS (
            -- Summed by itself: nearly all rows are here, and this alone can be done by several processes.
            SELECT day, {sums} FROM costs_daytotal d
            WHERE {of("d", tail.tenants)} AND day BETWEEN %(first)s AND %(last)s GROUP BY day
            UNION ALL
            SELECT day, {by_kind("amount")}, 0, count(*), sum(input_tokens)::bigint, sum(output_tokens)::bigint,
                {", ".join(behind)}
            FROM tail GROUP BY day
            UNION ALL
            SELECT t.day, 0, 0, 0, 0, count(*), {", ".join("0" * (len(columns) - 5))}
            FROM (SELECT DISTINCT tenant_id, day, swarm_id FROM tail WHERE swarm_id IS NOT NULL) AS t
            WHERE NOT EXISTS (
                SELECT FROM costs_swarmtotal s
                WHERE s.tenant_id = t.tenant_id AND s.start = t.day AND s.swarm_id = t.swarm_id
            ) GROUP BY t.day
        )
        SELECT day, {sums} FROM line GROUP BY day
    """
