"""What the overview shows: swarms with their money, the pool, and spending against budgets."""

from __future__ import annotations

import datetime as dt
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from django.db.models import Count, Q, Sum

from apps.costs.budgets import Standing, standings
from apps.costs.models import Budget, LedgerEntry, Period, Scope
from apps.swarms.models import ResourcePool, Swarm, Task, TaskStatus
from apps.tenants.access import Principal
from apps.tenants.models import Tenant
from apps.tenants.roles import Permission


@dataclass(frozen=True, slots=True)
class Row:
    """A swarm as a line of a list. Money in nano-dollars, None where the principal may not see it."""

    swarm: Swarm
    cost: int | None = None
    budget: int | None = None
    in_flight: int = 0

    @property
    def done(self) -> int:
        """Tasks that are over."""
        return self.swarm.tasks_succeeded + self.swarm.tasks_failed + self.swarm.tasks_cancelled

    @property
    def percent(self) -> int:
        """Tasks that are over, of all; 100 only when all are."""
        return share(self.done, self.swarm.tasks_total)

    @property
    def budget_percent(self) -> int | None:
        return share(self.cost, self.budget) if self.cost is not None and self.budget else None


def share(part: int | Decimal, whole: int | Decimal) -> int:
    """Whole percent, rounded down so that 100 means all of it; 0 of nothing is 0."""
    return int(100 * Decimal(part) / Decimal(whole)) if whole else 0


def rows(swarms: Iterable[Swarm], principal: Principal, *, in_flight: bool = False) -> list[Row]:
    """Swarms with cost and run budget, as far as the principal may see money. At most three queries."""
    swarms = list(swarms)
    costly = [s.pk for s in swarms if principal.can(Permission.COST_READ, s.tenant_id, swarm_id=s.pk)]
    budgeted = [s.pk for s in swarms if principal.can(Permission.BUDGET_READ, s.tenant_id, swarm_id=s.pk)]
    costs = LedgerEntry.objects.of_swarms(costly) if costly else {}
    budgets = run_budgets(budgeted)
    running: dict[uuid.UUID, int] = {}
    if in_flight and swarms:
        running = dict(
            Task.objects.filter(swarm__in=swarms, status=TaskStatus.RUNNING)
            .order_by()
            .values_list("swarm_id")
            .annotate(n=Count("id"))
        )
    return [
        Row(
            swarm,
            costs[swarm.pk].total if swarm.pk in costs else None,
            budgets.get(swarm.pk),
            running.get(swarm.pk, 0),
        )
        for swarm in swarms
    ]


def run_budgets(swarm_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, int]:
    """The limit that each swarm's own run budget sets, in nano-dollars; the lowest where there are several."""
    limits: dict[uuid.UUID, int] = {}
    if swarm_ids:
        found = Budget.objects.active().filter(
            scope=Scope.SWARM, period=Period.RUN, target__in=[str(pk) for pk in swarm_ids]
        )
        for target, limit in found.values_list("target", "limit"):
            swarm_id = uuid.UUID(target)
            limits[swarm_id] = min(limit, limits.get(swarm_id, limit))
    return limits


@dataclass(frozen=True, slots=True)
class Gauge:
    """Something of the pool: how much is taken of how much."""

    name: str
    icon: str
    unit: str
    used: Decimal
    total: Decimal

    @property
    def percent(self) -> int:
        return share(self.used, self.total)

    @property
    def tone(self) -> str:
        return "bad" if self.percent >= 95 else "wait" if self.percent >= 80 else "busy"


def gauges() -> list[Gauge]:
    """The pool's four gauges; none while there is no pool."""
    pool = ResourcePool.objects.first()
    if pool is None:
        return []
    return [
        Gauge("Agents", "smart_toy", "", Decimal(pool.agents_used), Decimal(pool.agents_total)),
        Gauge("Memory", "memory", "GB", pool.memory_gb_used, pool.memory_gb_total),
        Gauge("CPU", "speed", "cores", pool.cpu_used, pool.cpu_total),
        Gauge("Swarms", "hub", "", Decimal(pool.swarms_used), Decimal(pool.swarms_total)),
    ]


@dataclass(frozen=True, slots=True)
class BudgetLine:
    """A budget and how it stands now; the fullest period where it watches several."""

    budget: Budget
    standing: Standing

    @property
    def percent(self) -> int:
        return int(self.standing.percent)

    @property
    def committed(self) -> int:
        """Nano-dollars spent or reserved."""
        return self.standing.spent + self.standing.reserved

    @property
    def tone(self) -> str:
        stand = self.standing
        return "good" if not stand.is_near else "bad" if stand.has_run_out and self.budget.is_hard else "wait"


def budget_lines(budgets: Iterable[Budget], now: dt.datetime) -> list[BudgetLine]:
    """How budgets stand; those of a whole tenant first, then the fullest first. Three queries."""
    budgets = list(budgets)
    stand = standings(budgets, now=now)
    lines = [BudgetLine(budget, stand[budget.pk]) for budget in budgets]
    return sorted(lines, key=lambda line: (line.budget.scope != Scope.TENANT, -line.standing.percent))


@dataclass(frozen=True, slots=True)
class Spending:
    """What a tenant has spent today, in its own time zone, and how its budgets stand. None: may not be seen."""

    tenant: Tenant
    today: int | None
    budgets: list[BudgetLine] = field(default_factory=list)


def spending(tenants: Sequence[Tenant], principal: Principal, now: dt.datetime) -> list[Spending]:
    """Spending of each tenant whose costs or budgets the principal may see. At most four queries."""
    costly = {t.pk for t in tenants if principal.can(Permission.COST_READ, t.pk)}
    budgeted = {t.pk for t in tenants if principal.can(Permission.BUDGET_READ, t.pk)}
    today = spent_today([t for t in tenants if t.pk in costly], now)
    lines: dict[uuid.UUID, list[BudgetLine]] = defaultdict(list)
    if budgeted:
        for line in budget_lines(Budget.objects.active().lasting().filter(tenant__in=budgeted), now):
            lines[line.budget.tenant_id].append(line)
    return [
        Spending(tenant, today.get(tenant.pk, 0) if tenant.pk in costly else None, lines[tenant.pk])
        for tenant in tenants
        if tenant.pk in costly or tenant.pk in budgeted
    ]


def spent_today(tenants: Sequence[Tenant], now: dt.datetime) -> dict[uuid.UUID, int]:
    """Nano-dollars owed since midnight in each tenant's time zone. One query."""
    midnights: dict[dt.datetime, list[Any]] = defaultdict(list)
    for tenant in tenants:
        midnight = now.astimezone(tenant.zone).replace(hour=0, minute=0, second=0, microsecond=0)
        midnights[midnight.astimezone(dt.UTC)].append(tenant.pk)
    if not midnights:
        return {}
    condition = Q()
    for midnight, tenant_ids in midnights.items():
        condition |= Q(tenant_id__in=tenant_ids, at__gte=midnight)
    found = LedgerEntry.objects.filter(condition).order_by().values_list("tenant_id").annotate(total=Sum("amount"))
    return {tenant_id: int(total) for tenant_id, total in found}
