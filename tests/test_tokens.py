"""Tokens of the REST API: made by a command, kept as a hash, refused with the reason."""

from __future__ import annotations

import datetime as dt
import io
import json
import re
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone
from knox.crypto import hash_token

from apps.audit import trail
from apps.audit.models import AuditEntry
from apps.audit.trail import Actor
from apps.tenants.access import OnSwarm, Principal
from apps.tenants.actions import CannotCreateToken, create_token, revoke_token
from apps.tenants.models import ApiToken, Membership, Tenant, User
from apps.tenants.roles import Permission, Role
from apps.tenants.token_text import PATTERN, is_whole, new_text
from portal.ids import uuid7

pytestmark = pytest.mark.django_db
DAY = dt.timedelta(days=1)
TESTER = Actor("system", "test")


def _make(*arguments: str) -> list[str]:
    out = io.StringIO()
    call_command("create_api_token", *arguments, stdout=out)
    return out.getvalue().rstrip("\n").split("\n")


def _get(token: str, path: str = "/api/v1/me/") -> Any:
    return Client().get(path, headers={"Authorization": f"Bearer {token}"})


def test_the_command_prints_the_token_alone_on_the_last_line(owner: User) -> None:
    token = _make("--user", "owner", "--tenant", "acme")[-1]
    assert re.fullmatch(PATTERN, token)
    assert _get(token).json()["user"]["username"] == "owner"


def test_the_token_is_not_in_the_database_nor_in_the_trail(owner: User) -> None:
    token = _make("--user", "owner", "--tenant", "acme", "--role", "admin", "--expires", "3")[-1]
    row = ApiToken.objects.get()
    assert token not in (row.digest, row.token_key)
    assert row.role == Role.ADMIN
    assert row.expiry is not None
    assert abs(row.expiry - timezone.now() - 3 * DAY) < dt.timedelta(minutes=1)
    entry = AuditEntry.objects.get(action="token:create")
    assert (entry.actor_kind, entry.actor, entry.resource_id) == ("command", "create_api_token", str(owner.pk))
    assert entry.details["role"] == "admin"
    assert token not in str(entry.details)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--user", "nemo", "--tenant", "acme"], "No user 'nemo'. Users: outsider, owner."),
        (["--user", "owner", "--tenant", "nowhere"], "No tenant 'nowhere'. Tenants: acme, rival."),
        (["--user", "owner", "--tenant", "acme", "--role", "king"], "No role 'king'. Roles: admin, developer"),
        (["--user", "owner", "--tenant", "rival"], "no role in tenant rival; tenants with a role: acme."),
        (
            ["--user", "owner", "--tenant", "acme", "--role", "viewer"],
            "not viewer of tenant acme; roles held",
        ),
        (
            ["--user", "owner", "--tenant", "acme", "--permission", "fly"],
            "No permission 'fly'. Permissions: swarm:create",
        ),
        (["--user", "owner", "--tenant", "acme", "--expires", "0"], "from 1 to 3650"),
        (["--user", "owner", "--tenant", "acme", "--expires", "99999999999"], "from 1 to 3650"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_2(arguments: list[str], says: str, owner: User, outsider: User) -> None:
    with pytest.raises(CommandError) as refusal:
        _make(*arguments)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert refusal.value.returncode == 2
    assert not ApiToken.objects.exists()


def test_an_inactive_user_gets_no_token(owner: User) -> None:
    User.objects.update(is_active=False)
    with pytest.raises(CommandError, match="not active"):
        _make("--user", "owner", "--tenant", "acme")


def test_a_platform_admin_gets_a_token_for_any_tenant_and_role(platform_admin: User, acme: Tenant) -> None:
    token = _make("--user", "root", "--tenant", "acme", "--role", "viewer")[-1]
    (tenant,) = _get(token).json()["tenants"]
    assert tenant["slug"] == "acme"
    assert "swarm:terminate" not in tenant["permissions"]


def test_no_token_stays_when_its_audit_row_cannot_be_written(
    owner: User, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("the trail is broken")

    monkeypatch.setattr(trail, "record", broken)
    with pytest.raises(RuntimeError):
        create_token(owner, acme, life=DAY, by=TESTER)
    assert not ApiToken.objects.exists()


def test_an_expired_token_is_refused_and_says_when_it_expired(owner: User, acme: Tenant) -> None:
    row, text = create_token(owner, acme, life=DAY, by=TESTER)
    ApiToken.objects.update(expiry=timezone.now() - DAY)
    answer = _get(text)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    (error,) = answer.json()["errors"]
    assert error["detail"].startswith("This token expired on 20")
    assert ApiToken.objects.filter(pk=row.pk).exists()


def test_a_revoked_token_is_refused_at_once(owner: User, acme: Tenant) -> None:
    row, text = create_token(owner, acme, life=DAY, by=TESTER)
    assert _get(text).status_code == 200
    revoke_token(row, by=TESTER, reason="lost laptop")
    answer = _get(text)
    assert answer.status_code == 401
    assert "revoked" in answer.json()["errors"][0]["detail"]
    entry = AuditEntry.objects.get(action="token:revoke")
    assert (entry.reason, entry.details["token"]) == ("lost laptop", row.token_key)


def test_a_token_of_a_deactivated_user_is_refused(owner: User, acme: Tenant) -> None:
    _, text = create_token(owner, acme, life=DAY, by=TESTER)
    User.objects.update(is_active=False)
    answer = _get(text)
    assert answer.status_code == 401
    assert "not active" in answer.json()["errors"][0]["detail"]


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        "Bearer a b",
        "Bearer wrong",
        "Bearer swd_\x00",
        "Bearer sw\xe9",
        "Basic b3duZXI6eA==",
        "Bearer " + "x" * 5000,
    ],
)
def test_a_header_that_is_no_token_is_refused(header: str, owner: User) -> None:
    answer = Client().get("/api/v1/me/", headers={"Authorization": header})
    assert answer.status_code == 401
    assert set(answer.json()) == {"type", "errors"}


