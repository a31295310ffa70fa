"""Access policies at every door: a denial names its policy, and one under test only leaves a note."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.costs.actions import change_budget, create_budget
from apps.costs.external_reservations import Wanted, reserve
from apps.costs.models import Budget
from apps.swarms.actions.submit import submit
from apps.swarms.models import Swarm, Task
from apps.tenants.access import AccessDenied, PolicyDenied, principal_of
from apps.tenants.actions import create_token
from apps.tenants.granting import give
from apps.tenants.models import AccessPolicy, CannotMovePolicy, PolicyState, Tenant, User
from apps.tenants.policing import move
from apps.tenants.replaying import replay
from apps.tenants.roles import Permission, Resource, Role
from portal.money import NANO
from tests.admin_rows import make_swarm
from tests.specs import simulated, spec

P = Permission
pytestmark = pytest.mark.django_db


def policy(name: str, tenant: Tenant | None, state: str = PolicyState.ENABLED, **says: Any) -> AccessPolicy:
    return AccessPolicy.objects.create(name=name, tenant=tenant, state=state, **says)


def client_of(user: User, *, staff: bool = False) -> Client:
    user.is_staff = staff
    user.save()
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def swarm(acme: Tenant) -> Swarm:
    return make_swarm(acme, "shared")


def test_a_denied_act_names_the_policy_at_every_door_and_is_recorded(  # A4
    operator: User, swarm: Swarm, rival: Tenant, outsider: User
) -> None:
    Swarm.objects.update(status="queued", tasks_failed=0)
    row = policy("Four eyes", swarm.tenant, actions=[P.SWARM_TERMINATE], roles=[Role.OPERATOR])
    client = client_of(operator, staff=True)
    told = "The access policy “Four eyes” denies swarm:terminate now."
    answer = client.post(f"/api/v1/swarms/{swarm.pk}/terminate/", {"reason": "x"}, content_type="application/json")
    assert (answer.status_code, answer.json()["errors"][0]["detail"]) == (403, told)
    page = client.post(reverse("console:swarm-act", args=[swarm.pk, "terminate"]), {"reason": "x"})
    assert page.status_code == 403
    assert told in page.content.decode()
    assert reverse("console:swarm-act", args=[swarm.pk, "terminate"]) not in (
        client.get(reverse("console:swarm", args=[swarm.pk])).content.decode()
    )
    page = client.post(reverse("admin:swarms_swarm_terminate_one", args=[swarm.pk]), {"reason": "x"})
    assert page.status_code == 403
    assert told in page.content.decode()
    assert Swarm.objects.get().status == "queued"
    notes = AuditEntry.objects.filter(action="policy:deny", resource_id=str(row.pk))
    assert {(n.actor, n.success, n.details["permission"]) for n in notes} == {
        (str(operator.pk), False, "swarm:terminate")
    }
    assert notes.count() == 3, "each door, once"
    # Another tenant's people are of no concern to it, and its own admin is no operator.
    theirs = make_swarm(rival, "theirs")
    assert principal_of(outsider).can(P.SWARM_TERMINATE, rival.pk, swarm_id=theirs.pk)


def test_reading_can_be_withheld_and_the_page_says_by_what(  # A4 A5
    viewer: User, owner: User, outsider: User, swarm: Swarm, acme: Tenant
) -> None:
    give(outsider, swarm.pk, acme, gives="swarm:read", reason="Helps.", by=principal_of(owner))
    policy("From the office", acme, actions=[P.SWARM_READ], networks=["10.0.0.0/8"])
    for user, opens in ((viewer, 200), (outsider, 200)):
        client, inside = client_of(user, staff=True), {"REMOTE_ADDR": "10.1.1.1"}
        assert client.get(f"/api/v1/swarms/{swarm.pk}/", **inside).status_code == opens  # type: ignore[arg-type]
        for url in (
            f"/api/v1/swarms/{swarm.pk}/",
            f"/api/v1/tasks/{swarm.tasks.get().pk}/",
            reverse("console:swarm", args=[swarm.pk]),
        ):
            answer = client.get(url)
            assert answer.status_code == 403, url
            assert "“From the office” (allowed: from 10.0.0.0/8) denies swarm:read" in answer.content.decode(), url
    viewing = client_of(viewer, staff=True)
    for url in ("/api/v1/swarms/", reverse("admin:swarms_swarm_changelist")):
        answer = viewing.get(url)
        assert (answer.status_code, "From the office" in answer.content.decode()) == (403, True), url
    for url in (reverse("console:swarms"), reverse("console:overview")):
        answer = viewing.get(url)
        assert (answer.status_code, "From the office" in answer.content.decode()) == (200, True), url
        assert "shared" not in answer.content.decode()
    me = viewing.get("/api/v1/me/").json()
    assert "swarm:read" not in me["tenants"][0]["permissions"]
    assert "pool:read" in me["tenants"][0]["permissions"]
    # The outsider keeps what their own tenant has, and is told about the rest.
    mine = make_swarm(outsider.memberships.get().tenant, "mine")
    listed = client_of(outsider).get("/api/v1/swarms/").json()["results"]
    assert [each["id"] for each in listed] == [str(mine.pk)]
    assert AuditEntry.objects.filter(action="policy:deny", details__permission="swarm:read").exists()


def test_the_amount_at_stake(operator: User, finance: User, acme: Tenant, swarm: Swarm) -> None:  # A4
    simulated()
    policy("Large runs", acme, actions=[P.SWARM_CREATE], above=2 * NANO)
    policy("Large budgets", acme, actions=[P.BUDGET_UPDATE], above=100 * NANO)
    policy("Large calls", acme, actions=[P.COST_RECORD], above=1 * NANO)
    by = principal_of(operator)
    submit(spec(budget_usd=2), tenant=acme, by=by)
    for larger in (spec(budget_usd=2.01), spec()):
        with pytest.raises(PolicyDenied, match=r"“Large runs” \(allowed: up to 2.00 USD\) denies swarm:create"):
            submit(larger, tenant=acme, by=by)
    money = principal_of(finance)
    budget = create_budget(tenant=acme, name="Small", limit=100 * NANO, by=money)
    with pytest.raises(PolicyDenied, match="Large budgets"):
        create_budget(tenant=acme, name="Large", limit=100 * NANO + 1, by=money)
    with pytest.raises(PolicyDenied, match="Large budgets"):
        change_budget(budget, limit=101 * NANO, by=money)
    Budget.objects.filter(pk=budget.pk).update(limit=200 * NANO)
    budget.refresh_from_db()
    with pytest.raises(PolicyDenied, match="Large budgets"):
        change_budget(budget, limit=NANO, by=money)
    now = timezone.now()
    reserve(Wanted(tenant_id=acme.pk, amount=NANO, lease=dt.timedelta(minutes=1)), by=by, now=now)
    with pytest.raises(PolicyDenied, match="Large calls"):
        reserve(Wanted(tenant_id=acme.pk, amount=NANO + 1, lease=dt.timedelta(minutes=1)), by=by, now=now)
    # In the administration and the console: a page that says so, and nothing is lost without a word.
    form = {"limit": "500", "name": "Small", "alert_levels": "80", "enforcement": "hard", "is_active": "on"}
    page = client_of(finance, staff=True).post(reverse("admin:costs_budget_change", args=[budget.pk]), form)
    assert (page.status_code, "Large budgets" in page.content.decode()) == (403, True)
    asked = {"tenant": "acme", "spec": "swarm: x\nagents: {a: {runtime: llm, model: 'simulated:small', instructions: "
             "Hi., max_output_tokens: 10}}\ntasks: [{id: t, agent: a, prompt: Hi}]"}  # fmt: skip
    answer = client_of(operator).post(reverse("console:submit"), asked)
    assert (answer.status_code, "Large runs" in answer.content.decode()) == (422, True)


def test_a_policy_under_test_denies_nothing_and_is_recorded_once_it_would(operator: User, swarm: Swarm) -> None:
    row = policy("Tried", swarm.tenant, PolicyState.TESTING, actions=[P.SWARM_UPDATE, P.SWARM_READ])
    client = client_of(operator)
    for _ in range(2):
        assert client.get("/api/v1/swarms/").json()["results"]
    answer = client.post(f"/api/v1/swarms/{swarm.pk}/retry/", {}, content_type="application/json")
    assert answer.status_code == 200
    notes = AuditEntry.objects.filter(action="policy:would_deny", resource_id=str(row.pk), success=True)
    assert sorted(note.details["permission"] for note in notes) == ["swarm:read", "swarm:update"]


def test_tasks_and_tokens_are_told_apart(operator: User, owner: User, swarm: Swarm, acme: Tenant) -> None:
    policy("No single retries", acme, resources=[Resource.TASK], actions=[P.SWARM_UPDATE])
    by = principal_of(operator)
    assert by.can(P.SWARM_UPDATE, acme.pk, swarm_id=swarm.pk)
    assert not by.can(P.SWARM_UPDATE, acme.pk, resource=Resource.TASK)
    policy("No prompts by token", None, resources=[Resource.TASK], actions=[P.SWARM_READ], via="token")
    token, _ = create_token(operator, acme, life=dt.timedelta(days=1), by=principal_of(owner))
    with_token = principal_of(operator, token=token)
    assert Task.objects.visible_to(by).exists()
    assert not Task.objects.visible_to(with_token).exists()
    assert Swarm.objects.visible_to(with_token).exists()


def test_who_is_asked_about_and_in_how_many_queries(
    operator: User, platform_admin: User, acme: Tenant, rival: Tenant, owner: User, django_assert_num_queries: Any
) -> None:
    for tenant in (acme, rival, None):
        for state in PolicyState.values:
            policy(f"{state} of {tenant}", tenant, state, actions=[P.SWARM_CREATE], tenant_attributes={"tier": "x"})
    with django_assert_num_queries(1):
        by = principal_of(operator)
    assert sorted(each.name for each in by.circumstances.policies) == [
        "enabled of Acme", "enabled of None", "testing of Acme", "testing of None",
    ]  # fmt: skip
    with django_assert_num_queries(0):
        assert by.can(P.SWARM_CREATE, acme.pk)
        assert principal_of(platform_admin).can(P.SWARM_CREATE, acme.pk), "platform admins are not restricted"
    acme.attributes = {"tier": "x"}
    acme.save()
    assert not principal_of(operator).can(P.SWARM_CREATE, acme.pk)
    token, _ = create_token(platform_admin, acme, life=dt.timedelta(days=1), by=principal_of(owner))
    with django_assert_num_queries(1):
        by_token = principal_of(platform_admin, token=token)
    assert not by_token.can(P.SWARM_CREATE, acme.pk), "their tokens are"


def test_policies_are_made_tried_and_enabled_in_the_administration(
    owner: User, outsider: User, operator: User, swarm: Swarm, acme: Tenant, rival: Tenant
) -> None:
    admin = client_of(owner, staff=True)
    url = reverse("admin:tenants_accesspolicy_add")
    form = {
        "tenant": str(acme.pk), "name": "By day", "note": "", "actions": ["swarm:update"], "roles": ["operator"],
        "users": [], "tokens": [], "via": "", "tenant_attributes": "", "above": "", "weekdays": ["0", "1"],
        "starts": "08:00", "ends": "", "networks": "10.0.0.0/8\noffice",
    }  # fmt: skip
    refused = admin.post(url, form).content.decode()
    assert "Not a network such as" in refused
    assert "both ends" in refused
    good = {**form, "ends": "18:00", "networks": "10.0.0.0/8"}
    assert admin.post(url, {**good, "tenant": str(rival.pk)}).status_code == 200, "not for another tenant"
    assert admin.post(url, {**good, "tenant": ""}).status_code == 200, "nor for the platform"
    assert not AccessPolicy.objects.exists()
    assert admin.post(url, good).status_code == 302
    row = AccessPolicy.objects.get()
    assert (row.state, row.weekdays, row.networks, row.roles) == ("draft", [0, 1], ["10.0.0.0/8"], ["operator"])
    assert AuditEntry.objects.get(action="accesspolicy:create").tenant_id == acme.pk

    # Tried on the past.
    client_of(operator).post(f"/api/v1/swarms/{swarm.pk}/retry/", {}, content_type="application/json")
    past = admin.get(reverse("admin:tenants_accesspolicy_replay_one", args=[row.pk])).content.decode()
    assert "1 of" in past
    assert "it is from 127.0.0.1" in past
    # The outsider finds none of it.
    theirs = client_of(outsider, staff=True)
    for name in ("replay_one", "enabled_one", "change"):
        assert theirs.get(reverse(f"admin:tenants_accesspolicy_{name}", args=[row.pk])).status_code == 302
    theirs.post(reverse("admin:tenants_accesspolicy_enabled_one", args=[row.pk]), {"reason": "Mine."})
    assert AccessPolicy.objects.get().state == "draft"

    # Enabled with a reason, and in force for the next request.
    enable = reverse("admin:tenants_accesspolicy_enabled_one", args=[row.pk])
    assert "Say why" in admin.post(enable, {"reason": ""}).content.decode()
    admin.post(enable, {"reason": "Agreed."})
    assert AccessPolicy.objects.get().state == "enabled"
    entry = AuditEntry.objects.get(action="accesspolicy:update")
    assert (entry.reason, entry.details) == ("Agreed.", {"state": ["draft", "enabled"]})
    assert not principal_of(operator, address="192.0.2.1").can(P.SWARM_UPDATE, acme.pk)


def test_nobody_locks_themselves_out_and_the_platforms_policies_are_the_platforms(
    owner: User, acme: Tenant, platform_admin: User
) -> None:
    now, by = timezone.now(), principal_of(owner)
    row = policy("Nothing", acme, PolicyState.DRAFT)
    with pytest.raises(CannotMovePolicy, match="could not disable it again"):
        move(row, PolicyState.ENABLED, by=by, now=now)
    row = policy("Everywhere", None, PolicyState.DRAFT, actions=[P.SWARM_CREATE])
    with pytest.raises(AccessDenied, match="platform admins"):
        move(row, PolicyState.ENABLED, by=by, now=now)
    move(row, PolicyState.ENABLED, by=principal_of(platform_admin), now=now)
    assert not principal_of(owner).can(P.SWARM_CREATE, acme.pk)
    # It is seen by those whom it concerns, and changed by none of them.
    admin = client_of(owner, staff=True)
    assert admin.get(reverse("admin:tenants_accesspolicy_change", args=[row.pk])).status_code == 200
    refused = admin.post(reverse("admin:tenants_accesspolicy_disabled_one", args=[row.pk]), {"reason": "x"})
    assert refused.status_code == 403
    row.refresh_from_db()
    assert row.state == "enabled"


def test_the_past_is_judged_in_a_fixed_number_of_queries(
    operator: User, finance: User, acme: Tenant, django_assert_num_queries: Any
) -> None:
    now = timezone.now()
    for n in range(30):
        AuditEntry.objects.create(
            actor_kind="token" if n % 2 else "user",
            actor=f"{operator.pk}/abc" if n % 2 else str(operator.pk),
            action="swarm:create",
            resource_kind="swarm",
            resource_id=str(uuid.uuid4()),
            tenant_id=acme.pk,
            details={"budget_usd": None if n == 0 else str(n)},
            at=now - dt.timedelta(hours=n),
        )
    row = policy("Large", acme, PolicyState.DRAFT, above=20 * NANO, via="token", roles=[Role.OPERATOR])
    with django_assert_num_queries(4):
        result = replay(row.as_value, days=7, now=now)
    assert (result.looked, len(result.denied), result.is_cut) == (30, 5, False)
    assert {each.entry.details["budget_usd"] for each in result.denied} == {"21", "23", "25", "27", "29"}
    assert replay(row.as_value, days=7, now=now, tenants=[uuid.uuid4()]).looked == 0
