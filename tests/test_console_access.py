"""Who gets to which page of the console: strangers, people of another tenant, and each role."""

from __future__ import annotations

import uuid

import pytest
from django.test import Client

from apps.costs.models import Budget
from apps.swarms.models import Swarm, SwarmStatus, Task, TaskStatus
from apps.tenants.models import Membership, Tenant, User
from apps.tenants.roles import Role
from tests.test_console_pages import USD, for_sale, logged_in, swarm, text_of

__all__ = ["for_sale", "swarm"]
pytestmark = pytest.mark.django_db


# -- doors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/swarms/", "/submit/", f"/swarms/{uuid.UUID(int=1)}/"])
def test_a_stranger_is_sent_to_the_login_page_and_back(path: str) -> None:
    response = Client().get(path)
    assert response.status_code == 302
    assert response["Location"] == f"/login/?next={path}"


def test_a_part_asked_for_after_the_session_ended_moves_the_whole_page_to_the_login() -> None:
    response = Client().get("/?part=running", headers={"HX-Request": "true"})
    assert response.status_code == 401
    assert response["HX-Redirect"].startswith("/login/?next=")


def test_logging_in_leads_to_the_page_that_was_asked_for(operator: User) -> None:
    form = {"username": "operator", "password": "correct horse battery", "next": "/swarms/"}
    assert Client().post("/login/", form)["Location"] == "/swarms/"


@pytest.mark.parametrize("next_page", ["https://evil.test/", "//evil.test", "javascript:alert(1)"])
def test_logging_in_never_leads_to_another_site(operator: User, next_page: str) -> None:
    form = {"username": "operator", "password": "correct horse battery", "next": next_page}
    assert Client().post("/login/", form)["Location"] == "/"


def test_a_wrong_password_is_answered_with_a_clear_line_and_keeps_the_name(operator: User) -> None:
    response = Client().post("/login/", {"username": "operator", "password": "wrong"})
    assert "That user name and password do not match" in text_of(response)
    assert 'value="operator"' in response.content.decode()


def test_logging_out_asks_for_a_post(operator: User) -> None:
    client = logged_in(operator)
    assert client.get("/logout/").status_code == 405
    assert client.post("/logout/")["Location"] == "/login/"
    assert client.get("/").status_code == 302


def test_a_form_without_its_token_changes_nothing(operator: User, swarm: Swarm) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(operator)
    response = client.post(f"/swarms/{swarm.pk}/terminate/", {"reason": "no token"})
    assert response.status_code == 403
    swarm.refresh_from_db()
    assert swarm.status == SwarmStatus.RUNNING


def test_what_is_not_there_has_a_page_of_its_own(operator: User) -> None:
    response = logged_in(operator).get("/nowhere/")
    assert response.status_code == 404
    assert "Nothing is here" in text_of(response)


# -- the outsider --------------------------------------------------------------------------------------------------


def test_the_outsider_sees_nothing_of_another_tenant_on_any_page_or_part(outsider: User, swarm: Swarm) -> None:
    Budget.objects.create(tenant=swarm.tenant, name="acme-secret-budget", limit=1)
    client = logged_in(outsider)
    for path in (
        "/",
        "/?part=attention,pool,running,queue,finished,spend",
        "/?tenant=acme",
        "/swarms/",
        "/swarms/?tenant=acme&part=swarms",
        "/submit/",
    ):
        shown = client.get(path).content.decode()
        assert "acme-brief" not in shown, path
        assert "Acme" not in shown, path
        assert "acme-secret-budget" not in shown, path


def test_the_outsider_is_told_that_a_swarm_or_task_of_another_tenant_does_not_exist(
    outsider: User, swarm: Swarm
) -> None:
    client = logged_in(outsider)
    task = Task.objects.filter(swarm=swarm).first()
    assert task
    for path in (
        f"/swarms/{swarm.pk}/",
        f"/swarms/{swarm.pk}/?part=head,events",
        f"/tasks/{task.pk}/",
        f"/tasks/{task.pk}/?part=task",
    ):
        assert client.get(path).status_code == 404, path
    for path in (f"/swarms/{swarm.pk}/terminate/", f"/swarms/{swarm.pk}/pause/", f"/tasks/{task.pk}/retry/"):
        assert client.post(path, {"reason": "mine"}).status_code == 404, path
    swarm.refresh_from_db()
    assert swarm.status == SwarmStatus.RUNNING


