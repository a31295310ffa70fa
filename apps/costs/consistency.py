"""Questions of the watchdog: is the money whole? Each answer lists what is wrong, and is empty when all is well.

The work is bounded by looking at what was charged lately: ``window`` ledger entries back from the newest, and the
budget periods that those, and the reservations of now, were charged to.
"""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any, NamedTuple

from django.db import connection

from apps.costs.summing import COUNTS_AS, comparing


class PeriodGap(NamedTuple):
    """A budget period whose column differs from the sum of the rows that it stands for; nano-dollars."""

    period_id: int
    tenant_id: uuid.UUID
    budget: str
    key: str
    holder: str
    recorded: int
    rows: int


class OrphanedEntry(NamedTuple):
    """A charge for a model call of a swarm that does not say which task made it."""

    entry_id: int
    tenant_id: uuid.UUID
    at: dt.datetime
    amount: int


class LeftoverReservation(NamedTuple):
    """A reservation that outlived its lease and was not charged."""

    reservation_id: uuid.UUID
    tenant_id: uuid.UUID
    swarm_id: uuid.UUID | None
    expires_at: dt.datetime
    amount: int


def spent_differs_from_ledger(*, window: int = 5000, limit: int = 100) -> list[PeriodGap]:
    """Periods that calls were charged to lately, and whose spending is not the sum of their ledger entries."""
    # An hour of slack, because the clocks of two machines may differ.
    return [
        PeriodGap(*row)
        for row in _rows(
            """
            WITH lately AS (
                SELECT DISTINCT unnest(period_ids) AS id
                FROM (SELECT period_ids FROM costs_ledgerentry ORDER BY id DESC LIMIT %(window)s) AS newest
            ), watched AS (
                SELECT p.id, b.tenant_id, b.name, p.key, p.holder, p.starts_at, p.spent + p.overage AS recorded
                FROM lately JOIN costs_budgetperiod p USING (id) JOIN costs_budget b ON b.id = p.budget_id
            ), since AS (
                SELECT tenant_id, min(starts_at) - interval '1 hour' AS starts_at FROM watched GROUP BY tenant_id
            ), sums AS (
                SELECT period_id, sum(l.amount)::bigint AS total
                FROM since JOIN costs_ledgerentry l ON l.tenant_id = since.tenant_id AND l.at >= since.starts_at
                CROSS JOIN unnest(l.period_ids) AS period_id
                GROUP BY period_id
            )
            SELECT w.id, w.tenant_id, w.name, w.key, w.holder, w.recorded, coalesce(s.total, 0)
            FROM watched w LEFT JOIN sums s ON s.period_id = w.id
            WHERE w.recorded <> coalesce(s.total, 0) ORDER BY w.id LIMIT %(limit)s
            """,
            window=window,
            limit=limit,
        )
    ]


def reserved_differs_from_reservations(*, window: int = 5000, limit: int = 100) -> list[PeriodGap]:
    """Periods in use whose reserved amount is not the sum of the reservations that name them."""
    return [
        PeriodGap(*row)
        for row in _rows(
            """
            WITH sums AS (
                SELECT period_id, sum(amount)::bigint AS total
                FROM costs_reservation CROSS JOIN unnest(period_ids) AS period_id GROUP BY period_id
            ), lately AS (
                SELECT DISTINCT unnest(period_ids) AS id
                FROM (SELECT period_ids FROM costs_ledgerentry ORDER BY id DESC LIMIT %(window)s) AS newest
                UNION SELECT period_id FROM sums
            )
            SELECT p.id, b.tenant_id, b.name, p.key, p.holder, p.reserved, coalesce(s.total, 0)
            FROM lately JOIN costs_budgetperiod p USING (id) JOIN costs_budget b ON b.id = p.budget_id
            LEFT JOIN sums s ON s.period_id = p.id
            WHERE p.reserved <> coalesce(s.total, 0) ORDER BY p.id LIMIT %(limit)s
            """,
            window=window,
            limit=limit,
        )
    ]


def charges_without_task(*, window: int = 5000, limit: int = 100) -> list[OrphanedEntry]:
    """Charges for model calls, among the newest entries, that belong to a swarm but name none of its tasks.

    Those of runs elsewhere have none.
    """
    return [
        OrphanedEntry(*row)
        for row in _rows(
            """
            SELECT id, tenant_id, at, amount
            FROM (SELECT * FROM costs_ledgerentry ORDER BY id DESC LIMIT %(window)s) AS newest
            WHERE kind = 'llm' AND swarm_id IS NOT NULL AND task_id IS NULL AND run = '' ORDER BY id LIMIT %(limit)s
            """,
            window=window,
            limit=limit,
        )
    ]


def leftover_reservations(
    *, now: dt.datetime, grace: dt.timedelta = dt.timedelta(seconds=30), limit: int = 100
) -> list[LeftoverReservation]:
    """Reservations that should have been charged ``grace`` ago or earlier."""
    return [
        LeftoverReservation(*row)
        for row in _rows(
            """
            SELECT id, tenant_id, swarm_id, expires_at, amount FROM costs_reservation
            WHERE expires_at <= %(before)s ORDER BY expires_at LIMIT %(limit)s
            """,
            before=now - grace,
            limit=limit,
        )
    ]


