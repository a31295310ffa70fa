"""Which events a principal may see: one predicate for pages and the socket."""

from __future__ import annotations

import uuid
from typing import Protocol

from django.db.models import Q

from apps.tenants.access import Principal
from apps.tenants.roles import Permission


class Happening(Protocol):
    """The part of an event that decides who sees it."""

    kind: str
    tenant_id: uuid.UUID | None
    swarm_id: uuid.UUID | None


_NEEDED = {
    "budget": Permission.BUDGET_READ,
    "period": Permission.BUDGET_READ,
    "ledger": Permission.COST_READ,
    "reservation": Permission.COST_READ,
    "price": Permission.COST_READ,
    "pool": Permission.POOL_READ,
    "user": Permission.USER_MANAGE,
    "token": Permission.USER_MANAGE,
    "membership": Permission.USER_MANAGE,
}
"""Permission by the noun of an event's kind; all others are about swarms."""

SHARED = frozenset({"breaker", "region", "provider"})
"""What belongs to the platform and is seen by all whose swarms depend on it, by the noun of the kind."""


def may_see_providers(principal: Principal) -> bool:
    """Whether it may see how model providers do: who may see a swarm anywhere may see what that depends on."""
    return principal.can_anywhere(Permission.SWARM_READ)


def may_see(principal: Principal, event: Happening) -> bool:
    """Whether it may see an event. What belongs to no tenant is the platform's own business, but for what is shared."""
    if event.tenant_id is None:
        shared = event.kind.partition(".")[0] in SHARED
        return principal.everything or (shared and may_see_providers(principal))
    needed = _NEEDED.get(event.kind.partition(".")[0], Permission.SWARM_READ)
    return principal.can(needed, event.tenant_id, swarm_id=event.swarm_id)


def event_filter(principal: Principal) -> Q:
    """A condition that leaves out most of what ``may_see`` would refuse; ``may_see`` still decides."""
    known = principal.known_tenant_ids()
    if known is None:
        return Q()
    return Q(tenant_id__in=known) | Q(tenant_id__isnull=True, data__has_key="provider")
