"""The audit trail over the API: narrowed as asked, read by those who may, and reading leaves its own entries."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from pytest_django import DjangoAssertNumQueries

from apps.audit import trail
from apps.audit.models import AuditEntry
from apps.audit.trail import Actor
from apps.tenants.models import Membership, Tenant, User
from apps.tenants.roles import Role
from tests.api_client import Caller, attrs, is_refusal

pytestmark = pytest.mark.django_db
NOW = dt.datetime(2026, 11, 21, 23, 30, tzinfo=dt.UTC)


def _entry(action: str, about: Tenant | User, *, hours: float = 0, actor: str = "ann", **fields: Any) -> AuditEntry:
    entry = trail.record(
        Actor(fields.pop("kind", "user"), actor, "203.0.113.7"),
        action,
        about,
        tenant_id=fields.pop("tenant_id", about.pk if isinstance(about, Tenant) else None),
        **fields,
    )
    # The trail refuses UPDATE: the moment is set as a new row would have it.
    return AuditEntry.objects.create(
        **{f.name: getattr(entry, f.name) for f in AuditEntry._meta.fields if f.name not in ("id", "at")},
        at=NOW - dt.timedelta(hours=hours),
    )


@pytest.fixture
def watcher(acme: Tenant) -> Caller:
    user = User.objects.create(username="watcher")
    Membership.objects.create(user=user, tenant=acme, role=Role.COMPLIANCE)
    return Caller(user)


@pytest.fixture
def entries(acme: Tenant, rival: Tenant) -> None:
    _entry("swarm:terminate", acme, hours=1, reason="wrong input", details={"a": 1})
    _entry("swarm:update", acme, hours=2, actor="ann/swd_abc", kind="token")
    _entry("budget:update", acme, hours=30, actor="bob", success=False, reason="not permitted")
    _entry("pool:update", rival, hours=3, tenant_id=None)
    _entry("swarm:create", rival, hours=1)


def found(call: Caller, query: str) -> list[str]:
    dated = f"from=2026-11-20T00:00:00Z&to=2026-11-22&{query}"
    return [entry["action"] for entry in call.get(f"/audit/?{dated}").json()["results"]]


@pytest.mark.usefixtures("entries")
def test_the_trail_is_narrowed_to_what_is_asked(watcher: Caller, platform_admin: User) -> None:
    assert found(watcher, "") == ["swarm:terminate", "swarm:update", "budget:update"]
    assert found(watcher, "actor=ann") == ["swarm:terminate", "swarm:update"]  # by token too
    assert found(watcher, "actor=ann&actor_kind=token") == ["swarm:update"]
    assert found(watcher, "action=swarm:") == ["swarm:terminate", "swarm:update"]
    assert found(watcher, "success=false") == ["budget:update"]
    assert found(watcher, "resource_kind=tenant") == ["swarm:terminate", "swarm:update", "budget:update"]
    assert found(watcher, "resource=nothing") == []
    assert found(watcher, "tenant=rival") == []
    by_day = watcher.get("/audit/?from=2026-11-21&to=2026-11-21").json()["results"]
    assert [entry["action"] for entry in by_day] == ["swarm:terminate", "swarm:update"]
    (first, *_) = by_day
    assert (first["tenant"], first["reason"], first["details"]) == ("acme", "wrong input", {"a": 1})
    assert (first["actor_kind"], first["actor"], first["address"]) == ("user", "ann", "203.0.113.7")


@pytest.mark.usefixtures("entries")
def test_pages_follow_each_other(watcher: Caller) -> None:
    page = watcher.get("/audit/?from=2026-11-20&to=2026-11-22&page_size=2").json()
    seen = [entry["action"] for entry in page["results"]]
    page = watcher.get(page["next"]).json()
    seen += [entry["action"] for entry in page["results"]]
    assert (seen, page["next"]) == (["swarm:terminate", "swarm:update", "budget:update"], None)


def test_reading_is_an_entry_of_its_own(watcher: Caller, acme: Tenant) -> None:  # G5
    assert watcher.get("/audit/?action=swarm:").status_code == 200
    entry = AuditEntry.objects.get(action="audit:read")
    assert (entry.tenant_id, entry.resource_id, entry.actor_kind) == (acme.pk, str(acme.pk), "token")
    assert entry.details == {"query": {"action": "swarm:"}, "entries": 0}


@pytest.mark.usefixtures("entries")
def test_without_the_permission_there_is_nothing_and_no_other_tenant_is_seen(
    viewer: User, outsider: User, acme: Tenant
) -> None:  # A5
    assert is_refusal(Caller(viewer).get("/audit/"), 403)
    assert is_refusal(Caller(None).get("/audit/"), 401)
    assert found(Caller(outsider), "") == ["swarm:create"]
    assert found(Caller(outsider), "tenant=acme") == []


@pytest.mark.parametrize(
    ("query", "attr"),
    [
        ("from=yesterday", "from"),
        ("from=2026-11-22&to=2026-11-20", "to"),
        ("actor_kind=ghost", "actor_kind"),
        ("success=maybe", "success"),
        ("colour=red", "colour"),
        ("cursor=xyz", "cursor"),
    ],
)
def test_a_question_that_makes_no_sense_says_where(query: str, attr: str, watcher: Caller) -> None:
    answer = watcher.get(f"/audit/?{query}")
    assert is_refusal(answer, 400)
    assert attrs(answer) == {attr}


@pytest.mark.usefixtures("entries")
def test_a_page_takes_few_queries(watcher: Caller, django_assert_num_queries: DjangoAssertNumQueries) -> None:
    watcher.get("/audit/")
    with django_assert_num_queries(6):  # the token, a savepoint around the page and its entry, slugs
        watcher.get("/audit/")
