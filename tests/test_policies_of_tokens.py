"""Access policies on tokens: asked at every door at which one is made or revoked."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.tenants.access import PolicyDenied, principal_of
from apps.tenants.actions import create_token, revoke_token
from apps.tenants.explaining import explain
from apps.tenants.models import AccessPolicy, ApiToken, PolicyState, Tenant, User
from apps.tenants.replaying import replay
from apps.tenants.roles import Permission, Resource
from tests.api_client import Caller

pytestmark = pytest.mark.django_db
DAY = dt.timedelta(days=1)
INSIDE = "10.1.1.1"
TOLD = "The access policy “Tokens from the office” (allowed: from 10.0.0.0/8) denies user:manage now."


@pytest.fixture
def office(acme: Tenant) -> AccessPolicy:
    return AccessPolicy.objects.create(
        name="Tokens from the office",
        tenant=acme,
        state=PolicyState.ENABLED,
        resources=[Resource.TOKEN],
        networks=["10.0.0.0/8"],
    )


def client_of(user: User, address: str, *, staff: bool = False) -> Client:
    user.is_staff = staff
    user.save()
    client = Client(REMOTE_ADDR=address)
    client.force_login(user)
    return client


def _by(user: User, address: str | None = None) -> Any:
    return principal_of(user, address=address)


def test_the_api_asks_when_tokens_are_made_and_revoked(office: AccessPolicy, viewer: User, owner: User) -> None:  # A4
    away, inside = client_of(viewer, "192.0.2.1"), client_of(viewer, INSIDE)
    wanted = {"tenant": "acme", "name": "mine"}
    refused = away.post("/api/v1/tokens/", wanted, content_type="application/json")
    assert (refused.status_code, refused.json()["errors"][0]["detail"]) == (403, TOLD)
    made = inside.post("/api/v1/tokens/", wanted, content_type="application/json")
    assert made.status_code == 201
    url = f"/api/v1/tokens/{made.json()['id']}/"
    assert away.delete(url).status_code == 403
    assert ApiToken.objects.count() == 1
    assert inside.delete(url).status_code == 204
    for_others = client_of(owner, "192.0.2.1").post(
        "/api/v1/tokens/", {**wanted, "user": "viewer"}, content_type="application/json"
    )
    assert (for_others.status_code, for_others.json()["errors"][0]["detail"]) == (403, TOLD)
    notes = AuditEntry.objects.filter(action="policy:deny", resource_id=str(office.pk))
    assert {(note.details["permission"], note.details["resource"]) for note in notes} == {("user:manage", "token")}
    assert notes.count() == 3


def test_a_token_that_makes_tokens_is_asked_too(office: AccessPolicy, owner: User, acme: Tenant) -> None:
    headers = Caller(owner, acme).headers
    for address, status in (("192.0.2.1", 403), (INSIDE, 201)):
        answer = Client(REMOTE_ADDR=address).post(
            "/api/v1/tokens/", {"tenant": "acme", "user": "owner"}, content_type="application/json", headers=headers
        )
        assert answer.status_code == status


def test_the_console_asks(office: AccessPolicy, viewer: User, acme: Tenant) -> None:
    form = {"tenant": "acme", "days": "90", "name": "mine"}
    token, _ = create_token(viewer, acme, life=DAY, by=_by(viewer, INSIDE))
    away = client_of(viewer, "192.0.2.1")
    for url, given in (
        (reverse("console:tokens"), form),
        (reverse("console:token-revoke", args=[token.uid]), {"reason": "Lost."}),
    ):
        page = away.post(url, given)
        assert (page.status_code, "Tokens from the office" in page.content.decode()) == (403, True), url
    assert list(ApiToken.objects.all()) == [token]
    inside = client_of(viewer, INSIDE)
    assert inside.post(reverse("console:tokens"), form).status_code == 200
    inside.post(reverse("console:token-revoke", args=[token.uid]), {"reason": "Lost."})
    assert list(ApiToken.objects.values_list("name", flat=True)) == ["mine"]


def test_the_administration_asks(office: AccessPolicy, owner: User, viewer: User, acme: Tenant) -> None:
    token, _ = create_token(viewer, acme, life=DAY, by=_by(owner, INSIDE))
    away = client_of(owner, "192.0.2.1", staff=True)
    form = {"user": str(viewer.pk), "tenant": str(acme.pk), "name": "", "role": "", "days": "1"}
    page = away.post(reverse("admin:tenants_apitoken_add"), form)
    assert (page.status_code, "Tokens from the office" in page.content.decode()) == (403, True)
    listed = reverse("admin:tenants_apitoken_changelist")
    page = away.post(listed, {"action": "revoke", "_selected_action": [token.pk]}, follow=True)
    assert "Not revoked" in page.content.decode()
    assert "Tokens from the office" in page.content.decode()
    assert list(ApiToken.objects.all()) == [token]


def test_commands_and_platform_admins_are_not_restricted(
    office: AccessPolicy, platform_admin: User, viewer: User, acme: Tenant
) -> None:
    token, _ = create_token(viewer, acme, life=DAY, by=_by(platform_admin, "192.0.2.1"))
    with pytest.raises(PolicyDenied):
        revoke_token(token, by=_by(viewer, "192.0.2.1"))
    revoke_token(token, by=_by(platform_admin, "192.0.2.1"))


def test_a_policy_under_test_leaves_a_note_and_another_resource_is_of_no_concern(
    office: AccessPolicy, viewer: User, acme: Tenant
) -> None:
    AccessPolicy.objects.update(state=PolicyState.TESTING)
    AccessPolicy.objects.create(name="People", tenant=acme, state=PolicyState.ENABLED, resources=[Resource.USER])
    answer = client_of(viewer, "192.0.2.1").post("/api/v1/tokens/", {"tenant": "acme"}, content_type="application/json")
    assert answer.status_code == 201
    assert AuditEntry.objects.get(action="policy:would_deny").details["resource"] == "token"


def test_it_is_explained_and_judged_on_the_past(office: AccessPolicy, viewer: User, owner: User, acme: Tenant) -> None:
    now = timezone.now()
    asked: dict[str, Any] = {"at": now, "resource": Resource.TOKEN}
    for user, gives in ((viewer, "Tokens of one's own"), (owner, "Role admin of acme")):
        for address, allowed in ((INSIDE, True), ("192.0.2.1", False)):
            told = explain(user, acme, Permission.USER_MANAGE, address=address, **asked)
            assert told.allowed is allowed, (user, address)
            assert any(step.about.startswith(gives) and step.outcome == "gives" for step in told.steps)
            assert (told.steps[-1].about, told.steps[-1].outcome) == (
                "Policy “Tokens from the office”",
                "passes" if allowed else "denies",
            )
    assert not explain(viewer, acme, Permission.USER_MANAGE, at=now).allowed, "people are another matter than tokens"
    for address in (INSIDE, "192.0.2.1"):
        AccessPolicy.objects.update(state=PolicyState.DRAFT)
        token, _ = create_token(viewer, acme, life=DAY, by=_by(viewer, address))
        revoke_token(token, by=_by(viewer, address))
    denied = replay(office.as_value, days=7, now=timezone.now()).denied
    assert sorted((each.entry.action, each.entry.address) for each in denied) == [
        ("token:create", "192.0.2.1"),
        ("token:revoke", "192.0.2.1"),
    ]
