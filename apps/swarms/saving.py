"""Advice on the pool, and what acting on advice about agents and the pool does."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator

from django.core.exceptions import ValidationError
from django.db import connection
from django.db.models import Min

from apps.audit import trail
from apps.costs.advising import Act, CannotDecide, Finding, Thresholds, register_finder
from apps.costs.dear_models import find_dear_models
from apps.costs.models import Accruing, Advice, AdviceKind, Kind, LedgerEntry, Rate
from apps.swarms.models import AgentOverride, Holding, ResourcePool
from apps.tenants.access import Principal
from apps.tenants.roles import Permission

MONTH_HOURS = 720


def find_large_pool(now: dt.datetime, thresholds: Thresholds) -> Iterator[Finding]:
    """A pool that never came near its size: what is above the most in use, and something to spare, is too much.

    What an agent of the pool costs its owner is not known here; everybody's rate of an agent-hour stands for it.
    """
    start = now - thresholds.window
    first = Holding.objects.aggregate(first=Min("since"))["first"]
    rate = Rate.objects.in_force(at=now).filter(kind=Accruing.INFRASTRUCTURE, tenant=None).first()
    if first is None or rate is None or now - first < dt.timedelta(days=thresholds.least_pool_days):
        return
    peak, at = _most_in_use(start, now)
    total = ResourcePool.objects.current().agents_total
    wanted = max(math.ceil(peak * thresholds.spare), 1)
    if peak == 0 or wanted >= total:
        return
    rows = LedgerEntry.objects.filter(kind=Kind.INFRASTRUCTURE, at__gte=start, at__lt=now)
    yield Finding(
        tenant_id=None,
        kind=AdviceKind.LARGE_POOL,
        key="agents",
        text=(
            f"The pool has {total:,} agents; at most {peak:,} were in use at once, on {at:%Y-%m-%d}. With "
            f"{wanted:,} there is a quarter to spare."
        ),
        saving=(total - wanted) * MONTH_HOURS * rate.price,
        first=max(first, start),
        last=now,
        entries=rows.count(),
        query={"kind": "infrastructure"},
        facts={"agents_total": total, "new_total": wanted, "peak": peak},
        sample_ids=sorted(rows.order_by("-id").values_list("id", flat=True)[:5]),
    )


def _most_in_use(start: dt.datetime, end: dt.datetime) -> tuple[int, dt.datetime]:
    """The most agents that were held at once, and since when."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH held AS (
                SELECT agents, greatest(since, %(start)s) AS since, until FROM swarms_holding
                WHERE since < %(end)s AND (until IS NULL OR until > %(start)s)
            ), moves AS (
                SELECT since AS at, agents AS n FROM held
                UNION ALL SELECT until, -agents FROM held WHERE until IS NOT NULL
            )
            -- What is given back at a moment is free for what is taken then.
            SELECT at, sum(n) OVER (ORDER BY at, n) AS used FROM moves ORDER BY used DESC, at LIMIT 1
            """,
            {"start": start, "end": end},
        )
        row = cursor.fetchone()
    return (int(row[1]), row[0]) if row else (0, start)


def _override(advice: Advice, by: Principal, **values: str | int) -> None:
    """Adds to what the tenant decided about an agent. Raises CannotDecide when it would not be valid."""
    assert advice.tenant_id
    agent = str(advice.facts["agent"])
    override = AgentOverride.objects.select_for_update().filter(tenant_id=advice.tenant_id, agent=agent).first()
    verb = "update" if override else "create"
    override = override or AgentOverride(tenant_id=advice.tenant_id, agent=agent)
    for name, value in values.items():
        setattr(override, name, value)
    override.advice_id, override.note = advice.pk, f"Advice: {advice.get_kind_display().lower()}"
    try:
        override.full_clean()
    except ValidationError as error:
        raise CannotDecide(" ".join(error.messages)) from error
    override.save()
    trail.record(by, f"override:{verb}", override, tenant_id=advice.tenant_id, details={"agent": agent, **values})


def _shrink_pool(advice: Advice, by: Principal) -> None:
    pool = ResourcePool.objects.locked()
    before, pool.agents_total = pool.agents_total, int(advice.facts["new_total"])
    try:
        pool.clean()
    except ValidationError as error:
        raise CannotDecide(" ".join(error.messages)) from error
    pool.save()
    trail.record(
        by, Permission.POOL_UPDATE, pool, tenant_id=None, details={"agents_total": [before, pool.agents_total]}
    )


def _effect(advice: Advice, what: str) -> str:
    return (
        f"Agents called {advice.facts['agent']} {what} in swarms submitted from now on, whatever their spec says. This "
        "is listed under Agent overrides, where it can be taken back."
    )


def _replicas(count: int) -> str:
    return f"{count:,} replica{'s' * (count != 1)}"


USE_CHEAPER = Act(
    "Use the cheaper model",
    lambda advice: _effect(advice, f"use {advice.facts['new_model']}"),
    lambda advice, by: _override(advice, by, model=str(advice.facts["new_model"])),
)
SCALE_DOWN = Act(
    "Scale down",
    lambda advice: _effect(advice, f"get {_replicas(advice.facts['new_replicas'])} at most"),
    lambda advice, by: _override(advice, by, max_replicas=int(advice.facts["new_replicas"])),
)
SHRINK_POOL = Act(
    "Shrink the pool",
    lambda advice: f"The pool gets {advice.facts['new_total']:,} agents in all.",
    _shrink_pool,
    permission=None,
)


def register() -> None:
    """Called once, when the apps are ready."""
    register_finder(AdviceKind.DEAR_MODEL, find_dear_models, USE_CHEAPER)
    register_finder(AdviceKind.LARGE_POOL, find_large_pool, SHRINK_POOL)
