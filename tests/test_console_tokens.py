"""The page of one's own API tokens."""

from __future__ import annotations

import datetime as dt
import re

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from apps.audit.models import AuditEntry
from apps.audit.trail import Actor
from apps.tenants.actions import create_token
from apps.tenants.models import ApiToken, Tenant, User
from apps.tenants.token_text import PATTERN

pytestmark = pytest.mark.django_db
TESTER = Actor("system", "test")


def logged_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def test_a_token_is_made_shown_once_and_revoked(developer: User) -> None:  # A3
    client = logged_in(developer)
    assert "You have no tokens" in client.get("/tokens/").content.decode()
    form = {"tenant": "acme", "name": "nightly <b>", "role": "", "permissions": ["swarm:read"], "days": "30"}
    made = client.post("/tokens/", form)
    (text,) = set(re.findall(PATTERN, made.content.decode()))
    assert "no-store" in made.headers["Cache-Control"]
    by_token = {"Authorization": f"Bearer {text}"}
    assert Client().get("/api/v1/me/", headers=by_token).json()["permissions"] == ["swarm:read"]
    page = client.get("/tokens/").content.decode()
    assert text not in page
    assert text[:15] in page
    assert "nightly &lt;b&gt;" in page
    token = ApiToken.objects.get()
    done = client.post(f"/tokens/{token.uid}/revoke/", {"reason": "lost"}, follow=True)
    assert "is revoked" in done.content.decode()
    assert Client().get("/api/v1/me/", headers=by_token).status_code == 401
    created, revoked = AuditEntry.objects.order_by("id")
    assert (created.action, created.actor) == ("token:create", str(developer.pk))
    assert (revoked.action, revoked.reason) == ("token:revoke", "lost")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tenant": "rival"}, "Pick the tenant"),
        ({"role": "king"}, "not known"),
        ({"permissions": ["fly"]}, "not known"),
        ({"permissions": ["swarm:delete"]}, "developer lacks swarm:delete"),
        ({"role": "admin"}, "developer is not admin of tenant acme"),
        ({"days": "9999"}, "Pick when"),
        ({"name": "x" * 101}, "at most 100"),
    ],
)
def test_what_cannot_be_made_says_why_and_keeps_what_was_typed(
    change: dict[str, str], says: str, developer: User, rival: Tenant
) -> None:
    answer = logged_in(developer).post("/tokens/", {"tenant": "acme", "name": "mine", "days": "30", **change})
    assert answer.status_code == 422
    assert says in answer.content.decode()
    assert f'value="{change.get("name", "mine")}"' in answer.content.decode()
    assert not ApiToken.objects.exists()


def test_nobody_sees_or_revokes_the_tokens_of_others_here(owner: User, developer: User, acme: Tenant) -> None:  # A5
    row, _ = create_token(developer, acme, life=dt.timedelta(days=1), by=TESTER)
    client = logged_in(owner)
    assert row.token_key not in client.get("/tokens/").content.decode()
    assert client.post(f"/tokens/{row.uid}/revoke/").status_code == 404
    assert Client().get("/tokens/").headers["Location"].startswith("/login/")
    assert ApiToken.objects.exists()


def test_the_page_takes_few_queries(
    developer: User, acme: Tenant, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for _ in range(5):
        create_token(developer, acme, life=dt.timedelta(days=1), by=TESTER)
    client = logged_in(developer)
    with django_assert_max_num_queries(8):
        assert client.get("/tokens/").content.decode().count("Revoke…") == 5
