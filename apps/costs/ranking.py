"""The dearest groups of a time frame: which tenants, users, swarms, agents, models and kinds cost the most.

One statement ranks all of agents, models and kinds; tenants, users and swarms take one each. What belongs to no user,
swarm and so on is a group as well, with key None. Amounts are nano-dollars.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from django.db import connection

from apps.costs.daily import Day
from apps.costs.grouping import By
from apps.costs.lines import SUMMED, Source, Sums, Tail, Tenants, of

Key = str | None
_MEASURES = ", ".join(Sums._fields)
_USAGE = {By.AGENT: "agent", By.MODEL: "model", By.KIND: "counts_as"}
"""The groupings that one table has side by side."""
_SOURCES = {
    By.TENANT: Source(
        "costs_daytotal", "tenant_id AS key", "true", False, "day", "llm + infrastructure + storage + adjustment"
    ),
    By.USER: Source("costs_subjecttotal", "subject_id AS key", "subject_id IS NOT NULL"),
    By.SWARM: Source("costs_swarmtotal", "swarm_id AS key", "swarm_id IS NOT NULL", has_months=False),
}
_NOTHING = {By.USER: "no_user", By.SWARM: "no_swarm"}


class Ranked(NamedTuple):
    """The dearest groups, in no order, and how many groups there are."""

    groups: dict[Key, Sums]
    groups_in_all: int


def dearest(tenants: Tenants, first: dt.date, last: dt.date, tops: Mapping[By, int], *, total: Day) -> dict[By, Ranked]:
    """For each grouping at least its ``tops`` dearest groups; among equals those with the smaller key.

    ``total`` is the sum of the days.
    """
    tail = Tail(tenants, first, last)
    found = {}
    if By.TENANT in tops:
        found[By.TENANT] = _ranked(_TENANTS.format(lines=_SOURCES[By.TENANT].lines(tail)), tail, tops[By.TENANT])
    if By.USER in tops:
        found[By.USER] = _ranked(_USERS.format(lines=_SOURCES[By.USER].lines(tail)), tail, tops[By.USER])
    if By.SWARM in tops:
        found[By.SWARM] = _ranked(_swarms(tail), tail, tops[By.SWARM])
    for by in tops.keys() & _NOTHING.keys():
        nothing = _of_nobody(total, by)
        if nothing.entries:
            found[by].groups[None] = nothing
            found[by] = Ranked(found[by].groups, found[by].groups_in_all + 1)
    if usage := tops.keys() & _USAGE.keys():
        found |= _dearest_usage(tail, {by: tops[by] for by in usage})
    return found


def earlier(
    tenants: Tenants, first: dt.date, last: dt.date, wanted: Mapping[By, Sequence[Key]], *, total: Day
) -> dict[By, dict[Key, int]]:
    """What groups cost in an earlier time frame; those that cost nothing may be missing.

    ``total`` is the sum of its days.
    """
    tail = Tail(tenants, first, last)
    found: dict[By, dict[Key, int]] = {by: {} for by in wanted}
    for by in wanted.keys() - _USAGE.keys():
        keys = [key for key in wanted[by] if key is not None]
        if keys:
            with connection.cursor() as cursor:
                cursor.execute(
                    f"SELECT key::text, sum(amount)::bigint FROM ({_SOURCES[by].lines(tail)}) AS line "
                    f"WHERE key = ANY(%(keys)s::uuid[]) GROUP BY key",
                    {**tail.params, "keys": keys},
                )
                found[by] |= dict(cursor.fetchall())
        if None in wanted[by]:
            found[by][None] = _of_nobody(total, by).amount
    if usage := {by: keys for by, keys in wanted.items() if by in _USAGE and keys}:
        parts = [
            f"SELECT '{by}', {_USAGE[by]}, sum(amount)::bigint FROM line "
            f"WHERE {_USAGE[by]} = ANY(%({by})s) GROUP BY {_USAGE[by]}"
            for by in usage
        ]
        given = {str(by): [key or "" for key in keys] for by, keys in usage.items()}
        with connection.cursor() as cursor:
            cursor.execute(f"{_usage(tail, usage)} {' UNION ALL '.join(parts)}", {**tail.params, **given})
            for by, key, amount in cursor:
                found[By(by)][key or None] = amount
    return found


def _of_nobody(total: Day, by: By) -> Sums:
    sums: Sums = getattr(total, _NOTHING[by])
    return sums


def _ranked(statement: str, tail: Tail, top: int) -> Ranked:
    """Runs a statement whose rows are (key, sums, number of groups)."""
    with connection.cursor() as cursor:
        cursor.execute(statement, {**tail.params, "top": top})
        rows = list(cursor)
    return Ranked({row[0]: Sums(*row[1:5]) for row in rows}, rows[0][5] if rows else 0)


_TENANTS = f"""
    SELECT key::text, {SUMMED}, count(*) OVER () FROM ({{lines}}) AS line
    GROUP BY key ORDER BY sum(amount) DESC, key LIMIT %(top)s
