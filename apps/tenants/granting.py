"""Giving and withdrawing permissions on one swarm, each act one transaction with its audit row."""

from __future__ import annotations

import datetime as dt
import uuid

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from apps.audit import trail
from apps.tenants.access import Principal
from apps.tenants.models import SwarmGrant, Tenant, User
from apps.tenants.roles import Permission, Role, granted

GRANTABLE = (
    ("One permission, and swarm:read with it", [(str(p), str(p)) for p in sorted(granted(Role.ADMIN))]),
    ("What a role may do with a swarm", [(value, str(text)) for value, text in Role.choices if granted(value)]),
)
"""What a grant can give, as choices of a form."""


class CannotGrant(Exception):
    """Why this cannot be granted or withdrawn, for a person."""


def person_named(name: str) -> User:
    """The active account with this username or e-mail address; CannotGrant when there is none, or several.

    Accounts are named and not chosen from a list: the people of other tenants are nobody's business.
    """
    name = name.strip()
    found = list(User.objects.filter(Q(username=name) | Q(email__iexact=name), is_active=True)[:2]) if name else []
    exact = [user for user in found if user.username == name] or found
    if len(exact) != 1:
        raise CannotGrant(f"There is no active account with the username or e-mail address {name!r}.")
    return exact[0]


def give(
    user: User,
    swarm_id: uuid.UUID,
    tenant: Tenant,
    *,
    gives: str,
    reason: str,
    by: Principal,
    expires_at: dt.datetime | None = None,
    now: dt.datetime | None = None,
) -> SwarmGrant:
    """Gives a user a permission or a role on one swarm, until it expires or is withdrawn.

    An expired grant of the same kind is replaced. Raises CannotGrant, or AccessDenied without user:manage.
    """
    now, reason = now or timezone.now(), reason.strip()
    by.verify(Permission.USER_MANAGE, tenant.pk)
    if not granted(gives):
        raise CannotGrant(f"{gives!r} is neither a permission nor a role that can be given on a single swarm.")
    if not reason:
        raise CannotGrant("Say why: the reason is kept with the grant and in the audit trail.")
    if expires_at is not None and expires_at <= now:
        raise CannotGrant("It would have expired already: choose a time to come.")
    if user.is_superuser:
        raise CannotGrant(f"{user.username} is a platform admin and may do everything already.")
    with transaction.atomic():
        same = SwarmGrant.objects.select_for_update().filter(swarm_id=swarm_id, user=user, gives=gives)
        if same.in_force(now=now).exists():
            raise CannotGrant(f"{user.username} has this grant already. Withdraw it first to change it.")
        same.delete()
        giver = uuid.UUID(by.ref.partition("/")[0]) if by.kind in ("user", "token") else None
        grant = SwarmGrant.objects.create(
            tenant=tenant,
            swarm_id=swarm_id,
            user=user,
            gives=gives,
            reason=reason,
            granted_by_id=giver,
            created_at=now,
            expires_at=expires_at,
        )
        trail.record(by, "grant:create", grant, tenant_id=tenant.pk, reason=reason, details=_details(grant))
    return grant


def withdraw(grant: SwarmGrant, *, by: Principal, reason: str) -> None:
    """Ends a grant at once. Raises CannotGrant without a reason, AccessDenied without user:manage."""
    by.verify(Permission.USER_MANAGE, grant.tenant_id)
    reason = reason.strip()
    if not reason:
        raise CannotGrant("Say why it is withdrawn: the reason is kept in the audit trail.")
    with transaction.atomic():
        trail.record(by, "grant:delete", grant, tenant_id=grant.tenant_id, reason=reason, details=_details(grant))
        grant.delete()


def _details(grant: SwarmGrant) -> dict[str, str | None]:
    return {
        "user": str(grant.user_id),
        "swarm": str(grant.swarm_id),
        "gives": grant.gives,
        "expires_at": grant.expires_at.isoformat() if grant.expires_at else None,
    }
