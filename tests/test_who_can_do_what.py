"""The pages for those who answer for access: who can do what, and why something is allowed or denied."""

from __future__ import annotations

import csv
import datetime as dt
import io
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.swarms.models import Swarm
from apps.tenants.access import Principal, principal_of
from apps.tenants.actions import create_token
from apps.tenants.explaining import explain
from apps.tenants.granting import give
from apps.tenants.holders import Holder, holders
from apps.tenants.models import AccessPolicy, Membership, Tenant, User
from apps.tenants.roles import PERMISSIONS, Permission, Role
from portal.money import NANO
from tests.admin_rows import make_rows, make_swarm

P = Permission
NOW = dt.datetime(2026, 11, 26, 12, tzinfo=dt.UTC)
WHO, WHY = "admin:access_who", "admin:access_why"
pytestmark = pytest.mark.django_db


def client_of(user: User) -> Client:
    user.is_staff = True
    user.save()
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def swarm(acme: Tenant) -> Swarm:
    return make_swarm(acme, "shared")


def sources(found: list[Holder], name: str, permission: Permission) -> list[tuple[str, str]]:
    (holder,) = [each for each in found if each.user.username == name]
    return [(source.kind, source.text) for source in holder.sources.get(permission, [])]


def test_each_permission_with_all_that_gives_it(
    owner: User, viewer: User, outsider: User, platform_admin: User, acme: Tenant, swarm: Swarm
) -> None:
    by = principal_of(owner)
    give(outsider, swarm.pk, acme, gives="swarm:terminate", reason="Helps.", by=by)
    soon = timezone.now() + dt.timedelta(hours=1)
    give(outsider, swarm.pk, acme, gives="operator", reason="Helps.", by=by, expires_at=soon)
    create_token(owner, acme, permissions=["swarm:read"], life=dt.timedelta(days=1), by=by)
    create_token(viewer, acme, role=Role.VIEWER, life=dt.timedelta(hours=1), by=by)
    late = timezone.now() + dt.timedelta(hours=2)
    found = holders(acme, now=timezone.now())
    assert [each.user.username for each in found] == ["outsider", "owner", "root", "viewer"]
    assert sources(found, "owner", P.USER_MANAGE) == [("role", "admin")]
    assert [kind for kind, _ in sources(found, "owner", P.SWARM_READ)] == ["role", "token"]
    assert [kind for kind, _ in sources(found, "viewer", P.BUDGET_READ)] == ["role", "token"]
    assert sources(found, "outsider", P.SWARM_TERMINATE) == [("grant", f"on …{str(swarm.pk)[-6:]}")] * 2
    assert sources(found, "outsider", P.USER_MANAGE) == []
    assert sources(found, "root", P.POOL_UPDATE) == [("platform admin", "everything")]
    # What is over gives nothing, and neither do people who left.
    assert sources(holders(acme, now=late), "outsider", P.SWARM_UPDATE) == []
    assert [kind for kind, _ in sources(holders(acme, now=late), "viewer", P.BUDGET_READ)] == ["role"]
    User.objects.filter(pk=viewer.pk).update(is_active=False)
    assert "viewer" not in {each.user.username for each in holders(acme, now=NOW)}
    assert [each.user.username for each in holders(acme, now=NOW, permission="pool:update")] == ["root"]
    assert [each.user.username for each in holders(acme, now=NOW, person="OWN")] == ["owner"]
    # It says of each person just what their principal says.
    for holder in found:
        if holder.user != viewer:
            held = {p for p in P if principal_of(holder.user).can(p, acme.pk, swarm_id=swarm.pk)}
            assert {p for p in P if holder.sources.get(p)} == held, holder.user


def test_auditors_see_their_tenants_and_nobody_elses(  # A1 A5
    owner: User, viewer: User, outsider: User, acme: Tenant, platform_admin: User
) -> None:
    auditor = User.objects.create(username="auditor", email="auditor@example.test")
    Membership.objects.create(user=auditor, tenant=acme, role=Role.COMPLIANCE)
    for user, names, links in ((owner, True, True), (auditor, True, False), (outsider, False, False)):
        page = client_of(user).get(reverse(WHO), {"tenant": "acme"})
        text = page.content.decode()
        assert page.status_code == 200
        assert (">viewer" in text or "viewer</a>" in text) is names, user
        assert (reverse("admin:tenants_user_change", args=[viewer.pk]) in text) is links, user
        assert "outsider" not in text or user == outsider
    for name in (WHO, WHY):
        assert client_of(viewer).get(reverse(name)).status_code == 403
    assert "Nobody of that name" in (
        client_of(owner)
        .get(reverse(WHY), {"tenant": "acme", "person": "outsider", "permission": "swarm:read"})
        .content.decode()
    )
    asked = {"tenant": "acme", "person": "viewer", "permission": "swarm:read"}
    assert "Allowed" not in client_of(outsider).get(reverse(WHY), asked).content.decode()

    answer = client_of(auditor).get(reverse(WHO), {"tenant": "acme", "download": "csv"})
    rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
    theirs = {row["permission"] for row in rows if row["username"] == "viewer"}
    assert theirs == set(PERMISSIONS[Role.VIEWER])
    assert {row["from"] for row in rows} == {"role", "platform admin"}
    assert AuditEntry.objects.get(action="access:export").actor == str(auditor.pk)