class RollupGap(NamedTuple):
    """A row of the roll-ups that is not the sum of the ledger entries it stands for.

    ``recorded`` and ``rows`` are its columns as lists, None where there is no such row or no such entry.
    """

    table: str
    key: str
    recorded: list[int] | None
    rows: list[int] | None


class DayGap(NamedTuple):
    """A tenant's day whose roll-ups differ from its ledger entries; nano-dollars, or a count."""

    tenant_id: uuid.UUID
    day: dt.date
    what: str
    recorded: int
    rows: int


def days_differ_from_ledger(*, window: int = 5000, days: int = 20, largest: int = 50_000) -> list[DayGap]:
    """Days that entries were rolled up into lately, and whose roll-ups are not the sums of their entries.

    Of the ``window`` entries before the roll-ups' position: at most ``days`` days, of at most ``largest`` entries each.
    """
    return [
        DayGap(*row)
        for row in _rows(
            f"""
            WITH position AS (SELECT entry_id FROM costs_rollupposition), lately AS (
                SELECT DISTINCT l.tenant_id, r.time_zone, (l.at AT TIME ZONE r.time_zone)::date AS day
                FROM (
                    SELECT tenant_id, at FROM costs_ledgerentry WHERE id <= (SELECT entry_id FROM position)
                    ORDER BY id DESC LIMIT %(window)s
                ) AS l JOIN costs_rolledtenant r ON r.tenant_id = l.tenant_id
            ), watched AS (
                SELECT y.*, d.llm, d.infrastructure, d.storage, d.adjustment, d.active_swarms, d.entries
                FROM lately y LEFT JOIN costs_daytotal d ON d.tenant_id = y.tenant_id AND d.day = y.day
                WHERE coalesce(d.entries, 0) <= %(largest)s ORDER BY random() LIMIT %(days)s
            )
            SELECT w.tenant_id, w.day, c.what, c.recorded, c.rows
            FROM watched w CROSS JOIN LATERAL (
                SELECT coalesce(sum(amount) FILTER (WHERE counts_as = 'llm'), 0) AS llm,
                    coalesce(sum(amount) FILTER (WHERE counts_as = 'infrastructure'), 0) AS infrastructure,
                    coalesce(sum(amount) FILTER (WHERE counts_as = 'storage'), 0) AS storage,
                    coalesce(sum(amount) FILTER (WHERE counts_as = 'adjustment'), 0) AS adjustment,
                    coalesce(sum(amount) FILTER (WHERE swarm_id IS NOT NULL), 0) AS of_swarms,
                    coalesce(sum(amount) FILTER (WHERE subject_id IS NOT NULL), 0) AS of_users,
                    coalesce(sum(amount), 0) AS total, count(*) AS entries, count(DISTINCT swarm_id) AS active_swarms
                FROM (
                    SELECT *, {COUNTS_AS.format("l")} AS counts_as FROM costs_ledgerentry l
                    WHERE l.tenant_id = w.tenant_id AND l.id <= (SELECT entry_id FROM position)
                    AND l.at >= w.day - interval '1 day' AND l.at < w.day + interval '2 days'
                    AND (l.at AT TIME ZONE w.time_zone)::date = w.day
                ) AS entry
            ) AS l, LATERAL (VALUES
                ('model calls', w.llm, l.llm), ('infrastructure', w.infrastructure, l.infrastructure),
                ('storage', w.storage, l.storage), ('adjustments', w.adjustment, l.adjustment),
                ('entries', w.entries, l.entries), ('active swarms', w.active_swarms, l.active_swarms),
                ('usage', (SELECT sum(amount) FROM costs_usagetotal t WHERE t.tenant_id = w.tenant_id
                    AND t.grain = 'day' AND t.start = w.day), l.total),
                ('swarms', (SELECT sum(amount) FROM costs_swarmtotal t WHERE t.tenant_id = w.tenant_id
                    AND t.start = w.day), l.of_swarms),
                ('users', (SELECT sum(amount) FROM costs_subjecttotal t WHERE t.tenant_id = w.tenant_id
                    AND t.grain = 'day' AND t.start = w.day), l.of_users)
            ) AS c (what, recorded, rows)
            WHERE coalesce(c.recorded, 0) <> c.rows ORDER BY w.day, w.tenant_id, c.what
            """,
            window=window,
            days=days,
            largest=largest,
        )
    ]


def rollups_differ_from_ledger(*, limit: int = 100) -> list[RollupGap]:
    """Every row of the roll-ups that is not the sum of its entries, at most ``limit``. Reads the whole ledger once."""
    return [
        RollupGap(*row)
        for row in _rows(
            f"{comparing('l.id <= (SELECT entry_id FROM costs_rollupposition)')} LIMIT %(limit)s", limit=limit
        )
    ]


def _rows(sql: str, **params: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return list(cursor)