def test_a_token_with_the_right_start_and_a_wrong_rest_is_refused(owner: User, acme: Tenant) -> None:
    _, text = create_token(owner, acme, life=DAY, by=TESTER)
    other = text[:15] + new_text()[15:-6]
    for wrong in (text[:-1] + ("0" if text[-1] != "0" else "1"), text[:15], other, new_text()):
        assert _get(wrong).status_code == 401


def test_a_mistyped_token_costs_no_query(owner: User, acme: Tenant, django_assert_num_queries: Any) -> None:
    text = new_text()
    swapped = text[:6] + text[7] + text[6] + text[8:] if text[6] != text[7] else text[:-1]
    assert is_whole(text)
    assert not is_whole(swapped)
    with django_assert_num_queries(0):
        answer = _get(swapped)
    assert "mistyped" in answer.json()["errors"][0]["detail"]


def test_a_token_without_a_checksum_still_counts(owner: User, acme: Tenant) -> None:
    row, _ = create_token(owner, acme, life=DAY, by=TESTER)
    text = "swd_" + "0123456789abcdef" * 4
    ApiToken.objects.filter(pk=row.pk).update(digest=hash_token(text), token_key=text[:15])
    assert _get(text).status_code == 200


def test_a_token_can_be_narrowed_to_single_permissions(owner: User, acme: Tenant) -> None:
    token = _make("--user", "owner", "--tenant", "acme", "--permission", "swarm:read", "--name", "dashboard")[-1]
    assert _get(token).json()["permissions"] == ["swarm:read"]
    assert _get(token, "/api/v1/budgets/").json()["results"] == []
    row = ApiToken.objects.get()
    assert (row.permissions, row.name) == (["swarm:read"], "dashboard")
    assert AuditEntry.objects.get(action="token:create").details["permissions"] == ["swarm:read"]
    # What its user may no longer do, it may not either.
    Membership.objects.update(role=Role.FINANCE)
    assert _get(token).json()["permissions"] == []


