"""OpenID providers: their keys, what happens when they are down, where they are set, and who may change them."""

from __future__ import annotations

import datetime as dt
import time
from typing import Any

import jwt
import pytest
from django.test import Client
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.tenants.models import GroupRule, Identity, IdentityProvider, Membership, Tenant, User
from apps.tenants.oidc import tokens
from apps.tenants.oidc.admitting import groups_in
from apps.tenants.oidc.discovery import metadata_of, parse_metadata
from apps.tenants.oidc.environment import adopt
from apps.tenants.oidc.fetching import CONNECT_S, READ_S, WHOLE_S, FetchFailed
from apps.tenants.oidc.refusals import Refused
from portal import checks
from portal.env import GroupRole
from tests.oidc_provider import CLIENT_ID, CLIENT_SECRET, Key, Provider
from tests.processes import free_port
from tests.signing_in import (
    age,
    answer_of,
    begin,
    idp,
    is_in,
    log_in,
    provider,
    provider_process,
    roles_of,
    text_of,
)

__all__ = ["idp", "provider", "provider_process"]
pytestmark = pytest.mark.django_db


# -- keys ------------------------------------------------------------------------------------------------------------


def test_new_keys_of_the_provider_are_fetched_once_and_not_at_every_odd_token(
    idp: IdentityProvider, provider: Provider, client: Client
) -> None:
    log_in(client, "ada")
    fetched = provider.seen("/keys")
    log_in(client, "ada")
    assert provider.seen("/keys") == fetched, "kept"

    provider.set(rotate="RS256")
    age(idp, keys_at=dt.timedelta(seconds=15))
    assert log_in(client, "ada").status_code == 302
    assert provider.seen("/keys") == fetched + 1

    provider.set(rotate="RS256")
    for _ in range(3):
        assert "could not be verified" in text_of(log_in(client, "ada"))
    assert provider.seen("/keys") == fetched + 1, "an unknown key does not make them be fetched again and again"


# -- providers that are down -----------------------------------------------------------------------------------------


def test_one_that_is_down_delays_once_and_the_next_one_is_taken(
    idp: IdentityProvider, provider: Provider, acme: Tenant, owner: User, client: Client
) -> None:
    down = IdentityProvider.objects.create(
        slug="down", name="Down", issuer=f"http://127.0.0.1:{free_port()}", client_id="x", order=0
    )
    response = client.get("/login/with/", {"next": "/swarms/"})
    assert response["Location"] == "/login/with/sso/?next=%2Fswarms%2F"
    down.refresh_from_db()
    assert down.is_paused(timezone.now())
    assert "ConnectionError" in down.last_error

    page = client.get("/login/with/down/")
    assert page.status_code == 503
    assert "The login service does not answer" in text_of(page)
    assert "Log in with Test provider" in text_of(page)
    assert AuditEntry.objects.get().reason == "provider_unreachable"
    login = text_of(client.get("/login/"))
    assert "It did not answer a moment ago" in login
    assert "Log in with a local account" in login
    client.post("/login/", {"username": "owner", "password": "correct horse battery"})
    assert is_in(client), "a local account needs no provider"


@pytest.mark.parametrize("fault", ["hanging", "broken", "endless"])
def test_one_that_hangs_or_talks_without_end_holds_a_person_for_seconds_and_the_next_one_not_at_all(
    fault: str, idp: IdentityProvider, provider: Provider, client: Client
) -> None:
    provider.set(faults=[fault])
    for most in (max(CONNECT_S + READ_S, WHOLE_S) + 2, 1.0):
        began = time.monotonic()
        assert client.get("/login/with/sso/").status_code == 503
        assert time.monotonic() - began < most
    assert provider.seen("/.well-known/openid-configuration")
    provider.set(faults=[])
    IdentityProvider.objects.update(paused_until=timezone.now() - dt.timedelta(seconds=1))
    assert log_in(client, "ada").status_code == 302, "after the pause it is asked again"


def test_the_last_good_copy_of_endpoints_and_keys_helps_over_a_gap(
    idp: IdentityProvider, provider: Provider, client: Client
) -> None:
    log_in(client, "ada")
    answer = answer_of(begin(client), "ada")
    idp.refresh_from_db()
    later = timezone.now() + dt.timedelta(hours=3)
    provider.stop()
    assert metadata_of(idp, now=later).token_endpoint == f"{provider.issuer}/token"
    with pytest.raises(Refused, match="no answer"):
        metadata_of(idp, now=later, must_be_up=True)
    with pytest.raises(Refused):
        metadata_of(idp, now=later + dt.timedelta(days=2))
    assert "The login service does not answer" in text_of(client.get(answer)), "its token endpoint is down too"
    assert not Identity.objects.filter(last_login_at__gt=later).exists()


