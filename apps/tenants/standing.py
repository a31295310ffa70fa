"""What the database knows of a user's access: roles, grants and policies, read in one query."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Iterable
from typing import Any, TypeVar

from django.contrib.postgres.expressions import ArraySubquery
from django.db import models
from django.db.models import OuterRef
from django.db.models.functions import Cast, JSONObject

from apps.tenants.models import AccessPolicy, ApiToken, Membership, SwarmGrant, Tenant, User
from apps.tenants.policies import Policy, TenantFacts, parse, parse_tenant
from portal.database.prepared import Prepared

Row = TypeVar("Row", bound=models.Model)
Given = tuple[TenantFacts, uuid.UUID | None, str]
"""The name of a role in a tenant, or what a grant gives on a swarm of it."""
Standing = tuple[list[Given], list[Policy]]
"""What a user was given, and the policies that may concern them."""


def standing(user: User, token: ApiToken | None, now: dt.datetime) -> Standing:
    """A user's roles and grants and the policies that may concern them, read at one moment.

    One query; none for a token that ``tokens_that_start`` has just found.
    """
    if token is None:
        return _standing_of_user(user, now)
    found: Standing | None = token.__dict__.pop(_FOUND, None)
    if found is None:
        same = [each for each in tokens_that_start(token.token_key, now=now) if each.pk == token.pk]
        found = same[0].__dict__.pop(_FOUND) if same else ([], [])
    return found


def tokens_that_start(start: str, *, now: dt.datetime) -> list[ApiToken]:
    """The tokens whose text starts so, each with its user, its tenant and, for ``standing``, what it may do. One query.

    A start is one of a kind unless chance will have it otherwise; the digest tells which token it is.
    """
    return [_token(row) for row in _TOKENS.rows(start=start, now=now)]


def facts_of(tenant: Tenant) -> TenantFacts:
    """What policies ask of a tenant."""
    return TenantFacts(tenant.pk, tenant.slug, tenant.time_zone, tenant.attributes)


# -- by user ---------------------------------------------------------------------------------------------------------


def _standing_of_user(user: User, now: dt.datetime) -> Standing:
    given: list[Given] = []
    found: list[Policy] = []
    for what, swarm_id, name, document in _OF_USER.rows(user=user.pk, now=now):
        if what == "policy":
            found.append(parse(document))
        else:
            given.append((parse_tenant(document), swarm_id, name))
    return given, found


def _of_user(user: uuid.UUID, now: dt.datetime) -> models.QuerySet[Any, Any]:
    memberships = Membership.objects.filter(user=user).order_by()
    grants = SwarmGrant.objects.in_force(now=now).filter(user=user).order_by()
    concerned = models.Q(tenant__in=memberships.values("tenant")) | models.Q(tenant__in=grants.values("tenant"))
    policies = AccessPolicy.objects.in_force().filter(models.Q(tenant=None) | concerned).order_by().as_json()
    text, nothing = models.TextField(), models.Value(None, models.UUIDField())
    tenant = Cast(
        JSONObject(id="tenant_id", slug="tenant__slug", zone="tenant__time_zone", attributes="tenant__attributes"),
        text,
    )

    def kind(name: str) -> models.Value:
        return models.Value(name, text)

    return memberships.values_list(kind("role"), nothing, Cast("role", text), tenant).union(
        grants.values_list(kind("grant"), "swarm_id", Cast("gives", text), tenant),
        policies.values_list(kind("policy"), nothing, Cast("name", text), "document"),
        all=True,
    )


_OF_USER = Prepared(_of_user, user=uuid.UUID, now=dt.datetime)


# -- by token --------------------------------------------------------------------------------------------------------

_FOUND = "_standing"


def _token(row: Any) -> ApiToken:
    values = iter(row)
    token, user, tenant = _instance(ApiToken, values), _instance(User, values), _instance(Tenant, values)
    token.user, token.tenant = user, tenant
    roles, grants, policies = values
    facts = facts_of(tenant)
    given: list[Given] = [(facts, None, role) for role in roles]
    given += [(facts, uuid.UUID(grant["swarm"]), grant["gives"]) for grant in map(json.loads, grants)]
    token.__dict__[_FOUND] = given, [parse(document) for document in policies]
    return token


def _instance(model: type[Row], values: Iterable[Any]) -> Row:
    names = _names(model)
    return model.from_db("default", names, [value for _, value in zip(names, values, strict=False)])


def _names(model: type[models.Model]) -> list[str]:
    return [field.attname for field in model._meta.concrete_fields]


def _tokens(start: str, now: dt.datetime) -> models.QuerySet[Any, Any]:
    text, own = models.TextField(), models.Q(user=OuterRef("user"), tenant=OuterRef("tenant"))
    roles = Membership.objects.filter(own).order_by().values_list("role")
    given = Cast(JSONObject(swarm="swarm_id", gives="gives"), text)
    grants = SwarmGrant.objects.in_force(now=now).filter(own).order_by().values_list(given)
    concerned = models.Q(tenant=None) | models.Q(tenant=OuterRef("tenant"))
    policies: Any = AccessPolicy.objects.in_force().filter(concerned).order_by().as_json()
    parts: Any = (roles, grants, policies.values_list("document"))
    columns = [
        *_names(ApiToken),
        *(f"user__{name}" for name in _names(User)),
        *(f"tenant__{name}" for name in _names(Tenant)),
    ]
    found: models.QuerySet[Any, Any] = ApiToken.objects.filter(token_key=start).values_list(
        *columns, *map(ArraySubquery, parts)
    )
    return found


_TOKENS = Prepared(_tokens, start=str, now=dt.datetime)
