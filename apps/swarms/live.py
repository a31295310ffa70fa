"""What of a swarm moves without its version: tasks under way, costs, money held, its own budget. All in one query.

``with_live`` brings it along with the rows of a queryset, so that who reads one swarm needs no second query.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from typing import Any

from django.db.models import JSONField, QuerySet
from django.db.models.expressions import RawSQL

from apps.costs.models import Budget, BudgetPeriod, LedgerEntry, Period, Reservation, Scope
from apps.costs.models.ledger import Cost, cost_of
from apps.swarms.models import Agent, Swarm, Task, TaskStatus

UNDER_WAY = (TaskStatus.READY, TaskStatus.RUNNING, TaskStatus.WAITING)
_NAME = "live_facts"


@dataclass(frozen=True, slots=True)
class Live:
    """As of the moment of the query. Money is in nano-dollars.

    ``tasks``: by the agent's name, how many of its tasks are in each status of ``UNDER_WAY``; ``budget``: the run's own
    {id, name, limit, spent, reserved, remaining, percent}, None without one; ``mark`` differs whenever any of it does.
    """

    tasks: dict[str, dict[str, int]]
    cost: Cost
    tokens: int
    reserved: int
    budget: dict[str, Any] | None
    mark: str


def with_live(swarms: QuerySet[Swarm]) -> QuerySet[Swarm]:
    """The same swarms; what is live of each is read with them."""
    return swarms.annotate(**{_NAME: _FACTS})


def live_of(swarm: Swarm) -> Live:
    """What is live of a swarm: what came with its row, else as it is now (one query)."""
    facts = swarm.__dict__.get(_NAME)
    if facts is None:
        facts = with_live(Swarm.objects.filter(pk=swarm.pk)).order_by().values_list(_NAME, flat=True).get()
    tasks: dict[str, dict[str, int]] = {}
    for agent, status, count in facts["tasks"] or ():
        tasks.setdefault(agent, {})[status] = count
    ledger = facts["ledger"] or ()
    return Live(
        tasks,
        cost_of((kind, of_call, total) for kind, of_call, total, _ in ledger),
        sum(tokens for *_, tokens in ledger),
        facts["reserved"],
        budget_status(*facts["budget"]) if facts["budget"] else None,
        hashlib.sha256(repr(facts).encode()).hexdigest()[:16],
    )


def budget_status(
    budget_id: str | uuid.UUID, name: str, limit: int, spent: int | None, reserved: int | None
) -> dict[str, Any]:
    """How a run's own budget stands; ``spent`` and ``reserved`` are None before its first call."""
    spent, reserved = spent or 0, reserved or 0
    return {
        "id": budget_id if isinstance(budget_id, uuid.UUID) else uuid.UUID(budget_id),
        "name": name,
        "limit": limit,
        "spent": spent,
        "reserved": reserved,
        "remaining": max(limit - spent - reserved, 0),
        "percent": round(100.0 * (spent + reserved) / limit, 1) if limit else 100.0,
    }


RUN_BUDGETS = f"""
    FROM {Budget._meta.db_table} b
    LEFT JOIN {BudgetPeriod._meta.db_table} p ON p.budget_id = b.id AND p.key = b.target
    WHERE b.scope = '{Scope.SWARM}' AND b.period = '{Period.RUN}' AND b.is_active
"""
"""The budgets that runs have of their own; to be narrowed to tenants, and to targets: ids of swarms as text."""

# Every part is sorted, so that the same facts are the same text.
_SWARM = Swarm._meta.db_table
_FACTS = RawSQL(
    f"""
    jsonb_build_object(
        'tasks', (
            SELECT jsonb_agg(jsonb_build_array(a.name, t.status, t.n) ORDER BY a.name, t.status)
            FROM (
                SELECT agent_id, status, count(*) AS n FROM {Task._meta.db_table}
                WHERE swarm_id = {_SWARM}.id AND status IN ({", ".join(f"'{status}'" for status in UNDER_WAY)})
                GROUP BY agent_id, status
            ) t JOIN {Agent._meta.db_table} a ON a.id = t.agent_id
        ),
        'ledger', (
            SELECT jsonb_agg(jsonb_build_array(e.kind, e.of_call, e.total, e.tokens) ORDER BY e.kind, e.of_call)
            FROM (
                SELECT kind, reservation_id IS NOT NULL AS of_call, sum(amount)::bigint AS total,
                       sum(input_tokens + output_tokens)::bigint AS tokens
                FROM {LedgerEntry._meta.db_table} WHERE swarm_id = {_SWARM}.id GROUP BY 1, 2
            ) e
        ),
        'reserved', (
            SELECT coalesce(sum(amount), 0)::bigint FROM {Reservation._meta.db_table} WHERE swarm_id = {_SWARM}.id
        ),
        'budget', (
            SELECT jsonb_build_array(b.id, b.name, b."limit", p.spent + p.overage, p.reserved)
            {RUN_BUDGETS} AND b.tenant_id = {_SWARM}.tenant_id AND b.target = {_SWARM}.id::text
            ORDER BY b.created_at LIMIT 1
        )
    )
    """,
    (),
    output_field=JSONField(),
)
