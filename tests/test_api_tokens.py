"""Tokens over the API: made, listed, revoked; by whom, and seen by whom."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from apps.api.models import IdempotencyKey
from apps.audit.models import AuditEntry
from apps.audit.trail import Actor
from apps.tenants.actions import create_token
from apps.tenants.models import ApiToken, Membership, Tenant, User
from apps.tenants.roles import Role
from tests.api_client import V1, Caller, attrs, is_refusal

pytestmark = pytest.mark.django_db
DAY = dt.timedelta(days=1)


class Session(Caller):
    """Calls the API with the session of a browser."""

    def __init__(self, user: User) -> None:
        super().__init__(None)
        self.client = Client()
        self.client.force_login(user)


def narrowed(user: User, tenant: Tenant, *permissions: str, role: str = "") -> Caller:
    caller = Caller(None)
    _, text = create_token(user, tenant, role=role, permissions=permissions, life=DAY, by=Actor("system", "test"))
    caller.headers["Authorization"] = f"Bearer {text}"
    return caller


def uid(caller: Caller) -> str:
    start = caller.headers["Authorization"].split()[1][:15]
    return str(ApiToken.objects.get(token_key=start).uid)


def test_a_person_makes_uses_and_revokes_a_token(developer: User) -> None:  # A3
    person = Session(developer)
    made = person.post("/tokens/", {"tenant": "acme", "name": "nightly", "permissions": ["swarm:read"]})
    assert made.status_code == 201
    body = made.json()
    assert made.headers["Location"] == f"{V1}/tokens/{body['id']}/"
    assert body["start"] == body["token"][:15]
    assert (body["user"], body["tenant"], body["permissions"]) == ("developer", "acme", ["swarm:read"])
    headers = {"Authorization": f"Bearer {body['token']}"}
    assert Client().get(f"{V1}/me/", headers=headers).json()["permissions"] == ["swarm:read"]
    (listed,) = person.get("/tokens/").json()["results"]
    assert "token" not in listed
    assert listed["last_used_at"] is not None
    assert person.get(f"/tokens/{body['id']}/").json() == listed
    assert person("DELETE", f"/tokens/{body['id']}/").status_code == 204
    assert Client().get(f"{V1}/me/", headers=headers).status_code == 401
    assert [e.action for e in AuditEntry.objects.order_by("id")] == ["token:create", "token:revoke"]


def test_an_admin_manages_the_tokens_of_a_tenant(owner: User, developer: User, outsider: User) -> None:
    call = Caller(owner)
    made = call.post("/tokens/", {"tenant": "acme", "user": "developer", "role": "developer"})
    assert made.status_code == 201
    Caller(outsider)
    assert {row["user"] for row in call.get("/tokens/").json()["results"]} == {"owner", "developer"}
    assert [row["user"] for row in call.get("/tokens/?user=developer").json()["results"]] == ["developer"]
    assert call("DELETE", f"/tokens/{made.json()['id']}/").status_code == 204


def test_a_token_cannot_make_itself_a_successor(developer: User, owner: User, acme: Tenant) -> None:
    for caller in (Caller(developer), narrowed(owner, acme, "swarm:read")):
        answer = caller.post("/tokens/", {"tenant": "acme"})
        assert is_refusal(answer, 403)
        assert "user:manage" in answer.json()["errors"][0]["detail"]


def test_a_token_sees_and_ends_no_other(developer: User) -> None:
    one, other = Caller(developer), Caller(developer)
    assert [row["id"] for row in one.get("/tokens/").json()["results"]] == [uid(one)]
    assert is_refusal(one("DELETE", f"/tokens/{uid(other)}/"), 404)
    assert one("DELETE", f"/tokens/{uid(one)}/").status_code == 204
    assert is_refusal(one.get("/me/"), 401)


def test_nobody_makes_or_sees_tokens_of_others_without_the_permission(
    developer: User, viewer: User, outsider: User, platform_admin: User, owner: User
) -> None:  # A5
    token = Caller(developer)
    for user in (viewer, outsider):
        person = Session(user)
        assert is_refusal(person.get(f"/tokens/{uid(token)}/"), 404)
        assert is_refusal(person("DELETE", f"/tokens/{uid(token)}/"), 404)
        assert person.get("/tokens/").json()["results"] == []
    assert is_refusal(Session(viewer).post("/tokens/", {"tenant": "acme", "user": "developer"}), 403)
    assert is_refusal(Session(viewer).post("/tokens/", {"tenant": "acme", "user": "nobody at all"}), 403)
    assert attrs(Session(outsider).post("/tokens/", {"tenant": "acme"})) == {"tenant"}
    assert is_refusal(Session(owner).post("/tokens/", {"tenant": "acme", "user": "root"}), 403)
    assert is_refusal(Caller(None).get("/tokens/"), 401)
    assert is_refusal(Caller(None).post("/tokens/", {"tenant": "acme"}), 401)


@pytest.mark.parametrize(
    ("body", "attr"),
    [
        ({}, "tenant"),
        ({"tenant": "acme", "role": "king"}, "role"),
        ({"tenant": "acme", "permissions": ["fly"]}, "permissions.0"),
        ({"tenant": "acme", "expires_in_days": 0}, "expires_in_days"),
        ({"tenant": "acme", "name": "x" * 101}, "name"),
        ({"tenant": "acme", "colour": "red"}, "colour"),
        ({"tenant": "acme", "role": "finance"}, None),
        ({"tenant": "acme", "permissions": ["swarm:delete"]}, None),
    ],
)
def test_what_cannot_be_made_says_why(body: Any, attr: str | None, developer: User) -> None:
    answer = Session(developer).post("/tokens/", body)
    assert is_refusal(answer, 400)
    assert attrs(answer) == {attr}
    assert not ApiToken.objects.exists()


def test_an_answer_that_is_kept_is_kept_without_the_secret(developer: User) -> None:
    person = Session(developer)
    first = person.post("/tokens/", {"tenant": "acme"}, Idempotency_Key="k")
    again = person.post("/tokens/", {"tenant": "acme"}, Idempotency_Key="k")
    assert again.status_code == 201
    assert again.json() == {**first.json(), "token": None}
    assert first.json()["token"] not in str(IdempotencyKey.objects.values().get())
    assert ApiToken.objects.count() == 1


def test_a_list_takes_two_queries(
    developer: User, acme: Tenant, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    Membership.objects.create(user=developer, tenant=acme, role=Role.ADMIN)
    for _ in range(5):
        call = Caller(developer)
    call.get("/tokens/")
    with django_assert_num_queries(2):  # the token with all it may do, the tokens
        assert len(call.get("/tokens/").json()["results"]) == 5
