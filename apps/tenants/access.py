"""Who may do what: one predicate, asked by pages, admin, API and sockets alike."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from django.db import models
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from apps.audit.trail import Actor
from apps.tenants.models import ApiToken, Membership, SwarmGrant, Tenant, User
from apps.tenants.roles import PERMISSIONS, Permission, Role, granted

if TYPE_CHECKING:
    from django.http import HttpRequest


class AccessDenied(Exception):
    """The actor lacks a permission; the text is for a person."""


@dataclass(frozen=True, slots=True)
class OnSwarm:
    """What grants give on one swarm of a tenant."""

    tenant_id: uuid.UUID
    permissions: frozenset[Permission]


@dataclass(frozen=True, slots=True)
class Principal(Actor):
    """An actor with what it may do: everything for a platform admin, else by tenant id and, for grants, by swarm id."""

    everything: bool = False
    permissions: Mapping[uuid.UUID, frozenset[Permission]] = field(default_factory=dict, hash=False)
    grants: Mapping[uuid.UUID, OnSwarm] = field(default_factory=dict, hash=False)

    def can(self, permission: Permission, tenant_id: uuid.UUID, *, swarm_id: uuid.UUID | None = None) -> bool:
        """Whether it has the permission in that tenant, or by a grant on that swarm of it."""
        if self.everything or permission in self.permissions.get(tenant_id, ()):
            return True
        grant = self.grants.get(swarm_id) if swarm_id else None
        return grant is not None and grant.tenant_id == tenant_id and permission in grant.permissions

    def verify(self, permission: Permission, tenant_id: uuid.UUID, *, swarm_id: uuid.UUID | None = None) -> None:
        """Raises AccessDenied, naming the permission, unless ``can`` holds."""
        if not self.can(permission, tenant_id, swarm_id=swarm_id):
            raise AccessDenied(f"This needs the permission {permission} in this tenant.")

    def can_anywhere(self, permission: Permission, *, on_a_swarm: bool = False) -> bool:
        """Whether it has the permission in some tenant; ``on_a_swarm`` counts grants on single swarms as well."""
        return (
            self.everything
            or any(permission in held for held in self.permissions.values())
            or (on_a_swarm and bool(self.swarm_ids(permission)))
        )

    def verify_anywhere(self, permission: Permission) -> None:
        """Raises AccessDenied, naming the permission, unless it has it in some tenant: for what is the platform's."""
        if not self.can_anywhere(permission):
            raise AccessDenied(f"This needs the permission {permission}.")

    def tenant_ids(self, permission: Permission | None) -> set[uuid.UUID] | None:
        """The tenants in which it has the permission (any permission, for None); the answer None means all of them."""
        if self.everything:
            return None
        return {
            tenant_id
            for tenant_id, held in self.permissions.items()
            if (permission in held if permission else bool(held))
        }

    def swarm_ids(self, permission: Permission) -> set[uuid.UUID]:
        """The swarms on which grants give it the permission."""
        return {swarm_id for swarm_id, grant in self.grants.items() if permission in grant.permissions}

    def known_tenant_ids(self) -> set[uuid.UUID] | None:
        """The tenants of which it may see something, be it a single swarm; None means all of them."""
        if self.everything:
            return None
        return {tenant_id for tenant_id, held in self.permissions.items() if held} | {
            grant.tenant_id for grant in self.grants.values()
        }

    def limit(
        self, queryset: Any, permission: Permission, path: str = "tenant_id", *, swarm_path: str | None = None
    ) -> Any:
        """The rows of a queryset that belong to a tenant in which it has the permission.

        For rows that belong to a swarm, found at ``swarm_path``, those of swarms on which it has a grant as well.
        """
        allowed = self.tenant_ids(permission)
        if allowed is None:
            return queryset
        rows = models.Q(**{f"{path}__in": allowed})
        if swarm_path and (swarms := self.swarm_ids(permission)):
            rows |= models.Q(**{f"{swarm_path}__in": swarms})
        return queryset.filter(rows)

    def narrowed(self, permissions: Iterable[str]) -> Principal:
        """The same, with none but these permissions."""
        left = frozenset(Permission) & frozenset(permissions)
        return replace(
            self,
            permissions={tenant_id: held & left for tenant_id, held in self.permissions.items()},
            grants={
                swarm_id: replace(grant, permissions=grant.permissions & left)
                for swarm_id, grant in self.grants.items()
            },
        )

    def tenants(self, permission: Permission | None = Permission.SWARM_READ) -> models.QuerySet[Tenant]:
        """The tenants in which it has the permission; with None, those in which it has any."""
        allowed = self.tenant_ids(permission)
        return Tenant.objects.all() if allowed is None else Tenant.objects.filter(pk__in=allowed)


