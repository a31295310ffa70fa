"""Who can do what in a tenant, and where each permission comes from."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from django.db.models import Q

from apps.tenants.models import AccessPolicy, ApiToken, Membership, SwarmGrant, Tenant, User
from apps.tenants.roles import PERMISSIONS, Permission, Role, granted


@dataclass(frozen=True, slots=True)
class Source:
    """Where a permission comes from: ``row`` is the membership, grant, token or user that gives it."""

    kind: str
    text: str
    row: Membership | SwarmGrant | ApiToken | User


@dataclass(frozen=True, slots=True)
class Holder:
    """A person and, by permission, what gives it to them."""

    user: User
    sources: dict[Permission, list[Source]] = field(default_factory=lambda: defaultdict(list))


def holders(tenant: Tenant, *, now: dt.datetime, person: str = "", permission: str = "") -> list[Holder]:
    """The active people who hold something in a tenant, by name. Four queries, however many there are.

    ``person`` narrows to names and addresses that contain it, ``permission`` to those who hold it, however they do.
    Policies are left out: what they take away depends on hour, network and amount.
    """
    who = Q(user__is_active=True)
    if person:
        who &= Q(user__username__icontains=person) | Q(user__email__icontains=person)
    found: dict[object, Holder] = {}

    def add(
        user: User, kind: str, text: str, row: Membership | SwarmGrant | ApiToken | User, gives: Iterable[Permission]
    ) -> None:
        holder = found.setdefault(user.pk, Holder(user))
        for each in gives:
            holder.sources[each].append(Source(kind, text, row))

    roles: dict[object, set[str]] = defaultdict(set)
    for each in Membership.objects.filter(who, tenant=tenant).select_related("user"):
        roles[each.user_id].add(each.role)
        add(each.user, "role", each.role, each, PERMISSIONS.get(each.role, frozenset()))
    given: dict[object, set[Permission]] = defaultdict(set)
    for grant in SwarmGrant.objects.in_force(now=now).filter(who, tenant=tenant).select_related("user"):
        given[grant.user_id] |= granted(grant.gives)
        add(grant.user, "grant", f"on …{str(grant.swarm_id)[-6:]}", grant, granted(grant.gives))
    tokens = ApiToken.objects.filter(who, Q(expiry=None) | Q(expiry__gt=now), tenant=tenant).select_related("user")
    for token in tokens.order_by("created"):
        add(
            token.user,
            "token",
            f"{token.token_key}…",
            token,
            _of_token(token, roles[token.user_id], given[token.user_id]),
        )
    admins = User.objects.filter(is_superuser=True, is_active=True)
    if person:
        admins = admins.filter(Q(username__icontains=person) | Q(email__icontains=person))
    for admin in admins:
        add(admin, "platform admin", "everything", admin, Permission)
    rows = sorted(found.values(), key=lambda holder: holder.user.username)
    return [holder for holder in rows if not permission or holder.sources.get(Permission(permission))]


def policies_over(tenant: Tenant) -> int:
    """How many enabled policies may take some of it away."""
    return AccessPolicy.objects.filter(Q(tenant=None) | Q(tenant=tenant), state="enabled").count()


def _of_token(token: ApiToken, roles: set[str], given: set[Permission]) -> frozenset[Permission]:
    """What a token gives now: of what its user holds, what it is narrowed to."""
    if token.user.is_superuser:
        held = PERMISSIONS.get(token.role or Role.ADMIN, frozenset())
    elif token.role:
        named = PERMISSIONS.get(token.role, frozenset())
        held = (named if token.role in roles else frozenset()) | (given & named)
    else:
        held = frozenset(given).union(*(PERMISSIONS.get(role, frozenset()) for role in roles))
    return held & set(token.permissions) if token.permissions else held
