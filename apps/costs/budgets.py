"""How budgets stand in their current periods, and which tenants they keep from spending."""

from __future__ import annotations

import datetime as dt
import uuid
import zoneinfo
from collections.abc import Sequence
from dataclasses import dataclass, replace

from django.db import connection

from apps.costs.alerting import USED_UP, highest_reached
from apps.costs.models import Budget, Enforcement, Period, Scope
from apps.costs.watching import span_of
from apps.tenants.models import Tenant
from portal.money import usd_label

RUN_STAYS_CURRENT = dt.timedelta(hours=1)
"""How long after its last charge a run still counts among the current ones of a budget that watches every run."""

RUN_LASTS_AT_MOST = dt.timedelta(days=30)
"""Runs that began earlier are not looked at: it bounds the work on a budget that has watched very many runs."""

_EVER = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a budget stands in its current period; the fullest one where it watches several holders or runs.

    Amounts in nano-dollars. ``spent`` includes what a provider billed beyond its reservation. ``percent`` is of what is
    spent or reserved. ``of`` counts the current periods; 0 means that nothing was charged yet. ``exhausted_at`` is when
    a call was first refused for good. ``counts_from`` is when the budget was made: it counts nothing from before.
    """

    budget_id: uuid.UUID
    key: str
    holder: str
    starts_at: dt.datetime | None
    ends_at: dt.datetime | None
    limit: int
    spent: int = 0
    reserved: int = 0
    of: int = 0
    period_id: int | None = None
    exhausted_at: dt.datetime | None = None
    alert_levels: tuple[int, ...] = ()
    counts_from: dt.datetime | None = None
    is_hard: bool = True

    @property
    def remaining(self) -> int:
        return max(self.limit - self.spent - self.reserved, 0)

    @property
    def level(self) -> int | None:
        """The highest alert level that is reached, by what is spent or by a call that was refused for good."""
        reached = highest_reached(self.alert_levels, owed=self.spent, limit=self.limit) or 0
        if self.exhausted_at and USED_UP in self.alert_levels:
            reached = max(reached, USED_UP)
        return reached or None

    @property
    def percent(self) -> float:
        return 100.0 * (self.spent + self.reserved) / self.limit if self.limit else 100.0

    @property
    def is_used_up(self) -> bool:
        """Nothing is left, and calls in flight can give nothing back."""
        return self.spent >= self.limit

    @property
    def has_run_out(self) -> bool:
        """Nothing is left, or too little for a call that was refused."""
        return self.is_used_up or (self.is_hard and self.exhausted_at is not None)

    @property
    def is_near(self) -> bool:
        """It needs a look: one of its alert levels is reached, or it has run out."""
        return self.has_run_out or self.level is not None

    @property
    def word(self) -> str:
        """How it is, in a word or two."""
        if self.has_run_out:
            return "used up" if self.is_hard else "over its limit"
        return f"past its {self.level} % alert" if self.level else "within its limit"


_OF_PERIOD = ("key", "holder", "starts_at", "ends_at", "limit", "spent", "reserved", "of", "period_id", "exhausted_at")


def standings(budgets: Sequence[Budget], *, now: dt.datetime) -> dict[uuid.UUID, Standing]:
    """How each of these budgets stands now. Two queries, however many budgets."""
    if not budgets:
        return {}
    zones = {
        tenant_id: zoneinfo.ZoneInfo(name)
        for tenant_id, name in Tenant.objects.filter(pk__in={b.tenant_id for b in budgets}).values_list(
            "pk", "time_zone"
        )
    }
    result: dict[uuid.UUID, Standing] = {}
    sought: list[tuple[uuid.UUID, str | None, dt.datetime, dt.datetime]] = []
    for budget in budgets:
        span = span_of(budget.period, zones[budget.tenant_id], now, None)
        key, starts_at, ends_at = span or ("", None, None)
        result[budget.pk] = Standing(
            budget.pk,
            key,
            "",
            starts_at,
            ends_at,
            budget.limit,
            alert_levels=tuple(budget.alert_levels),
            counts_from=budget.created_at,
            is_hard=budget.is_hard,
        )
        if span:
            # A day of slack: the tenant's time zone may have been another one when the row was made.
            sought.append((budget.pk, span.key, span.starts_at - dt.timedelta(days=1), _EVER))
        elif budget.scope == Scope.SWARM and budget.target:
            sought.append((budget.pk, None, _EVER, _EVER))
        else:
            sought.append((budget.pk, None, now - RUN_LASTS_AT_MOST, now - RUN_STAYS_CURRENT))
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT DISTINCT ON (p.budget_id) p.budget_id, p.key, p.holder, p.starts_at, p.ends_at, p."limit",
                   p.spent + p.overage, p.reserved, count(*) OVER (PARTITION BY p.budget_id), p.id, p.exhausted_at
            FROM unnest(%s::uuid[], %s::text[], %s::timestamptz[], %s::timestamptz[])
                     AS s (budget_id, key, started_since, charged_since)
            JOIN costs_budgetperiod p ON p.budget_id = s.budget_id AND p.starts_at >= s.started_since
            WHERE (s.key IS NULL OR p.key = s.key) AND (p.updated_at >= s.charged_since OR p.reserved > 0)
            ORDER BY p.budget_id, (p.spent + p.reserved + p.overage)::float8 / greatest(p."limit", 1) DESC, p.id
            """,
            [list(column) for column in zip(*sought, strict=True)],
        )
        for budget_id, *row in cursor:
            found = dict(zip(_OF_PERIOD, row, strict=True))
            result[budget_id] = replace(result[budget_id], **found)
    return result


def blocked_tenants(*, now: dt.datetime) -> dict[uuid.UUID, tuple[str, dt.datetime | None]]:
    """The tenants that a hard budget of the whole tenant keeps from spending: the reason, and until when.

    Three queries. Budgets with calls in flight that may give something back do not block.
    """
    budgets = list(
        Budget.objects.active()
        .filter(scope=Scope.TENANT, enforcement=Enforcement.HARD)
        .exclude(period=Period.RUN)
        .only(
            "id", "tenant_id", "name", "scope", "target", "period", "limit", "alert_levels", "created_at", "enforcement"
        )
        .order_by("tenant_id", "name")
    )
    stand = standings(budgets, now=now)
    blocked: dict[uuid.UUID, tuple[str, dt.datetime | None]] = {}
    for budget in budgets:
        standing = stand[budget.pk]
        if not standing.is_used_up:
            continue
        known = blocked.get(budget.tenant_id)
        # Of several, the one that lasts longest says when work can go on.
        if known is None or (known[1] and standing.ends_at and standing.ends_at > known[1]):
            reason = f'Budget "{budget.name}" is used up: {usd_label(standing.spent)} of {usd_label(standing.limit)}.'
            blocked[budget.tenant_id] = (reason, standing.ends_at)
    return blocked
