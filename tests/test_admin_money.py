"""Budgets and prices in the administration: exact amounts, audited changes, refusals on the field."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.costs.models import Budget, BudgetAlert, BudgetPeriod, Price
from apps.costs.reserving import Settlement, reserve, settle
from apps.events.models import Event
from apps.privacy.models import DataSubject
from apps.swarms.models import ResourcePool
from apps.tenants.models import Tenant, User
from portal.admin_fields import UsdField
from portal.money import NANO
from tests.admin_rows import make_rows
from tests.costs import call

pytestmark = pytest.mark.django_db

ADD = "/admin/costs/budget/add/"


def staff(user: User) -> Client:
    user.is_staff = True
    user.save()
    client = Client()
    client.force_login(user)
    return client


def form(of: Tenant, **fields: Any) -> dict[str, Any]:
    return {
        "tenant": str(of.pk),
        "name": "Monthly",
        "scope": "tenant",
        "target": "",
        "period": "monthly",
        "enforcement": "hard",
        "limit": "50",
        "note": "",
        **fields,
    }


def errors(response: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = response.context["adminform"].form.errors
    return found


# -- amounts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "nano"),
    [
        ("0.000000001", 1),
        ("50", 50 * NANO),
        (" 12.50 ", 12_500_000_000),
        ("$12.5", 12_500_000_000),
        ("12.5 USD", 12_500_000_000),
        ("0", 0),
        ("8999999999.999999999", 8_999_999_999_999_999_999),
        ("000.100000000", 100_000_000),
        ("0.1000000000", 100_000_000),  # ten decimals, the last of them zero
    ],
)
def test_amounts_are_read_exactly(typed: str, nano: int) -> None:
    field = UsdField()
    assert field.clean(typed) == nano
    assert field.clean(field.prepare_value(nano)) == nano


def test_a_budget_of_a_person_is_set_by_the_name_that_finance_knows(finance: User, acme: Tenant, rival: Tenant) -> None:
    client = staff(finance)
    pseudonym = DataSubject.objects.pseudonym(acme.pk, "customer-1")
    DataSubject.objects.pseudonym(rival.pk, "customer-2")
    client.post(ADD, form(acme, scope="end_user", target="customer-1"))
    assert Budget.objects.get().target == str(pseudonym)
    for name in ("customer-2", "nobody"):  # a person of another tenant is as unknown as one that is not there
        response = client.post(ADD, form(acme, name="Other", scope="end_user", target=name))
        assert f"Nobody is known as “{name}” in Acme" in errors(response)["target"][0]
    assert Budget.objects.count() == 1


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("", "required"),
        ("  ", "digits and a point"),
        ("abc", "digits and a point"),
        ("1,50", "Use a point"),
        ("1,250.50", "Use a point"),
        ("-1", "0 or more"),
        ("0.0000000001", "nine decimals"),
        ("1e3", "digits and a point"),
        ("NaN", "digits and a point"),
        ("Infinity", "digits and a point"),
        ("1.2.3", "digits and a point"),
        ("--1", "digits and a point"),
        ("$", "digits and a point"),
        ("9000000001", "9 billion"),
        ("9" * 400, "9 billion"),
        ("\u0661\u0662", "digits and a point"),
    ],
)
def test_amounts_that_make_no_sense_say_what_would(typed: str, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        UsdField().clean(typed)


# -- budgets -----------------------------------------------------------------------------------------------------------


def test_finance_makes_a_budget_and_the_trail_says_so(finance: User, acme: Tenant) -> None:
    response = staff(finance).post(ADD, form(acme, limit="0.000000001"), follow=True)
    assert response.status_code == 200, errors(response)
    budget = Budget.objects.get()
    assert (budget.limit, budget.tenant, budget.is_active) == (1, acme, True)
    entry = AuditEntry.objects.get(resource_kind="budget")
    assert (entry.actor, entry.tenant_id) == (str(finance.pk), acme.pk)
    assert Event.objects.filter(kind="budget.created").count() == 1


def test_saving_what_is_shown_changes_nothing(finance: User, acme: Tenant) -> None:
    client = staff(finance)
    client.post(ADD, form(acme, limit="0.000000001"))
    budget = Budget.objects.get()
    url = reverse("admin:costs_budget_change", args=[budget.pk])
    shown = client.get(url).context["adminform"].form
    data = {name: shown[name].value() for name in shown.fields}
    assert data["limit"] == "0.000000001"
    response = client.post(url, {**data, "is_active": "on"}, follow=True)
    assert response.status_code == 200
    budget.refresh_from_db()
    assert budget.limit == 1
    assert AuditEntry.objects.filter(resource_kind="budget").count() == 1


def test_a_changed_limit_reaches_the_open_period_and_the_trail(finance: User, acme: Tenant) -> None:
    client = staff(finance)
    client.post(ADD, form(acme))
    budget = Budget.objects.get()
    now = timezone.now()
    period = BudgetPeriod.objects.create(
        budget=budget, key="x", starts_at=now, ends_at=now + dt.timedelta(days=1), limit=50 * NANO,
        ceiling=50 * NANO, spent=7 * NANO,
    )  # fmt: skip
    url = reverse("admin:costs_budget_change", args=[budget.pk])
    data = {"name": "Monthly", "limit": "5", "enforcement": "hard", "note": "", "is_active": "on"}
    response = client.post(url, data, follow=True)
    assert response.status_code == 200
    period.refresh_from_db()
    assert (period.limit, period.ceiling) == (5 * NANO, 7 * NANO)  # never below what is committed
    changed = AuditEntry.objects.filter(resource_kind="budget").latest("id")
    assert changed.details == {"limit_usd": ["50.00", "5.00"]}


def test_a_budget_can_be_made_inactive(finance: User, acme: Tenant) -> None:
    client = staff(finance)
    client.post(ADD, form(acme))
    budget = Budget.objects.get()
    url = reverse("admin:costs_budget_change", args=[budget.pk])
    client.post(url, {"name": "Monthly", "limit": "50", "enforcement": "hard", "note": ""})
    budget.refresh_from_db()
    assert not budget.is_active


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({"limit": "-5"}, "limit", "0 or more"),
        ({"limit": ""}, "limit", "required"),
        ({"limit": "1,5"}, "limit", "point"),
        ({"name": ""}, "name", "required"),
        ({"target": "someone"}, "target", "has no target"),
        ({"scope": "end_user", "target": "someone"}, "target", "Nobody is known as"),
        ({"scope": "galaxy"}, "scope", "not one of the available choices"),
        ({"tenant": "nobody"}, "tenant", "not a valid UUID"),
    ],
)
def test_a_wrong_field_says_what_is_wrong(
    fields: dict[str, str], field: str, says: str, finance: User, acme: Tenant
) -> None:
    response = staff(finance).post(ADD, form(acme, **fields))
    assert response.status_code == 200
    assert says in " ".join(errors(response)[field])
    assert not Budget.objects.exists()


def test_a_name_is_taken_once_per_tenant(finance: User, acme: Tenant) -> None:
    client = staff(finance)
    client.post(ADD, form(acme))
    response = client.post(ADD, form(acme))
    assert "already exists" in str(errors(response))


def test_what_a_budget_watches_cannot_be_changed_later(finance: User, acme: Tenant) -> None:
    client = staff(finance)
    client.post(ADD, form(acme))
    budget = Budget.objects.get()
    url = reverse("admin:costs_budget_change", args=[budget.pk])
    assert not {"tenant", "scope", "target", "period"} & client.get(url).context["adminform"].form.fields.keys()


def test_viewers_look_at_budgets_and_change_none(viewer: User, finance: User, acme: Tenant) -> None:
    staff(finance).post(ADD, form(acme, limit="0.000000001"))
    budget = Budget.objects.get()
    client = staff(viewer)
    url = reverse("admin:costs_budget_change", args=[budget.pk])
    page = client.get(url)
    assert "0.000000001 USD" in page.content.decode()
    assert client.post(url, {"limit": "9"}).status_code == 403
    assert client.post(ADD, form(acme)).status_code == 403
    assert client.get(ADD).status_code == 403


def test_finance_of_another_tenant_can_neither_see_nor_target_ours(
    outsider: User, finance: User, acme: Tenant, rival: Tenant
) -> None:
    staff(finance).post(ADD, form(acme))
    budget = Budget.objects.get()
    client = staff(outsider)
    url = reverse("admin:costs_budget_change", args=[budget.pk])
    assert client.post(url, {"limit": "9"}).status_code in (302, 403, 404)
    response = client.post(ADD, form(acme, name="Trojan"))
    assert "valid choice" in str(errors(response)["tenant"])
    budget.refresh_from_db()
    assert budget.limit == 50 * NANO
    assert Budget.objects.count() == 1


def test_a_budget_shows_how_it_stands(finance: User, acme: Tenant) -> None:
    client = staff(finance)
    client.post(ADD, form(acme))
    budget = Budget.objects.get()
    page = client.get(reverse("admin:costs_budget_change", args=[budget.pk])).content.decode()
    assert "$0.00 of $50.00 (0 %)" in page
    assert "Nothing was charged in the current period yet" in page


def test_alert_levels_are_typed_with_commas_between_them(finance: User, acme: Tenant) -> None:  # C5
    client = staff(finance)
    assert 'value="80, 90, 100"' in client.get(ADD).content.decode()  # what is not touched warns as usual
    client.post(ADD, form(acme, alert_levels="100 %, 75,90"))
    budget = Budget.objects.get()
    assert budget.alert_levels == [75, 90, 100]
    url = reverse("admin:costs_budget_change", args=[budget.pk])
    assert 'value="75, 90, 100"' in client.get(url).content.decode()
    data = {"name": "Monthly", "limit": "50", "enforcement": "hard", "note": "", "is_active": "on"}
    client.post(url, {**data, "alert_levels": "50"})
    client.post(url, data)  # not asked for: as it was
    budget.refresh_from_db()
    assert budget.alert_levels == [50]
    assert AuditEntry.objects.filter(resource_kind="budget").latest("id").details == {
        "alert_levels": [[75, 90, 100], [50]]
    }
    client.post(url, {**data, "alert_levels": ""})
    budget.refresh_from_db()
    assert budget.alert_levels == []
    client.post(ADD, form(acme, name="Plain"))
    assert Budget.objects.get(name="Plain").alert_levels == [80, 90, 100]


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("lots", "lots is none"),
        ("80.5", "80.5 is none"),
        ("-80", "-80 is none"),
        ("80;90", "80;90 is none"),
        ("0, 80", "not 0"),
        ("1001", "from 1 to 1000"),
        ("80, 80", "more than once"),
        (", ".join(map(str, range(1, 12))), "At most 10"),
        ("\u0661", "is none"),
    ],
)
def test_alert_levels_that_make_no_sense_say_what_would(typed: str, says: str, finance: User, acme: Tenant) -> None:
    response = staff(finance).post(ADD, form(acme, alert_levels=typed))
    assert says in " ".join(errors(response)["alert_levels"])
    assert not Budget.objects.exists()


def _used(of: Tenant, spent: int, **fields: Any) -> Budget:
    """A budget of 10 USD, made long ago, of which so much is spent this month."""
    budget = Budget.objects.create(tenant=of, name="Ten", limit=10 * NANO, enforcement="soft", **fields)
    Budget.objects.update(created_at=dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
    now = timezone.now()
    request = call(of, spent, expires_at=now + dt.timedelta(minutes=1))
    reserve([request], now=now)
    settle([Settlement(request.id, spent)], now=now)
    return budget


def test_budget_pages_tell_the_forecast_the_alerts_and_the_history(
    finance: User, viewer: User, acme: Tenant, django_assert_max_num_queries: Any
) -> None:  # C5, C10
    budget = _used(acme, 95 * NANO // 10)
    client = staff(finance)
    url = reverse("admin:costs_budget_change", args=[budget.pk])
    client.get(url)
    with django_assert_max_num_queries(10):
        page = client.get(url).content.decode()
    assert "past its 90 % alert" in page
    assert "80 %" in page
    assert "Periods so far" in page
    assert "80 %, 90 %" in page  # of the period in the history
    assert "A day costs, so far" in page
    assert "$9.50 of $10.00 (95 %)" in page
    listed = client.get("/admin/costs/budget/").content.decode()
    assert "past its 90 % alert" in listed
    assert "Budgets near their limit" in client.get("/admin/").content.decode()
    looking = staff(viewer).get(url).content.decode()
    assert "80 %, 90 %, 100 %" in looking
    assert 'name="alert_levels"' not in looking


def test_the_list_of_budgets_takes_as_many_queries_for_one_as_for_many(
    finance: User, acme: Tenant, django_assert_num_queries: Any
) -> None:
    _used(acme, 9 * NANO)
    client = staff(finance)
    client.get("/admin/costs/budget/")
    with CaptureQueriesContext(connection) as first:
        client.get("/admin/costs/budget/")
    for number in range(10):
        Budget.objects.create(tenant=acme, name=f"b{number}", limit=NANO, enforcement="soft")
    request = call(acme, NANO, expires_at=timezone.now() + dt.timedelta(minutes=1))
    reserve([request], now=timezone.now())
    settle([Settlement(request.id, NANO)], now=timezone.now())
    with django_assert_num_queries(len(first)):
        client.get("/admin/costs/budget/")


def test_a_new_budget_says_that_it_has_too_little_history(finance: User, acme: Tenant) -> None:
    client = staff(finance)
    client.post(ADD, form(acme))
    page = client.get(reverse("admin:costs_budget_change", args=[Budget.objects.get().pk])).content.decode()
    assert "Too little history: 0 minutes so far" in page
    assert "Nothing was charged to it yet." in page


def test_the_list_of_alerts_is_for_reading(
    finance: User, outsider: User, acme: Tenant, django_assert_max_num_queries: Any
) -> None:
    _used(acme, 95 * NANO // 10)
    client = staff(finance)
    client.get("/admin/costs/budgetalert/")
    with django_assert_max_num_queries(8):
        page = client.get("/admin/costs/budgetalert/").content.decode()
    assert "$9.50 of $10.00" in page
    assert "Ten" in page
    assert client.get("/admin/costs/budgetalert/?state=withdrawn").context["cl"].result_list == []
    assert len(client.get("/admin/costs/budgetalert/?state=standing").context["cl"].result_list) == 2
    alert = BudgetAlert.objects.latest("id")
    url = reverse("admin:costs_budgetalert_change", args=[alert.pk])
    assert "Spent: spending reached the level" in client.get(url).content.decode()
    assert client.post(url, {"level": "1"}).status_code == 403
    assert client.get("/admin/costs/budgetalert/add/").status_code == 403
    foreign = staff(outsider)
    assert foreign.get("/admin/costs/budgetalert/").context["cl"].result_list == []
    assert foreign.get(url).status_code in (302, 403, 404)


def test_a_tenants_admin_chooses_what_becomes_of_calls_in_flight(owner: User, acme: Tenant) -> None:
    client = staff(owner)
    url = reverse("admin:tenants_tenant_change", args=[acme.pk])
    rows = {"memberships-TOTAL_FORMS": "0", "memberships-INITIAL_FORMS": "0"}
    response = client.post(url, {"calls_at_limit": "cancel", "weight": "99", **rows}, follow=True)
    assert response.status_code == 200
    acme.refresh_from_db()
    assert (acme.calls_at_limit, acme.weight) == ("cancel", 1)
    assert AuditEntry.objects.get(action="tenant:update").details["calls_at_limit"] == ["finish", "cancel"]


def test_budgets_of_single_runs_are_listed_only_when_asked_for(finance: User, acme: Tenant) -> None:
    make_rows(acme, 1)
    Budget.objects.create(
        tenant=acme,
        name="of-a-run",
        limit=1,
        scope="swarm",
        period="run",
        target=str(uuid.uuid4()),
    )
    client = staff(finance)
    assert "of-a-run" not in client.get("/admin/costs/budget/").content.decode()
    assert "of-a-run" in client.get("/admin/costs/budget/?set_by=runs").content.decode()
    assert "of-a-run" in client.get("/admin/costs/budget/?set_by=all").content.decode()


def test_nobody_deletes_a_budget(platform_admin: User, acme: Tenant, finance: User) -> None:
    staff(finance).post(ADD, form(acme))
    url = reverse("admin:costs_budget_delete", args=[Budget.objects.get().pk])
    assert staff(platform_admin).post(url, {"post": "yes"}).status_code == 403


# -- prices ------------------------------------------------------------------------------------------------------------


def price(**fields: Any) -> dict[str, Any]:
    return {
        "provider": "simulated",
        "model": "small",
        "tenant": "",
        "input_per_mtok": "0.15",
        "output_per_mtok": "0.60",
        "effective_from_0": "2026-01-01",
        "effective_from_1": "00:00:00",
        "note": "",
        **fields,
    }


def test_prices_are_typed_in_usd_for_a_million_tokens(platform_admin: User) -> None:
    response = staff(platform_admin).post("/admin/costs/price/add/", price(), follow=True)
    assert response.status_code == 200
    made = Price.objects.get()
    assert (made.input_per_mtok, made.output_per_mtok) == (150_000_000, 600_000_000)
    entry = AuditEntry.objects.get(action="price:create")
    assert entry.details["input_per_mtok"] == [None, "0.15 USD"]


def test_a_negative_price_is_refused(platform_admin: User) -> None:
    response = staff(platform_admin).post("/admin/costs/price/add/", price(input_per_mtok="-1"))
    assert "0 or more" in str(errors(response)["input_per_mtok"])


@pytest.mark.parametrize("who", ["finance", "owner", "viewer"])
def test_only_platform_admins_set_prices(who: str, request: pytest.FixtureRequest) -> None:
    user: User = request.getfixturevalue(who)
    client = staff(user)
    assert client.get("/admin/costs/price/").status_code == 200
    assert client.post("/admin/costs/price/add/", price()).status_code == 403


# -- the pool ----------------------------------------------------------------------------------------------------------


def test_a_total_below_what_is_in_use_is_refused(platform_admin: User) -> None:
    ResourcePool.objects.filter(pk=1).update(agents_used=10)
    client = staff(platform_admin)
    data = {"agents_total": "9", "memory_gb_total": "100", "cpu_total": "10", "swarms_total": "5"}
    response = client.post("/admin/swarms/resourcepool/1/change/", data)
    assert "10 are in use now" in str(errors(response)["agents_total"])
    response = client.post("/admin/swarms/resourcepool/1/change/", {**data, "agents_total": "10"}, follow=True)
    assert response.status_code == 200
    assert ResourcePool.objects.get().agents_total == 10
    assert AuditEntry.objects.get(action="pool:update").details["agents_total"][1] == 10


def test_tenants_see_the_pool_and_do_not_change_it(owner: User) -> None:
    client = staff(owner)
    assert "of 500" in client.get("/admin/swarms/resourcepool/").content.decode()
    assert client.post("/admin/swarms/resourcepool/1/change/", {"agents_total": "1"}).status_code == 403
