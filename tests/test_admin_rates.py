"""Rates in the administration: finance adds them for its tenant; those in force are history."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.costs.models import AccruedHour, Price, Rate
from apps.tenants.models import Tenant, User
from portal.money import NANO
from tests.test_admin_money import errors, staff

pytestmark = pytest.mark.django_db

ADD = "/admin/costs/rate/add/"
LIST = "/admin/costs/rate/"
SOON = dt.datetime(2126, 1, 1, tzinfo=dt.UTC)


def form(tenant: Tenant | None, price: str = "0.05", **fields: Any) -> dict[str, Any]:
    """A rate from the year 2126 on."""
    return {
        "tenant": str(tenant.pk) if tenant else "",
        "kind": "infrastructure",
        "price": price,
        "effective_from_0": "2126-01-01",
        "effective_from_1": "00:00:00",
        "note": "",
        **fields,
    }


def test_finance_adds_a_rate_for_its_tenant_and_the_trail_says_so(finance: User, acme: Tenant) -> None:  # C11
    response = staff(finance).post(ADD, form(acme, "0.000000001"), follow=True)
    assert response.status_code == 200, errors(response)
    rate = Rate.objects.get()
    assert (rate.tenant, rate.kind, rate.price) == (acme, "infrastructure", 1)
    entry = AuditEntry.objects.get(action="rate:create")
    assert (entry.actor, entry.tenant_id, entry.resource_id) == (str(finance.pk), acme.pk, str(rate.pk))


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"tenant": ""}, "tenant", "required"),  # for everybody: not finance's to say
        ({"price": "-1"}, "price", "0 or more"),
        ({"price": "1,5"}, "price", "Use a point"),
        ({"kind": "llm"}, "kind", "Select a valid choice"),
        ({"effective_from_0": "soon"}, "effective_from", "valid date"),
    ],
)
def test_what_makes_no_sense_is_said_on_the_field(
    finance: User, acme: Tenant, change: dict[str, str], field: str, says: str
) -> None:
    response = staff(finance).post(ADD, {**form(acme), **change})
    assert says in str(errors(response)[field])
    assert not Rate.objects.exists()


def test_a_rate_cannot_begin_in_hours_that_are_accrued(finance: User, acme: Tenant) -> None:
    AccruedHour.objects.create(kind="infrastructure", hour=SOON, accrued_at=SOON)
    response = staff(finance).post(ADD, form(acme))
    assert "are accrued already" in str(errors(response)["effective_from"])


def test_a_rate_in_force_is_history_and_a_later_one_may_be_withdrawn(finance: User, acme: Tenant) -> None:
    client = staff(finance)
    old = Rate.objects.create(tenant=acme, kind="storage", price=NANO, effective_from=timezone.now())
    later = Rate.objects.create(tenant=acme, kind="storage", price=2 * NANO, effective_from=SOON)
    page = f"{LIST}{old.pk}/change/"
    assert "$1.00 for a GB-month" in client.get(page).content.decode()
    assert client.post(page, form(acme, "9")).status_code == 403
    assert client.post(f"{LIST}{old.pk}/delete/", {"post": "yes"}).status_code == 403
    client.post(f"{LIST}{later.pk}/delete/", {"post": "yes"})
    assert list(Rate.objects.all()) == [old]
    assert AuditEntry.objects.filter(action="rate:delete").exists()


def test_rates_and_prices_are_shown_to_the_last_digit(viewer: User, acme: Tenant) -> None:
    client, half = staff(viewer), NANO // 8
    Rate.objects.create(tenant=acme, kind="storage", price=half, effective_from=timezone.now())
    Price.objects.create(tenant=acme, provider="a", model="b", input_per_mtok=half, output_per_mtok=NANO)
    assert "$0.125 for a GB-month" in client.get(LIST).content.decode()
    assert "$0.125" in client.get("/admin/costs/price/").content.decode()


def test_others_look_or_see_nothing(viewer: User, outsider: User, acme: Tenant) -> None:  # A5
    own = Rate.objects.create(tenant=acme, kind="storage", price=NANO, note="acme only")
    Rate.objects.create(kind="storage", price=NANO, note="for everybody")
    looking, outside = staff(viewer), staff(outsider)
    assert looking.get(ADD).status_code == 403
    assert "acme only" in looking.get(LIST).content.decode()
    seen = outside.get(LIST).content.decode()
    assert "acme only" not in seen
    assert "for everybody" in seen
    assert outside.get(f"{LIST}{own.pk}/change/").status_code == 302
    shared = Rate.objects.get(tenant=None)
    assert outside.get(f"{LIST}{shared.pk}/change/").status_code == 200
    assert outside.post(f"{LIST}{shared.pk}/delete/", {"post": "yes"}).status_code == 403


def test_the_page_says_what_does_not_accrue(finance: User, platform_admin: User) -> None:
    client = staff(finance)
    assert "Nothing accrues: there is no rate yet." in client.get(LIST).content.decode()
    response = staff(platform_admin).post(ADD, form(None, effective_from_0="2026-01-01"), follow=True)
    assert response.status_code == 200
    text = client.get(LIST).content.decode()
    assert "No rate of storage is in force: none of it is charged." in text
    assert "No rate of infrastructure" not in text
    assert "in force" in text
