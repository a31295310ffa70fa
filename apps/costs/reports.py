"""What was spent: by day, and grouped, over a time frame of tenants' own calendar days. Exact at every moment.

Each question is one statement, which sees one moment: roll-ups up to the position plus the few ledger entries behind it
(:mod:`apps.costs.rollups`). Ask several questions inside :func:`snapshot` and they agree with each other, too.

``tenants`` is always the ids whose costs the asker may read, None for all: ``principal.tenant_ids(COST_READ)``. Days
are dates in each tenant's own time zone, both ends included. Amounts are nano-dollars.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

from django.db import connection, transaction

from apps.costs import ranking
from apps.costs.daily import Day, daily, sum_of
from apps.costs.grouping import By, labels
from apps.costs.lines import DAY, Tail, Tenants, by_kind, known_of_moment, of


class Hour(NamedTuple):
    """What the tenants owe for an hour (UTC)."""

    hour: dt.datetime
    llm: int
    infrastructure: int
    storage: int
    adjustment: int

    @property
    def total(self) -> int:
        return self.llm + self.infrastructure + self.storage + self.adjustment


@dataclass(frozen=True, slots=True)
class Group:
    """One line of a grouped report. ``key`` None: entries that belong to no swarm, user and so on.

    ``previous`` is what it cost in the period of equal length just before. ``label`` is the key for a person.
    """

    key: str | None
    amount: int
    entries: int
    input_tokens: int
    output_tokens: int
    previous: int
    label: str = ""

    @property
    def trend(self) -> float | None:
        """Change against the previous period in percent; None where nothing was spent then."""
        return trend(self.amount, self.previous)


@dataclass(frozen=True, slots=True)
class Grouped:
    """The dearest groups first, at most ``top``; ``rest`` sums the others (None: there are none), with key None.

    ``others`` is how many groups the rest stands for. The amounts of ``groups`` and ``rest`` add up to ``amount``.
    """

    by: By
    groups: list[Group]
    rest: Group | None
    others: int
    amount: int
    previous: int


@dataclass(frozen=True, slots=True)
class Report:
    """A time frame at one moment: its days (each day is there), its sum, the previous period, and one grouping."""

    first: dt.date
    last: dt.date
    days: list[Day]
    previous_total: int
    previous_first: dt.date
    previous_last: dt.date
    grouped: Grouped

    @property
    def total(self) -> Day:
        """All days together; ``day`` is the first. ``active_swarms`` is not a sum: it is 0 here."""
        return sum_of(self.days)

    @property
    def trend(self) -> float | None:
        return trend(self.total.total, self.previous_total)


def trend(amount: int, previous: int) -> float | None:
    """Change in percent; None where there was nothing to compare with."""
    return round((amount - previous) / abs(previous) * 100, 1) if previous else None


def period_before(first: dt.date, last: dt.date) -> tuple[dt.date, dt.date]:
    """First and last day of the period of equal length just before."""
    return first - (last - first) - DAY, first - DAY


@contextmanager
def snapshot() -> Iterator[None]:
    """Everything read inside sees one moment. Inside a transaction that began already, each statement has its own."""
    token = known_of_moment.set({})
    try:
        with nullcontext() if connection.in_atomic_block else _one_moment():
            yield
    finally:
        known_of_moment.reset(token)


@contextmanager
def _one_moment() -> Iterator[None]:
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield


def hourly(tenants: Tenants, start: dt.datetime, end: dt.datetime) -> list[Hour]:
    """The hours (UTC) from ``start`` to ``end`` (excluded) in which something was spent. Two short queries."""
    # No time zone's days are more than one away from those of UTC.
    tail = Tail(tenants, start.astimezone(dt.UTC).date() - DAY, end.astimezone(dt.UTC).date() + DAY)
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            WITH line AS (
                SELECT hour, kind AS counts_as, amount FROM costs_hourtotal h
                WHERE {of("h", tenants)} AND hour >= %(start)s AND hour < %(end)s
                UNION ALL
                SELECT date_trunc('hour', at, 'UTC'), counts_as, amount FROM ({tail.sql}) AS tail
            )
            SELECT hour, {by_kind("amount")} FROM line
            WHERE hour >= %(start)s AND hour < %(end)s GROUP BY hour ORDER BY hour
            """,
            {**tail.params, "start": start, "end": end},
        )
        return [Hour(*row) for row in cursor]


def grouped(tenants: Tenants, first: dt.date, last: dt.date, by: By, *, top: int = 10) -> Grouped:
    """The ``top`` dearest groups, the rest as one, each with the previous period; at most eight short queries.

    What belongs to no user, swarm and so on is a group as well, with key None.
    """
    return groupings(tenants, first, last, {by: top})[by]


def groupings(tenants: Tenants, first: dt.date, last: dt.date, tops: Mapping[By, int]) -> dict[By, Grouped]:
    """Several groupings at once, each with as many groups as ``tops`` says; a bounded number of short queries."""
    before = period_before(first, last)
    with snapshot():
        total, total_before = sum_of(daily(tenants, first, last)), sum_of(daily(tenants, *before))
        found = ranking.dearest(tenants, first, last, tops, total=total)
        best = {
            by: sorted(ranked.groups, key=lambda key: (-ranked.groups[key].amount, key or ""))[: tops[by]]
            for by, ranked in found.items()
        }
        previous = ranking.earlier(tenants, *before, best, total=total_before)
        names = {by: labels(by, [key for key in keys if key is not None]) for by, keys in best.items()}
    answers = {}
    for by, (sums, count) in found.items():
        groups = [
            Group(key, *sums[key], previous[by].get(key, 0), names[by].get(key, key) if key else "") for key in best[by]
        ]
        rest = None
        if count > len(groups):
            left = total.sums
            for key in best[by]:
                left -= sums[key]
            rest = Group(None, *left, total_before.total - sum(group.previous for group in groups))
        answers[by] = Grouped(by, groups, rest, count - len(groups), total.total, total_before.total)
    return answers


def report(tenants: Tenants, first: dt.date, last: dt.date, *, by: By = By.MODEL, top: int = 10) -> Report:
    """The whole report at one moment."""
    with snapshot():
        found = grouped(tenants, first, last, by, top=top)
        return Report(
            first, last, daily(tenants, first, last), found.previous, *period_before(first, last), grouped=found
        )
