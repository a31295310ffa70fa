"""Grants on single swarms: the same answer at every door, nothing beyond the swarm, and an end."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.console.visible import may_see
from apps.events.models import Event
from apps.swarms.models import Swarm, Task
from apps.tenants.access import AccessDenied, Principal, principal_of
from apps.tenants.actions import create_token
from apps.tenants.granting import CannotGrant, give, person_named, withdraw
from apps.tenants.models import Membership, SwarmGrant, Tenant, User
from apps.tenants.roles import PERMISSIONS, Permission, Role, granted
from tests.admin_rows import make_swarm

P = Permission
NOW = dt.datetime(2026, 11, 26, 12, tzinfo=dt.UTC)
pytestmark = pytest.mark.django_db


@pytest.fixture
def shared(acme: Tenant) -> Swarm:
    return make_swarm(acme, "shared")


@pytest.fixture
def private(acme: Tenant) -> Swarm:
    return make_swarm(acme, "private")


def grant(user: User, swarm: Swarm, gives: str, *, by: User, **more: Any) -> SwarmGrant:
    return give(user, swarm.pk, swarm.tenant, gives=gives, reason="They help.", by=principal_of(by), **more)


def client_of(user: User, *, staff: bool = False) -> Client:
    user.is_staff = staff
    user.save()
    client = Client()
    client.force_login(user)
    return client


GIVES: list[tuple[str, set[Permission], str]] = [
    # what a grant gives by name, what that is on the swarm, why the row is here
    ("swarm:read", {P.SWARM_READ}, "the least"),
    ("swarm:terminate", {P.SWARM_READ, P.SWARM_TERMINATE}, "nobody stops what they cannot see"),
    ("cost:read", {P.SWARM_READ, P.COST_READ}, "what this one costs"),
    ("viewer", {P.SWARM_READ, P.COST_READ, P.BUDGET_READ}, "a role, without the pool: that is no part of a swarm"),
    ("operator", {P.SWARM_READ, P.SWARM_UPDATE, P.SWARM_TERMINATE, P.COST_READ, P.BUDGET_READ}, "nor submitting"),
    ("user:manage", set(), "people are of a tenant, not of a swarm"),
    ("swarm:create", set(), "there is nothing to create on it"),
    ("gone", set(), "a role that no longer exists gives nothing"),
]


@pytest.mark.parametrize(("gives", "held", "why"), GIVES)
def test_what_a_grant_gives(gives: str, held: set[Permission], why: str) -> None:
    assert granted(gives) == held, why


def test_an_outsider_with_a_grant_sees_that_swarm_and_no_other_through_every_door(  # A1 A5
    outsider: User, owner: User, shared: Swarm, private: Swarm, django_assert_num_queries: Any
) -> None:
    grant(outsider, shared, "swarm:update", by=owner)
    with django_assert_num_queries(1):
        principal = principal_of(outsider)
    assert set(Swarm.objects.visible_to(principal)) == {shared}
    assert set(Task.objects.visible_to(principal)) == {shared.tasks.get()}
    assert not principal.can(P.SWARM_READ, shared.tenant_id), "the tenant stays closed"
    assert not principal.can(P.SWARM_READ, private.tenant_id, swarm_id=private.pk)
    with pytest.raises(AccessDenied, match="swarm:terminate"):
        principal.verify(P.SWARM_TERMINATE, shared.tenant_id, swarm_id=shared.pk)

    # Socket and console events: of this swarm, and not of what is not granted there.
    def sees(kind: str, swarm: Swarm | None) -> bool:
        pk = swarm.pk if swarm else None
        return may_see(principal, Event(kind=kind, tenant_id=shared.tenant_id, swarm_id=pk))

    assert sees("swarm.paused", shared)
    assert not sees("swarm.paused", private)
    assert not sees("ledger.entry", shared)
    assert not sees("pool.changed", None)

    # Console.
    Swarm.objects.update(finished_at=NOW)
    console = client_of(outsider, staff=True)
    assert "shared" in console.get(reverse("console:swarms")).content.decode()
    assert "private" not in console.get(reverse("console:swarms")).content.decode()
    overview = console.get(reverse("console:overview")).content.decode()
    assert "shared" in overview
    assert "private" not in overview
    assert console.get(reverse("console:swarm", args=[shared.pk])).status_code == 200
    assert console.get(reverse("console:swarm", args=[private.pk])).status_code == 404
    assert console.get(reverse("console:task", args=[shared.tasks.get().pk])).status_code == 200
    assert console.get(reverse("console:task", args=[private.tasks.get().pk])).status_code == 404
    assert console.post(reverse("console:swarm-act", args=[shared.pk, "terminate"]), {"reason": "x"}).status_code == 403
    assert console.post(reverse("console:swarm-act", args=[private.pk, "retry"])).status_code == 404

    # API, by session.
    listed = console.get("/api/v1/swarms/").json()["results"]
    assert [row["name"] for row in listed] == ["shared"]
    assert console.get(f"/api/v1/swarms/{shared.pk}/tasks/").status_code == 200
    assert console.get(f"/api/v1/swarms/{private.pk}/").status_code == 404
    refused = console.post(f"/api/v1/swarms/{shared.pk}/terminate/", {"reason": "x"}, content_type="application/json")
    assert refused.status_code == 403

    # Administration.
    for model, of_shared, of_private in (
        ("swarms_swarm", shared.pk, private.pk),
        ("swarms_task", shared.tasks.get().pk, private.tasks.get().pk),
        ("swarms_agent", shared.agents.get().pk, private.agents.get().pk),
    ):
        page = console.get(reverse(f"admin:{model}_changelist")).content.decode()
        assert "shared" in page, model
        assert "private" not in page, model
        assert console.get(reverse(f"admin:{model}_change", args=[of_shared])).status_code == 200, model
        assert console.get(reverse(f"admin:{model}_change", args=[of_private])).status_code == 302, model
    assert console.get(reverse("admin:swarms_swarm_terminate_one", args=[shared.pk])).status_code == 403
    assert console.get(reverse("admin:swarms_swarm_grant_one", args=[shared.pk])).status_code == 403

    # What is granted can be done.
    retried = console.post(f"/api/v1/swarms/{shared.pk}/retry/", {}, content_type="application/json")
    assert retried.status_code == 200, retried.content
    assert retried.json()["status"] == "queued"


def test_a_viewer_may_terminate_the_one_swarm_that_was_granted(
    viewer: User, owner: User, shared: Swarm, private: Swarm
) -> None:
    Swarm.objects.update(status="queued", tasks_failed=0)
    grant(viewer, shared, "swarm:terminate", by=owner)
    client = client_of(viewer)
    for swarm, status in ((private, 403), (shared, 200)):
        url = f"/api/v1/swarms/{swarm.pk}/terminate/"
        assert client.post(url, {"reason": "Wrong input."}, content_type="application/json").status_code == status
    page = client.get(reverse("console:swarm", args=[private.pk])).content.decode()
    assert "private" in page
    assert reverse("console:swarm-act", args=[private.pk, "terminate"]) not in page


def test_a_grant_ends_by_itself_and_a_token_narrows_it(  # A3
    outsider: User, owner: User, shared: Swarm, acme: Tenant
) -> None:
    later = NOW + dt.timedelta(hours=1)
    row = grant(outsider, shared, "operator", by=owner, expires_at=later, now=NOW)
    before, after = later - dt.timedelta(seconds=1), later
    assert principal_of(outsider, now=before).can(P.SWARM_TERMINATE, acme.pk, swarm_id=shared.pk)
    assert principal_of(outsider, now=after).grants == {}
    assert (row.has_expired(now=before), row.has_expired(now=after)) == (False, True)

    Membership.objects.create(user=outsider, tenant=acme, role=Role.FINANCE)
    by = Principal("system", "test")
    token, _ = create_token(outsider, acme, role=Role.FINANCE, life=dt.timedelta(days=1), by=by)
    narrowed = principal_of(outsider, token=token, now=before)
    assert narrowed.grants[shared.pk].permissions == PERMISSIONS[Role.OPERATOR] & PERMISSIONS[Role.FINANCE]
    elsewhere, _ = create_token(
        outsider, outsider.memberships.exclude(tenant=acme).get().tenant, life=dt.timedelta(days=1), by=by
    )
    assert principal_of(outsider, token=elsewhere, now=before).grants == {}, "a token reaches one tenant"


def test_only_those_who_manage_people_give_and_withdraw_and_the_trail_keeps_why(
    outsider: User, owner: User, operator: User, shared: Swarm, platform_admin: User
) -> None:
    with pytest.raises(AccessDenied, match="user:manage"):
        grant(outsider, shared, "swarm:read", by=operator)
    with pytest.raises(AccessDenied, match="user:manage"):
        grant(outsider, shared, "swarm:read", by=outsider)
    made = grant(outsider, shared, "swarm:read", by=owner)
    for gives, more, why in (
        ("swarm:read", {}, "has this grant already"),
        ("user:manage", {}, "neither a permission nor a role"),
        ("viewer", {"now": NOW, "expires_at": NOW}, "expired already"),
    ):
        with pytest.raises(CannotGrant, match=why):
            grant(outsider, shared, gives, by=owner, **more)
    with pytest.raises(CannotGrant, match="platform admin"):
        grant(platform_admin, shared, "swarm:read", by=owner)
    with pytest.raises(CannotGrant, match="Say why"):
        withdraw(made, by=principal_of(owner), reason=" ")
    with pytest.raises(AccessDenied):
        withdraw(made, by=principal_of(outsider), reason="I like it less.")
    withdraw(made, by=principal_of(owner), reason="Done.")
    told = list(AuditEntry.objects.filter(resource_kind="swarmgrant").order_by("id").values_list("action", "reason"))
    assert told == [("grant:create", "They help."), ("grant:delete", "Done.")]
    assert not SwarmGrant.objects.exists()


def test_people_are_named_exactly(outsider: User) -> None:
    assert person_named("outsider") == person_named(" OUTSIDER@example.test ") == outsider
    outsider.is_active = False
    outsider.save()
    for name in ("outsider", "nobody", ""):
        with pytest.raises(CannotGrant, match="no active account"):
            person_named(name)


def test_granting_and_withdrawing_in_the_administration(
    owner: User, outsider: User, shared: Swarm, platform_admin: User
) -> None:
    admin = client_of(owner, staff=True)
    page = reverse("admin:swarms_swarm_change", args=[shared.pk])
    url = reverse("admin:swarms_swarm_grant_one", args=[shared.pk])
    assert url in admin.get(page).content.decode()
    form = {"person": "nobody", "gives": "swarm:terminate", "reason": "", "expires_at_0": "", "expires_at_1": ""}
    assert "This field is required" in admin.post(url, form).content.decode()
    assert "no active account" in admin.post(url, {**form, "reason": "They help."}).content.decode()
    tomorrow = f"{timezone.now() + dt.timedelta(days=1):%Y-%m-%d}"
    given = {**form, "person": "outsider", "reason": "They help.", "expires_at_0": tomorrow, "expires_at_1": "12:00:00"}
    assert admin.post(url, given, follow=True).redirect_chain[-1][0] == page
    row = SwarmGrant.objects.get()
    assert (row.user, row.swarm_id, row.granted_by, row.gives) == (outsider, shared.pk, owner, "swarm:terminate")
    assert f"{row.expires_at:%Y-%m-%d %H:%M %Z}" == f"{tomorrow} 12:00 UTC"

    listed = admin.get(reverse("admin:tenants_swarmgrant_changelist")).content.decode()
    assert "They help." in listed
    theirs = client_of(outsider, staff=True)
    assert "They help." not in theirs.get(reverse("admin:tenants_swarmgrant_changelist")).content.decode()
    withdrawal = reverse("admin:tenants_swarmgrant_withdraw_one", args=[row.pk])
    theirs.post(withdrawal, {"reason": "Mine now."})
    assert SwarmGrant.objects.exists(), "an admin of another tenant withdraws nothing here"
    assert "Say why it is withdrawn" in admin.post(withdrawal, {"reason": ""}).content.decode()
    admin.post(withdrawal, {"reason": "Done."})
    assert not SwarmGrant.objects.exists()
    assert AuditEntry.objects.get(action="grant:delete").reason == "Done."

    # From the list, several at once, with a page in between that asks why.
    rows = [grant(outsider, shared, gives, by=owner) for gives in ("swarm:read", "viewer")]
    chosen = {"action": "withdraw_chosen", "_selected_action": [str(row.pk) for row in rows]}
    asked = admin.post(reverse("admin:tenants_swarmgrant_changelist"), chosen)
    assert "Withdraw 2 grants" in asked.content.decode()
    admin.post(
        reverse("admin:tenants_swarmgrant_changelist"), {**chosen, "confirmed": "yes", "reason": json.dumps("Done.")}
    )
    assert not SwarmGrant.objects.exists()
