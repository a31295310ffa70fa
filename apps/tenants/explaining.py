"""Why something is allowed or denied: the steps that the answer is made of, for one imagined request."""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass

from apps.tenants.access import Principal, principal_of
from apps.tenants.models import ApiToken, Membership, SwarmGrant, Tenant, User
from apps.tenants.policies import judge
from apps.tenants.roles import PERMISSIONS, Permission, Resource, granted


@dataclass(frozen=True, slots=True)
class Step:
    """One step. ``outcome`` is "gives", "passes", "denies", "would deny" or "nothing"; ``why`` its conditions."""

    about: str
    outcome: str
    why: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """Whether it is allowed, as every door would answer, and the steps to that answer."""

    allowed: bool
    steps: tuple[Step, ...]


def explain(
    user: User,
    tenant: Tenant,
    permission: Permission,
    *,
    at: dt.datetime,
    swarm_id: uuid.UUID | None = None,
    resource: Resource | None = None,
    token: ApiToken | None = None,
    address: str | None = None,
    amount: int | None = None,
) -> Explanation:
    """What would be answered to a user at a moment, and why. The answer is that of ``Principal.can`` itself."""
    principal = principal_of(user, token=token, address=address, now=at)
    allowed = principal.can(permission, tenant.pk, swarm_id=swarm_id, resource=resource, amount=amount)
    steps = [_account(user, token)]
    if token is not None:
        steps.append(_token(token, tenant, permission, at))
    if principal.everything or not user.is_active:
        return Explanation(allowed and (token is None or not token.has_expired(now=at)), tuple(steps))
    steps += _roles(user, tenant, permission, principal)
    if swarm_id is not None:
        steps += _grants(user, tenant, permission, swarm_id, principal, at)
    held = principal.holds(permission, tenant.pk, swarm_id=swarm_id)
    if not held and token is None and (permission, resource) == (Permission.USER_MANAGE, Resource.TOKEN):
        steps.append(
            Step("Tokens of one's own are made and revoked by whoever logs in, those of others are not", "gives")
        )
        held, allowed = (
            True,
            not principal.decision(principal.facts(permission, tenant.pk, resource=resource)).denied_by,
        )
    if not held:
        steps.append(Step("Neither a role nor a grant gives it: policies are not asked", "denies"))
        return Explanation(False, tuple(steps))
    facts = principal.facts(permission, tenant.pk, resource=resource, amount=amount)
    for policy in principal.circumstances.policies:
        verdict = judge(policy, facts)
        denies = "denies" if policy.enforced else "would deny"
        why = tuple(f"{'✓' if check.holds else '✗'} {check.text}" for check in verdict.checks)
        steps.append(Step(f"Policy “{policy.name}”", denies if verdict.denies else "passes", why))
    if not principal.circumstances.policies:
        steps.append(Step("There is no policy in force here", "passes"))
    expired = token is not None and token.has_expired(now=at)
    return Explanation(allowed and not expired, tuple(steps))


def _account(user: User, token: ApiToken | None) -> Step:
    if not user.is_active:
        return Step(f"The account of {user.username} is not active", "denies")
    if user.is_superuser and token is None:
        return Step(
            f"{user.username} is a platform admin: everything is allowed, and policies do not restrict it", "gives"
        )
    return Step(f"The account of {user.username} is active", "passes")


def _token(token: ApiToken, tenant: Tenant, permission: Permission, at: dt.datetime) -> Step:
    about = f"Token {token.token_key}…"
    if token.has_expired(now=at):
        return Step(f"{about} has expired", "denies")
    if token.tenant_id != tenant.pk:
        return Step(f"{about} is for another tenant", "denies")
    if token.permissions and permission not in token.permissions:
        return Step(f"{about} is limited to {', '.join(token.permissions)}", "denies")
    narrowed = f"narrowed to the role {token.role}" if token.role else "has every role of its user there"
    return Step(f"{about} {narrowed}", "passes")


def _roles(user: User, tenant: Tenant, permission: Permission, principal: Principal) -> list[Step]:
    """A step for each role; those that a token leaves out give nothing."""
    if user.is_superuser:  # by token
        gives = principal.holds(permission, tenant.pk)
        return [Step("A platform admin's token is an admin of its tenant, or less", "gives" if gives else "nothing")]
    steps = []
    for role in Membership.objects.filter(user=user, tenant=tenant).order_by("role").values_list("role", flat=True):
        counts = role in principal.circumstances.roles.get(tenant.pk, frozenset())
        gives = counts and permission in PERMISSIONS.get(role, frozenset()) and principal.holds(permission, tenant.pk)
        left_out = () if counts else ("The token leaves this role out.",)
        steps.append(Step(f"Role {role} of {tenant.slug}", "gives" if gives else "nothing", left_out))
    return steps or [Step(f"No role in {tenant.slug}", "nothing")]


def _grants(
    user: User, tenant: Tenant, permission: Permission, swarm_id: uuid.UUID, principal: Principal, at: dt.datetime
) -> list[Step]:
    steps = []
    for grant in SwarmGrant.objects.filter(user=user, tenant=tenant, swarm_id=swarm_id).order_by("id"):
        over = grant.has_expired(now=at)
        on_it = principal.grants.get(swarm_id)
        gives = (
            not over and permission in granted(grant.gives) and on_it is not None and permission in on_it.permissions
        )
        why = ("It has expired.",) if over else (f"Given because: {grant.reason}",)
        steps.append(Step(f"Grant of {grant.gives} on this swarm", "gives" if gives else "nothing", why))
    return steps or [Step("No grant on this swarm", "nothing")]
