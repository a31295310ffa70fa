"""Login with OpenID Connect against a real provider process: who gets in, with which roles, and who does not."""

from __future__ import annotations

import datetime as dt
import re
import time
from typing import Any

import jwt
import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.tenants.access import principal_of
from apps.tenants.models import GroupRule, Identity, IdentityProvider, Match, Membership, Tenant, User
from apps.tenants.oidc import tokens
from apps.tenants.oidc.admitting import groups_in
from apps.tenants.oidc.discovery import metadata_of, parse_metadata
from apps.tenants.oidc.environment import adopt
from apps.tenants.oidc.fetching import CONNECT_S, READ_S, WHOLE_S, FetchFailed
from apps.tenants.oidc.refusals import Reason, Refused
from apps.tenants.roles import Permission, Role
from portal import checks
from portal.env import GroupRole
from tests.oidc_provider import CLIENT_ID, CLIENT_SECRET, Key, Provider
from tests.processes import free_port
from tests.signing_in import PEOPLE, answer_of, begin, idp, log_in, provider, provider_process

__all__ = ["idp", "provider", "provider_process"]
pytestmark = pytest.mark.django_db


def text_of(response: Any) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", response.content.decode()))


def is_in(client: Client) -> bool:
    return client.get("/").status_code == 200


def roles_of(user: User) -> set[str]:
    return set(Membership.objects.filter(user=user).values_list("role", flat=True))


def set_groups(provider: Provider, *groups: str, person: str = "ada") -> None:
    provider.set(people={**PEOPLE, person: {**PEOPLE[person], "groups": list(groups)}})


def age(idp: IdentityProvider, **by: dt.timedelta) -> None:
    """Makes what was fetched older: ``age(idp, discovered_at=...)``."""
    row = IdentityProvider.objects.get(pk=idp.pk)
    IdentityProvider.objects.filter(pk=idp.pk).update(**{name: getattr(row, name) - ago for name, ago in by.items()})


# -- getting in ------------------------------------------------------------------------------------------------------


def test_a_first_login_makes_an_account_with_the_roles_of_its_groups(
    idp: IdentityProvider, acme: Tenant, client: Client
) -> None:
    client.get("/login/")
    asked = begin(client, next="/swarms/")
    assert "code_challenge_method=S256" in asked
    before = client.session.session_key
    response = client.get(answer_of(asked, "ada"))
    assert response["Location"] == "/swarms/", "the page that was asked for"
    assert client.session.session_key != before, "the session is another one than before the login"
    assert 11 * 3600 < client.session.get_expiry_age() <= 12 * 3600
    assert is_in(client)

    user = User.objects.get()
    assert (user.username, user.email, user.first_name) == ("ada", "ada@example.test", "Ada")
    assert not user.has_usable_password()
    assert not user.is_staff
    assert principal_of(user).can(Permission.SWARM_TERMINATE, acme.pk)
    assert Identity.objects.get().subject == "ada"
    acts = AuditEntry.objects.order_by("id").values_list("action", "success")
    assert list(acts) == [
        ("user:create", True),
        ("identity:create", True),
        ("membership:create", True),
        ("session:login", True),
    ]
    assert AuditEntry.objects.get(action="session:login").details == {"provider": "sso"}


def test_roles_follow_the_groups_at_each_login_and_those_given_by_hand_stay(
    idp: IdentityProvider, provider: Provider, acme: Tenant, rival: Tenant, client: Client
) -> None:
    GroupRule.objects.create(provider=idp, match=Match.GLOB, group="desk-*-admins", tenant=rival, role=Role.ADMIN)
    log_in(client, "ada")
    user = User.objects.get()
    Membership.objects.create(user=user, tenant=acme, role=Role.OPERATOR)  # the same by hand
    Membership.objects.create(user=user, tenant=acme, role=Role.FINANCE)

    set_groups(provider, "desk-eu-admins", "Desk-operators")
    log_in(client, "ada")
    held = Membership.objects.filter(user=user).order_by("role", "provider").values_list("tenant__slug", "role")
    assert list(held) == [("rival", "admin"), ("acme", "finance"), ("acme", "operator")]
    assert principal_of(user).can(Permission.USER_MANAGE, rival.pk)
    assert AuditEntry.objects.filter(action="membership:delete", tenant_id=acme.pk).count() == 1

    set_groups(provider)
    log_in(client, "ada")
    assert is_in(client), "what was given by hand still opens the door"
    assert roles_of(user) == {"finance", "operator"}
    assert not principal_of(user).can(Permission.SWARM_READ, rival.pk)


