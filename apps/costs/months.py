"""The months of tenants as a list: the open ones with what is owed so far, then the closed ones; each newest first."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from django.db import connection
from django.db.models import QuerySet

from apps.costs.lines import Tail, of
from apps.costs.models import Statement
from apps.costs.periods import Month, first_open_months, open_month_at
from apps.costs.statements import CannotClose, verify_next
from apps.tenants.models import Tenant

DRAFT = "draft"


@dataclass(frozen=True, slots=True)
class MonthOf:
    """A tenant's month. ``status`` is "draft" or that of its statement; ``amount`` is in nano-dollars.

    ``refusal`` says why a draft cannot be closed now, and is empty when it can. The amount of a draft counts by the
    days of the roll-ups: after a change of the tenant's time zone, that of its page may differ in the first days.
    """

    tenant: Tenant
    name: str
    period: str
    status: str
    amount: int
    entries: int
    refusal: str = ""
    closed_at: dt.datetime | None = None

    @property
    def can_close(self) -> bool:
        return self.status == DRAFT and not self.refusal


class Months:
    """Drafts, which are few, and then statements, which are read from the database as far as they are asked for."""

    def __init__(self, drafts: Sequence[MonthOf], statements: QuerySet[Statement]) -> None:
        self._drafts = drafts
        self._statements = statements.select_related("tenant").order_by("-period", "tenant_slug", "pk")
        self._count: int | None = None

    def __len__(self) -> int:
        if self._count is None:
            self._count = self._statements.order_by().count()
        return len(self._drafts) + self._count

    def __getitem__(self, place: slice) -> list[MonthOf]:
        start, stop, _ = place.indices(len(self))
        before = len(self._drafts)
        found = list(self._drafts[start:stop])
        if stop > before:
            found += map(_of_statement, self._statements[max(start - before, 0) : stop - before])
        return found


def _of_statement(statement: Statement) -> MonthOf:
    return MonthOf(
        statement.tenant,
        statement.tenant_name,
        statement.period,
        statement.status,
        statement.total,
        statement.entries,
        closed_at=statement.closed_at,
    )


@dataclass(frozen=True, slots=True)
class OpenMonth:
    """A month of a tenant without a statement; ``refusal`` as in :class:`MonthOf`."""

    tenant: Tenant
    month: Month
    refusal: str


def open_months(tenants: Sequence[Tenant], *, now: dt.datetime) -> list[OpenMonth]:
    """The open months of these tenants: of each, from the first with an entry in it to the current one.

    A tenant that never owed anything has none. Two queries.
    """
    latest = Statement.objects.filter(tenant_id__in=[tenant.pk for tenant in tenants]).defer("terms")
    lasts = {each.tenant_id: each for each in latest.order_by("tenant_id", "-ends_at").distinct("tenant_id")}
    dues = first_open_months((tenant, lasts.get(tenant.pk)) for tenant in tenants)
    found: list[OpenMonth] = []
    for tenant in tenants:
        last, due = lasts.get(tenant.pk), dues.get(tenant.pk)
        if last is None and due is None:
            continue
        current = open_month_at(tenant, now, last)
        month = min(due, current) if due else current
        while month <= current:
            try:
                verify_next(tenant, month, last=last, due=due, now=now)
                refusal = ""
            except CannotClose as cannot:
                refusal = str(cannot)
            found.append(OpenMonth(tenant, month, refusal))
            month = month.next
    return found


def drafts(tenants: Sequence[Tenant], *, now: dt.datetime) -> list[MonthOf]:
    """The open months of these tenants with what is owed so far, newest first. Four queries."""
    months = open_months(tenants, now=now)
    if not months:
        return []
    first = min(each.month for each in months)
    owed = _owed_by_month([tenant.pk for tenant in tenants], dt.date(first.year, first.number, 1), now)
    found = []
    for each in sorted(months, key=lambda each: each.tenant.slug):
        amount, entries = owed.get((each.tenant.pk, str(each.month)), (0, 0))
        found.append(MonthOf(each.tenant, each.tenant.name, str(each.month), DRAFT, amount, entries, each.refusal))
    return sorted(found, key=lambda row: row.period, reverse=True)


def _owed_by_month(
    tenant_ids: Sequence[uuid.UUID], first: dt.date, now: dt.datetime
) -> dict[tuple[uuid.UUID, str], tuple[int, int]]:
    """Nano-dollars and entries by tenant and month, from the roll-ups and what is behind them. Two queries."""
    tail = Tail(tenant_ids, first, (now + dt.timedelta(days=2)).date())
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT tenant_id, date_trunc('month', day::timestamp), sum(amount)::bigint, sum(entries)::bigint FROM (
                SELECT tenant_id, day, llm + infrastructure + storage + adjustment AS amount, entries
                FROM costs_daytotal AS d WHERE {of("d", tenant_ids)} AND day BETWEEN %(first)s AND %(last)s
                UNION ALL SELECT tenant_id, day, amount, 1 FROM ({tail.sql}) AS tail
            ) AS line GROUP BY 1, 2
            """,
            tail.params,
        )
        return {(tenant_id, f"{first:%Y-%m}"): (amount, entries) for tenant_id, first, amount, entries in cursor}
