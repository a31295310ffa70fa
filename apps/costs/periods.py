"""Months of statements: which moments each holds, and up to where a tenant's ledger is closed.

A month begins where the one before was closed, even when the tenant has changed its time zone since, so that the months
of a tenant meet: no moment is in two of them, or in none.
"""

from __future__ import annotations

import datetime as dt
import re
import uuid
import zoneinfo
from collections.abc import Iterable
from dataclasses import dataclass

from django.db import connection
from django.db.models import Max

from apps.costs.models import Statement
from apps.tenants.models import Tenant


@dataclass(frozen=True, slots=True, order=True)
class Month:
    """A calendar month."""

    year: int
    number: int

    @classmethod
    def parse(cls, text: str) -> Month:
        """Raises ValueError, for a person, unless ``text`` is like "2026-10"."""
        found = re.fullmatch(r"(2[0-9]{3})-(0[1-9]|1[0-2])", text)
        if not found:
            raise ValueError(f'"{text}" is not a month such as 2026-10.')
        return cls(int(found[1]), int(found[2]))

    @classmethod
    def of(cls, at: dt.datetime, zone: zoneinfo.ZoneInfo) -> Month:
        local = at.astimezone(zone)
        return cls(local.year, local.month)

    @property
    def next(self) -> Month:
        return Month(self.year + 1, 1) if self.number == 12 else Month(self.year, self.number + 1)

    def begins(self, zone: zoneinfo.ZoneInfo) -> dt.datetime:
        """Its first moment by that zone's clocks, in UTC, because two moments of one zone compare by their clocks."""
        return dt.datetime(self.year, self.number, 1, tzinfo=zone).astimezone(dt.UTC)

    def __str__(self) -> str:
        return f"{self.year}-{self.number:02}"


@dataclass(frozen=True, slots=True)
class Window:
    """A tenant's month from ``starts_at`` (included) to ``ends_at`` (excluded), in UTC."""

    month: Month
    starts_at: dt.datetime
    ends_at: dt.datetime


def last_statement(tenant_id: uuid.UUID) -> Statement | None:
    """The latest month of a tenant that is closed, or closing."""
    return Statement.objects.filter(tenant_id=tenant_id).order_by("-ends_at").first()


def window_of(tenant: Tenant, month: Month, last: Statement | None) -> Window:
    """An open month of a tenant, of which ``last`` is the latest closed one."""
    starts_at = month.begins(tenant.zone)
    if last is not None:
        follows = Month.parse(last.period).next == month
        starts_at = last.ends_at if follows else max(starts_at, last.ends_at)
    return Window(month, starts_at, month.next.begins(tenant.zone))


def first_open_month(tenant: Tenant, last: Statement | None) -> Month | None:
    """The earliest month of a tenant with entries that is not closed; None when there is none. One query."""
    return first_open_months([(tenant, last)]).get(tenant.pk)


def first_open_months(tenants: Iterable[tuple[Tenant, Statement | None]]) -> dict[uuid.UUID, Month]:
    """The same for many, each with its latest closed month; tenants without such a month are left out. One query."""
    asked = {tenant.pk: (tenant, last) for tenant, last in tenants}
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT t.id, found.at
            FROM unnest(%s::uuid[], %s::timestamptz[]) AS t (id, since) CROSS JOIN LATERAL (
                SELECT l.at FROM costs_ledgerentry l
                WHERE l.tenant_id = t.id AND l.at >= coalesce(t.since, '-infinity') ORDER BY l.at LIMIT 1
            ) AS found
            """,
            [list(asked), [last.ends_at if last else None for _, last in asked.values()]],
        )
        return {tenant_id: open_month_at(asked[tenant_id][0], at, asked[tenant_id][1]) for tenant_id, at in cursor}


def open_month_at(tenant: Tenant, at: dt.datetime, last: Statement | None) -> Month:
    """The month to which a moment belongs that is not before the end of ``last``, the latest closed one."""
    month = Month.of(at, tenant.zone)
    return month if last is None else max(month, Month.parse(last.period).next)


def closed_up_to(tenant_ids: Iterable[uuid.UUID]) -> dict[uuid.UUID, dt.datetime]:
    """The moment before which the ledger of each of these tenants is closed; only those with a closed month.

    In a transaction the answer holds until its end: no month is closed meanwhile, because closing waits for the lock.
    """
    with connection.cursor() as cursor:
        # What every insert takes anyway, and what does not go with the lock that closing takes. The partitions need
        # none, because closing locks their parent with them.
        cursor.execute("LOCK TABLE ONLY costs_ledgerentry IN ROW EXCLUSIVE MODE")
    ends = Statement.objects.filter(tenant_id__in=list(tenant_ids)).order_by()
    return dict(ends.values_list("tenant_id").annotate(Max("ends_at")))
