"""A question of the watchdog: are the statements whole? Its answer is what is wrong, and empty when all is well."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import NamedTuple

from django.db import connection

RECENT = dt.timedelta(days=35)
"""How long after its closing a statement is held against the ledger."""


class Fault(StrEnum):
    """What can be wrong with a month."""

    CLOSING = "closing"
    LINES = "lines"
    LEDGER = "ledger"
    OVERLAPS = "overlaps"
    OUTSIDE = "outside"


class StatementFault(NamedTuple):
    """A month that is not as it should be.

    ``recorded`` and ``found`` are nano-dollars, ``recorded_entries`` and ``found_entries`` counts, null where they mean
    nothing. ``at`` is since when it is closing, up to when the month before it goes, or when the entry outside was.
    """

    fault: str
    tenant: str
    period: str
    recorded: int | None
    found: int | None
    recorded_entries: int | None
    found_entries: int | None
    at: dt.datetime | None


def statement_faults(
    *,
    now: dt.datetime,
    patience: dt.timedelta = dt.timedelta(minutes=15),
    most: int = 500,
    entries: int = 300_000,
    limit: int = 100,
) -> list[StatementFault]:
    """Months that have been closing for longer than ``patience``, do not add up, overlap, or left entries out.

    Lines are added up of the ``most`` statements that were closed last. Of those that were closed within ``RECENT``,
    the smallest are held against the ledger, as many as have so many ``entries`` together. One query.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH latest AS (
                SELECT * FROM costs_statement WHERE status = 'closed' ORDER BY closed_at DESC LIMIT %(most)s
            ), small AS (
                SELECT * FROM (
                    SELECT *, sum(entries) OVER (ORDER BY entries, id) AS together
                    FROM latest WHERE closed_at >= %(since)s
                ) AS recent WHERE together <= %(entries)s
            ), months AS (
                SELECT *, max(ends_at) OVER (
                    PARTITION BY tenant_id ORDER BY starts_at, ends_at ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                ) AS before FROM costs_statement
            )
            SELECT 'closing', tenant_slug, period, NULL::bigint, NULL::bigint, NULL::bigint, NULL::bigint, closing_since
            FROM costs_statement WHERE status = 'closing' AND closing_since < %(closing_before)s
            UNION ALL
            SELECT 'lines', s.tenant_slug, s.period, s.total, l.amount, s.entries, l.entries, NULL
            FROM latest s CROSS JOIN LATERAL (
                SELECT coalesce(sum(amount), 0)::bigint AS amount, coalesce(sum(entries), 0)::bigint AS entries
                FROM costs_statementline WHERE statement_id = s.id
            ) l WHERE s.total <> l.amount OR s.entries <> l.entries
            UNION ALL
            SELECT 'ledger', s.tenant_slug, s.period, s.total, l.amount, s.entries, l.entries, NULL
            FROM small s CROSS JOIN LATERAL (
                SELECT coalesce(sum(amount), 0)::bigint AS amount, count(*) AS entries FROM costs_ledgerentry
                WHERE tenant_id = s.tenant_id AND at >= s.starts_at AND at < s.ends_at
            ) l WHERE s.total <> l.amount OR s.entries <> l.entries
            UNION ALL
            SELECT 'overlaps', tenant_slug, period, NULL, NULL, NULL, NULL, before FROM months WHERE before > starts_at
            UNION ALL
            SELECT 'outside', m.tenant_slug, m.period, NULL, NULL, NULL, NULL, l.at
            FROM months m CROSS JOIN LATERAL (
                SELECT at FROM costs_ledgerentry
                WHERE tenant_id = m.tenant_id AND at >= coalesce(m.before, '-infinity') AND at < m.starts_at
                ORDER BY at LIMIT 1
            ) l WHERE m.before IS NULL OR m.before < m.starts_at
            ORDER BY 1, 2, 3 LIMIT %(limit)s
            """,
            {
                "since": now - RECENT,
                "closing_before": now - patience,
                "most": most,
                "entries": entries,
                "limit": limit,
            },
        )
        return [StatementFault(*row) for row in cursor]
