"""Login with OpenID Connect against a real provider process: who gets in, with which roles, and who does not."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from apps.audit.models import AuditEntry
from apps.tenants.access import principal_of
from apps.tenants.models import GroupRule, Identity, IdentityProvider, Match, Membership, Tenant, User
from apps.tenants.oidc.refusals import Reason
from apps.tenants.roles import Permission, Role
from tests.oidc_provider import CLIENT_SECRET, Provider
from tests.signing_in import (
    PEOPLE,
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


def set_groups(provider: Provider, *groups: str, person: str = "ada") -> None:
    provider.set(people={**PEOPLE, person: {**PEOPLE[person], "groups": list(groups)}})


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
    idp: IdentityProvider, provider: Provider, acme: Tenant, client: Client, settings: Any
) -> None:
    settings.RATE_LIMITS = {
        **settings.RATE_LIMITS,
        "login": 0,
    }  # counted in the database now and then, and anew each minute
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


def test_userinfo_may_be_signed_and_then_the_signature_counts(
    idp: IdentityProvider, provider: Provider, acme: Tenant
) -> None:
    for fault, words in (
        ("userinfo of another", "could not be verified"),
        ("userinfo by a foreign key", "could not be verified"),
        ("userinfo of another issuer", "could not be verified"),
        ("userinfo for another client", "meant for another application"),
        ("userinfo expired", "had expired"),
    ):
        provider.set(groups_in="userinfo", faults=["signed userinfo", fault])
        assert words in text_of(log_in(Client(), "ada")), fault
    assert not User.objects.exists()
    provider.set(groups_in="userinfo", faults=["signed userinfo"])
    assert log_in(Client(), "ada").status_code == 302
    assert roles_of(User.objects.get()) == {"operator"}


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
