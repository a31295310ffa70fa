"""Budgets over the API: made, read with their standing and forecast, changed, ended; by whom, and seen by whom."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.costs.actions import create_budget, set_run_budget
from apps.costs.models import Budget, BudgetPeriod, Enforcement, Period, Scope
from apps.costs.reserving import Settlement, reserve, settle
from apps.costs.watching import span_of
from apps.privacy.models import DataSubject
from apps.tenants.access import principal_of_command
from apps.tenants.models import Membership, Tenant, User
from apps.tenants.roles import Role
from portal.money import NANO
from tests.api_client import Caller, attrs, is_refusal
from tests.costs import call as call_of

pytestmark = pytest.mark.django_db
BY = principal_of_command("test")


@pytest.fixture
def monthly(acme: Tenant) -> Budget:
    return create_budget(tenant=acme, name="All of Acme", limit=50 * NANO, by=BY)


def _spend(budget: Budget, spent: int, reserved: int = 0) -> BudgetPeriod:
    span = span_of(budget.period, budget.tenant.zone, timezone.now(), None)
    assert span
    return BudgetPeriod.objects.create(
        budget=budget,
        key=span.key,
        starts_at=span.starts_at,
        ends_at=span.ends_at,
        limit=budget.limit,
        ceiling=budget.limit,
        spent=spent,
        reserved=reserved,
    )


def test_a_budget_is_made_and_read_back(finance: User, acme: Tenant) -> None:  # C2
    call = Caller(finance)
    made = call.post("/budgets/", {"tenant": "acme", "name": "Daily", "limit_usd": "2.50", "period": "daily"})
    assert made.status_code == 201
    body = made.json()
    assert made.headers["Location"] == f"/api/v1/budgets/{body['id']}/"
    assert (body["limit_usd"], body["spent_usd"], body["remaining_usd"]) == ("2.50", "0.00", "2.50")
    assert (body["scope"], body["target"], body["enforcement"], body["is_active"]) == ("tenant", "", "hard", True)
    read = call.get(made.headers["Location"]).json()
    assert read["name"] == "Daily"
    assert Budget.objects.get(pk=body["id"]).limit == 2_500_000_000
    assert AuditEntry.objects.filter(resource_id=body["id"], actor_kind="token").exists()


def test_a_budget_tells_how_it_stands(viewer: User, monthly: Budget) -> None:
    _spend(monthly, 37 * NANO + 125, 4 * NANO)
    body = Caller(viewer).get(f"/budgets/{monthly.pk}/").json()
    assert body["spent_usd"] == "37.000000125"
    assert body["reserved_usd"] == "4.00"
    assert body["remaining_usd"] == "8.999999875"
    assert body["percent"] == 82.0
    assert body["current"]["periods"] == 1
    assert body["current"]["starts_at"].endswith("Z")
    # The budget was made a moment ago: what it has spent says nothing yet.
    assert (body["forecast_usd"], body["burn_rate_usd"], body["exhausts_on"]) == (None, None, None)
    assert body["forecast_reason"].startswith("Too little history: 0 minutes")


def test_a_forecast_is_told_once_there_is_history(
    viewer: User, monthly: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:  # C10
    span = span_of("monthly", monthly.tenant.zone, timezone.now(), None)
    assert span
    assert span.ends_at
    half = span.starts_at + (span.ends_at - span.starts_at) / 2
    Budget.objects.update(created_at=span.starts_at)
    _spend(monthly, 37 * NANO)
    monkeypatch.setattr("apps.api.views.budgets.timezone", SimpleNamespace(now=lambda: half))
    body = Caller(viewer).get(f"/budgets/{monthly.pk}/").json()
    assert (body["forecast_usd"], body["forecast_reason"]) == ("74.00", "")
    days = (span.ends_at - span.starts_at) / dt.timedelta(days=1)
    assert float(body["burn_rate_usd"]) == pytest.approx(74 / days)
    assert span.key in body["exhausts_on"]


def test_alert_levels_are_chosen_changed_and_told(finance: User, acme: Tenant) -> None:  # C5
    call = Caller(finance)
    body = {"tenant": "acme", "name": "Soft", "limit_usd": "1"}
    made = call.post("/budgets/", {**body, "alert_levels": [120, 50]}).json()
    assert (made["alert_levels"], made["alerts"]) == ([50, 120], [])
    plain = call.post("/budgets/", {**body, "name": "Plain"}).json()
    assert plain["alert_levels"] == [80, 90, 100]
    budget = Budget.objects.get(name="Soft")
    request = call_of(acme, 6 * NANO // 10, expires_at=timezone.now() + dt.timedelta(minutes=1))
    reserve([request], now=timezone.now())
    settle([Settlement(request.id, request.amount)], now=timezone.now())
    (alert,) = call.get(f"/budgets/{budget.pk}/").json()["alerts"]
    assert (alert["level"], alert["cause"], alert["spent_usd"], alert["limit_usd"]) == (50, "spent", "0.60", "1.00")
    assert alert["at"].endswith("Z")
    changed = call("PATCH", f"/budgets/{budget.pk}/", {"alert_levels": [60], "limit_usd": "2"}).json()
    assert (changed["alert_levels"], changed["alerts"]) == ([60], [])


def test_an_end_user_is_named_by_the_tenants_own_reference(finance: User, acme: Tenant) -> None:
    body = {"tenant": "acme", "name": "u", "limit_usd": 1, "scope": "end_user", "target": "user-8842"}
    made = Caller(finance).post("/budgets/", body).json()
    assert made["target"] == str(DataSubject.objects.get(tenant_id=acme.pk, reference="user-8842").pk)
    again = Caller(finance).post("/budgets/", {**body, "name": "v", "target": made["target"]}).json()
    assert again["target"] == made["target"]


def test_a_refused_budget_leaves_no_trace_of_the_person(viewer: User, acme: Tenant) -> None:
    body = {"tenant": "acme", "name": "u", "limit_usd": 1, "scope": "end_user", "target": "user-8842"}
    assert is_refusal(Caller(viewer).post("/budgets/", body), 403)
    assert not DataSubject.objects.exists()


def test_a_budget_is_changed_and_ended(finance: User, monthly: Budget) -> None:
    period = _spend(monthly, 10 * NANO)
    call = Caller(finance)
    changed = call("PATCH", f"/budgets/{monthly.pk}/", {"limit_usd": "8", "note": "less now"})
    assert changed.status_code == 200
    assert (changed.json()["limit_usd"], changed.json()["remaining_usd"]) == ("8.00", "0.00")
    period.refresh_from_db()
    assert period.ceiling == 10 * NANO
    ended = call("DELETE", f"/budgets/{monthly.pk}/")
    assert ended.status_code == 204
    assert call.get(f"/budgets/{monthly.pk}/").json()["is_active"] is False
    assert [row["id"] for row in call.get("/budgets/?is_active=true").json()["results"]] == []


@pytest.mark.parametrize(
    ("change", "blamed"),
    [
        ({"limit_usd": "-1"}, {"limit_usd"}),
        ({"limit_usd": "0.0000000001"}, {"limit_usd"}),
        ({"limit_usd": "lots"}, {"limit_usd"}),
        ({"limit_usd": "NaN"}, {"limit_usd"}),
        ({"limit_usd": "1e30"}, {"limit_usd"}),
        ({"limit_usd": True}, {"limit_usd"}),
        ({"limit_usd": None}, {"limit_usd"}),
        ({"limit_usd": ["1"]}, {"limit_usd"}),
        ({"limit_usd": "9999999999.99"}, {"limit_usd"}),
        ({"tenant": "nowhere"}, {"tenant"}),
        ({"tenant": "rival"}, {"tenant"}),
        ({"tenant": 5}, {"tenant"}),
        ({"tenant": {}}, {"tenant"}),
        ({"name": ""}, {"name"}),
        ({"name": "x" * 101}, {"name"}),
        ({"name": "All of Acme"}, {"non_field_errors"}),
        ({"alert_levels": [80, 80]}, {"alert_levels"}),
        ({"alert_levels": [0]}, {"alert_levels.0"}),
        ({"alert_levels": [1001]}, {"alert_levels.0"}),
        ({"alert_levels": ["lots"]}, {"alert_levels.0"}),
        ({"alert_levels": "80"}, {"alert_levels"}),
        ({"alert_levels": list(range(1, 12))}, {"alert_levels"}),
        ({"scope": "planet", "period": "yearly"}, {"scope", "period"}),
        ({"scope": "tenant", "target": "x"}, {"non_field_errors"}),
        ({"scope": "swarm", "target": "not-an-id"}, {"target"}),
        ({"colour": "red", "limit": 5}, {"colour", "limit"}),
        ({"spent_usd": "1", "limit_usd": "x"}, {"spent_usd", "limit_usd"}),
    ],
)
def test_wrong_bodies_are_refused_and_say_what_is_wrong(
    change: dict[str, Any], blamed: set[str], finance: User, rival: Tenant, monthly: Budget
) -> None:
    answer = Caller(finance).post("/budgets/", {"tenant": "acme", "name": "New", "limit_usd": "1", **change})
    assert is_refusal(answer, 400), answer.content
    assert attrs(answer) == blamed
    assert Budget.objects.count() == 1


def test_amounts_are_exact_whether_text_or_number(finance: User, acme: Tenant) -> None:
    call = Caller(finance)
    for name, given in (("text", "0.1"), ("number", 0.1), ("whole", 3), ("nano", "0.000000001")):
        call.post("/budgets/", {"tenant": "acme", "name": name, "limit_usd": given})
    assert dict(Budget.objects.values_list("name", "limit")) == {
        "text": NANO // 10,
        "number": NANO // 10,
        "whole": 3 * NANO,
        "nano": 1,
    }


def test_a_change_to_a_name_that_is_taken_is_refused(finance: User, monthly: Budget, acme: Tenant) -> None:
    other = create_budget(tenant=acme, name="Other", limit=1, by=BY)
    answer = Caller(finance)("PATCH", f"/budgets/{other.pk}/", {"name": "All of Acme"})
    assert is_refusal(answer, 400)
    assert "already exists" in answer.json()["errors"][0]["detail"]


def test_what_a_budget_watches_cannot_be_changed(finance: User, monthly: Budget) -> None:
    answer = Caller(finance)("PATCH", f"/budgets/{monthly.pk}/", {"scope": "agent", "tenant": "rival"})
    assert is_refusal(answer, 400)
    assert attrs(answer) == {"scope", "tenant"}


def test_viewers_read_budgets_and_change_none(viewer: User, monthly: Budget) -> None:
    call = Caller(viewer)
    path = f"/budgets/{monthly.pk}/"
    assert call.get(path).status_code == 200
    assert is_refusal(call("PATCH", path, {"limit_usd": "1"}), 403)
    assert is_refusal(call("DELETE", path), 403)
    assert is_refusal(call.post("/budgets/", {"tenant": "acme", "name": "x", "limit_usd": "1"}), 403)
    monthly.refresh_from_db()
    assert (monthly.limit, monthly.is_active) == (50 * NANO, True)


def test_the_outsider_gets_nothing(outsider: User, monthly: Budget) -> None:  # A5
    call = Caller(outsider)
    path = f"/budgets/{monthly.pk}/"
    assert call.get("/budgets/").json()["results"] == []
    assert call.get("/budgets/?tenant=acme").json() == call.get("/budgets/?tenant=nowhere").json()
    for method, body in (("GET", None), ("PATCH", {"limit_usd": "1"}), ("DELETE", None)):
        assert is_refusal(call(method, path, body), 404)
    hidden = call.post("/budgets/", {"tenant": "acme", "name": "x", "limit_usd": "1"})
    missing = call.post("/budgets/", {"tenant": "none", "name": "x", "limit_usd": "1"})
    assert hidden.content.replace(b"acme", b"none") == missing.content
    assert Budget.objects.count() == 1


def test_a_token_of_another_tenant_gets_nothing(finance: User, rival: Tenant, monthly: Budget) -> None:
    Membership.objects.create(user=finance, tenant=rival, role=Role.FINANCE)
    call = Caller(finance, rival)
    assert call.get("/budgets/").json()["results"] == []
    assert is_refusal(call.get(f"/budgets/{monthly.pk}/"), 404)


def test_a_token_of_a_narrower_role_may_less(finance: User, acme: Tenant, monthly: Budget) -> None:
    Membership.objects.create(user=finance, tenant=acme, role=Role.VIEWER)
    path = f"/budgets/{monthly.pk}/"
    assert is_refusal(Caller(finance, acme, Role.VIEWER)("PATCH", path, {"limit_usd": "1"}), 403)
    assert Caller(finance, acme, Role.FINANCE)("PATCH", path, {"limit_usd": "1"}).status_code == 200


def test_budgets_of_single_runs_are_not_in_the_list(viewer: User, acme: Tenant, monthly: Budget) -> None:
    run = set_run_budget(uuid4(), acme, NANO, "brief")
    call = Caller(viewer)
    assert [row["name"] for row in call.get("/budgets/").json()["results"]] == ["All of Acme"]
    body = call.get(f"/budgets/{run.pk}/").json()
    assert (body["period"], body["forecast_usd"], body["exhausts_on"]) == ("run", None, None)


def test_lists_can_be_narrowed(viewer: User, acme: Tenant, monthly: Budget) -> None:
    create_budget(
        tenant=acme, name="Soft", limit=1, by=BY, scope=Scope.AGENT, period=Period.DAILY, enforcement=Enforcement.SOFT
    )
    call = Caller(viewer)

    def names(query: str) -> list[str]:
        return [row["name"] for row in call.get(f"/budgets/?{query}").json()["results"]]

    assert names("enforcement=soft") == names("scope=agent") == names("period=daily") == ["Soft"]
    assert names("tenant=acme") == ["All of Acme", "Soft"]
    assert is_refusal(call.get("/budgets/?scope=planet"), 400)


def test_pages_of_budgets_meet_without_gap_or_overlap(viewer: User, acme: Tenant) -> None:
    for number in range(7):
        create_budget(tenant=acme, name=f"b{number}", limit=1, by=BY)
    call = Caller(viewer)
    page = call.get("/budgets/?page_size=3").json()
    names = [row["name"] for row in page["results"]]
    while page["next"]:
        page = call.get(page["next"]).json()
        names += [row["name"] for row in page["results"]]
    assert names == [f"b{number}" for number in range(7)]
    assert [row["name"] for row in call.get(page["previous"]).json()["results"]] == ["b3", "b4", "b5"]


def test_queries_do_not_grow_with_the_list(viewer: User, acme: Tenant, django_assert_max_num_queries: Any) -> None:
    for number in range(20):
        _spend(create_budget(tenant=acme, name=f"b{number}", limit=NANO, by=BY), 5)
    call = Caller(viewer)
    call.get("/me/")
    with django_assert_max_num_queries(6):
        assert len(call.get("/budgets/").json()["results"]) == 20
    path = f"/budgets/{Budget.objects.values_list('pk', flat=True)[0]}/"
    with django_assert_max_num_queries(6):
        call.get(path)
