"""What was spent: by day, and grouped, over a time frame of tenants' own calendar days. Exact at every moment.

Each question is one statement, which sees one moment: roll-ups up to the position plus the few ledger entries behind it
(:mod:`apps.costs.rollups`). Ask several questions inside :func:`snapshot` and they agree with each other, too.

``tenants`` is always the ids whose costs the asker may read, None for all: ``principal.tenant_ids(COST_READ)``. Days
are dates in each tenant's own time zone, both ends included. Amounts are nano-dollars.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from django.db import connection, transaction

from apps.costs.grouping import By, labels
from apps.costs.lines import DAY, SOURCES, SUMMED, Sums, Tail, Tenants, by_kind, known_of_moment, of


@dataclass(frozen=True, slots=True)
class Day:
    """What the tenants owe for a day. ``llm`` is net: corrections of calls are in it, not in ``adjustment``."""

    day: dt.date
    llm: int = 0
    infrastructure: int = 0
    storage: int = 0
    adjustment: int = 0
    active_swarms: int = 0
    entries: int = 0

    @property
    def total(self) -> int:
        return self.llm + self.infrastructure + self.storage + self.adjustment


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


def sum_of(days: Sequence[Day]) -> Day:
    """The sum of days, as one Day without ``active_swarms``: a swarm may be active on many days."""
    return Day(
        days[0].day,
        sum(day.llm for day in days),
        sum(day.infrastructure for day in days),
        sum(day.storage for day in days),
        sum(day.adjustment for day in days),
        0,
        sum(day.entries for day in days),
    )


def period_before(first: dt.date, last: dt.date) -> tuple[dt.date, dt.date]:
    """First and last day of the period of equal length just before."""
    return first - (last - first) - DAY, first - DAY


@contextmanager
def snapshot() -> Iterator[None]:
    """Everything read inside sees one moment. Inside a transaction that began already, each statement has its own."""
    if connection.in_atomic_block:
        yield
        return
    token = known_of_moment.set({})
    try:
        with _one_moment():
            yield
    finally:
        known_of_moment.reset(token)


@contextmanager
def _one_moment() -> Iterator[None]:
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield


def daily(tenants: Tenants, first: dt.date, last: dt.date) -> list[Day]:
    """Every day from ``first`` to ``last``, also those on which nothing was spent. Two short queries."""
    tail = Tail(tenants, first, last)
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            WITH tail AS MATERIALIZED ({tail.sql}), line AS (
                SELECT day, llm, infrastructure, storage, adjustment, active_swarms, entries FROM costs_daytotal d
                WHERE {of("d", tenants)} AND day BETWEEN %(first)s AND %(last)s
                UNION ALL
                SELECT day, {by_kind("amount")}, 0, count(*) FROM tail GROUP BY day
                UNION ALL
                SELECT t.day, 0, 0, 0, 0, count(*), 0
                FROM (SELECT DISTINCT tenant_id, day, swarm_id FROM tail WHERE swarm_id IS NOT NULL) AS t
                WHERE NOT EXISTS (
                    SELECT FROM costs_swarmtotal s
                    WHERE s.tenant_id = t.tenant_id AND s.start = t.day AND s.swarm_id = t.swarm_id
                ) GROUP BY t.day
            )
            SELECT day, sum(llm)::bigint, sum(infrastructure)::bigint, sum(storage)::bigint, sum(adjustment)::bigint,
                sum(active_swarms)::int, sum(entries)::bigint
            FROM line GROUP BY day
            """,
            tail.params,
        )
        found = {row[0]: Day(*row) for row in cursor}
    days = ((first + DAY * n) for n in range((last - first).days + 1))
    return [found.get(day) or Day(day) for day in days]


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
    """The ``top`` dearest groups, the rest as one, each with the previous period; at most ten short queries.

    What belongs to no user, swarm and so on is a group as well, with key None.
    """
    before = period_before(first, last)
    with snapshot():
        overall, overall_before = _overall(tenants, first, last), _overall(tenants, *before)
        found, count, listed = _dearest(tenants, first, last, by, top)
        nothing = overall - listed  # what is in no group: the tables of users and swarms only know those that there are
        if nothing.entries:
            found[None] = nothing
            count += 1
        best = sorted(found, key=lambda key: (-found[key].amount, key or ""))[:top]
        previous = _previous(tenants, *before, by, best, overall_before)
        names = labels(by, [key for key in best if key is not None])
    groups = [Group(key, *found[key], previous.get(key, 0), names.get(key, key) if key else "") for key in best]
    rest = None
    if count > len(groups):
        left = overall
        for key in best:
            left -= found[key]
        rest = Group(None, *left, overall_before.amount - sum(group.previous for group in groups))
    return Grouped(by, groups, rest, count - len(groups), overall.amount, overall_before.amount)


def report(tenants: Tenants, first: dt.date, last: dt.date, *, by: By = By.MODEL, top: int = 10) -> Report:
    """The whole report at one moment."""
    with snapshot():
        found = grouped(tenants, first, last, by, top=top)
        return Report(
            first, last, daily(tenants, first, last), found.previous, *period_before(first, last), grouped=found
        )


