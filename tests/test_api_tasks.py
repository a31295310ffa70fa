"""Tasks, attempts and events over the API."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from apps.events.log import NewEvent, emit
from apps.execution.models import Attempt, Outcome
from apps.swarms.models import Swarm, SwarmStatus, Task, TaskStatus
from apps.tenants.models import Tenant, User
from tests.api_client import Caller, attrs, is_refusal
from tests.swarms import AgentOf, StepOf, make_swarm

SOON = dt.timedelta(seconds=15)


@pytest.fixture
def swarm(acme: Tenant) -> Swarm:
    return make_swarm(
        acme, [StepOf("gather", items=12), StepOf("brief", needs=["gather"])], {"worker": AgentOf(replicas=5)}
    )


def _task(swarm: Swarm, index: int = 0) -> Task:
    return Task.objects.select_related("step").get(swarm=swarm, step__name="gather", index=index)


def _attempt(task: Task, number: int, **changes: Any) -> Attempt:
    start = timezone.now() + dt.timedelta(minutes=number)
    facts: dict[str, Any] = {
        "outcome": Outcome.FAILED,
        "failure_code": "provider_error",
        "error": "502 from the provider",
        "context": {"model": "simulated:small", "prompt": "Do item 0."},
        "requests": 1,
        "input_tokens": 12,
        "estimated": 4_000,
        "cost": 2_125,
        **changes,
    }
    return Attempt.objects.create(
        id=uuid.uuid4(), task=task, number=number, started_at=start, finished_at=start + SOON, **facts
    )


@pytest.mark.django_db
class TestTasks:
    def test_tasks_come_in_the_order_of_the_spec(self, viewer: User, swarm: Swarm) -> None:
        call = Caller(viewer)
        page = call.get(f"/swarms/{swarm.pk}/tasks/?page_size=5").json()
        keys = [row["key"] for row in page["results"]]
        while page["next"]:
            page = call.get(page["next"]).json()
            keys += [row["key"] for row in page["results"]]
        assert keys == [f"gather[{index}]" for index in range(12)] + ["brief"]

    def test_a_task_says_why_it_waits(self, viewer: User, swarm: Swarm) -> None:  # O3
        _task(swarm).__class__.objects.filter(pk=_task(swarm).pk).update(
            status=TaskStatus.WAITING, ready_at=timezone.now() + SOON, attempts_counted=1
        )
        rows = {row["key"]: row for row in Caller(viewer).get(f"/swarms/{swarm.pk}/tasks/").json()["results"]}
        assert rows["gather[0]"]["retry_at"].endswith("Z")
        assert "the next one is due" in rows["gather[0]"]["waits_for"]
        assert rows["gather[1]"]["waits_for"] == "It waits for a runner to take it."
        assert "free replica" in rows["gather[11]"]["waits_for"]
        assert "gather (0 of 12 done)" in rows["brief"]["waits_for"]
        assert rows["gather[1]"]["retry_at"] is None

    def test_tasks_can_be_narrowed(self, viewer: User, swarm: Swarm) -> None:
        call = Caller(viewer)

        def count(query: str) -> int:
            return len(call.get(f"/swarms/{swarm.pk}/tasks/?{query}").json()["results"])

        assert (count("status=ready"), count("status=ready&status=pending"), count("step=brief")) == (5, 13, 1)
        assert (count("agent=worker"), count("agent=nobody")) == (13, 0)
        assert is_refusal(call.get(f"/swarms/{swarm.pk}/tasks/?status=lost"), 400)

    def test_a_task_tells_its_prompt_and_result(self, viewer: User, swarm: Swarm) -> None:
        task = _task(swarm)
        Task.objects.filter(pk=task.pk).update(
            status=TaskStatus.SUCCEEDED, result={"text": "three facts"}, finished_at=timezone.now()
        )
        call = Caller(viewer)
        body = call.get(f"/tasks/{task.pk}/").json()
        assert (body["key"], body["status"], body["item"]) == ("gather[0]", "succeeded", "item 0")
        assert (body["prompt"], body["result"], body["waits_for"]) == ("Do {{ item }}.", {"text": "three facts"}, "")
        assert body["swarm"] == str(swarm.pk)
        assert call.get(body["attempts_url"]).json()["results"] == []

    def test_attempts_tell_error_cost_and_context(self, viewer: User, swarm: Swarm) -> None:  # E2, E3
        task = _task(swarm)
        for number in (1, 2):
            _attempt(task, number)
        _attempt(task, 3, outcome=Outcome.SUCCEEDED, failure_code="", error="", output_tokens=40)
        _attempt(_task(swarm, 1), 1)
        first, _, last = Caller(viewer).get(f"/tasks/{task.pk}/attempts/").json()["results"]
        assert (first["number"], first["outcome"], first["failure_code"]) == (1, "failed", "provider_error")
        assert (first["seconds"], first["cost_usd"], first["estimated_usd"]) == (15.0, "0.000002125", "0.000004")
        assert first["context"]["prompt"] == "Do item 0."
        assert (last["number"], last["outcome"], last["output_tokens"]) == (3, "succeeded", 40)

    def test_a_failed_task_is_retried_by_those_who_may(self, operator: User, viewer: User, swarm: Swarm) -> None:  # O4
        task = _task(swarm)
        path = f"/tasks/{task.pk}/retry/"
        assert is_refusal(Caller(operator).post(path), 409)
        Task.objects.filter(pk=task.pk).update(status=TaskStatus.FAILED, failure_code="agent_error", error="No.")
        Swarm.objects.update(tasks_failed=1)
        assert is_refusal(Caller(viewer).post(path), 403)
        assert is_refusal(Caller(operator).post(path, {"force": True}), 400)
        answer = Caller(operator).post(path)
        assert answer.status_code == 200
        assert answer.json()["status"] in ("ready", "pending")
        assert answer.json()["error"] == ""

    def test_a_task_of_a_swarm_that_is_over_says_so(self, operator: User, swarm: Swarm) -> None:
        Swarm.objects.update(status=SwarmStatus.SUCCEEDED, holds_resources=False)
        answer = Caller(operator).post(f"/tasks/{_task(swarm).pk}/retry/")
        assert is_refusal(answer, 409)
        assert "nothing to retry" in answer.json()["errors"][0]["detail"]

    def test_queries_do_not_grow_with_the_tasks(
        self, viewer: User, swarm: Swarm, acme: Tenant, django_assert_max_num_queries: Any
    ) -> None:
        many = make_swarm(acme, [StepOf("gather", items=150), StepOf("brief", needs=["gather"])])
        call, task = Caller(viewer), _task(swarm)
        for number in range(1, 5):
            _attempt(task, number)
        call.get("/me/")
        with django_assert_max_num_queries(5):
            assert len(call.get(f"/swarms/{many.pk}/tasks/?page_size=200").json()["results"]) == 151
        with django_assert_max_num_queries(4):
            call.get(f"/tasks/{task.pk}/")
        with django_assert_max_num_queries(4):
            call.get(f"/tasks/{task.pk}/attempts/")


class TestEvents:
    """Events are read once they are committed: each test has a database of its own."""

    @pytest.fixture(autouse=True)
    def _own(self, own_database: str) -> None: ...

    @staticmethod
    def _emit(swarm: Swarm, count: int, kind: str = "task.succeeded") -> None:
        with transaction.atomic():
            emit([NewEvent(kind, swarm.tenant_id, swarm.pk, data={"n": n}) for n in range(count)])

    def test_events_are_read_page_by_page_and_go_on_from_the_last_one_seen(
        self, viewer: User, acme: Tenant, rival: Tenant, django_assert_max_num_queries: Any
    ) -> None:
        swarm, other = make_swarm(acme, [StepOf("a")], running=False), make_swarm(rival, [StepOf("a")], running=False)
        self._emit(other, 3)
        self._emit(swarm, 450)
        call = Caller(viewer)
        page = call.get(f"/swarms/{swarm.pk}/events/").json()
        seen = [row["data"]["n"] for row in page["results"]]
        assert len(seen) == 200
        while page["next"]:
            last = page["results"][-1]["id"]
            page = call.get(page["next"]).json()
            seen += [row["data"]["n"] for row in page["results"]]
            assert page["previous"] is None
        assert seen == list(range(450))
        last = page["results"][-1]["id"]
        path = f"/swarms/{swarm.pk}/events/?after={last}"
        assert call.get(path).json()["results"] == []
        self._emit(other, 1)
        self._emit(swarm, 1, "swarm.paused")
        with django_assert_max_num_queries(8):
            (event,) = call.get(path).json()["results"]
        assert event["kind"] == "swarm.paused"
        assert event["at"].endswith("Z")

    def test_a_place_that_is_no_number_is_refused(self, viewer: User, acme: Tenant) -> None:
        swarm = make_swarm(acme, [StepOf("a")], running=False)
        self._emit(swarm, 1)
        call, path = Caller(viewer), f"/swarms/{swarm.pk}/events/"
        for bad in ("garbage", "-1", "1.5", "%00", "9" * 40, "٣"):
            answer = call.get(f"{path}?after={bad}")
            assert is_refusal(answer, 400)
            assert attrs(answer) == {"after"}
        for fine in ("", "0", "9" * 18):
            assert call.get(f"{path}?after={fine}").status_code == 200

    def test_the_outsider_reads_no_events(self, outsider: User, acme: Tenant) -> None:  # A5
        swarm = make_swarm(acme, [StepOf("a")], running=False)
        self._emit(swarm, 1)
        assert is_refusal(Caller(outsider).get(f"/swarms/{swarm.pk}/events/"), 404)
