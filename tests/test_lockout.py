"""Guessing passwords: who is locked out, from where, for how long, what the trail says, and the ways out."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

import pytest
from axes.models import AccessAttempt
from django.test import Client
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.tenants.models import Membership, User

pytestmark = pytest.mark.django_db
RIGHT, WRONG = "correct horse battery", "wrong"


@pytest.fixture(autouse=True)
def many_wrong_passwords(settings: Any) -> None:
    """Here are more of them than a minute allows."""
    settings.RATE_LIMITS = {**settings.RATE_LIMITS, "login": 0, "name": 0}


def attempt(name: str, password: str, address: str = "192.0.2.1", **headers: Any) -> Any:
    return Client(REMOTE_ADDR=address).post("/login/", {"username": name, "password": password}, headers=headers)


def guess(name: str, times: int, address: str = "192.0.2.1") -> Any:
    """Wrong passwords, each from another browser."""
    return [attempt(name, WRONG, address, user_agent=f"browser {n}") for n in range(times)][-1]


def test_five_wrong_passwords_lock_a_name_out_from_their_address_only(owner: User, viewer: User) -> None:
    assert guess("owner", 4).status_code == 200
    response = guess("owner", 1)
    assert response.status_code == 429
    page = re.sub(r"\s+", " ", response.content.decode())
    assert "Too many wrong passwords" in page
    assert "An administrator can unlock it" in page
    assert 800 < int(response["Retry-After"]) <= 901

    assert attempt("owner", RIGHT).status_code == 429, "not even the right one, so that guessing tells nothing"
    assert attempt("owner", RIGHT, "192.0.2.2").status_code == 302, "its owner comes in from elsewhere"
    assert attempt("viewer", RIGHT).status_code == 302, "and others from there"
    forwarded = attempt("owner", RIGHT, x_forwarded_for="192.0.2.2")
    assert forwarded.status_code == 429, "what a stranger says of their address is not believed"


def test_a_lock_out_ends_by_itself_and_further_guesses_do_not_prolong_it(owner: User) -> None:
    guess("owner", 5)
    AccessAttempt.objects.update(attempt_time=timezone.now() - dt.timedelta(minutes=14))
    guess("owner", 3)
    last = AccessAttempt.objects.order_by("-attempt_time")[0]
    assert last.attempt_time < timezone.now() - dt.timedelta(minutes=13)
    AccessAttempt.objects.update(attempt_time=timezone.now() - dt.timedelta(minutes=15, seconds=1))
    assert attempt("owner", RIGHT).status_code == 302
    guess("owner", 4)
    assert attempt("owner", RIGHT).status_code == 302
    assert not AccessAttempt.objects.exists(), "a login forgets the mistypings before it"


def test_a_name_that_nobody_has_is_treated_alike_and_is_not_kept_in_the_trail() -> None:
    assert guess("hunter2-typed-in-the-wrong-field", 5).status_code == 429
    entries = list(AuditEntry.objects.order_by("id"))
    assert {entry.resource_id for entry in entries} == {"00000000-0000-0000-0000-000000000000"}
    assert "hunter2" not in str([vars(entry) for entry in entries])


def test_the_trail_tells_of_logins_failures_lock_outs_and_logouts(owner: User) -> None:
    guess("owner", 5)
    attempt("owner", RIGHT)
    client = Client(REMOTE_ADDR="192.0.2.2")
    client.post("/login/", {"username": "owner", "password": RIGHT})
    client.post("/logout/")
    entries = AuditEntry.objects.order_by("id").values_list("action", "reason", "success", "address", "actor")
    failed = ("session:fail", "wrong_name_or_password", False, "192.0.2.1", "anonymous")
    assert sorted(entries[:6]) == sorted([failed] * 5 + [("session:lock", "", False, "192.0.2.1", "anonymous")])
    assert list(entries[6:]) == [
        ("session:fail", "locked_out", False, "192.0.2.1", "anonymous"),
        ("session:login", "", True, "192.0.2.2", str(owner.pk)),
        ("session:logout", "", True, "192.0.2.2", str(owner.pk)),
    ]
    assert {entry.resource_id for entry in AuditEntry.objects.all()} == {str(owner.pk)}


def test_a_platform_admin_unlocks_and_nobody_else_sees_the_page(
    owner: User, outsider: User, platform_admin: User
) -> None:
    guess("owner", 5)
    guess("owner", 2, "192.0.2.9")
    row = AccessAttempt.objects.filter(ip_address="192.0.2.1")[0]
    form = {"action": "unlock", "_selected_action": str(row.pk)}
    User.objects.update(is_staff=True)
    for user, answer in ((owner, 403), (outsider, 403), (platform_admin, 302)):
        client = Client()
        client.force_login(user)
        assert client.post("/admin/axes/accessattempt/", form).status_code == answer, user
    assert "locked out" not in client.get("/admin/axes/accessattempt/").content.decode().replace(
        "lock the name out", ""
    )
    assert attempt("owner", RIGHT).status_code == 302
    assert AccessAttempt.objects.filter(ip_address="192.0.2.9").count() == 2
    entry = AuditEntry.objects.get(action="session:unlock")
    assert (entry.actor, entry.resource_id) == (str(platform_admin.pk), str(owner.pk))
    assert entry.details == {"address": "192.0.2.1", "failures": 5}


def test_what_was_typed_is_not_kept_beside_the_name(owner: User) -> None:
    guess("owner", 1)
    kept = AccessAttempt.objects.get()
    assert WRONG not in kept.post_data + kept.get_data
    assert "csrf" not in kept.post_data or "****" in kept.post_data


def test_an_account_without_any_role_is_refused_and_its_sessions_end(viewer: User) -> None:
    client = Client()
    client.post("/login/", {"username": "viewer", "password": RIGHT})
    assert client.get("/").status_code == 200
    Membership.objects.all().delete()
    assert client.get("/")["Location"] == "/login/?ended=1&next=/"
    response = client.post("/login/", {"username": "viewer", "password": RIGHT})
    assert "This account has no role in any tenant" in response.content.decode()
    assert AuditEntry.objects.order_by("-id")[0].reason == "no_role"


def test_a_login_gives_the_session_another_key(viewer: User, client: Client) -> None:
    session = client.session
    session["before"] = 1
    session.save()
    before = str(session.session_key)
    client.cookies["sessionid"] = before
    client.post("/login/", {"username": "viewer", "password": RIGHT})
    assert client.session.session_key != before