def test_a_discovery_document_of_another_issuer_or_without_endpoints_is_none() -> None:
    whole = {
        "issuer": "https://a.example/",
        "authorization_endpoint": "https://a.example/a",
        "token_endpoint": "https://a.example/t",
        "jwks_uri": "https://a.example/k",
    }
    assert parse_metadata(whole, "https://a.example").issuer == "https://a.example/"
    for wrong in (
        {"issuer": "https://b.example"},
        {"issuer": None},
        {"token_endpoint": "http://a.example/t"},
        {"jwks_uri": 3},
        {"authorization_endpoint": "javascript:alert(1)"},
    ):
        with pytest.raises(FetchFailed):
            parse_metadata({**whole, **wrong}, "https://a.example")


# -- the environment's provider --------------------------------------------------------------------------------------


@pytest.fixture
def of_environment(provider: Provider, settings: Any, acme: Tenant, monkeypatch: pytest.MonkeyPatch) -> Any:
    settings.OIDC_ISSUER, settings.OIDC_CLIENT_ID, settings.OIDC_CLIENT_SECRET = provider.issuer, CLIENT_ID, "s"
    settings.OIDC_GROUP_ROLES = [GroupRole("desk-*", "acme", "viewer"), GroupRole("ops", "later", "operator")]
    monkeypatch.setenv("OIDC_CLIENT_SECRET", CLIENT_SECRET)
    return settings


def test_the_provider_of_the_environment_is_there_with_its_rules(of_environment: Any, client: Client) -> None:
    assert "Log in with single sign-on" in text_of(client.get("/login/"))
    assert log_in(client, "ada").status_code == 302
    assert roles_of(User.objects.get()) == {"viewer"}
    GroupRule.objects.all().delete()
    Tenant.objects.create(slug="later", name="Later")
    adopt()
    assert [str(rule) for rule in GroupRule.objects.all()] == ["ops is operator of Later"], (
        "a tenant that comes later gets its rule, and a rule that was removed stays away"
    )
    of_environment.OIDC_ISSUER = ""
    assert "single sign-on" not in text_of(client.get("/login/"))
    assert client.get("/login/with/sso/").status_code == 404


def test_what_the_environment_leaves_out_is_told(of_environment: Any) -> None:
    def told() -> list[str]:
        return [message.msg for message in checks.login_provider_is_complete()]

    assert told() == []
    of_environment.OIDC_CLIENT_SECRET = ""
    assert told() == ["OIDC_CLIENT_SECRET is not set, and OIDC_ISSUER is."]
    of_environment.OIDC_ISSUER = of_environment.OIDC_CLIENT_ID = ""
    assert [text.split()[0] for text in told()] == ["OIDC_ISSUER", "OIDC_CLIENT_ID", "OIDC_CLIENT_SECRET"]
    of_environment.OIDC_GROUP_ROLES = []
    assert told() == []
    of_environment.OIDC_ISSUER = "http://login.example"
    of_environment.OIDC_CLIENT_ID = of_environment.OIDC_CLIENT_SECRET = "x"
    assert told() == ["OIDC_ISSUER must start with https://."]

    from apps.tenants.checks import group_roles_are_roles

    of_environment.OIDC_GROUP_ROLES = [GroupRole("a", "acme", "emperor")]
    [unknown] = group_roles_are_roles()
    assert (unknown.id, unknown.msg) == ("tenants.E001", "OIDC_GROUP_ROLES: emperor is not a role.")


# -- rules and claims ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "path", "groups"),
    [
        ({"groups": ["a", 3, "b"]}, "groups", ["a", "b"]),
        ({"groups": "a"}, "groups", ["a"]),
        ({"groups": []}, "groups", []),
        ({"groups": {"a": 1}}, "groups", []),
        ({}, "groups", None),
        ({"realm_access": {"roles": ["a"]}}, "realm_access.roles", ["a"]),
        ({"https://desk.example/groups": ["a"]}, "https://desk.example/groups", ["a"]),
    ],
)
def test_where_groups_are_found(claims: dict[str, Any], path: str, groups: list[str] | None) -> None:
    assert groups_in(claims, path) == groups


