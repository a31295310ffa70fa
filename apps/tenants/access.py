"""Who may do what: one predicate, asked by pages, admin, API and sockets alike."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from django.db import models
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from apps.audit.trail import Actor
from apps.tenants.models import ApiToken, Membership, SwarmGrant, Tenant, User
from apps.tenants.policies import Decision, Facts, Policy, TenantFacts, decide
from apps.tenants.roles import PERMISSIONS, Permission, Resource, Role, granted
from apps.tenants.standing import facts_of, standing

if TYPE_CHECKING:
    from django.http import HttpRequest


LONG_AGO = dt.datetime(1, 1, 2, tzinfo=dt.UTC)


class AccessDenied(Exception):
    """The actor lacks a permission; the text is for a person."""


class PolicyDenied(AccessDenied):
    """Roles or a grant would allow it, and an access policy does not; the text names the policy."""

    def __init__(self, permission: str, denied_by: Sequence[Policy]) -> None:
        self.denied_by = tuple(denied_by)
        super().__init__(denial_text(permission, denied_by))


def denial_text(permission: str, denied_by: Sequence[Policy]) -> str:
    """Which policies deny a permission now, and what they allow, for a person."""
    told = [
        f"“{policy.name}”" + (f" (allowed: {policy.allowance()})" if policy.allowance() else "") for policy in denied_by
    ]
    if len(told) == 1:
        return f"The access policy {told[0]} denies {permission} now."
    return f"The access policies {', '.join(told)} deny {permission} now."


@dataclass(frozen=True, slots=True)
class OnSwarm:
    """What grants give on one swarm of a tenant."""

    tenant_id: uuid.UUID
    permissions: frozenset[Permission]


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What access policies ask of a request besides what it wants: who exactly, by what, when. And the policies."""

    policies: tuple[Policy, ...] = ()
    tenants: Mapping[uuid.UUID, TenantFacts] = field(default_factory=dict, hash=False)
    roles: Mapping[uuid.UUID, frozenset[str]] = field(default_factory=dict, hash=False)
    user_id: uuid.UUID | None = None
    token: str = ""
    at: dt.datetime = LONG_AGO


@dataclass(frozen=True, slots=True)
class Noted:
    """What policies said no to, or would have: ``policy``, and whether it was an act or a look at rows."""

    policy: Policy
    permission: Permission
    tenant_id: uuid.UUID
    is_act: bool
    resource: str
    amount: int | None = None
    swarm_id: uuid.UUID | None = None


