"""Queries that are written once: they ask what the QuerySet asks, with the values of now."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import pytest
from django.db.models import Q

from apps.tenants.models import Membership, Tenant, User
from portal.database.prepared import Prepared

pytestmark = pytest.mark.django_db


def test_it_gives_the_rows_of_the_values_given_and_is_written_once(acme: Tenant, rival: Tenant) -> None:
    written = []

    def by_slug(slug: str, since: dt.datetime) -> Any:
        written.append(slug)
        found = Tenant.objects.filter(Q(slug=slug) | Q(name=slug), created_at__gte=since, is_active=True)
        return found.values_list("id", "attributes", "created_at")

    asked = Prepared(by_slug, slug=str, since=dt.datetime)
    Tenant.objects.filter(pk=acme.pk).update(attributes={"tier": "trial"})
    acme.refresh_from_db()
    for tenant in (acme, rival, acme):
        row = (tenant.pk, tenant.attributes, tenant.created_at)
        assert list(map(tuple, asked.rows(slug=tenant.slug, since=tenant.created_at))) == [row]
        assert not asked.rows(slug=tenant.slug, since=tenant.created_at + dt.timedelta(seconds=1))
    assert len(written) == 1


def test_a_union_and_a_subquery_ask_the_same(acme: Tenant, owner: User, outsider: User) -> None:
    def around(user: uuid.UUID) -> Any:
        mine = Membership.objects.filter(user=user).order_by()
        tenants = Tenant.objects.filter(pk__in=mine.values("tenant")).order_by()
        return mine.values_list("role").union(tenants.values_list("slug"), all=True)

    asked = Prepared(around, user=uuid.UUID)
    assert {value for (value,) in asked.rows(user=owner.pk)} == {"admin", "acme"}
    assert {value for (value,) in asked.rows(user=outsider.pk)} == {"admin", "rival"}
    assert not asked.rows(user=uuid.uuid4())


def test_a_value_that_the_query_does_not_use_is_a_mistake(acme: Tenant) -> None:
    asked = Prepared(lambda slug: Tenant.objects.values_list("slug"), slug=str)
    with pytest.raises(ValueError, match="no parameter for slug"):
        asked.rows(slug="acme")
