"""The what-if page: finance asks, sees figures, downloads them; others see nothing of the tenant."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from apps.costs.entries import NewEntry, write
from apps.costs.models import Kind
from apps.tenants.models import Membership, Tenant, User
from apps.tenants.roles import Role
from tests.test_admin_money import staff
from tests.test_whatif import LARGE, NOON, SMALL, call, prices

pytestmark = pytest.mark.django_db
__all__ = ["prices"]

PAGE = "/admin/costs/what-if/"


@pytest.fixture
def spent(acme: Tenant, rival: Tenant, prices: None) -> None:
    write(
        [
            call(acme, 10_400_000_000, input_tokens=1_000_000, output_tokens=10_000),
            call(acme, 5_000_000_000, input_tokens=0, output_tokens=0, agent="=reader"),
            NewEntry(tenant_id=acme.pk, kind=Kind.STORAGE, amount=2_000_000_000, at=NOON),
            call(rival, 99_000_000_000, agent="secret agent"),
        ],
        now=NOON,
    )


def ask(client: Client, tenant: Tenant, **fields: str) -> Any:
    return client.get(PAGE, {"tenant": str(tenant.pk), "first": "2026-10-01", "last": "2026-10-31", **fields})


CHEAPER = {"old_1": LARGE, "new_1": SMALL}


def test_finance_sees_what_another_model_would_have_cost(
    finance: User, acme: Tenant, spent: None, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    client = staff(finance)
    assert "Work it out" in client.get(PAGE).content.decode()
    with django_assert_max_num_queries(25):
        text = ask(client, acme, **CHEAPER).content.decode()
    for figure in ("$17.40", "$8.04", "−$9.36", "−53.8 %", "1 call could not be priced anew", "No token counts"):
        assert figure in text, figure
    assert "secret" not in text
    assert f'value="{SMALL}"' in text


def test_a_cap_says_what_it_refuses_and_from_when(finance: User, acme: Tenant, spent: None) -> None:
    text = ask(staff(finance), acme, cap="6", per="daily").content.decode()
    for figure in ("2026-10-10 12:00:00 EDT", "$10.40 in all", "1 refused", "$7.00"):
        assert figure in text, figure
    assert "all calls would have fitted" in ask(staff(finance), acme, cap="100").content.decode()


def test_the_download_has_exact_amounts_and_no_formulas(finance: User, acme: Tenant, spent: None) -> None:
    response = ask(staff(finance), acme, **CHEAPER, format="csv")
    assert response["Content-Disposition"] == 'attachment; filename="what-if-acme-2026-10-01-2026-10-31.csv"'
    rows = list(csv.DictReader(io.StringIO(response.content.decode())))
    assert [(row["agent"], row["priced_as"], row["hypothetical_usd"], row["difference_usd"]) for row in rows] == [
        ("", "", "2.00", "0.00"),
        ("'=reader", LARGE, "5.00", "0.00"),
        ("writer", SMALL, "1.04", "-9.36"),
    ]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"last": "2026-09-01"}, "It ends before it begins."),
        ({"first": "soon"}, "Enter a valid date."),
        ({"old_1": LARGE}, "Say which model, and which one instead."),
        ({"new_2": LARGE}, "Say which model, and which one instead."),
        ({"old_1": LARGE, "new_1": "no:such"}, "No price is known for the model"),
        ({**CHEAPER, "old_2": LARGE, "new_2": SMALL}, "is replaced twice"),
        ({"cap": "-1"}, "Enter an amount of 0 or more."),
    ],
)
def test_what_makes_no_sense_is_said_on_the_form(
    finance: User, acme: Tenant, spent: None, fields: dict[str, str], says: str
) -> None:
    response = ask(staff(finance), acme, **fields)
    assert response.status_code == 200
    assert says in response.content.decode().replace("&quot;", '"').replace("&#x27;", "'")
    assert "Would have been" not in response.content.decode()


def test_days_without_costs_say_what_to_do(finance: User, acme: Tenant, spent: None) -> None:
    text = ask(staff(finance), acme, first="2026-01-01", last="2026-01-31").content.decode()
    assert "Nothing was owed in these days." in text


def test_outsiders_and_those_without_the_permission_see_nothing(
    outsider: User, acme: Tenant, rival: Tenant, spent: None
) -> None:  # A5
    text = ask(staff(outsider), acme).content.decode()
    assert "That choice is not one of the available choices" in text.replace("Select a valid choice. ", "")
    assert "$17.40" not in text
    assert "$99.00" in ask(staff(outsider), rival).content.decode()
    compliance = User.objects.create(username="compliance")
    Membership.objects.create(user=compliance, tenant=acme, role=Role.COMPLIANCE)
    assert ask(staff(compliance), acme).status_code == 403
    assert ask(Client(), acme).status_code == 302
