"""A steady trickle of demo swarms that leaves the tenants' budgets to last."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from django.db.models import QuerySet
from django.utils import timezone

from apps.costs.budgets import Standing, standings
from apps.costs.models import Budget, Enforcement, Period, Scope
from apps.demo.swarms import Spec, draws, replicas_of
from apps.swarms.actions.submit import submit
from apps.swarms.models import Swarm, SwarmStatus
from apps.tenants.access import Principal, principal_of, principal_of_command
from apps.tenants.models import Tenant, User
from apps.tenants.roles import Permission

MOST_WAITING = 10
WEIGHTS = {"acme": 5, "widget": 3, "trial": 2}
AHEAD_OF_PACE = 0.1
"""The part of a period's budget that may be spent at once; beyond, no more than the period's age allows."""
TRIES = 20


@dataclass(slots=True)
class Traffic:
    """Chooses and submits one swarm at a time. The same seed draws the same swarms."""

    seed: int | None = None
    chance: random.Random = field(init=False)
    specs: Iterator[Spec] = field(init=False)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.specs = draws(self.chance)

    def submit_one(self, *, now: dt.datetime | None = None) -> tuple[Swarm | None, str]:
        """Submits the next swarm: it, or None with why nothing was submitted."""
        now = now or timezone.now()
        waiting = Swarm.objects.filter(status=SwarmStatus.QUEUED).count()
        if waiting >= MOST_WAITING:
            return None, f"{waiting} swarms wait already"
        tenants = {tenant.slug: tenant for tenant in demo_tenants()}
        if not tenants:
            return None, "there is no active demo tenant: manage.py seed_demo makes them"
        spending = spending_too_fast(list(tenants.values()), now=now)
        open_to_more = [slug for slug in WEIGHTS if slug in tenants and slug not in spending]
        if not open_to_more:
            return None, "every tenant has spent what its budget has for now"
        slug = self.chance.choices(open_to_more, [WEIGHTS[each] for each in open_to_more])[0]
        tenant = tenants[slug]
        room = tenant.max_agents
        spec = next(
            (s for s, _ in zip(self.specs, range(TRIES), strict=False) if not room or replicas_of(s) <= room), None
        )
        if spec is None:
            return None, f"none of {TRIES} swarms fits {slug}"
        by, user = _submitter(tenant)
        return submit(spec, tenant=tenant, by=by, user=user, now=now), ""


def demo_tenants() -> QuerySet[Tenant]:
    return Tenant.objects.filter(slug__in=list(WEIGHTS), is_active=True)


def spending_too_fast(tenants: list[Tenant], *, now: dt.datetime) -> set[str]:
    """The tenants whose hard budgets would not last their period if spending went on as it does."""
    slugs = {tenant.pk: tenant.slug for tenant in tenants}
    watched = list(
        Budget.objects.active()
        .filter(tenant__in=tenants, scope=Scope.TENANT, enforcement=Enforcement.HARD)
        .exclude(period=Period.RUN)
    )
    stand = standings(watched, now=now)
    return {slugs[budget.tenant_id] for budget in watched if is_too_fast(stand[budget.pk], now=now)}


def is_too_fast(standing: Standing, *, now: dt.datetime) -> bool:
    """Whether more is committed than the age of the period allows, with some headroom at its start."""
    if standing.starts_at is None or standing.ends_at is None:
        return False
    age = (now - standing.starts_at) / (standing.ends_at - standing.starts_at)
    allowed = min(AHEAD_OF_PACE + age * (1 - AHEAD_OF_PACE), 1.0) * 0.95
    return standing.spent + standing.reserved >= allowed * standing.limit


def _submitter(tenant: Tenant) -> tuple[Principal, User | None]:
    """The demo's operator where that account may submit; else the command itself."""
    operator = User.objects.filter(username="operator", is_active=True).first()
    if operator:
        principal = principal_of(operator)
        if principal.can(Permission.SWARM_CREATE, tenant.pk):
            return principal, operator
    return principal_of_command("demo_traffic"), None
