"""Swarms over the API: submitted, listed, read, steered; by whom, and seen by whom."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.costs.models import Kind, LedgerEntry, Reservation
from apps.providers.models import Provider
from apps.swarms.models import Priority, Swarm, SwarmStatus, Task, TaskStatus
from apps.tenants.models import Membership, Tenant, User
from apps.tenants.roles import Role
from tests.api_client import Caller, attrs, is_refusal
from tests.specs import BRIEF, simulated, spec, task
from tests.swarms import StepOf, make_swarm

pytestmark = pytest.mark.django_db
ACTS = ("terminate", "pause", "resume", "retry")


@pytest.fixture
def provider(db: None) -> Provider:
    return simulated()


@pytest.fixture
def running(acme: Tenant) -> Swarm:
    return make_swarm(acme, [StepOf("gather", items=3), StepOf("brief", needs=["gather"])])


def _fail(swarm: Swarm) -> Task:
    """One of its tasks failed for good, and the swarm with it."""
    Task.objects.filter(swarm=swarm).update(status=TaskStatus.CANCELLED)
    failed = Task.objects.filter(swarm=swarm).order_by("index")[0]
    Task.objects.filter(pk=failed.pk).update(status=TaskStatus.FAILED, failure_code="agent_error", error="No facts.")
    Swarm.objects.filter(pk=swarm.pk).update(
        status=SwarmStatus.FAILED, holds_resources=False, tasks_failed=1, tasks_cancelled=swarm.tasks_total - 1
    )
    swarm.agents.update(slots_free=10)
    return failed


# -- submitting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [BRIEF, spec()], ids=["YAML text", "an object"])
def test_a_spec_becomes_a_queued_swarm(given: Any, developer: User, provider: Provider) -> None:  # O1
    call = Caller(developer)
    made = call.post("/swarms/", {"tenant": "acme", "spec": given})
    assert made.status_code == 201
    body = made.json()
    assert (body["status"], body["tenant"]) == ("queued", "acme")
    assert made.headers["Location"] == f"/api/v1/swarms/{body['id']}/"
    swarm = Swarm.objects.get(pk=body["id"])
    assert swarm.submitted_by == developer
    assert body.pop("warnings") == []
    assert call.get(made.headers["Location"]).json() == body
    entry = AuditEntry.objects.get(action="swarm:create")
    assert (entry.actor_kind, entry.resource_id, entry.address) == ("token", body["id"], "127.0.0.1")


def test_json_text_is_a_spec_too(developer: User, provider: Provider) -> None:
    answer = Caller(developer).post("/swarms/", {"tenant": "acme", "spec": json.dumps(spec(swarm="t"))})
    assert answer.json()["name"] == "t"


def test_every_error_of_a_spec_is_listed_with_its_path(developer: User, provider: Provider) -> None:  # O1
    wrong = spec(
        agents={"worker": {"model": "simulated:small", "replicas": 0, "colour": "red"}, "other": {"model": "nobody:x"}},
        tasks=[task("a", needs=["missing"]), task("b", needs=["c"]), task("c", needs=["b"])],
        budget_usd=-1,
    )
    answer = Caller(developer).post("/swarms/", {"tenant": "acme", "spec": wrong})
    assert is_refusal(answer, 400)
    assert answer.json()["type"] == "validation_error"
    assert {
        "agents.worker.replicas",
        "agents.worker.colour",
        "agents.other.model",
        "tasks[0].needs[0]",
        "budget_usd",
    } <= (attrs(answer))
    assert any("tasks[1]" in str(attr) or "tasks[2]" in str(attr) for attr in attrs(answer))
    assert not Swarm.objects.exists()


def test_errors_of_yaml_text_name_the_line(developer: User, provider: Provider) -> None:
    answer = Caller(developer).post(
        "/swarms/", {"tenant": "acme", "spec": BRIEF.replace("priority: high", "priority: soon")}
    )
    (error,) = answer.json()["errors"]
    assert error["attr"] == "priority"
    assert error["detail"].endswith("(line 2)")


@pytest.mark.parametrize(
    ("body", "blamed"),
    [
        ({}, {"tenant", "spec"}),
        ({"tenant": "acme"}, {"spec"}),
        ({"tenant": "acme", "spec": None}, {"spec"}),
        ({"tenant": "acme", "spec": 5}, {"spec"}),
        ({"tenant": "acme", "spec": []}, {"spec"}),
        ({"tenant": "acme", "spec": ""}, {"spec"}),
        ({"tenant": "acme", "spec": "just text"}, {"spec"}),
        ({"tenant": "acme", "spec": "a: [unclosed"}, {"spec"}),
        ({"tenant": "nowhere", "spec": spec()}, {"tenant"}),
        ({"tenant": "rival", "spec": spec()}, {"tenant"}),
        ({"tenant": ["acme"], "spec": spec()}, {"tenant"}),
        ({"tenant": "acme", "spec": spec(), "priority": "high"}, {"priority"}),
    ],
)
def test_wrong_submissions_are_refused_and_say_what_is_wrong(
    body: dict[str, Any], blamed: set[str], developer: User, rival: Tenant, provider: Provider
) -> None:
    answer = Caller(developer).post("/swarms/", body)
    assert is_refusal(answer, 400), answer.content
    assert attrs(answer) == blamed
    assert not Swarm.objects.exists()


def test_a_tenant_that_is_not_active_takes_nothing_new(developer: User, provider: Provider, acme: Tenant) -> None:
    Tenant.objects.update(is_active=False)
    answer = Caller(developer).post("/swarms/", {"tenant": "acme", "spec": spec()})
    assert is_refusal(answer, 409)
    assert "not active" in answer.json()["errors"][0]["detail"]


def test_viewers_submit_nothing(viewer: User, provider: Provider) -> None:
    answer = Caller(viewer).post("/swarms/", {"tenant": "acme", "spec": spec()})
    assert is_refusal(answer, 403)
    assert "swarm:create" in answer.json()["errors"][0]["detail"]
    assert not Swarm.objects.exists()


def test_the_outsider_submits_nothing_and_learns_nothing(outsider: User, acme: Tenant, provider: Provider) -> None:
    call = Caller(outsider)
    hidden = call.post("/swarms/", {"tenant": "acme", "spec": spec()})
    missing = call.post("/swarms/", {"tenant": "none", "spec": spec()})
    assert is_refusal(hidden, 400)
    assert hidden.content.replace(b"acme", b"none") == missing.content
    assert not Swarm.objects.exists()


# -- reading ---------------------------------------------------------------------------------------------------------


def test_a_swarm_is_told_in_the_shape_of_the_contract(viewer: User, running: Swarm) -> None:  # O6
    facts = {"tenant_id": running.tenant_id, "swarm_id": running.pk, "agent": "worker", "model": "simulated:small"}
    LedgerEntry.objects.create(kind=Kind.LLM, amount=1_000_000_125, input_tokens=7, output_tokens=5, **facts)
    Reservation.objects.create(amount=500_000_000, period_ids=[], expires_at=timezone.now(), **facts)
    body = Caller(viewer).get(f"/swarms/{running.pk}/").json()
    assert {
        "id", "name", "tenant", "status", "priority", "progress", "queue", "agents", "tasks_url", "metrics", "cost",
        "budget", "created_at", "started_at", "finished_at", "archived",
    } <= set(body)  # fmt: skip
    assert {"total", "succeeded", "failed", "running", "pending", "percent"} <= set(body["progress"])
    assert body["progress"]["total"] == body["progress"]["pending"] == 4
    assert {"position", "estimated_start"} <= set(body["queue"])
    assert set(body["metrics"]) == {"error_rate", "p50_seconds", "p99_seconds", "tokens"}
    assert body["metrics"]["tokens"] == 12
    assert body["cost"]["llm_usd"] == body["cost"]["total_usd"] == "1.000000125"
    assert body["cost"]["reserved_usd"] == "0.50"
    assert (body["status"], body["priority"], body["budget"], body["archived"]) == ("running", "normal", None, False)
    assert body["created_at"] == "2026-11-21T12:00:00Z"
    assert body["tasks_url"] == f"http://testserver/api/v1/swarms/{running.pk}/tasks/"
    assert Caller(viewer).get(body["tasks_url"]).status_code == 200


def test_a_swarms_own_budget_is_in_its_document(developer: User, provider: Provider) -> None:
    call = Caller(developer)
    budget = call.post("/swarms/", {"tenant": "acme", "spec": BRIEF}).json()["budget"]
    assert (budget["limit_usd"], budget["remaining_usd"]) == ("2.50", "2.50")
    assert call.get(f"/budgets/{budget['id']}/").json()["period"] == "run"


def test_the_person_a_swarm_runs_for_is_not_told(developer: User, provider: Provider) -> None:
    made = Caller(developer).post("/swarms/", {"tenant": "acme", "spec": BRIEF})
    assert b"user-8842" not in made.content


def test_lists_can_be_narrowed(viewer: User, acme: Tenant, rival: Tenant, running: Swarm) -> None:
    queued = make_swarm(acme, [StepOf("a")], running=False, priority=Priority.CRITICAL)
    Swarm.objects.filter(pk=queued.pk).update(name="Nightly market brief")
    make_swarm(rival, [StepOf("a")], running=False, priority=Priority.CRITICAL)
    call = Caller(viewer)

    def ids(query: str = "") -> set[str]:
        return {row["id"] for row in call.get(f"/swarms/?{query}").json()["results"]}

    both = {str(running.pk), str(queued.pk)}
    assert ids() == ids("tenant=acme") == ids("status=queued&status=running") == both
    assert ids("status=queued") == ids("priority=critical") == ids("search=brief+nightly") == {str(queued.pk)}
    assert ids("priority=low&priority=normal") == ids("search=test") == {str(running.pk)}
    assert ids("tenant=rival") == ids("tenant=nowhere") == ids("search=nothing") == set()


@pytest.mark.parametrize("query", ["status=sleeping", "priority=9", "priority=urgent", "cursor=x"])
def test_filters_that_cannot_be_are_refused(query: str, viewer: User) -> None:
    answer = Caller(viewer).get(f"/swarms/?{query}")
    assert is_refusal(answer, 400)
    assert attrs(answer) == {query.partition("=")[0]}


@pytest.mark.parametrize("query", ["search=%00", "tenant=%00", "search=%25%27%22", "search=" + "x+" * 500])
def test_strange_texts_in_filters_find_nothing(query: str, viewer: User, running: Swarm) -> None:
    assert Caller(viewer).get(f"/swarms/?{query}").status_code in (200, 400)


def test_pages_meet_without_gap_or_overlap_while_swarms_come_in(viewer: User, acme: Tenant) -> None:
    now = timezone.now()
    # Three at a time were made in the same instant.
    made = [make_swarm(acme, [StepOf("a")], running=False, now=now + dt.timedelta(seconds=n // 3)) for n in range(10)]
    expected = [str(swarm.pk) for swarm in sorted(made, key=lambda s: (s.created_at, s.pk), reverse=True)]
    call = Caller(viewer)
    page = call.get("/swarms/?page_size=4").json()
    seen = [row["id"] for row in page["results"]]
    make_swarm(acme, [StepOf("a")], running=False, now=now + dt.timedelta(days=1))
    while page["next"]:
        page = call.get(page["next"]).json()
        seen += [row["id"] for row in page["results"]]
    assert seen == expected
    back = call.get(page["previous"]).json()
    assert [row["id"] for row in back["results"]] == expected[4:8]
    newer = call.get(back["previous"]).json()
    assert [row["id"] for row in newer["results"]] == expected[:4]
    assert call.get(newer["next"]).json()["results"] == back["results"]
    assert len(call.get(newer["previous"]).json()["results"]) == 1  # the one that came in


def test_a_list_of_fifty_costs_eight_queries(viewer: User, acme: Tenant, django_assert_max_num_queries: Any) -> None:
    for _ in range(50):
        make_swarm(acme, [StepOf("a")], running=False)
    call = Caller(viewer)
    call.get("/me/")
    with django_assert_max_num_queries(7):
        assert len(call.get("/swarms/").json()["results"]) == 50


def test_the_queries_of_one_swarm_are_few(viewer: User, running: Swarm, django_assert_max_num_queries: Any) -> None:
    call = Caller(viewer)
    with django_assert_max_num_queries(7):  # the first time, and after each change
        call.get(f"/swarms/{running.pk}/")
    with django_assert_max_num_queries(3):
        call.get(f"/swarms/{running.pk}/")


# -- steering --------------------------------------------------------------------------------------------------------


def test_an_operator_steers_a_swarm(operator: User, running: Swarm) -> None:  # O4
    call, path = Caller(operator), f"/swarms/{running.pk}"
    paused = call.post(f"{path}/pause/", {"reason": "too dear"})
    assert (paused.status_code, paused.json()["status"], paused.json()["status_reason"]) == (200, "paused", "too dear")
    assert call.post(f"{path}/resume/").json()["status"] == "running"
    assert call.post(f"{path}/pause/").json()["status"] == "paused"
    ended = call.post(f"{path}/terminate/", {"reason": "not needed any more"})
    assert (ended.status_code, ended.json()["status"]) == (200, "terminated")
    entry = AuditEntry.objects.get(action="swarm:terminate")
    assert (entry.reason, entry.actor_kind) == ("not needed any more", "token")


def test_failed_tasks_are_retried(operator: User, running: Swarm) -> None:  # O4
    _fail(running)
    answer = Caller(operator).post(f"/swarms/{running.pk}/retry/")
    assert (answer.status_code, answer.json()["status"]) == (200, "queued")


@pytest.mark.parametrize(
    ("act", "says"), [("resume", "Only a paused swarm"), ("retry", "None of its tasks has failed")]
)
def test_what_cannot_be_done_now_is_a_conflict_with_its_reason(
    act: str, says: str, operator: User, running: Swarm
) -> None:
    answer = Caller(operator).post(f"/swarms/{running.pk}/{act}/")
    assert is_refusal(answer, 409)
    assert says in answer.json()["errors"][0]["detail"]


def test_terminating_twice_is_a_conflict(operator: User, running: Swarm) -> None:
    call, path = Caller(operator), f"/swarms/{running.pk}/terminate/"
    assert call.post(path, {"reason": "a"}).status_code == 200
    assert is_refusal(call.post(path, {"reason": "b"}), 409)


@pytest.mark.parametrize("body", [None, {}, {"reason": ""}, {"reason": "   "}, {"reason": []}])
def test_terminating_asks_for_a_reason(body: Any, operator: User, running: Swarm) -> None:
    answer = Caller(operator).post(f"/swarms/{running.pk}/terminate/", body)
    assert is_refusal(answer, 400)
    assert attrs(answer) == {"reason"}
    running.refresh_from_db()
    assert running.status == SwarmStatus.RUNNING


@pytest.mark.parametrize("act", ACTS)
def test_unknown_keys_are_errors(act: str, operator: User, running: Swarm) -> None:
    answer = Caller(operator).post(f"/swarms/{running.pk}/{act}/", {"reason": "x", "force": True})
    assert is_refusal(answer, 400)
    assert "force" in attrs(answer)


@pytest.mark.parametrize("act", ACTS)
def test_a_viewer_sees_the_swarm_and_may_not_steer_it(act: str, viewer: User, running: Swarm) -> None:
    call = Caller(viewer)
    assert call.get(f"/swarms/{running.pk}/").status_code == 200
    answer = call.post(f"/swarms/{running.pk}/{act}/", {"reason": "x"} if act in ("terminate", "pause") else {})
    assert is_refusal(answer, 403)
    assert "permission swarm:" in answer.json()["errors"][0]["detail"]
    running.refresh_from_db()
    assert running.status == SwarmStatus.RUNNING


def test_a_developer_pauses_but_does_not_terminate(developer: User, running: Swarm) -> None:
    call, path = Caller(developer), f"/swarms/{running.pk}"
    assert is_refusal(call.post(f"{path}/terminate/", {"reason": "x"}), 403)
    assert call.post(f"{path}/pause/").status_code == 200


def test_a_token_of_a_narrower_role_may_less(operator: User, acme: Tenant, running: Swarm) -> None:
    Membership.objects.create(user=operator, tenant=acme, role=Role.VIEWER)
    path = f"/swarms/{running.pk}/terminate/"
    assert is_refusal(Caller(operator, acme, Role.VIEWER).post(path, {"reason": "x"}), 403)
    assert Caller(operator, acme, Role.OPERATOR).post(path, {"reason": "x"}).status_code == 200


# -- the outsider ----------------------------------------------------------------------------------------------------


def test_the_outsider_gets_nothing(outsider: User, running: Swarm) -> None:  # A5
    task_id = Task.objects.filter(swarm=running).values_list("pk", flat=True)[0]
    call = Caller(outsider)
    for query in ("", "?tenant=acme", "?status=running", "?search=test"):
        assert call.get(f"/swarms/{query}").json() == {"next": None, "previous": None, "results": []}
    for path in ("", "tasks/", "events/", "tasks/?status=ready", "events/?after=0"):
        assert is_refusal(call.get(f"/swarms/{running.pk}/{path}"), 404)
    for path in ("", "attempts/"):
        assert is_refusal(call.get(f"/tasks/{task_id}/{path}"), 404)
    assert is_refusal(call.post(f"/tasks/{task_id}/retry/"), 404)
    for act in ACTS:
        # The same answer for a good body and a bad one: the swarm is looked up first.
        assert is_refusal(call.post(f"/swarms/{running.pk}/{act}/", {"reason": "x"}), 404)
        assert is_refusal(call.post(f"/swarms/{running.pk}/{act}/", {"nonsense": 1}), 404)
    running.refresh_from_db()
    assert running.status == SwarmStatus.RUNNING


def test_a_token_of_another_tenant_gets_nothing(operator: User, rival: Tenant, running: Swarm) -> None:  # A5
    Membership.objects.create(user=operator, tenant=rival, role=Role.OPERATOR)
    call = Caller(operator, rival)
    assert call.get("/swarms/?tenant=acme").json()["results"] == []
    assert is_refusal(call.post(f"/swarms/{running.pk}/terminate/", {"reason": "x"}), 404)


def test_a_role_without_swarms_reads_none(finance: User, running: Swarm) -> None:
    call = Caller(finance)
    assert call.get("/swarms/").json()["results"] == []
    assert is_refusal(call.get(f"/swarms/{running.pk}/"), 404)


def test_a_platform_admin_reads_every_tenants_swarms_by_session(
    platform_admin: User, running: Swarm, rival: Tenant
) -> None:
    make_swarm(rival, [StepOf("a")], running=False)
    call = Caller(None)
    call.client.force_login(platform_admin)
    assert len(call.get("/swarms/").json()["results"]) == 2