def test_without_a_matching_group_nobody_gets_in_and_no_account_is_made(idp: IdentityProvider, client: Client) -> None:
    response = log_in(client, "bob")
    assert response.status_code == 403
    assert "You have no role here" in text_of(response)
    assert "canteen" not in text_of(response)
    assert not User.objects.exists()
    assert not is_in(client)
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.success, entry.reason) == ("session:refuse", False, "no_role")
    assert entry.details == {"provider": "sso", "groups": "1"}
    assert f"audit entry {entry.pk}" in text_of(response)


def test_who_lost_every_group_is_refused_and_their_open_sessions_end(
    idp: IdentityProvider, provider: Provider, client: Client
) -> None:
    log_in(client, "ada")
    set_groups(provider, "canteen")
    assert "You have no role here" in text_of(log_in(Client(), "ada"))
    assert Membership.objects.count() == 0
    response = client.get("/")
    assert response["Location"] == "/login/?ended=1&next=/"
    assert "Your session has ended" in text_of(client.get(response["Location"]))
    set_groups(provider, "desk-operators")
    log_in(Client(), "ada")
    assert not is_in(client), "an ended session does not come back to life with the role"


@pytest.mark.parametrize("how", ["account switched off", "provider switched off", "unlinked"])
def test_a_session_ends_when_nobody_vouches_for_it_any_more(how: str, idp: IdentityProvider, client: Client) -> None:
    log_in(client, "ada")
    if how == "account switched off":
        User.objects.update(is_active=False)
    elif how == "provider switched off":
        IdentityProvider.objects.update(is_active=False)
    else:
        Identity.objects.all().delete()
    assert not is_in(client)


def test_an_account_that_is_switched_off_stays_out(idp: IdentityProvider, client: Client) -> None:
    log_in(client, "ada")
    User.objects.update(is_active=False)
    response = log_in(Client(), "ada")
    assert response.status_code == 403
    assert "This account is switched off" in text_of(response)
    entry = AuditEntry.objects.filter(action="session:refuse").get()
    assert (entry.reason, entry.actor) == ("account_deactivated", str(User.objects.get().pk))


def test_nobody_becomes_somebody_by_name_or_address(idp: IdentityProvider, client: Client) -> None:
    """Whoever can choose their name or address at the provider would take over the account that has it here."""
    admin = User.objects.create_superuser("ada", "ada@example.test", "correct horse battery")
    log_in(client, "ada")
    made = User.objects.exclude(pk=admin.pk).get()
    assert re.fullmatch(r"ada-[0-9a-f]{10}", made.username)
    assert not made.is_superuser
    assert client.session["_auth_user_id"] == str(made.pk)


def test_linking_an_account_that_exists_is_an_act_of_an_administrator(
    idp: IdentityProvider, provider: Provider, viewer: User, platform_admin: User, outsider: User, client: Client
) -> None:
    IdentityProvider.objects.update(creates_accounts=False)
    assert "You have no account here yet" in text_of(log_in(client, "ada"))
    form = {"user": viewer.pk, "provider": idp.pk, "subject": "ada"}
    outsider.is_staff = True
    outsider.save()
    for user, answer in ((outsider, 403), (platform_admin, 302)):
        staff = Client()
        staff.force_login(user)
        assert staff.post("/admin/tenants/identity/add/", form).status_code == answer
    log_in(client, "ada")
    assert client.session["_auth_user_id"] == str(viewer.pk)
    assert roles_of(viewer) == {"viewer", "operator"}
    viewer.refresh_from_db()
    assert viewer.first_name == "", "an account with a password of its own keeps its name and address"

    identity = Identity.objects.get()
    staff.post(f"/admin/tenants/identity/{identity.pk}/delete/", {"post": "yes"})
    assert roles_of(viewer) == {"viewer"}, "what the groups gave goes with the link"
    assert not is_in(client)
    acts = AuditEntry.objects.filter(resource_kind="identity").values_list("action", "actor")
    assert list(acts) == [("identity:delete", str(platform_admin.pk)), ("identity:create", str(platform_admin.pk))]