def _overall(tenants: Tenants, first: dt.date, last: dt.date) -> Sums:
    known, question = known_of_moment.get(), (None if tenants is None else frozenset(tenants), first, last)
    if known is not None and question in known:
        return Sums(*known[question])
    tail = Tail(tenants, first, last)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {SUMMED} FROM ({tail.with_day_totals()}) AS line", tail.params)
        found = Sums(*(cursor.fetchone() or (0, 0, 0, 0)))
    if known is not None:
        known[question] = found
    return found


def _dearest(
    tenants: Tenants, first: dt.date, last: dt.date, by: By, top: int
) -> tuple[dict[str | None, Sums], int, Sums]:
    """The dearest groups that have a key, how many there are, and what all of these add up to."""
    tail = Tail(tenants, first, last)
    source = SOURCES[by]
    lines = source.lines(tenants, first, last, tail)
    if by == By.SWARM:
        return _dearest_swarms(tail, top)
    over = ", ".join(f"(sum({name}) OVER ())::bigint" for name in Sums._fields)
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT key::text, {", ".join(Sums._fields)}, count(*) OVER (), {over} FROM (
                SELECT key, {", ".join(f"sum({name})::bigint AS {name}" for name in Sums._fields)}
                FROM ({lines}) AS line WHERE key IS NOT NULL GROUP BY key
            ) AS found ORDER BY amount DESC, key LIMIT %(top)s
            """,
            {**tail.params, "top": top},
        )
        rows = list(cursor)
    if not rows:
        return {}, 0, Sums(0, 0, 0, 0)
    return {row[0]: Sums(*row[1:5]) for row in rows}, rows[0][5], Sums(*rows[0][6:])


def _dearest_swarms(tail: Tail, top: int) -> tuple[dict[str | None, Sums], int, Sums]:
    """The same for swarms, of which there may be hundreds of thousands, nearly all with a single row.

    A swarm with a single row is among the dearest only if its row is: these are found without adding up. Only the
    swarms that have further rows, or entries in the tail, need that.
    """
    rows = f"costs_swarmtotal AS u WHERE {of('u', tail.tenants)} AND start BETWEEN %(first)s AND %(last)s"
    measures = "amount, entries, input_tokens, output_tokens"
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            WITH behind AS MATERIALIZED (
                SELECT swarm_id, amount, 1 AS entries, input_tokens, output_tokens
                FROM ({tail.sql}) AS tail WHERE swarm_id IS NOT NULL
            ), several AS MATERIALIZED (
                SELECT swarm_id FROM {rows} AND further UNION SELECT swarm_id FROM behind
            ), candidate AS MATERIALIZED (
                SELECT swarm_id FROM several
                UNION ALL (
                    SELECT swarm_id FROM {rows} AND NOT further AND swarm_id NOT IN (SELECT swarm_id FROM several)
                    ORDER BY amount DESC, swarm_id LIMIT %(top)s
                )
            ), line AS (
                -- OFFSET 0 keeps the planner to one look into the index of swarms for each.
                SELECT c.swarm_id, {measures} FROM candidate c CROSS JOIN LATERAL (
                    SELECT {measures} FROM {rows} AND u.swarm_id = c.swarm_id OFFSET 0
                ) AS found
                UNION ALL SELECT swarm_id, {measures} FROM behind
            )
            (
                SELECT swarm_id::text, {SUMMED}, 0 FROM line
                GROUP BY swarm_id ORDER BY sum(amount) DESC, swarm_id LIMIT %(top)s
            )
            UNION ALL
            SELECT NULL, {SUMMED}, sum(is_row) + (SELECT count(*) FROM several)
                - (SELECT count(*) FROM {rows} AND swarm_id IN (SELECT swarm_id FROM several))
            FROM (SELECT {measures}, 1 AS is_row FROM {rows} UNION ALL SELECT {measures}, 0 FROM behind) AS every
            """,
            {**tail.params, "top": top},
        )
        found = {key: (Sums(*sums), count) for key, *sums, count in cursor}
    overall, count = found.pop(None)
    return {key: sums for key, (sums, _) in found.items()}, int(count or 0), overall


def _previous(
    tenants: Tenants, first: dt.date, last: dt.date, by: By, keys: Sequence[str | None], overall: Sums
) -> dict[str | None, int]:
    """What these groups cost in an earlier period; ``overall`` is what everything did."""
    if not keys:
        return {}
    tail = Tail(tenants, first, last)
    source = SOURCES[by]
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT key::text, sum(amount)::bigint FROM ({source.lines(tenants, first, last, tail)}) AS line
            WHERE key = ANY(%(keys)s::{source.type}[]) GROUP BY key
            """,
            {**tail.params, "keys": [key for key in keys if key is not None]},
        )
        found: dict[str | None, int] = dict(cursor.fetchall())
        if None in keys:
            cursor.execute(
                f"SELECT {SUMMED} FROM ({source.lines(tenants, first, last, tail)}) AS line WHERE key IS NOT NULL",
                tail.params,
            )
            found[None] = overall.amount - Sums(*(cursor.fetchone() or (0, 0, 0, 0))).amount
    return found
