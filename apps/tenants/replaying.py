"""A policy tried on the past: what it would have denied of the acts in the audit trail."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from django.core.paginator import Page, Paginator
from django.db.models import Q

from apps.audit.models import AuditEntry
from apps.tenants.models import Membership, Tenant, User
from apps.tenants.policies import UNLIMITED, Facts, Policy, TenantFacts, judge
from apps.tenants.roles import PERMISSIONS, Permission, Resource
from portal.money import to_nano

DAYS_BACK = (7, 30, 90)
MOST = 20_000
"""Entries looked at, the newest first."""
ACTIONS: dict[str, tuple[str, str]] = {
    # action of the trail: the permission it needed, the resource it was done to
    **{str(each): (str(each), str(Resource.of(each))) for each in Permission},
    "archive:read": (Permission.SWARM_READ, Resource.SWARM),
    "artifact:read": (Permission.SWARM_READ, Resource.SWARM),
    "cost:export": (Permission.COST_READ, Resource.COST),
    "token:create": (Permission.USER_MANAGE, Resource.TOKEN),
    "token:revoke": (Permission.USER_MANAGE, Resource.TOKEN),
    **{
        f"{noun}:{verb}": (Permission.USER_MANAGE, Resource.USER)
        for noun in ("membership", "grant", "accesspolicy", "tenant")
        for verb in ("create", "update", "delete")
    },
    **{
        f"{noun}:{verb}": (Permission.COST_UPDATE, Resource.COST)
        for noun in ("price", "rate", "override")
        for verb in ("create", "update", "delete")
    },
}


@dataclass(frozen=True, slots=True)
class Denied:
    """An act of the past that the policy would have denied. ``why`` tells the conditions."""

    entry: AuditEntry
    permission: str
    tenant: str
    person: str
    why: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of it. ``looked`` acts were looked at, back to ``since``; ``is_cut`` when there were more."""

    looked: int
    skipped: int
    denied: tuple[Denied, ...]
    since: dt.datetime
    is_cut: bool

    def page(self, number: str | None, size: int) -> Page:
        return Paginator(self.denied, size).get_page(number)


def replay(policy: Policy, *, days: int, now: dt.datetime, tenants: Collection[uuid.UUID] | None = None) -> Replay:
    """Judges the acts of people and tokens of the last days, at most ``MOST`` of them, as if the policy was in force.

    ``tenants`` are those that whoever asks may see, None for all. Roles are those of today: the trail does not keep
    which a person had. Four queries.
    """
    since = now - dt.timedelta(days=days)
    acts = AuditEntry.objects.filter(
        at__gte=since, actor_kind__in=["user", "token"], action__in=list(ACTIONS), success=True
    ).exclude(tenant_id=None)
    if policy.tenant_id is not None:
        acts = acts.filter(tenant_id=policy.tenant_id)
    if tenants is not None:
        acts = acts.filter(tenant_id__in=tenants)
    entries = list(acts.order_by("-id")[: MOST + 1])
    is_cut, entries = len(entries) > MOST, entries[:MOST]
    where = _tenants({entry.tenant_id for entry in entries})
    people = {user for entry in entries if (user := _user_id(entry))}
    names = dict(User.objects.filter(pk__in=people, is_superuser=False).values_list("pk", "username"))
    roles = _roles(people, set(where))
    denied, skipped = [], 0
    for entry in entries:
        user, tenant = _user_id(entry), where.get(entry.tenant_id) if entry.tenant_id else None
        if user not in names or tenant is None:
            skipped += 1  # platform admins by login are not restricted; and who is gone cannot be asked about
            continue
        permission, resource = ACTIONS[entry.action]
        facts = Facts(
            action=permission,
            resource=Resource.TASK if entry.resource_kind == "task" else resource,
            tenant=tenant,
            at=entry.at,
            user_id=user,
            roles=roles.get((user, tenant.id), frozenset()) if user else frozenset(),
            token=entry.actor.partition("/")[2],
            address=entry.address,
            amount=amount_of(entry.action, entry.details),
        )
        verdict = judge(policy, facts)
        if verdict.denies:
            why = tuple(check.text for check in verdict.checks if check.holds)
            denied.append(Denied(entry, permission, tenant.slug, names[user] if user else "", why))
    return Replay(len(entries) - skipped, skipped, tuple(denied), entries[-1].at if is_cut else since, is_cut)


def amount_of(action: str, details: Mapping[str, Any]) -> int | None:
    """What was at stake, in nano-dollars, as the entry's details tell it."""
    if action == Permission.SWARM_CREATE and "budget_usd" in details:
        return UNLIMITED if details["budget_usd"] is None else _nano(details["budget_usd"])
    if action == Permission.BUDGET_UPDATE and "limit" in details:
        limits = details["limit"] if isinstance(details["limit"], list) else [details["limit"]]
        return max((found for found in map(_nano, limits) if found is not None), default=None)
    for name in ("amount_usd", "difference_usd"):
        if name in details and (found := _nano(details[name])) is not None:
            return abs(found)
    return None


def _nano(usd: Any) -> int | None:
    try:
        return to_nano(Decimal(str(usd)))
    except (InvalidOperation, ValueError):
        return None


def _user_id(entry: AuditEntry) -> uuid.UUID | None:
    try:
        return uuid.UUID(entry.actor.partition("/")[0])
    except ValueError:
        return None


def _tenants(ids: set[uuid.UUID | None]) -> dict[uuid.UUID, TenantFacts]:
    rows = Tenant.objects.filter(pk__in={pk for pk in ids if pk}).only("slug", "time_zone", "attributes")
    return {row.pk: TenantFacts(row.pk, row.slug, row.time_zone, row.attributes) for row in rows}


def _roles(people: set[uuid.UUID], tenants: set[uuid.UUID]) -> dict[tuple[uuid.UUID, uuid.UUID], frozenset[str]]:
    found: dict[tuple[uuid.UUID, uuid.UUID], frozenset[str]] = {}
    rows = Membership.objects.filter(Q(user_id__in=people) & Q(tenant_id__in=tenants))
    for user_id, tenant_id, role in rows.values_list("user_id", "tenant_id", "role"):
        if role in PERMISSIONS:
            found[user_id, tenant_id] = found.get((user_id, tenant_id), frozenset()) | {role}
    return found