@pytest.mark.parametrize(
    ("set_up", "why"),
    [
        ({"groups_in": "userinfo"}, "groups may be left to the userinfo endpoint"),
        ({"faults": ["clock behind"]}, "a clock may be some seconds behind"),
        ({"faults": ["clock ahead"]}, "or ahead"),
        ({"faults": ["secret in the form"]}, "some want the secret in the form"),
        ({"rotate": "ES256"}, "an elliptic key is as good"),
    ],
)
def test_what_providers_may_do_differently(
    set_up: dict[str, Any], why: str, idp: IdentityProvider, provider: Provider, client: Client
) -> None:
    provider.set(**set_up)
    assert log_in(client, "ada").status_code == 302, why
    provider.set(rotate="RS256")


def test_a_login_takes_the_same_queries_however_many_groups_and_rules_there_are(
    idp: IdentityProvider, provider: Provider, acme: Tenant, client: Client
) -> None:
    log_in(client, "ada")
    counts = []
    for rules, groups in ((2, 2), (40, 300)):
        for n in range(rules):
            GroupRule.objects.get_or_create(provider=idp, group=f"team-{n}", tenant=acme, role="operator")
        set_groups(provider, "desk-operators", *(f"team-{n}" for n in range(groups)))
        answer = answer_of(begin(client), "ada")
        with CaptureQueriesContext(connection) as queries:
            assert client.get(answer).status_code == 302
        counts.append(len(queries))
    assert counts[0] == counts[1]
    assert counts[0] <= 28
    for n in range(5):
        IdentityProvider.objects.create(slug=f"p{n}", name=f"p{n}", issuer=f"https://p{n}.example", client_id="x")
    with CaptureQueriesContext(connection) as queries:
        Client().get("/login/")
    assert len(queries) == 1


# -- being refused ---------------------------------------------------------------------------------------------------

FAULTS: list[tuple[str, Reason, str]] = [
    # fault of the provider, what is recorded, what the page says
    ("wrong audience", Reason.AUDIENCE, "meant for another application"),
    ("audience for two", Reason.AUDIENCE, "meant for another application"),
    ("authorized for another", Reason.AUDIENCE, "meant for another application"),
    ("expired token", Reason.EXPIRED, "had expired"),
    ("far ahead", Reason.INVALID, "could not be verified"),
    ("not yet valid", Reason.INVALID, "could not be verified"),
    ("wrong nonce", Reason.INVALID, "could not be verified"),
    ("no nonce", Reason.INVALID, "could not be verified"),
    ("wrong issuer", Reason.INVALID, "could not be verified"),
    ("no subject", Reason.INVALID, "could not be verified"),
    ("algorithm none", Reason.INVALID, "could not be verified"),
    ("signed with the client's secret", Reason.INVALID, "could not be verified"),
    ("foreign signature", Reason.INVALID, "could not be verified"),
    ("no token", Reason.INVALID, "could not be verified"),
    ("answer of another", Reason.INVALID, "could not be verified"),
]


def test_a_token_that_is_not_for_this_login_opens_nothing(idp: IdentityProvider, provider: Provider) -> None:
    for fault, reason, words in FAULTS:
        provider.set(faults=[fault])
        client = Client()
        response = log_in(client, "ada")
        assert response.status_code == 403, fault
        assert words in text_of(response), fault
        assert f'data-reason="{reason}"' in response.content.decode(), fault
        assert AuditEntry.objects.order_by("-id")[0].reason == reason, fault
        assert not is_in(client), fault
    assert not User.objects.exists()
    provider.set(faults=[])
    assert log_in(Client(), "ada").status_code == 302, "and nothing of it lasts"


def test_userinfo_must_speak_of_the_same_person(idp: IdentityProvider, provider: Provider, client: Client) -> None:
    provider.set(groups_in="userinfo", faults=["userinfo of another"])
    assert "could not be verified" in text_of(log_in(client, "ada"))
    assert not User.objects.exists()


