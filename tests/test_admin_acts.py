"""Steering swarms, and managing people and tokens, in the administration."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.messages import get_messages
from django.test import Client
from django.urls import reverse

from apps.audit.models import AuditEntry
from apps.privacy.models import DataSubject
from apps.providers.models import Provider
from apps.swarms.models import Swarm
from apps.tenants.models import ApiToken, Membership, Tenant, User
from tests.admin_rows import make_swarm

pytestmark = pytest.mark.django_db

LIST = "/admin/swarms/swarm/"


def staff(user: User) -> Client:
    user.is_staff = True
    user.save()
    client = Client()
    client.force_login(user)
    return client


def running(tenant: Tenant, name: str) -> Swarm:
    swarm = make_swarm(tenant, name, status="running", tasks_failed=0)
    swarm.tasks.update(status="pending", failure_code="", error="")
    return swarm


def messages_of(response: Any) -> str:
    return " ".join(str(message) for message in get_messages(response.wsgi_request))


def chosen(action: str, *rows: Any, **fields: str) -> dict[str, Any]:
    return {"action": action, "_selected_action": [str(row.pk) for row in rows], "index": "0", **fields}


# -- swarms ------------------------------------------------------------------------------------------------------------


def test_terminating_asks_why_then_tells_how_many_and_why_not_the_others(operator: User, acme: Tenant) -> None:
    going, over = running(acme, "going"), make_swarm(acme, "over")
    client = staff(operator)
    page = client.post(LIST, chosen("terminate_chosen", going, over))
    assert page.status_code == 200
    text = page.content.decode()
    assert "calls in flight are cancelled" in text
    assert "Terminate 1 swarm<" in text
    assert "Will be left alone. It is over already: failed." in text
    going.refresh_from_db()
    assert going.status == "running"

    data = chosen("terminate_chosen", going, over, confirmed="yes", reason="Too dear")
    del data["index"]
    response = client.post(LIST, data)
    assert response.status_code == 302
    said = messages_of(response)
    assert "1 swarm terminated." in said
    assert "Not terminated: over. It is over already: failed." in said
    going.refresh_from_db()
    assert (going.status, going.status_reason) == ("terminated", "Too dear")
    entry = AuditEntry.objects.get(action="swarm:terminate")
    assert (entry.actor, entry.reason, entry.resource_id) == (str(operator.pk), "Too dear", str(going.pk))


def test_what_left_the_filtered_list_meanwhile_is_told_of(operator: User, acme: Tenant) -> None:
    over = make_swarm(acme, "over")
    response = staff(operator).post(f"{LIST}?status__exact=running", chosen("terminate_chosen", over))
    assert "Not terminated: over. It is over already: failed." in messages_of(response)


def test_a_choice_that_cannot_be_read_is_answered(operator: User, acme: Tenant) -> None:
    data = {"action": "pause_chosen", "_selected_action": ["x"], "index": "0"}
    assert "Nothing was done" in messages_of(staff(operator).post(LIST, data))


def test_terminating_without_a_reason_asks_again(operator: User, acme: Tenant) -> None:
    swarm = running(acme, "going")
    client = staff(operator)
    url = reverse("admin:swarms_swarm_terminate_one", args=[swarm.pk])
    for reason in ("", "   "):
        response = client.post(url, {"reason": reason})
        assert response.status_code == 200
        assert "Say why" in response.content.decode()
    swarm.refresh_from_db()
    assert swarm.status == "running"


def test_a_button_leads_to_a_page_and_only_its_form_acts(operator: User, acme: Tenant) -> None:
    swarm = running(acme, "going")
    client = staff(operator)
    page = client.get(reverse("admin:swarms_swarm_change", args=[swarm.pk])).content.decode()
    for act, offered in (("terminate", True), ("pause", True), ("resume", False), ("retry", False)):
        url = reverse(f"admin:swarms_swarm_{act}_one", args=[swarm.pk])
        assert (url in page) is offered
        assert client.get(url).status_code == 200
    swarm.refresh_from_db()
    assert swarm.status == "running"
    response = client.post(reverse("admin:swarms_swarm_pause_one", args=[swarm.pk]), {"reason": "Lunch"})
    assert response.status_code == 302
    swarm.refresh_from_db()
    assert (swarm.status, swarm.status_reason) == ("paused", "Lunch")


def test_pause_resume_and_retry_of_several(operator: User, acme: Tenant) -> None:
    one, two, failed = running(acme, "one"), running(acme, "two"), make_swarm(acme, "failed")
    client = staff(operator)
    assert "2 swarms paused." in messages_of(client.post(LIST, chosen("pause_chosen", one, two)))
    said = messages_of(client.post(LIST, chosen("resume_chosen", one, failed)))
    assert "1 swarm resumed." in said
    assert "Not resumed: failed. Only a paused swarm can be resumed; this one is failed." in said
    assert "1 swarm retried." in messages_of(client.post(LIST, chosen("retry_chosen", failed)))
    failed.refresh_from_db()
    assert failed.status == "queued"
    assert AuditEntry.objects.filter(actor=str(operator.pk)).count() == 4


def test_a_failed_task_is_retried_from_its_page(operator: User, acme: Tenant) -> None:
    swarm = make_swarm(acme, "failed")
    task = swarm.tasks.get()
    client = staff(operator)
    url = reverse("admin:swarms_task_retry_one", args=[task.pk])
    assert url in client.get(reverse("admin:swarms_task_change", args=[task.pk])).content.decode()
    assert client.post(url).status_code == 302
    swarm.refresh_from_db()
    assert swarm.status == "queued"
    said = messages_of(client.post("/admin/swarms/task/", chosen("retry_chosen", task)))
    assert "Not retried" in said


def test_viewers_see_no_buttons_and_their_posts_change_nothing(viewer: User, acme: Tenant) -> None:
    swarm = running(acme, "going")
    client = staff(viewer)
    page = client.get(reverse("admin:swarms_swarm_change", args=[swarm.pk])).content.decode()
    assert "/terminate/" not in page
    for act in ("terminate", "pause", "resume", "retry"):
        url = reverse(f"admin:swarms_swarm_{act}_one", args=[swarm.pk])
        assert client.get(url).status_code == 403
        assert client.post(url, {"reason": "because"}).status_code == 403
        client.post(LIST, chosen(f"{act}_chosen", swarm, confirmed="yes", reason="because"))
    swarm.refresh_from_db()
    assert swarm.status == "running"
    assert not AuditEntry.objects.filter(success=True).exists()


def test_outsiders_cannot_steer_by_any_address(outsider: User, acme: Tenant) -> None:
    swarm = running(acme, "going")
    client = staff(outsider)
    for act in ("terminate", "pause", "resume", "retry"):
        url = reverse(f"admin:swarms_swarm_{act}_one", args=[swarm.pk])
        assert client.post(url, {"reason": "because"}).status_code in (302, 403, 404)
        client.post(LIST, chosen(f"{act}_chosen", swarm, confirmed="yes", reason="because"))
    swarm.refresh_from_db()
    assert swarm.status == "running"


def test_someone_who_may_steer_only_one_tenant_is_refused_for_the_other_and_that_is_kept(
    operator: User, acme: Tenant, rival: Tenant
) -> None:
    Membership.objects.create(user=operator, tenant=rival, role="viewer")
    ours, theirs = running(acme, "ours"), running(rival, "theirs")
    response = staff(operator).post(LIST, chosen("pause_chosen", ours, theirs))
    said = messages_of(response)
    assert "1 swarm paused." in said
    assert "Not paused: theirs. This needs the permission swarm:update in this tenant." in said
    denied = AuditEntry.objects.get(success=False)
    assert (denied.tenant_id, denied.resource_id) == (rival.pk, str(theirs.pk))


# -- people ------------------------------------------------------------------------------------------------------------


def test_platform_admins_add_people_with_their_roles(platform_admin: User, acme: Tenant) -> None:
    response = staff(platform_admin).post(
        "/admin/tenants/user/add/",
        {
            "username": "newcomer",
            "email": "n@example.test",
            "usable_password": "true",
            "password1": "correct horse battery",
            "password2": "correct horse battery",
            "is_staff": "on",
            "memberships-TOTAL_FORMS": "1",
            "memberships-INITIAL_FORMS": "0",
            "memberships-0-tenant": str(acme.pk),
            "memberships-0-role": "finance",
        },
        follow=True,
    )
    assert response.status_code == 200
    user = User.objects.get(username="newcomer")
    assert user.is_staff
    assert user.check_password("correct horse battery")
    assert user.memberships.get().role == "finance"
    entry = AuditEntry.objects.get(action="user:create")
    assert "newcomer" not in str(entry.details)
    assert "correct horse" not in str(entry.details)
    assert entry.details["added"][0]["membership"]["role"] == "finance"


def test_a_password_is_changed_through_its_own_form_and_never_kept(platform_admin: User, viewer: User) -> None:
    response = staff(platform_admin).post(
        f"/admin/tenants/user/{viewer.pk}/password/",
        {"usable_password": "true", "password1": "another horse battery", "password2": "another horse battery"},
    )
    assert response.status_code == 302
    viewer.refresh_from_db()
    assert viewer.check_password("another horse battery")
    assert "another horse" not in str(list(AuditEntry.objects.values()))


def test_a_tenants_admin_gives_roles_in_that_tenant_and_nothing_else(
    owner: User, viewer: User, outsider: User, acme: Tenant, rival: Tenant
) -> None:
    client = staff(owner)
    add = "/admin/tenants/membership/add/"
    response = client.post(add, {"user": str(viewer.pk), "tenant": str(acme.pk), "role": "operator"})
    assert response.status_code == 302
    assert viewer.memberships.filter(role="operator").exists()
    assert AuditEntry.objects.get(action="membership:create").tenant_id == acme.pk
    for user, tenant in ((viewer, rival), (outsider, acme), (owner, rival)):
        refused = client.post(add, {"user": str(user.pk), "tenant": str(tenant.pk), "role": "admin"})
        assert refused.status_code == 200
    assert Membership.objects.filter(tenant=rival).count() == 1
    assert client.get(f"/admin/tenants/user/{outsider.pk}/change/").status_code in (302, 403, 404)
    assert client.post(f"/admin/tenants/user/{viewer.pk}/change/", {"is_superuser": "on"}).status_code == 403
    assert client.post(f"/admin/tenants/user/{viewer.pk}/password/", {"password1": "x"}).status_code == 403
    assert client.get("/admin/tenants/user/add/").status_code == 403


def test_a_tenants_admin_manages_its_people_but_not_its_share_of_the_pool(owner: User, acme: Tenant) -> None:
    membership = owner.memberships.get()
    data = {
        "weight": "99",
        "calls_at_limit": "finish",
        "memberships-TOTAL_FORMS": "1",
        "memberships-INITIAL_FORMS": "1",
        "memberships-0-id": str(membership.pk),
        "memberships-0-tenant": str(acme.pk),
        "memberships-0-user": str(owner.pk),
        "memberships-0-role": "admin",
    }
    response = staff(owner).post(f"/admin/tenants/tenant/{acme.pk}/change/", data)
    assert response.status_code == 302
    acme.refresh_from_db()
    assert acme.weight == 1


@pytest.mark.parametrize("who", ["viewer", "finance", "operator"])
def test_others_manage_nobody(who: str, request: pytest.FixtureRequest, acme: Tenant) -> None:
    user: User = request.getfixturevalue(who)
    client = staff(user)
    for model in ("user", "tenant", "membership", "apitoken"):
        assert client.get(f"/admin/tenants/{model}/").status_code == 403
        assert client.get(f"/admin/tenants/{model}/add/").status_code == 403


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_a_token_is_shown_once_and_revoked_at_a_click(owner: User, viewer: User, acme: Tenant) -> None:
    client = staff(owner)
    data = {"user": str(viewer.pk), "tenant": str(acme.pk), "role": "", "days": "30"}
    response = client.post("/admin/tenants/apitoken/add/", data)
    assert "no-store" in response["Cache-Control"]
    text = response.context["token"]
    assert text.startswith("swd_")
    assert text in response.content.decode()
    token = ApiToken.objects.get()
    pages = [
        client.get("/admin/tenants/apitoken/"),
        client.get(reverse("admin:tenants_apitoken_change", args=[token.pk])),
        client.get("/admin/tenants/apitoken/add/"),
    ]
    for page in pages:
        assert page.status_code == 200
        assert text not in page.content.decode()
    assert text not in str(list(AuditEntry.objects.values()))
    said = messages_of(client.post("/admin/tenants/apitoken/", chosen("revoke", token)))
    assert "1 api token revoked." in said
    assert not ApiToken.objects.exists()
    assert set(AuditEntry.objects.values_list("action", flat=True)) == {"token:create", "token:revoke"}


def test_a_token_that_cannot_be_says_why(owner: User, viewer: User, acme: Tenant, outsider: User) -> None:
    client = staff(owner)
    url = "/admin/tenants/apitoken/add/"
    data = {"user": str(viewer.pk), "tenant": str(acme.pk), "role": "admin", "days": "30"}
    assert "is not admin of tenant acme" in client.post(url, data).content.decode()
    assert "greater than or equal to 1" in client.post(url, {**data, "days": "0"}).content.decode()
    assert "valid choice" in client.post(url, {**data, "user": str(outsider.pk)}).content.decode()
    assert not ApiToken.objects.exists()


def test_outsiders_cannot_revoke_our_tokens(owner: User, acme: Tenant, outsider: User) -> None:
    token, _ = ApiToken.objects.create(user=owner, tenant=acme)
    staff(outsider).post("/admin/tenants/apitoken/", chosen("revoke", token))
    assert ApiToken.objects.filter(pk=token.pk).exists()


# -- compliance and providers ------------------------------------------------------------------------------------------


def test_opening_a_persons_page_is_audited_and_lists_show_no_reference(owner: User, acme: Tenant) -> None:
    subject = DataSubject.objects.create(tenant_id=acme.pk, reference="jane@example.test")
    make_swarm(acme, "for-jane", subject_id=subject.pk)
    client = staff(owner)
    for url in ("/admin/privacy/datasubject/", "/admin/swarms/swarm/", "/admin/costs/ledgerentry/"):
        assert "jane@" not in client.get(url).content.decode()
    assert not AuditEntry.objects.exists()
    page = client.get(reverse("admin:privacy_datasubject_change", args=[subject.pk]))
    assert "jane@example.test" in page.content.decode()
    assert AuditEntry.objects.get().action == "subject:read"


def test_a_provider_is_saved_with_its_regions_and_a_key_is_never_asked_for(platform_admin: User) -> None:
    client = staff(platform_admin)
    data = {
        "name": "openai",
        "kind": "openai",
        "secret_name": "sk-secret-key-itself",
        "worker_classes": "agents, agents-eu",
        "patience_s": "30",
        "breaker_failures": "5",
        "breaker_window_s": "30",
        "probe_every_s": "10",
        "is_enabled": "on",
        "regions-TOTAL_FORMS": "1",
        "regions-INITIAL_FORMS": "0",
        "regions-0-name": "us",
        "regions-0-base_url": "https://api.openai.com/v1",
        "regions-0-order": "1",
        "regions-0-is_enabled": "on",
    }
    refused = client.post("/admin/providers/provider/add/", data)
    assert "looks like the key itself" in refused.content.decode()
    made = client.post("/admin/providers/provider/add/", {**data, "secret_name": "OPENAI_API_KEY"})
    assert made.status_code == 302
    assert Provider.objects.get(name="openai").worker_classes == ["agents", "agents-eu"]
    assert Provider.objects.get(name="openai").regions.get().base_url == "https://api.openai.com/v1"
    assert AuditEntry.objects.get(action="provider:create").details["added"][0]["region"]["name"] == "us"


def test_the_history_of_an_object_is_its_audit_trail(owner: User, acme: Tenant) -> None:
    swarm = running(acme, "going")
    response = staff(owner).get(reverse("admin:swarms_swarm_history", args=[swarm.pk]), follow=True)
    assert response.status_code == 200
    assert f"resource_id={swarm.pk}" in response.redirect_chain[0][0]


def test_what_the_system_writes_cannot_be_written_by_hand(platform_admin: User, acme: Tenant) -> None:
    swarm = running(acme, "going")
    client = staff(platform_admin)
    assert client.post(f"/admin/swarms/swarm/{swarm.pk}/change/", {"name": "other"}).status_code == 403
    assert client.post(f"/admin/swarms/swarm/{swarm.pk}/delete/", {"post": "yes"}).status_code == 403
    assert client.post("/admin/swarms/swarm/add/", {"name": "other"}).status_code == 403
