"""What holds for every endpoint of the API: login, errors, bodies, pages; and who am I, and the pool."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from django.test import Client

from apps.swarms.models import ResourcePool
from apps.tenants.access import principal_of
from apps.tenants.granting import give
from apps.tenants.models import AccessPolicy, Membership, Tenant, User
from apps.tenants.roles import PERMISSIONS, Permission, Role
from tests.admin_rows import make_swarm
from tests.api_client import Caller, attrs, is_refusal

pytestmark = pytest.mark.django_db
SOME_ID = "01890a5d-ac96-774b-bcce-b302099a8057"
DOORS = [
    ("GET", "/me/"),
    ("GET", "/pool/"),
    ("GET", "/swarms/"),
    ("POST", "/swarms/"),
    ("GET", f"/swarms/{SOME_ID}/"),
    ("POST", f"/swarms/{SOME_ID}/terminate/"),
    ("POST", f"/swarms/{SOME_ID}/pause/"),
    ("POST", f"/swarms/{SOME_ID}/resume/"),
    ("POST", f"/swarms/{SOME_ID}/retry/"),
    ("GET", f"/swarms/{SOME_ID}/tasks/"),
    ("GET", f"/swarms/{SOME_ID}/events/"),
    ("GET", f"/tasks/{SOME_ID}/"),
    ("GET", f"/tasks/{SOME_ID}/attempts/"),
    ("POST", f"/tasks/{SOME_ID}/retry/"),
    ("GET", "/budgets/"),
    ("POST", "/budgets/"),
    ("GET", f"/budgets/{SOME_ID}/"),
    ("PATCH", f"/budgets/{SOME_ID}/"),
    ("DELETE", f"/budgets/{SOME_ID}/"),
    ("GET", "/providers/"),
    ("GET", f"/providers/{SOME_ID}/"),
    ("GET", "/nowhere/"),
]


@pytest.mark.parametrize(("method", "path"), DOORS)
def test_without_login_every_door_is_shut(method: str, path: str) -> None:
    answer = Caller(None)(method, path)
    assert is_refusal(answer, 401)
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "path"), [door for door in DOORS if SOME_ID in door[1]])
def test_ids_that_lead_nowhere_are_not_found(method: str, path: str, owner: User) -> None:
    call = Caller(owner)
    body = None if method == "GET" else {"reason": "because"} if "terminate" in path else {}
    assert is_refusal(call(method, path, body), 404)
    for bad in ("17", "not-an-id", "01890a5d-ac96-774b-bcce-b302099a805", "%00"):
        assert is_refusal(call(method, path.replace(SOME_ID, bad), body), 404)


@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", "/swarms/"), ("PUT", "/me/"), ("POST", "/pool/"), ("GET", f"/tasks/{SOME_ID}/retry/")],
)
def test_a_method_that_is_not_there_is_405(method: str, path: str, owner: User) -> None:
    assert is_refusal(Caller(owner)(method, path), 405)


def test_a_path_without_its_last_slash_says_so(owner: User) -> None:
    for method in ("GET", "POST"):
        answer = Caller(owner)(method, "/swarms")
        assert is_refusal(answer, 404)
        assert "/api/v1/swarms/" in answer.json()["errors"][0]["detail"]
    assert "slash" not in Caller(owner).get("/wrong").json()["errors"][0]["detail"]


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"a": NaN}', "not a JSON value"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"name": "a\\u0000b"}', "NUL"),
        (b'{"name": "\\uD800"}', "surrogate"),
    ],
)
def test_a_body_that_cannot_be_read_says_why(raw: bytes, says: str, owner: User) -> None:
    caller = Caller(owner)
    answer = caller.client.post("/api/v1/budgets/", raw, content_type="application/json", headers=caller.headers)
    assert is_refusal(answer, 400)
    assert says in answer.json()["errors"][0]["detail"]


def test_a_letter_beyond_the_basic_plane_is_no_half_of_a_pair(finance: User, acme: Tenant) -> None:
    caller = Caller(finance)
    body = json.dumps({"tenant": "acme", "name": "\U0001f41d", "limit_usd": "1"})
    assert "\\ud83d" in body
    answer = caller.client.post("/api/v1/budgets/", body, content_type="application/json", headers=caller.headers)
    assert answer.json()["name"] == "\U0001f41d"


def test_a_body_beyond_the_limit_is_413(owner: User, settings: Any) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    assert is_refusal(Caller(owner).post("/budgets/", {"name": "x" * 1000}), 413)


@pytest.mark.parametrize("media", ["text/yaml", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_a_body_that_is_not_json_is_415(media: str, owner: User) -> None:
    caller = Caller(owner)
    answer = caller.client.post("/api/v1/budgets/", b"a=b", content_type=media, headers=caller.headers)
    assert is_refusal(answer, 415)


@pytest.mark.parametrize("body", [[], [1], "text", 5, True])
def test_a_body_that_is_no_object_is_refused(body: Any, owner: User) -> None:
    caller = Caller(owner)
    answer = caller.client.post(
        "/api/v1/budgets/", json.dumps(body), content_type="application/json", headers=caller.headers
    )
    assert is_refusal(answer, 400)


def test_a_session_logs_in_too_and_must_send_the_csrf_token(finance: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(finance)
    assert client.get("/api/v1/me/").json()["token"] is None
    answer = client.post("/api/v1/budgets/", {"tenant": "acme"}, content_type="application/json")
    assert is_refusal(answer, 403)
    assert "CSRF" in answer.json()["errors"][0]["detail"]


def test_a_token_needs_no_csrf_token(finance: User) -> None:
    caller = Caller(finance)
    caller.client = Client(enforce_csrf_checks=True)
    answer = caller.post("/budgets/", {"tenant": "acme", "name": "b", "limit_usd": "1"})
    assert answer.status_code == 201


def _cursor(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


BAD_CURSORS = [
    "garbage",
    "***",
    "é",
    "%00",
    *map(
        _cursor,
        [
            "5",
            "[]",
            "[true]",
            "[false, 1, 2, 3]",
            '[false, "x", "y"]',
            '[false, "2026-11-21T05:00:00Z", "x"]',
            '[false, "\\u0000", "\\u0000"]',
            '[false, {"a": 1}, []]',
            "[" * 50_000,
            "[false, 1e400, 1]",
        ],
    ),
]


@pytest.mark.parametrize("path", ["/swarms/", "/budgets/"])
@pytest.mark.parametrize("cursor", BAD_CURSORS)
def test_a_cursor_made_by_nobody_is_refused(path: str, cursor: str, owner: User) -> None:
    answer = Caller(owner).get(f"{path}?cursor={cursor}")
    assert is_refusal(answer, 400)
    assert attrs(answer) == {"cursor"}


@pytest.mark.parametrize("size", ["0", "-1", "x", "100000", ""])
def test_page_sizes_out_of_bounds_fall_back(size: str, owner: User) -> None:
    assert Caller(owner).get(f"/budgets/?page_size={size}").status_code == 200


def test_answers_are_kept_by_nobody_on_the_way(owner: User) -> None:
    for path in ("/me/", "/costs/ledger/", "/nowhere/"):
        assert Caller(owner).get(path).headers["Cache-Control"] == "no-store"


def test_a_page_is_next_previous_and_results(owner: User) -> None:
    assert Caller(owner).get("/budgets/").json() == {"next": None, "previous": None, "results": []}


# -- me --------------------------------------------------------------------------------------------------------------


def test_me_tells_user_tenants_and_permissions(viewer: User, acme: Tenant) -> None:
    me = Caller(viewer).get("/me/").json()
    assert me["user"] == {
        "id": str(viewer.pk),
        "username": "viewer",
        "email": "viewer@example.test",
        "is_platform_admin": False,
    }
    (tenant,) = me["tenants"]
    assert (tenant["id"], tenant["slug"], tenant["time_zone"]) == (str(acme.pk), "acme", "America/New_York")
    assert tenant["permissions"] == me["permissions"] == sorted(PERMISSIONS[Role.VIEWER])
    assert me["token"]["tenant"] == "acme"
    assert me["token"]["expires_at"].endswith("Z")


def test_me_of_a_session_has_every_tenant_of_the_user(owner: User, rival: Tenant) -> None:
    Membership.objects.create(user=owner, tenant=rival, role=Role.VIEWER)
    client = Client()
    client.force_login(owner)
    assert [tenant["slug"] for tenant in client.get("/api/v1/me/").json()["tenants"]] == ["acme", "rival"]
    assert [tenant["slug"] for tenant in Caller(owner).get("/me/").json()["tenants"]] == ["acme"]


def test_me_of_a_platform_admin_has_everything(platform_admin: User, acme: Tenant, rival: Tenant) -> None:
    client = Client()
    client.force_login(platform_admin)
    me = client.get("/api/v1/me/").json()
    assert me["user"]["is_platform_admin"]
    assert len(me["tenants"]) == 2
    assert set(me["permissions"]) == {str(permission) for permission in Permission}


def test_the_outsider_does_not_hear_of_acme(acme: Tenant, outsider: User) -> None:
    assert "acme" not in Caller(outsider).get("/me/").content.decode()


def test_me_tells_what_is_granted_on_single_swarms(
    owner: User, viewer: User, outsider: User, acme: Tenant, django_assert_num_queries: Any
) -> None:
    swarm, other = make_swarm(acme, "shared"), make_swarm(acme, "gone")
    give(outsider, swarm.pk, acme, gives="swarm:update", reason="Helps.", by=principal_of(owner))
    client = Client()
    client.force_login(outsider)
    told = client.get("/api/v1/me/").json()
    expected = {"swarm": str(swarm.pk), "name": "shared", "tenant": "acme"}
    assert told["grants"] == [{**expected, "permissions": ["swarm:read", "swarm:update"]}]
    assert [tenant["slug"] for tenant in told["tenants"]] == ["rival"]
    assert Caller(viewer).get("/me/").json()["grants"] == []
    # A policy takes away here too, and the name is part of what may not be read.
    AccessPolicy.objects.create(name="No", tenant=acme, state="enabled", actions=["swarm:read"])
    assert client.get("/api/v1/me/").json()["grants"] == [{**expected, "name": None, "permissions": ["swarm:update"]}]
    AccessPolicy.objects.all().delete()
    give(outsider, other.pk, acme, gives="viewer", reason="Helps.", by=principal_of(owner))
    with django_assert_num_queries(5):  # session, user, what they may do, tenants, the names of the swarms
        assert [grant["name"] for grant in client.get("/api/v1/me/").json()["grants"]] == ["gone", "shared"]


# -- pool ------------------------------------------------------------------------------------------------------------


def test_the_pool_tells_used_total_and_percent(viewer: User) -> None:  # O2
    ResourcePool.objects.update(
        agents_total=400, agents_used=100, memory_gb_total=300, memory_gb_used=100, cpu_used="0.5"
    )
    pool = Caller(viewer).get("/pool/").json()
    assert set(pool) == {"agents", "memory_gb", "cpu", "swarms"}
    assert pool["agents"] == {"used": 100, "total": 400, "percent": 25.0}
    assert pool["memory_gb"] == {"used": 100.0, "total": 300.0, "percent": 33.3}
    assert pool["cpu"]["used"] == 0.5


def test_the_pool_needs_its_permission(finance: User) -> None:
    assert is_refusal(Caller(finance).get("/pool/"), 403)


def test_the_pool_is_three_queries(viewer: User, django_assert_max_num_queries: Any) -> None:
    call = Caller(viewer)
    call.get("/pool/")
    with django_assert_max_num_queries(3):
        call.get("/pool/")