def test_groups_that_the_provider_does_not_say_take_no_role_away(
    idp: IdentityProvider, provider: Provider, client: Client
) -> None:
    log_in(client, "ada")
    provider.set(groups_in="nowhere", faults=["groups elsewhere"])
    assert "Your groups could not be read" in text_of(log_in(Client(), "ada"))
    assert is_in(client)


def test_an_answer_counts_once_in_the_browser_that_asked_and_for_a_while(
    idp: IdentityProvider, provider: Provider, client: Client
) -> None:
    answer = answer_of(begin(client), "ada")
    other = Client()
    assert "This login is over" in text_of(other.get(answer)), "of another browser"
    assert client.get(answer).status_code == 302
    client.post("/logout/")
    replayed = client.get(answer)
    assert replayed.status_code == 400
    assert "This login is over" in text_of(replayed)
    assert not is_in(client)

    answer = answer_of(begin(client), "ada")
    session = client.session
    for kept in session["oidc_states"].values():
        kept["added_on"] -= 16 * 60
    session.save()
    assert "This login is over" in text_of(client.get(answer))
    reasons = AuditEntry.objects.filter(action="session:refuse").values_list("reason", flat=True)
    assert list(reasons) == ["state_unknown_or_expired"] * 3
    for odd in ("", "?state=", "?state=x&code=y", "?error=x", "?state=%00&code=%00"):
        assert client.get(f"/login/callback/{odd}").status_code == 400, odd


def test_two_tabs_log_in_side_by_side(idp: IdentityProvider, client: Client) -> None:
    first, second = begin(client, next="/swarms/"), begin(client, next="/submit/")
    assert client.get(answer_of(second, "ada"))["Location"] == "/submit/"
    assert client.get(answer_of(first, "ada"))["Location"] == "/swarms/"
    evil = client.get(answer_of(begin(client, next="https://evil.test/"), "ada"))
    assert evil["Location"] == "/", "never to another site"


def test_a_person_who_says_no_is_told_so_without_the_providers_words(idp: IdentityProvider, client: Client) -> None:
    response = client.get(answer_of(begin(client), "ada", "no"))
    assert response.status_code == 403
    assert "did not let you in" in text_of(response)
    assert "secret detail" not in response.content.decode()


def test_a_wrong_client_secret_is_a_refusal_there_and_is_told_to_nobody(
    idp: IdentityProvider, client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OIDC_TEST_SECRET", "wrong-one")
    IdentityProvider.objects.update(client_secret_variable="OIDC_TEST_SECRET")
    monkeypatch.setenv("OIDC_TEST_SECRET", "wrong-one")
    response = log_in(client, "ada")
    assert "did not let you in" in text_of(response)
    told = response.content.decode() + caplog.text
    assert "invalid_client" in told, "the log says why"
    assert "wrong-one" not in told
    monkeypatch.setenv("OIDC_TEST_SECRET", CLIENT_SECRET)
    assert log_in(client, "ada").status_code == 302, "it is read where it is kept each time"


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


# -- logging out -----------------------------------------------------------------------------------------------------


def test_logging_out_ends_the_session_at_the_provider_too(
    idp: IdentityProvider, provider: Provider, client: Client
) -> None:
    log_in(client, "ada")
    page = client.post("/logout/").content.decode()
    assert "You are logged out here" in page
    [there] = re.findall(r'content="0;url=([^"]+)"', page)
    assert there.startswith(f"{provider.issuer}/logout?id_token_hint=")
    assert "post_logout_redirect_uri=http%3A%2F%2Ftestserver%2Flogin%2F" in there
    assert not is_in(client)
    assert AuditEntry.objects.order_by("-id")[0].action == "session:logout"

    provider.set(faults=["no logout"])
    age(idp, discovered_at=dt.timedelta(minutes=1))
    log_in(client, "ada")
    assert client.post("/logout/")["Location"] == "/login/"

    log_in(client, "ada")
    provider.stop()
    age(idp, discovered_at=dt.timedelta(minutes=1))
    assert "your session there may still be open" in text_of(client.post("/logout/"))
    assert not is_in(client)


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