NOBODY = Principal("user", "anonymous")


def principal_of(
    user: User, *, token: ApiToken | None = None, address: str | None = None, now: dt.datetime | None = None
) -> Principal:
    """What a user may do now, narrowed to the token's tenant and role when one is used. At most one query.

    A platform admin's token is no more than an admin of its tenant: what belongs to the platform needs a login.
    """
    if not user.is_authenticated or not user.is_active:
        return NOBODY
    kind, ref = ("token", f"{user.pk}/{token.token_key}") if token else ("user", str(user.pk))
    if user.is_superuser:
        if token is None:
            return Principal(kind, ref, address, everything=True)
        narrowed = PERMISSIONS.get(token.role or Role.ADMIN, frozenset())
        return Principal(kind, ref, address, permissions={token.tenant_id: narrowed})
    held: dict[uuid.UUID, frozenset[Permission]] = {}
    grants: dict[uuid.UUID, OnSwarm] = {}
    for tenant_id, swarm_id, name in _held(user, token, now or timezone.now()):
        if swarm_id is None:
            if token is None or token.role in ("", name):
                held[tenant_id] = held.get(tenant_id, frozenset()) | PERMISSIONS.get(name, frozenset())
        else:
            given = granted(name)
            if token is not None and token.role:
                given &= PERMISSIONS.get(token.role, frozenset())
            before = grants[swarm_id].permissions if swarm_id in grants else frozenset()
            grants[swarm_id] = OnSwarm(tenant_id, before | given)
    return Principal(kind, ref, address, permissions=held, grants=grants)


def _held(user: User, token: ApiToken | None, now: dt.datetime) -> Iterable[tuple[uuid.UUID, uuid.UUID | None, str]]:
    """A user's roles and grants as rows of tenant, swarm (None for a role) and name. One query."""
    memberships, grants = user.memberships.all(), user.swarm_grants.in_force(now=now)
    if token:
        memberships, grants = memberships.filter(tenant_id=token.tenant_id), grants.filter(tenant_id=token.tenant_id)
    no_swarm = models.Value(None, models.UUIDField())
    return (
        memberships.order_by()
        .values_list("tenant_id", no_swarm, "role")
        .union(grants.order_by().values_list("tenant_id", "swarm_id", "gives"), all=True)
    )


def principal_of_request(request: HttpRequest) -> Principal:
    """The principal behind a page or API request; computed once per request and user."""
    user: User = request.user  # type: ignore[assignment]
    token = getattr(request, "auth", None)
    cached: tuple[object, object, Principal] | None = getattr(request, "_principal", None)
    if cached is None or cached[0] != user.pk or cached[1] is not token:
        principal = principal_of(
            user,
            token=token if isinstance(token, ApiToken) else None,
            address=request.META.get("REMOTE_ADDR") or None,
        )
        if isinstance(token, ApiToken) and token.permissions:
            principal = principal.narrowed(token.permissions)
        cached = (user.pk, token, principal)
        request._principal = cached  # type: ignore[attr-defined]
    return cached[2]


def those_who_may_enter(users: models.QuerySet[User]) -> models.QuerySet[User]:
    """Those of the users who may use the product at all: active, and with a role in a tenant or a grant on a swarm."""
    has_role = Exists(Membership.objects.filter(user=OuterRef("pk")))
    has_grant = Exists(SwarmGrant.objects.in_force(now=timezone.now()).filter(user=OuterRef("pk")))
    return users.filter(Q(is_superuser=True) | has_role | has_grant, is_active=True)


def may_enter(user: User) -> bool:
    """Whether a user may use the product at all."""
    return those_who_may_enter(User.objects.filter(pk=user.pk)).exists()


def principal_of_command(name: str) -> Principal:
    """Whoever can run ``manage.py`` holds the database: everything is allowed, and the trail names the command."""
    return Principal("command", name, everything=True)