@dataclass(frozen=True, slots=True)
class Principal(Actor):
    """An actor with what it may do: everything for a platform admin, else by tenant id and, for grants, by swarm id.

    Roles and grants give (``permissions``, ``grants``), access policies take away; each answer here is after both.
    ``noted`` collects what policies had to say, for pages and the trail.
    """

    everything: bool = False
    permissions: Mapping[uuid.UUID, frozenset[Permission]] = field(default_factory=dict, hash=False)
    grants: Mapping[uuid.UUID, OnSwarm] = field(default_factory=dict, hash=False)
    circumstances: Circumstances = field(default=Circumstances(), compare=False)
    noted: dict[Noted, None] = field(default_factory=dict, compare=False)

    def can(
        self,
        permission: Permission,
        tenant_id: uuid.UUID,
        *,
        swarm_id: uuid.UUID | None = None,
        resource: Resource | None = None,
        amount: int | None = None,
    ) -> bool:
        """Whether it has the permission in that tenant, or by a grant on that swarm of it, and no policy denies it.

        ``resource`` is what the act is done to, where the permission does not say it: a task, a token. ``amount`` is
        what is at stake in nano-dollars (``policies.UNLIMITED`` where nothing limits it), for acts that move money.
        """
        if self.everything:
            return True
        if not self.holds(permission, tenant_id, swarm_id=swarm_id):
            return False
        return not self.decision(self.facts(permission, tenant_id, resource=resource, amount=amount)).denied_by

    def verify(
        self,
        permission: Permission,
        tenant_id: uuid.UUID,
        *,
        swarm_id: uuid.UUID | None = None,
        resource: Resource | None = None,
        amount: int | None = None,
    ) -> None:
        """Raises AccessDenied, naming the permission, or PolicyDenied, naming the policy, unless ``can`` holds."""
        if self.everything:
            return
        self.verify_held(permission, tenant_id, swarm_id=swarm_id)
        self._verify_not_denied(self.facts(permission, tenant_id, resource=resource, amount=amount), swarm_id)

    def verify_not_denied(self, permission: Permission, tenant_id: uuid.UUID, *, resource: Resource) -> None:
        """Raises PolicyDenied when a policy denies it: for acts that need no role, as making a token of one's own."""
        if not self.everything:
            self._verify_not_denied(self.facts(permission, tenant_id, resource=resource), None)

    def _verify_not_denied(self, facts: Facts, swarm_id: uuid.UUID | None) -> None:
        decision = self.decision(facts)
        self._note(decision, facts, is_act=True, swarm_id=swarm_id)
        if decision.denied_by:
            raise PolicyDenied(facts.action, decision.denied_by)

    def verify_held(self, permission: Permission, tenant_id: uuid.UUID, *, swarm_id: uuid.UUID | None = None) -> None:
        """Raises AccessDenied unless a role or a grant gives it: before an act knows the amount policies ask for."""
        if not self.holds(permission, tenant_id, swarm_id=swarm_id):
            raise AccessDenied(f"This needs the permission {permission} in this tenant.")

    def holds(self, permission: Permission, tenant_id: uuid.UUID, *, swarm_id: uuid.UUID | None = None) -> bool:
        """Whether a role or a grant gives it, before policies."""
        if self.everything or permission in self.permissions.get(tenant_id, ()):
            return True
        grant = self.grants.get(swarm_id) if swarm_id else None
        return grant is not None and grant.tenant_id == tenant_id and permission in grant.permissions

    def decision(self, facts: Facts) -> Decision:
        """What the policies say about it. They do not restrict platform admins, who must be able to repair them."""
        return Decision() if self.everything else decide(self.circumstances.policies, facts)

    def facts(
        self,
        permission: Permission,
        tenant_id: uuid.UUID,
        *,
        resource: Resource | None = None,
        amount: int | None = None,
    ) -> Facts:
        """What policies are asked about."""
        around = self.circumstances
        return Facts(
            action=permission,
            resource=resource or Resource.of(permission),
            tenant=around.tenants.get(tenant_id) or TenantFacts(tenant_id, ""),
            at=around.at,
            user_id=around.user_id,
            roles=around.roles.get(tenant_id, frozenset()),
            token=around.token,
            address=self.address,
            amount=amount,
        )

    def held_in(self, tenant_id: uuid.UUID) -> frozenset[Permission]:
        """The permissions that it has in a tenant now."""
        if self.everything:
            return frozenset(Permission)
        held = self.permissions.get(tenant_id, frozenset())
        return frozenset(each for each in held if not self.decision(self.facts(each, tenant_id)).denied_by)

    def can_anywhere(self, permission: Permission, *, on_a_swarm: bool = False) -> bool:
        """Whether it has the permission in some tenant; ``on_a_swarm`` counts grants on single swarms as well."""
        return (
            self.everything
            or any(self.can(permission, tenant_id) for tenant_id in self.permissions)
            or (on_a_swarm and any(self.can(permission, g.tenant_id, swarm_id=pk) for pk, g in self.grants.items()))
        )

    def verify_anywhere(self, permission: Permission) -> None:
        """Raises AccessDenied, naming the permission, unless it has it in some tenant: for what is the platform's."""
        if self.can_anywhere(permission):
            return
        for tenant_id in self.permissions:
            if self.holds(permission, tenant_id):
                self.verify(permission, tenant_id)
        raise AccessDenied(f"This needs the permission {permission}.")

    def tenant_ids(self, permission: Permission | None, *, resource: Resource | None = None) -> set[uuid.UUID] | None:
        """The tenants in which it has the permission (any permission, for None); the answer None means all of them."""
        if self.everything:
            return None
        if permission is None:
            return {tenant_id for tenant_id, held in self.permissions.items() if held}
        found = set()
        for tenant_id, held in self.permissions.items():
            if permission in held and self._may_look(permission, tenant_id, resource):
                found.add(tenant_id)
        return found

    def swarm_ids(self, permission: Permission, *, resource: Resource | None = None) -> set[uuid.UUID]:
        """The swarms on which grants give it the permission."""
        return {
            swarm_id
            for swarm_id, grant in self.grants.items()
            if permission in grant.permissions and self._may_look(permission, grant.tenant_id, resource)
        }

    def _may_look(self, permission: Permission, tenant_id: uuid.UUID, resource: Resource | None) -> bool:
        facts = self.facts(permission, tenant_id, resource=resource)
        decision = self.decision(facts)
        self._note(decision, facts, is_act=False)
        return not decision.denied_by

    def _note(self, decision: Decision, facts: Facts, *, is_act: bool, swarm_id: uuid.UUID | None = None) -> None:
        for policy in (*decision.denied_by, *decision.would_deny):
            about = (Permission(facts.action), facts.tenant.id, is_act, str(facts.resource), facts.amount, swarm_id)
            self.noted[Noted(policy, *about)] = None

    def withheld(self) -> str:
        """What policies have denied so far, for a person; empty when nothing."""
        by: dict[Permission, dict[Policy, None]] = {}
        for note in self.noted:
            if note.policy.enforced:
                by.setdefault(note.permission, {})[note.policy] = None
        return " ".join(denial_text(permission, list(denied_by)) for permission, denied_by in by.items())

    def shut_out(self) -> str:
        """Which policies leave it nothing of what it looked at, for a person; empty when there is something to see."""
        looked = {note.permission: None for note in self.noted if note.policy.enforced and not note.is_act}
        return self.withheld() if any(not self.can_anywhere(each, on_a_swarm=True) for each in looked) else ""

    def known_tenant_ids(self) -> set[uuid.UUID] | None:
        """The tenants of which it may see something, be it a single swarm; None means all of them."""
        if self.everything:
            return None
        return {tenant_id for tenant_id, held in self.permissions.items() if held} | {
            grant.tenant_id for grant in self.grants.values()
        }

    def limit(
        self,
        queryset: Any,
        permission: Permission,
        path: str = "tenant_id",
        *,
        swarm_path: str | None = None,
        resource: Resource | None = None,
    ) -> Any:
        """The rows of a queryset that belong to a tenant in which it has the permission.

        For rows that belong to a swarm, found at ``swarm_path``, those of swarms on which it has a grant as well.
        """
        allowed = self.tenant_ids(permission, resource=resource)
        if allowed is None:
            return queryset
        rows = models.Q(**{f"{path}__in": allowed})
        if swarm_path and (swarms := self.swarm_ids(permission, resource=resource)):
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
    """What a user may do now, narrowed to the token's tenant, role and permissions when one is used. At most one query.

    A platform admin's token is no more than an admin of its tenant: what belongs to the platform needs a login.
    """
    if not user.is_authenticated or not user.is_active:
        return NOBODY
    kind, ref = ("token", f"{user.pk}/{token.token_key}") if token else ("user", str(user.pk))
    if user.is_superuser and token is None:
        return Principal(kind, ref, address, everything=True)
    now = now or timezone.now()
    held: dict[uuid.UUID, frozenset[Permission]] = {}
    roles: dict[uuid.UUID, frozenset[str]] = {}
    grants: dict[uuid.UUID, OnSwarm] = {}
    tenants: dict[uuid.UUID, TenantFacts] = {}
    all_given, found = standing(user, token, now)
    if user.is_superuser and token is not None:
        role, all_given = token.role or Role.ADMIN, []
        held[token.tenant_id], roles[token.tenant_id] = PERMISSIONS.get(role, frozenset()), frozenset({role})
        tenants[token.tenant_id] = facts_of(token.tenant)
    for tenant, swarm_id, name in all_given:
        tenant_id = tenant.id
        tenants[tenant_id] = tenant
        if swarm_id is None:
            if token is None or token.role in ("", name):
                held[tenant_id] = held.get(tenant_id, frozenset()) | PERMISSIONS.get(name, frozenset())
                roles[tenant_id] = roles.get(tenant_id, frozenset()) | {name}
            continue
        given = granted(name)
        if token is not None and token.role:
            given &= PERMISSIONS.get(token.role, frozenset())
        before = grants[swarm_id].permissions if swarm_id in grants else frozenset()
        grants[swarm_id] = OnSwarm(tenant_id, before | given)
    around = Circumstances(tuple(found), tenants, roles, user.pk, token.token_key if token else "", now)
    made = Principal(kind, ref, address, permissions=held, grants=grants, circumstances=around)
    return made.narrowed(token.permissions) if token and token.permissions else made


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
        # On Django's request, which DRF wraps: middleware asks for it afterwards.
        getattr(request, "_request", request)._principal = cached  # type: ignore[union-attr]
    return cached[2]


def those_who_may_enter(users: models.QuerySet[User], *, now: dt.datetime | None = None) -> models.QuerySet[User]:
    """Those of the users who may use the product at all: active, and with a role in a tenant or a grant on a swarm."""
    in_force = SwarmGrant.objects.in_force(now=now or timezone.now())
    has_role = Exists(Membership.objects.filter(user=OuterRef("pk")))
    has_grant = Exists(in_force.filter(user=OuterRef("pk")))
    return users.filter(Q(is_superuser=True) | has_role | has_grant, is_active=True)


def may_enter(user: User) -> bool:
    """Whether a user may use the product at all."""
    return those_who_may_enter(User.objects.filter(pk=user.pk)).exists()


def principal_of_command(name: str) -> Principal:
    """Whoever can run ``manage.py`` holds the database: everything is allowed, and the trail names the command."""
    return Principal("command", name, everything=True)
