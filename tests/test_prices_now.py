"""The page of prices in force: it shows what calls are charged at, and where that comes from."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from django.urls import reverse
from django.utils import timezone

from apps.costs.models import Price
from apps.costs.price_sources import priced
from apps.costs.prices import UnknownModel, price_of
from apps.tenants.models import Membership, Tenant, User
from apps.tenants.roles import Role
from portal.money import NANO
from tests.spending import spend, staff

pytestmark = pytest.mark.django_db

PAGE = "/admin/costs/prices-in-force/"
NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
MODELS = ["openai:gpt-4o", "google:gemini-2.5-pro", "simulated:small", "nobody:nothing", "plain"]


def override(tenant: Tenant | None, model: str, price: int, since: dt.datetime, **fields: Any) -> Price:
    provider, _, name = model.partition(":")
    return Price.objects.create(
        tenant=tenant, provider=provider, model=name, input_per_mtok=price, output_per_mtok=2 * price,
        effective_from=since, **fields,
    )  # fmt: skip


def test_every_price_is_the_one_that_calls_are_charged_at(
    acme: Tenant, rival: Tenant, django_assert_num_queries: Any
) -> None:
    """P9"""
    override(None, "openai:gpt-4o", 7 * NANO, NOW - 9 * DAY)
    override(acme, "openai:gpt-4o", 5 * NANO, NOW - 2 * DAY)
    override(rival, "simulated:small", NANO, NOW - 2 * DAY)
    override(None, "simulated:small", 3 * NANO, NOW + DAY)
    for tenant in (acme, rival):
        for at in (NOW, NOW - 3 * DAY, NOW + 2 * DAY):
            with django_assert_num_queries(2):
                found = priced(MODELS, tenant_id=tenant.pk, at=at)
            assert [each.model for each in found] == sorted(MODELS)
            for each in found:
                try:
                    charged = price_of(each.model, tenant_id=tenant.pk, at=at)
                except UnknownModel:
                    assert each.price is None, each
                    assert each.why_not
                else:
                    assert each.price == charged, each
    (gpt, small) = priced(["openai:gpt-4o", "simulated:small"], tenant_id=acme.pk, at=NOW)
    assert gpt.override
    assert gpt.override.tenant_id == acme.pk
    assert gpt.coming is None
    assert small.coming
    assert small.coming.input_per_mtok == 3 * NANO


def test_the_page_says_where_each_price_comes_from(finance: User, acme: Tenant) -> None:
    now = timezone.now()
    for model in (*MODELS[:3], "nobody:nothing"):
        spend(acme, 2 * NANO, at=now, model=model)
    own = override(acme, "simulated:small", NANO // 8, now - DAY, note="Contract 7")
    override(None, "openai:gpt-4o", 9 * NANO, now + DAY)
    page = staff(finance).get(PAGE).content.decode()
    for words in (
        "$0.125",
        "Set for this tenant",
        "Contract 7",
        reverse("admin:costs_price_change", args=[own.pk]),
        "Published",
        "genai-prices",
        "No price: calls are refused",
        "Neither set here nor published.",
        "$9.00 input, $18.00 output",
        "A call of more than 200,000 input tokens",
        "model=nobody%3Anothing",
    ):
        assert words in page, words


def test_any_model_can_be_asked_for_at_any_day(finance: User, acme: Tenant) -> None:
    override(acme, "simulated:small", NANO, dt.datetime(2026, 3, 1, 5, tzinfo=dt.UTC))  # midnight in New York
    client = staff(finance)
    assert "No model was used in the last 90 days" in client.get(PAGE).content.decode()
    page = client.get(PAGE, {"model": "simulated:small", "on": "2026-03-01"}).content.decode()
    assert "Set for this tenant" in page
    before = client.get(PAGE, {"model": "simulated:small", "on": "2026-02-28"}).content.decode()
    assert "No price: calls are refused" in before


@pytest.mark.parametrize(
    ("given", "says"), [({"on": "soon"}, "“soon” is not a day"), ({"tenant": "x"}, "not one of the tenants")]
)
def test_a_wrong_choice_is_refused_with_words_and_loses_nothing(
    given: dict[str, str], says: str, finance: User, acme: Tenant
) -> None:
    page = staff(finance).get(PAGE, {**given, "model": "openai:gpt-4o"})
    assert says in page.content.decode()
    assert page.context["form"]["model"].value() == "openai:gpt-4o"
    assert "lines" not in page.context


@pytest.mark.parametrize("role", list(Role))
def test_who_reads_costs_reads_prices(role: str, acme: Tenant) -> None:
    user = User.objects.create_user(f"a-{role}")
    Membership.objects.create(user=user, tenant=acme, role=role)
    client = staff(user)
    reads = role != Role.COMPLIANCE
    assert client.get(PAGE).status_code == (200 if reads else 403)
    assert (PAGE in client.get("/admin/").content.decode()) == reads


def test_the_outsider_sees_no_price_of_acme(outsider: User, acme: Tenant) -> None:
    override(acme, "simulated:small", NANO // 8, NOW - DAY)
    client = staff(outsider)
    asked = {"model": "simulated:small"}
    assert "$0.125" not in client.get(PAGE, asked).content.decode()
    refused = client.get(PAGE, {**asked, "tenant": str(acme.pk)})
    assert "not one of the tenants you may see" in refused.content.decode()
    assert "$0.125" not in refused.content.decode()


def test_the_page_takes_few_queries(finance: User, acme: Tenant, django_assert_max_num_queries: Any) -> None:
    client = staff(finance)
    for count in (2, 30):
        for n in range(count):
            spend(acme, model=f"simulated:model-{n}")
        with django_assert_max_num_queries(16):
            client.get(PAGE)
