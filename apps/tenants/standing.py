"""What the database knows of a user's access: roles, grants and policies, read in one query."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any

from django.db import models
from django.db.models.functions import Cast, JSONObject

from apps.tenants.models import AccessPolicy, ApiToken, Tenant, User
from apps.tenants.policies import TenantFacts


def standing(user: User, token: ApiToken | None, now: dt.datetime) -> Iterable[tuple[str, Any, Any, str, str]]:
    """A user's roles and grants and the policies that may concern them, read at one moment. One query.

    Rows of kind ("role", "grant", "policy"), tenant, swarm, name, and a JSON document: of the tenant, or of the policy.
    """
    memberships, grants = user.memberships.order_by(), user.swarm_grants.in_force(now=now).order_by()
    if token:
        memberships, grants = memberships.filter(tenant_id=token.tenant_id), grants.filter(tenant_id=token.tenant_id)
    concerned = models.Q(tenant=None)
    if token:
        concerned |= models.Q(tenant_id=token.tenant_id)
    else:
        concerned |= models.Q(tenant__in=memberships.values("tenant")) | models.Q(tenant__in=grants.values("tenant"))
    policies = AccessPolicy.objects.in_force().filter(concerned).order_by().as_json()
    text, nothing = models.TextField(), models.Value(None, models.UUIDField())
    tenant = Cast(
        JSONObject(id="tenant_id", slug="tenant__slug", zone="tenant__time_zone", attributes="tenant__attributes"),
        text,
    )

    def kind(name: str) -> models.Value:
        return models.Value(name, text)

    rows = memberships.values_list(kind("role"), "tenant_id", nothing, Cast("role", text), tenant)
    if user.is_superuser:  # a platform admin's token needs neither
        return policies.values_list(kind("policy"), "tenant_id", nothing, Cast("name", text), "document")
    return rows.union(
        grants.values_list(kind("grant"), "tenant_id", "swarm_id", Cast("gives", text), tenant),
        policies.values_list(kind("policy"), "tenant_id", nothing, Cast("name", text), "document"),
        all=True,
    )


def facts_of(tenant: Tenant) -> TenantFacts:
    """What policies ask of a tenant."""
    return TenantFacts(tenant.pk, tenant.slug, tenant.time_zone, tenant.attributes)