def test_the_outsider_cannot_submit_for_another_tenant(outsider: User, acme: Tenant) -> None:
    response = logged_in(outsider).post("/submit/", {"tenant": "acme", "spec": "swarm: mine"})
    assert response.status_code == 422
    assert "Pick the tenant" in text_of(response)
    assert not Swarm.objects.exists()


# -- roles ---------------------------------------------------------------------------------------------------------


def test_the_viewer_sees_the_swarm_and_no_button(viewer: User, swarm: Swarm) -> None:
    page = logged_in(viewer).get(f"/swarms/{swarm.pk}/").content.decode()
    assert "acme-brief" in page
    for act in ("terminate", "pause", "resume", "retry"):
        assert f"/{act}/" not in page
    assert "dialog-terminate" not in page


@pytest.mark.parametrize("act", ["terminate", "pause", "resume", "retry"])
def test_the_viewer_is_refused_whatever_is_posted(viewer: User, swarm: Swarm, act: str) -> None:
    response = logged_in(viewer).post(f"/swarms/{swarm.pk}/{act}/", {"reason": "because"})
    assert response.status_code == 403
    assert "This needs the permission swarm:" in text_of(response)
    swarm.refresh_from_db()
    assert swarm.status == SwarmStatus.RUNNING


def test_the_viewer_cannot_retry_a_task_or_submit(viewer: User, swarm: Swarm) -> None:
    client = logged_in(viewer)
    task = Task.objects.filter(swarm=swarm).first()
    assert task
    assert client.post(f"/tasks/{task.pk}/retry/").status_code == 403
    assert client.get("/submit/").status_code == 403
    assert client.post("/submit/", {"tenant": "acme", "spec": "x"}).status_code == 403


def test_a_developer_may_pause_and_not_terminate(developer: User, swarm: Swarm) -> None:
    page = logged_in(developer).get(f"/swarms/{swarm.pk}/").content.decode()
    assert f"/swarms/{swarm.pk}/pause/" in page
    assert "dialog-terminate" not in page


def test_finance_sees_money_and_no_swarms(finance: User, swarm: Swarm) -> None:
    Budget.objects.create(tenant=swarm.tenant, name="monthly", limit=50 * USD)
    client = logged_in(finance)
    page = client.get("/").content.decode()
    assert "monthly" in page
    assert "acme-brief" not in page
    assert client.get(f"/swarms/{swarm.pk}/").status_code == 404


@pytest.mark.parametrize(
    ("role", "shown"),
    [
        (Role.DEVELOPER, {"/swarms/", "/submit/"}),
        (Role.VIEWER, {"/swarms/"}),
        (Role.FINANCE, set()),
    ],
)
def test_the_menu_leads_only_where_the_role_may_go(acme: Tenant, role: Role, shown: set[str]) -> None:
    user = User.objects.create_user("somebody")
    Membership.objects.create(user=user, tenant=acme, role=role)
    page = logged_in(user).get("/").content.decode()
    assert {path for path in ("/swarms/", "/submit/") if f'class="sd-nav" href="{path}"' in page} == shown


def test_who_may_not_see_costs_sees_none(acme: Tenant, swarm: Swarm) -> None:
    user = User.objects.create_user("auditor")
    Membership.objects.create(user=user, tenant=acme, role=Role.COMPLIANCE)
    client = logged_in(user)
    task = Task.objects.filter(swarm=swarm, status=TaskStatus.SUCCEEDED).first()
    assert task
    for path in ("/", "/swarms/", f"/swarms/{swarm.pk}/", f"/tasks/{task.pk}/"):
        page = client.get(path).content.decode()
        assert "acme-brief" in page
        assert "$" not in page, path
