"""The provider that the environment names (OIDC_ISSUER and its companions), as a row like the others."""

from __future__ import annotations

from django.conf import settings
from django.db import transaction

from apps.audit import trail
from apps.tenants.models import GroupRule, IdentityProvider, Match, Tenant
from portal.env import GroupRole

ENVIRONMENT = trail.Actor("system", "environment")


def adopt() -> None:
    """Makes or updates the row of the environment's provider, and the rules that OIDC_GROUP_ROLES names.

    Each entry becomes a rule once, as soon as its tenant exists: from then on the rules belong to the administration.
    """
    issuer, client_id = settings.OIDC_ISSUER, settings.OIDC_CLIENT_ID
    if not issuer or not client_id:
        return
    row = IdentityProvider.objects.filter(issuer=issuer).first()
    if (
        row
        and row.from_environment
        and row.client_id == client_id
        and not [role for role in settings.OIDC_GROUP_ROLES if str(role) not in row.filled_rules]
    ):
        return
    with transaction.atomic():
        # Only one row may be the environment's; that of an issuer named before is kept, and offered to nobody.
        IdentityProvider.objects.select_for_update().filter(from_environment=True).exclude(issuer=issuer).update(
            from_environment=False, is_active=False
        )
        row, is_new = IdentityProvider.objects.select_for_update().get_or_create(
            issuer=issuer,
            defaults={"slug": _free_slug(), "name": "single sign-on", "client_id": client_id, "from_environment": True},
        )
        row.from_environment, row.client_id, row.client_secret_variable = True, client_id, "OIDC_CLIENT_SECRET"
        _fill(row, settings.OIDC_GROUP_ROLES)
        row.save(update_fields=["from_environment", "client_id", "client_secret_variable", "filled_rules"])
        if is_new:
            trail.record(ENVIRONMENT, "identityprovider:create", row, tenant_id=None, details={"issuer": issuer})


def _fill(row: IdentityProvider, wanted: list[GroupRole]) -> None:
    waiting = [entry for entry in wanted if str(entry) not in row.filled_rules]
    tenants = {tenant.slug: tenant for tenant in Tenant.objects.filter(slug__in={entry.tenant for entry in waiting})}
    for entry in waiting:
        tenant = tenants.get(entry.tenant)
        if tenant is None:
            continue
        match = Match.GLOB if set("*?[") & set(entry.group) else Match.EXACT
        rule, is_new = GroupRule.objects.get_or_create(
            provider=row, match=match, group=entry.group, tenant=tenant, role=entry.role
        )
        row.filled_rules = [*row.filled_rules, str(entry)]
        if is_new:
            details = {"group": entry.group, "role": entry.role}
            trail.record(ENVIRONMENT, "grouprule:create", rule, tenant_id=tenant.pk, details=details)


def _free_slug() -> str:
    taken = set(IdentityProvider.objects.values_list("slug", flat=True))
    return next(slug for slug in ("sso", *(f"sso-{n}" for n in range(2, len(taken) + 3))) if slug not in taken)