def test_a_token_counts_to_the_second(rf: Any) -> None:
    key = Key("ES256")
    now = dt.datetime(2026, 10, 1, 12, tzinfo=dt.UTC)
    seconds = int(now.timestamp())

    def verify(**changes: Any) -> str:
        claims = {"iss": "i", "sub": "s", "aud": "c", "exp": seconds, "iat": seconds, "nonce": "n", **changes}
        claims = {name: value for name, value in claims.items() if value is not None}
        try:
            tokens.verify_id_token(
                key.sign(claims),
                find_key=lambda kid, alg: jwt.PyJWK(key.public, algorithm=alg),
                issuer="i",
                client_id="c",
                nonce="n",
                now=now,
            )
        except Refused as refused:
            return str(refused.reason)
        return "accepted"

    assert verify() == "accepted"
    assert verify(exp=seconds - 59) == "accepted"
    assert verify(exp=seconds - 60) == "token_expired"
    assert verify(iat=seconds + 60) == "accepted"
    assert verify(iat=seconds + 61) == "token_invalid"
    assert verify(nbf=seconds + 61) == "token_invalid"
    assert verify(aud=["c"]) == "accepted"
    assert verify(aud=["c", "d"], azp="c") == "accepted"
    assert verify(azp="d") == "wrong_audience"
    for wrong in ({"exp": None}, {"iat": None}, {"exp": True}, {"exp": "1"}, {"sub": ""}, {"sub": 3}, {"nonce": 1}):
        assert verify(**wrong) == "token_invalid", wrong


def test_the_pages_that_manage_providers_are_for_platform_admins(
    idp: IdentityProvider, owner: User, platform_admin: User
) -> None:
    owner.is_staff = True
    owner.save()
    staff, root = Client(), Client()
    staff.force_login(owner)
    root.force_login(platform_admin)
    for name in ("identityprovider", "grouprule", "identity"):
        assert staff.get(f"/admin/tenants/{name}/").status_code == 403, name
        assert root.get(f"/admin/tenants/{name}/").status_code == 200, name
    form = {"action": "ask", "_selected_action": str(idp.pk)}
    assert (
        "1 identity provider reached"
        in root.post("/admin/tenants/identityprovider/", form, follow=True).content.decode()
    )
    idp.refresh_from_db()
    assert idp.keys

    page = f"/admin/tenants/identityprovider/{idp.pk}/change/"
    fields = {
        name: getattr(idp, name)
        for name in ("name", "slug", "order", "client_id", "client_secret_variable", "scopes", "groups_claim")
    }
    fields |= {"is_active": "on", "creates_accounts": "on", "session_hours": 8}
    for issuer, told in (
        ("http://login.example", "must be reached by https"),
        ("https://x.example?a=b", "not the address"),
    ):
        assert told in root.post(page, {**fields, "issuer": issuer}).content.decode()
    secret = root.post(page, {**fields, "issuer": idp.issuer, "client_secret_variable": "SECRET_KEY"})
    assert "must start with OIDC_" in secret.content.decode()
    assert root.post(page, {**fields, "issuer": idp.issuer}).status_code == 302
    idp.refresh_from_db()
    assert (idp.session_hours, bool(idp.keys)) == (8, True), "what logins keep on the row is left alone"
    assert idp.client_secret == CLIENT_SECRET, "a secret that is not typed again stays"
    assert root.post(page, {**fields, "issuer": idp.issuer, "stored_secret": "another one"}).status_code == 302
    idp.refresh_from_db()
    assert idp.client_secret == "another one"
    assert "another one" not in root.get(page).content.decode()
    assert "another one" not in str(list(AuditEntry.objects.values_list("details", flat=True)))


def test_a_role_of_a_group_is_not_changed_by_hand(
    idp: IdentityProvider, owner: User, acme: Tenant, client: Client
) -> None:
    log_in(Client(), "ada")
    owner.is_staff = True
    owner.save()
    client.force_login(owner)
    row = Membership.objects.exclude(provider=None).get()
    page = client.get(f"/admin/tenants/membership/{row.pk}/change/").content.decode()
    assert "by a group at Test provider" in page
    assert 'name="role"' not in page
    assert client.post(f"/admin/tenants/membership/{row.pk}/delete/", {"post": "yes"}).status_code == 403
    form = {"user": str(row.user_id), "tenant": str(acme.pk), "role": "operator"}
    assert client.post("/admin/tenants/membership/add/", form).status_code == 302, "the same by hand is another row"
    assert "has this role here already" in client.post("/admin/tenants/membership/add/", form).content.decode()


def test_a_provider_row_of_another_process_is_not_written_over(idp: IdentityProvider) -> None:
    stale = IdentityProvider.objects.get(pk=idp.pk)
    IdentityProvider.objects.update(name="Renamed")
    stale.note_failure("x" * 500, now=timezone.now())
    idp.refresh_from_db()
    assert (idp.name, len(idp.last_error)) == ("Renamed", 200)
