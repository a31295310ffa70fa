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

from apps.costs.models import LedgerEntry, Statement
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
    entries = LedgerEntry.objects.filter(tenant_id=tenant.pk)
    if last is not None:
        entries = entries.filter(at__gte=last.ends_at)
    at = entries.order_by("at").values_list("at", flat=True).first()
    if at is None:
        return None
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