def test_the_page_asks_as_often_for_many_people_as_for_few(owner: User, acme: Tenant, platform_admin: User) -> None:
    client = client_of(owner)
    counts = []
    for _ in range(2):
        make_rows(acme, 3)
        with CaptureQueriesContext(
            connection,
        ) as asked:
            page = client.get(reverse(WHO), {"tenant": "acme"})
        assert page.status_code == 200
        counts.append(len(asked))
    assert counts[0] == counts[1] <= 12, counts


STEPS: list[tuple[dict[str, Any], bool, list[tuple[str, str]], str]] = [
    # what differs about the request, whether it is allowed, the steps (beginning, outcome), why the row is here
    ({}, True, [("The account", "passes"), ("Role operator", "gives"), ("Policy “Nights”", "passes")], "a plain yes"),
    ({"permission": P.USER_MANAGE}, False, [("Role operator", "nothing"), ("Neither", "denies")], "no role gives it"),
    (
        {"permission": P.SWARM_DELETE, "on": True},
        True,
        [("Role operator", "nothing"), ("Grant of", "gives")],
        "a grant",
    ),
    (
        {"at": NOW + dt.timedelta(hours=12)},
        False,
        [("Role operator", "gives"), ("Policy “Nights”", "denies")],
        "at night",
    ),
    ({"amount": 6 * NANO}, True, [("Policy “Sums”", "would deny")], "under test"),
]


@pytest.mark.parametrize(("differs", "allowed", "steps", "why"), STEPS, ids=[row[3] for row in STEPS])
def test_the_steps_to_an_answer(
    differs: dict[str, Any], allowed: bool, steps: list[tuple[str, str]], why: str,
    operator: User, owner: User, acme: Tenant, swarm: Swarm,
) -> None:  # fmt: skip
    give(operator, swarm.pk, acme, gives="swarm:delete", reason="Once.", by=principal_of(owner))
    hours = {"starts": dt.time(6), "ends": dt.time(18)}
    AccessPolicy.objects.create(tenant=acme, name="Nights", state="enabled", **hours)
    AccessPolicy.objects.create(tenant=acme, name="Sums", state="testing", above=5 * NANO)
    asked: dict[str, Any] = {"permission": P.SWARM_UPDATE, "at": NOW, **differs}
    if asked.pop("on", False):
        asked["swarm_id"] = swarm.pk
    found = explain(operator, acme, **asked)
    assert found.allowed is allowed
    told = [(step.about, step.outcome) for step in found.steps]
    for beginning, outcome in steps:
        assert [o for about, o in told if about.startswith(beginning)] == [outcome], (beginning, told)


def test_tokens_and_accounts_are_steps_too(operator: User, owner: User, platform_admin: User, acme: Tenant) -> None:
    by = Principal("system", "test")
    token, _ = create_token(operator, acme, permissions=["swarm:read"], life=dt.timedelta(days=1), by=by)

    def outcomes(user: User, **more: Any) -> tuple[bool, set[str]]:
        found = explain(user, acme, P.SWARM_UPDATE, **{"at": timezone.now(), **more})
        return found.allowed, {step.outcome for step in found.steps}

    assert outcomes(operator, token=token) == (False, {"passes", "denies", "nothing"})
    assert outcomes(operator, token=token, at=timezone.now() + dt.timedelta(days=2))[0] is False
    assert outcomes(platform_admin) == (True, {"gives"})
    operator.is_active = False
    operator.save()
    assert outcomes(operator) == (False, {"denies"})


def test_explaining_in_the_administration(owner: User, operator: User, acme: Tenant, swarm: Swarm) -> None:
    AccessPolicy.objects.create(tenant=acme, name="Inside", state="enabled", networks=["10.0.0.0/8"])
    client = client_of(owner)
    client.defaults["REMOTE_ADDR"] = "10.9.9.9"
    asked = {"tenant": "acme", "person": "operator", "permission": "swarm:terminate", "address": "192.0.2.1"}
    denied = client.get(reverse(WHY), asked).content.decode()
    assert "Denied" in denied
    assert "it is from 192.0.2.1" in denied
    assert "Allowed" in client.get(reverse(WHY), {**asked, "address": "10.0.0.1"}).content.decode()
    assert "no such token" in client.get(reverse(WHY), {**asked, "token": "zzz"}).content.decode()
