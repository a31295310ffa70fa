"""Acts on access, each one transaction with its audit row."""

from __future__ import annotations

import datetime as dt

from django.db import transaction

from apps.audit import trail
from apps.tenants.models import ApiToken, Membership, Tenant, User

LONGEST_TOKEN_LIFE = dt.timedelta(days=3650)


class CannotCreateToken(Exception):
    """Why this token cannot be made, for a person."""


def create_token(
    user: User, tenant: Tenant, *, role: str = "", life: dt.timedelta, by: trail.Actor
) -> tuple[ApiToken, str]:
    """Makes a token that acts for a user in one tenant; its row, and its text, which is shown only this once.

    An empty role means every role the user has there at the time of use. Raises CannotCreateToken.
    """
    if not user.is_active:
        raise CannotCreateToken(f"User {user.username} is not active.")
    if not dt.timedelta(0) < life <= LONGEST_TOKEN_LIFE:
        raise CannotCreateToken(f"A token lives between 1 and {LONGEST_TOKEN_LIFE.days} days.")
    if not user.is_superuser:
        _verify_membership(user, tenant, role)
    with transaction.atomic():
        token, text = ApiToken.objects.create(user=user, expiry=life, tenant=tenant, role=role)
        trail.record(
            by,
            "token:create",
            user,
            tenant_id=tenant.pk,
            details={"token": token.token_key, "role": role, "expires_at": token.expiry.isoformat()},
        )
    return token, text


def revoke_token(token: ApiToken, *, by: trail.Actor, reason: str = "") -> None:
    """Ends a token at once: the next request that carries it is refused."""
    with transaction.atomic():
        trail.record(
            by,
            "token:revoke",
            token.user,
            tenant_id=token.tenant_id,
            reason=reason,
            details={"token": token.token_key, "role": token.role},
        )
        token.delete()


def _verify_membership(user: User, tenant: Tenant, role: str) -> None:
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