"""
_USERS = f"""
    WITH best AS MATERIALIZED (
        SELECT key, count(*) OVER () AS groups FROM ({{lines}}) AS line
        GROUP BY key ORDER BY sum(amount) DESC, key LIMIT %(top)s
    )
    SELECT key::text, {", ".join(f"found.{name}" for name in Sums._fields)}, groups
    FROM best CROSS JOIN LATERAL (
        SELECT {SUMMED} FROM ({{lines}}) AS line WHERE line.key = best.key
    ) AS found ({_MEASURES})
"""
"""Ranked by what an index holds; only of the dearest are the other sums looked up."""


def _swarms(tail: Tail) -> str:
    """Of swarms there may be hundreds of thousands, nearly all with a single row.

    A swarm with a single row is among the dearest only if its row is: these are found from the end of an index. Only
    the swarms that have further rows, or entries in the tail, are added up. How many there are, the days know.
    """
    rows = f"costs_swarmtotal AS u WHERE {of('u', tail.tenants)} AND start BETWEEN %(first)s AND %(last)s"
    return f"""
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
            SELECT c.swarm_id, {_MEASURES} FROM candidate c CROSS JOIN LATERAL (
                SELECT {_MEASURES} FROM {rows} AND u.swarm_id = c.swarm_id OFFSET 0
            ) AS found
            UNION ALL SELECT swarm_id, {_MEASURES} FROM behind
        )
        SELECT swarm_id::text, {SUMMED}, (
            SELECT coalesce(sum(active_swarms), 0)::bigint FROM costs_daytotal d
            WHERE {of("d", tail.tenants)} AND day BETWEEN %(first)s AND %(last)s
        ) + (SELECT count(*) FROM several)
            - (SELECT count(*) FROM {rows} AND swarm_id IN (SELECT swarm_id FROM several))
        FROM line GROUP BY swarm_id ORDER BY sum(amount) DESC, swarm_id LIMIT %(top)s
    """


def _dearest_usage(tail: Tail, tops: Mapping[By, int]) -> dict[By, Ranked]:
    parts = [
        f"(SELECT '{by}', {_USAGE[by]}, {SUMMED}, count(*) OVER () FROM line "
        f"GROUP BY {_USAGE[by]} ORDER BY sum(amount) DESC, {_USAGE[by]} LIMIT %({by})s)"
        for by in tops
    ]
    given = {str(by): top for by, top in tops.items()}
    found = {by: Ranked({}, 0) for by in tops}
    with connection.cursor() as cursor:
        cursor.execute(f"{_usage(tail, tops)} {' UNION ALL '.join(parts)}", {**tail.params, **given})
        for by, key, *sums, count in cursor:
            found[By(by)] = Ranked({**found[By(by)].groups, key or None: Sums(*sums)}, count)
    return found


def _usage(tail: Tail, wanted: Mapping[By, object]) -> str:
    """The head of a statement with ``line``: what was spent for each combination of the groupings that are wanted."""
    keys = ", ".join(_USAGE[by] for by in wanted)
    lines = Source("costs_usagetotal", keys).lines(tail)
    sums = ", ".join(f"sum({name})::bigint AS {name}" for name in Sums._fields)
    return f"WITH line AS MATERIALIZED (SELECT {keys}, {sums} FROM ({lines}) AS line GROUP BY {keys})"