def test_narrowing_reaches_grants_on_single_swarms(owner: User, acme: Tenant) -> None:
    swarm_id = uuid7()
    held = frozenset({Permission.SWARM_READ, Permission.SWARM_TERMINATE})
    principal = Principal("token", "x", grants={swarm_id: OnSwarm(acme.pk, held)}).narrowed(["swarm:read"])
    assert principal.can(Permission.SWARM_READ, acme.pk, swarm_id=swarm_id)
    assert not principal.can(Permission.SWARM_TERMINATE, acme.pk, swarm_id=swarm_id)


def test_a_token_gets_no_permission_that_its_user_lacks(viewer: User, acme: Tenant) -> None:
    with pytest.raises(CannotCreateToken, match=r"As viewer of acme, viewer lacks swarm:create"):
        create_token(viewer, acme, permissions=["swarm:read", "swarm:create"], life=DAY, by=TESTER)


def test_tokens_are_listed_and_revoked_by_command(owner: User, acme: Tenant) -> None:
    _, text = create_token(owner, acme, name="nightly", role=Role.ADMIN, life=DAY, by=TESTER)
    out = io.StringIO()
    call_command("list_api_tokens", "--tenant", "acme", stdout=out)
    assert f"{text[:15]}…  owner in acme (admin), expires 20" in out.getvalue()
    assert text not in out.getvalue()
    out = io.StringIO()
    call_command("list_api_tokens", "--json", "--user", "owner", stdout=out)
    assert json.loads(out.getvalue())[0]["name"] == "nightly"
    with pytest.raises(CommandError, match="at least 8"):
        call_command("revoke_api_token", text[:7])
    with pytest.raises(CommandError, match="No token begins"):
        call_command("revoke_api_token", "swd_00000000")
    call_command("revoke_api_token", text, "--reason", "leaked", stdout=io.StringIO())
    assert _get(text).status_code == 401
    entry = AuditEntry.objects.get(action="token:revoke")
    assert (entry.actor, entry.reason) == ("revoke_api_token", "leaked")


def test_use_is_noted_once_a_minute(owner: User, acme: Tenant) -> None:
    row, _ = create_token(owner, acme, life=DAY, by=TESTER)
    start = timezone.now()
    assert row.note_use(now=start)
    assert not row.note_use(now=start + dt.timedelta(seconds=59))
    assert row.note_use(now=start + dt.timedelta(seconds=60))
    row.refresh_from_db()
    assert row.last_used_at == start + dt.timedelta(seconds=60)


def test_of_requests_that_arrive_together_one_notes_the_use(owner: User, acme: Tenant) -> None:
    row, _ = create_token(owner, acme, life=DAY, by=TESTER)
    twin = ApiToken.objects.get(pk=row.pk)
    now = timezone.now()
    assert row.note_use(now=now)
    assert not twin.note_use(now=now)


def test_a_request_notes_the_use_and_the_next_does_not_write(
    owner: User, acme: Tenant, django_assert_num_queries: Any
) -> None:
    row, text = create_token(owner, acme, life=DAY, by=TESTER)
    _get(text)
    row.refresh_from_db()
    assert row.last_used_at is not None
    with django_assert_num_queries(2):  # the token with all it may do, the tenants
        _get(text)


def test_many_tokens_of_one_user_cost_no_more_queries(
    owner: User, acme: Tenant, django_assert_num_queries: Any
) -> None:
    for _ in range(10):
        _, text = create_token(owner, acme, life=DAY, by=TESTER)
    _get(text)
    with django_assert_num_queries(2):
        _get(text)


def test_a_token_for_a_role_that_was_taken_away_sees_nothing(owner: User, acme: Tenant) -> None:
    _, text = create_token(owner, acme, role=Role.ADMIN, life=DAY, by=TESTER)
    Membership.objects.update(role=Role.VIEWER)
    assert _get(text).json()["tenants"] == []
    assert _get(text, "/api/v1/swarms/").json()["results"] == []


def test_a_life_out_of_bounds_is_refused(owner: User, acme: Tenant) -> None:
    for life in (dt.timedelta(0), -DAY, 3651 * DAY):
        with pytest.raises(CannotCreateToken):
            create_token(owner, acme, life=life, by=TESTER)
