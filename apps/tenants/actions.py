"""Acts on access, each one transaction with its audit row."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterable
from typing import Any

from django.db import transaction

from apps.audit import trail
from apps.tenants.access import Principal
from apps.tenants.models import ApiToken, Membership, Tenant, User
from apps.tenants.roles import PERMISSIONS, Permission, Resource, Role

LONGEST_TOKEN_LIFE = dt.timedelta(days=3650)


class CannotCreateToken(Exception):
    """Why this token cannot be made, for a person."""


def create_token(
    user: User,
    tenant: Tenant,
    *,
    role: str = "",
    permissions: Iterable[str] = (),
    name: str = "",
    life: dt.timedelta,
    by: trail.Actor,
) -> tuple[ApiToken, str]:
    """Makes a token that acts for a user in one tenant; its row, and its text, which is shown only this once.

    An empty role means every role the user has there at the time of use; without permissions it has all those of the
    role. Raises CannotCreateToken, and PolicyDenied when a policy denies user:manage on tokens to ``by`` now.
    """
    _verify_not_denied(tenant.pk, by)
    wanted = sorted({str(permission) for permission in permissions})
    if not user.is_active:
        raise CannotCreateToken(f"User {user.username} is not active.")
    if not dt.timedelta(0) < life <= LONGEST_TOKEN_LIFE:
        raise CannotCreateToken(f"A token lives between 1 and {LONGEST_TOKEN_LIFE.days} days.")
    roles = [role or Role.ADMIN] if user.is_superuser else _roles(user, tenant, role)
    lacking = [each for each in wanted if all(each not in PERMISSIONS.get(held, ()) for held in roles)]
    if lacking:
        raise CannotCreateToken(f"As {', '.join(roles)} of {tenant.slug}, {user.username} lacks {', '.join(lacking)}.")
    with transaction.atomic():
        token, text = ApiToken.objects.create(
            user=user, expiry=life, tenant=tenant, role=role, permissions=wanted, name=name.strip()
        )
        trail.record(
            by,
            "token:create",
            user,
            tenant_id=tenant.pk,
            details={**_facts(token), "expires_at": token.expiry.isoformat() if token.expiry else None},
        )
    return token, text


def revoke_token(token: ApiToken, *, by: trail.Actor, reason: str = "") -> None:
    """Ends a token at once: the next request that carries it is refused. Raises PolicyDenied, as ``create_token``."""
    _verify_not_denied(token.tenant_id, by)
    with transaction.atomic():
        trail.record(
            by,
            "token:revoke",
            token.user,
            tenant_id=token.tenant_id,
            reason=reason,
            details=_facts(token),
        )
        token.delete()


def _verify_not_denied(tenant_id: uuid.UUID, by: trail.Actor) -> None:
    """Policies are asked about everybody's tokens, one's own too. Commands and the system are nobody's."""
    if isinstance(by, Principal):
        by.verify_not_denied(Permission.USER_MANAGE, tenant_id, resource=Resource.TOKEN)


def _facts(token: ApiToken) -> dict[str, Any]:
    return {"token": token.token_key, "name": token.name, "role": token.role, "permissions": token.permissions}


def _roles(user: User, tenant: Tenant, role: str) -> list[str]:
    """The roles that a token of the user's would have now. Raises CannotCreateToken without any."""
    held = sorted(Membership.objects.filter(user=user, tenant=tenant).values_list("role", flat=True))
    if not held:
        others = Membership.objects.filter(user=user).order_by("tenant__slug").values_list("tenant__slug", flat=True)
        places = ", ".join(dict.fromkeys(others)) or "none"
        raise CannotCreateToken(
            f"User {user.username} has no role in tenant {tenant.slug}; tenants with a role: {places}."
        )
    if role and role not in held:
        raise CannotCreateToken(
            f"User {user.username} is not {role} of tenant {tenant.slug}; roles held there: {', '.join(held)}."
        )
    return [role] if role else held
