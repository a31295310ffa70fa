"""Who may do what: one predicate, asked by pages, admin, API and sockets alike."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.db import models

from apps.audit.trail import Actor
from apps.tenants.models import ApiToken, Tenant, User
from apps.tenants.roles import PERMISSIONS, Permission, Role

if TYPE_CHECKING:
    from django.http import HttpRequest


class AccessDenied(Exception):
    """The actor lacks a permission; the text is for a person."""


@dataclass(frozen=True, slots=True)
class Principal(Actor):
    """An actor with what it may do: permissions by tenant id, or everything for a platform admin."""

    everything: bool = False
    permissions: Mapping[uuid.UUID, frozenset[Permission]] = field(default_factory=dict, hash=False)

    def can(self, permission: Permission, tenant_id: uuid.UUID) -> bool:
        """Whether it has the permission in that tenant."""
        return self.everything or permission in self.permissions.get(tenant_id, ())

    def verify(self, permission: Permission, tenant_id: uuid.UUID) -> None:
        """Raises AccessDenied, naming the permission, unless ``can`` holds."""
        if not self.can(permission, tenant_id):
            raise AccessDenied(f"This needs the permission {permission} in this tenant.")

    def can_anywhere(self, permission: Permission) -> bool:
        """Whether it has the permission in some tenant: for what belongs to the platform, such as the pool."""
        return self.everything or any(permission in held for held in self.permissions.values())

    def verify_anywhere(self, permission: Permission) -> None:
        """Raises AccessDenied, naming the permission, unless ``can_anywhere`` holds."""
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

    def limit(self, queryset: Any, permission: Permission, path: str = "tenant_id") -> Any:
        """The rows of a queryset that belong to a tenant in which it has the permission."""
        allowed = self.tenant_ids(permission)
        return queryset if allowed is None else queryset.filter(**{f"{path}__in": allowed})

    def tenants(self, permission: Permission | None = Permission.SWARM_READ) -> models.QuerySet[Tenant]:
        """The tenants in which it has the permission; with None, those in which it has any."""
        allowed = self.tenant_ids(permission)
        return Tenant.objects.all() if allowed is None else Tenant.objects.filter(pk__in=allowed)


NOBODY = Principal("user", "anonymous")


def principal_of(user: User, *, token: ApiToken | None = None, address: str | None = None) -> Principal:
    """What a user may do now, narrowed to the token's tenant and role when one is used.

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
    memberships = user.memberships.all()
    if token:
        memberships = memberships.filter(tenant_id=token.tenant_id)
    held: dict[uuid.UUID, frozenset[Permission]] = {}
    for tenant_id, role in memberships.values_list("tenant_id", "role"):
        if token is None or token.role in ("", role):
            held[tenant_id] = held.get(tenant_id, frozenset()) | PERMISSIONS.get(role, frozenset())
    return Principal(kind, ref, address, permissions=held)


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
        cached = (user.pk, token, principal)
        request._principal = cached  # type: ignore[attr-defined]
    return cached[2]


def principal_of_command(name: str) -> Principal:
    """Whoever can run ``manage.py`` holds the database: everything is allowed, and the trail names the command."""
    return Principal("command", name, everything=True)
