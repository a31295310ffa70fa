"""The status of swarms: what it says, how fresh it is, what it costs to ask, and what happens without a cache."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from typing import Any

import pytest
from django.core.cache import cache
from django.core.cache.backends.base import BaseCache
from django.test import override_settings
from pytest_django import DjangoAssertNumQueries

from apps.costs.models import Kind, LedgerEntry
from apps.costs.reserving import CallRequest, Settlement, reserve, settle
from apps.providers.models import Provider
from apps.swarms import progress
from apps.swarms.actions import lifecycle
from apps.swarms.actions.submit import submit
from apps.swarms.live import live_of, with_live
from apps.swarms.models import Swarm, Task, TaskStatus
from apps.swarms.progress import TaskOutcome
from apps.swarms.status import as_json, summaries, swarm_status
from apps.swarms.waiting import waiting_reason, waiting_reasons
from apps.tenants.access import principal_of_command
from apps.tenants.models import Tenant
from portal.ids import uuid7
from tests.specs import BRIEF, NOW, simulated
from tests.swarms import AgentOf, StepOf, make_swarm, start

pytestmark = pytest.mark.django_db

BY = principal_of_command("test")


class BrokenCache(BaseCache):
    """A cache whose server is gone."""

    def __init__(self, *_: Any) -> None:
        super().__init__({})

    def get(self, *_: Any, **__: Any) -> Any:
        raise ConnectionError("cache is gone")

    def set(self, *_: Any, **__: Any) -> None:
        raise ConnectionError("cache is gone")


BROKEN = {"default": {"BACKEND": "tests.test_status.BrokenCache"}}


@pytest.fixture(autouse=True)
def _fresh_cache() -> None:
    cache.clear()


@pytest.fixture
def brief(acme: Tenant) -> Swarm:
    """The market brief, running: three tasks of researcher are ready, brief waits for them."""
    simulated()
    swarm = submit(BRIEF, tenant=acme, by=BY, now=NOW)
    start(swarm)
    return read(swarm)


def read(swarm: Swarm) -> Swarm:
    return Swarm.objects.select_related("tenant").get(pk=swarm.pk)


def lease(swarm: Swarm, count: int = 1, *, at: dt.datetime = NOW) -> list[Task]:
    """Tasks that are ready, taken as a runner takes them."""
    tasks = list(Task.objects.filter(swarm=swarm, status=TaskStatus.READY).order_by("step__position", "index")[:count])
    for task in tasks:
        task.status, task.lease_token, task.lease_expires_at = (
            TaskStatus.RUNNING,
            uuid7(),
            at + dt.timedelta(seconds=30),
        )
        task.started_at, task.attempts_counted = at, task.attempts_counted + 1
        task.save()
    return tasks


def finish(task: Task, status: TaskStatus = TaskStatus.SUCCEEDED, *, after: float = 1.0, **outcome: Any) -> None:
    assert task.lease_token
    assert task.started_at
    progress.lock_swarms([task.swarm_id])
    now = task.started_at + dt.timedelta(seconds=after)
    progress.record([TaskOutcome(task.pk, task.lease_token, status, **outcome)], now=now)


def call(swarm: Swarm, amount: int, **changes: Any) -> uuid.UUID:
    """A reservation of the swarm's; its id."""
    request = CallRequest(
        id=uuid7(), tenant_id=swarm.tenant_id, subject_id=swarm.subject_id, swarm_id=swarm.pk, task_id=None,
        attempt_id=None, agent="researcher", model="simulated:small", amount=amount,
        expires_at=NOW + dt.timedelta(seconds=30), **changes,
    )  # fmt: skip
    assert reserve([request], now=NOW)[0].granted
    return request.id


# -- what it says


def test_a_queued_swarm_says_its_place_and_why_it_waits(acme: Tenant) -> None:  # O3
    simulated()
    swarm = submit(BRIEF, tenant=acme, by=BY, now=NOW)
    at = NOW + dt.timedelta(minutes=5)
    Swarm.objects.update(queue_position=3, queue_reason="The pool has 2 agents free of 5.", estimated_start=at)
    status = swarm_status(read(swarm))
    assert status["queue"] == {"position": 3, "estimated_start": at, "reason": "The pool has 2 agents free of 5."}
    assert (status["name"], status["tenant"], status["status"]) == ("market-brief", "acme", "queued")
    assert (status["priority"], status["created_at"], status["started_at"]) == ("high", NOW, None)
    assert status["progress"] == {
        "total": 4, "succeeded": 0, "failed": 0, "cancelled": 0, "running": 0, "pending": 4, "percent": 0.0,
    }  # fmt: skip
    assert status["metrics"] == {"error_rate": None, "p50_seconds": None, "p99_seconds": None, "tokens": 0}


def test_every_task_is_counted_once_by_what_it_does(brief: Swarm) -> None:  # O6
    first, second = lease(brief, 2)
    finish(first, result="a fact")
    status = swarm_status(read(brief))
    assert status["progress"] == {
        "total": 4, "succeeded": 1, "failed": 0, "cancelled": 0, "running": 1, "pending": 2, "percent": 25.0,
    }  # fmt: skip
    researcher, writer = status["agents"]
    assert (researcher["name"], researcher["runtime"], researcher["replicas"]) == ("researcher", "llm", 4)
    assert [researcher[key] for key in ("total", "succeeded", "running", "ready", "pending")] == [3, 1, 1, 1, 0]
    assert [writer[key] for key in ("total", "succeeded", "running", "ready", "pending")] == [1, 0, 0, 0, 1]
    assert second.status == TaskStatus.RUNNING


def test_percent_is_rounded_down_so_that_100_means_over(acme: Tenant) -> None:
    swarm = make_swarm(acme, [StepOf("do", items=3)])
    for task in lease(swarm, 2):
        finish(task)
    assert swarm_status(read(swarm))["progress"]["percent"] == 66.6
    finish(lease(swarm)[0])
    status = swarm_status(read(swarm))
    assert (status["progress"]["percent"], status["status"]) == (100.0, "succeeded")


def test_the_error_rate_counts_attempts(brief: Swarm) -> None:
    first, second, third = lease(brief, 3)
    finish(
        first, TaskStatus.WAITING, failure_code="provider_error", error="500", retry_at=NOW + dt.timedelta(seconds=5)
    )
    finish(second)
    assert swarm_status(read(brief))["metrics"]["error_rate"] == 0.5  # the third one is still running
    finish(third, TaskStatus.FAILED, failure_code="agent_error", error="no")
    assert swarm_status(read(brief))["metrics"]["error_rate"] == pytest.approx(2 / 3, abs=1e-4)


def test_durations_are_those_of_finished_tasks(acme: Tenant) -> None:
    swarm = make_swarm(acme, [StepOf("do", items=100)], {"worker": AgentOf(100)})
    for seconds, task in enumerate(lease(swarm, 100), start=1):
        finish(task, after=seconds)
    metrics = swarm_status(read(swarm))["metrics"]
    assert (metrics["p50_seconds"], metrics["p99_seconds"]) == (50.0, 99.0)


def test_money_is_what_the_ledger_says_and_what_calls_hold(brief: Swarm) -> None:  # C1
    paid, _held = call(brief, 900), call(brief, 500)
    settle([Settlement(paid, 700, input_tokens=1000, output_tokens=50)], now=NOW)
    LedgerEntry.objects.create(tenant_id=brief.tenant_id, swarm_id=brief.pk, kind=Kind.STORAGE, amount=11, at=NOW)
    status = swarm_status(read(brief))
    assert status["cost"] == {
        "llm": 700, "infrastructure": 0, "storage": 11, "adjustment": 0, "total": 711, "reserved": 500,
    }  # fmt: skip
    budget = status["budget"]
    assert (budget["limit"], budget["spent"], budget["reserved"]) == (2_500_000_000, 700, 500)
    assert budget["remaining"] == 2_500_000_000 - 1200
    assert status["metrics"]["tokens"] == 1050


def test_a_run_without_a_budget_has_none(acme: Tenant) -> None:
    assert swarm_status(read(make_swarm(acme, [StepOf("do")])))["budget"] is None


def test_it_is_a_json_document_with_amounts_in_usd_as_text(brief: Swarm) -> None:
    settle([Settlement(call(brief, 900), 125)], now=NOW)
    document = json.loads(json.dumps(as_json(swarm_status(read(brief)))))
    assert document["id"] == str(brief.pk)
    assert document["cost"]["total_usd"] == "0.000000125"
    assert document["cost"]["reserved_usd"] == "0.00"
    assert document["budget"]["limit_usd"] == "2.50"
    assert document["created_at"] == "2026-11-21T12:00:00Z"
    assert document["metrics"]["tokens"] == 0
    assert document["archived"] is False


# -- how fresh it is


def test_counters_running_tasks_queue_and_money_are_never_stale(brief: Swarm) -> None:
    before = swarm_status(brief)
    assert before["progress"]["running"] == 0
    lease(brief, 2)
    settle([Settlement(call(brief, 900), 700)], now=NOW)
    call(brief, 50)
    after = swarm_status(brief)  # the same version: nothing was recorded for the swarm
    assert after["progress"]["running"] == 2
    assert after["agents"][0]["running"] == 2
    assert (after["cost"]["total"], after["cost"]["reserved"]) == (700, 50)


def test_what_is_cached_is_new_when_something_was_recorded(brief: Swarm) -> None:
    assert swarm_status(read(brief))["metrics"]["p50_seconds"] is None
    finish(lease(brief)[0], after=2.5)
    assert swarm_status(read(brief))["metrics"]["p50_seconds"] == 2.5


def test_terminating_is_seen_at_once(brief: Swarm) -> None:  # O4
    swarm_status(brief)
    lifecycle.terminate(brief, by=BY, reason="wrong topic", now=NOW)
    status = swarm_status(read(brief))
    assert (status["status"], status["status_reason"]) == ("terminated", "wrong topic")
    assert (status["progress"]["cancelled"], status["agents"][0]["cancelled"]) == (4, 3)


@pytest.mark.parametrize("settings", [BROKEN], ids=["broken cache"])
def test_without_a_cache_the_database_answers(brief: Swarm, settings: dict[str, Any]) -> None:  # O6
    finish(lease(brief)[0], after=2.5)
    expected = swarm_status(read(brief))
    with override_settings(CACHES=settings):
        assert swarm_status(read(brief)) == expected


# -- what it costs to ask


def test_asking_again_takes_one_query_or_none(brief: Swarm, django_assert_num_queries: DjangoAssertNumQueries) -> None:
    finish(lease(brief)[0])
    swarm = read(brief)
    with django_assert_num_queries(2):
        swarm_status(swarm)
    with django_assert_num_queries(1):
        asked = swarm_status(swarm)
    bare = Swarm.objects.get(pk=swarm.pk)
    with django_assert_num_queries(1):
        assert swarm_status(bare)["tenant"] == "acme"
    with django_assert_num_queries(1):
        assert swarm_status(with_live(Swarm.objects.filter(pk=swarm.pk)).get()) == asked


def test_the_mark_of_what_is_live_differs_whenever_any_of_it_does(brief: Swarm) -> None:
    marks = [live_of(brief).mark]
    lease(brief, 1)
    marks.append(live_of(brief).mark)
    held = call(brief, 900)
    marks.append(live_of(brief).mark)
    settle([Settlement(held, 700, input_tokens=40)], now=NOW)
    marks.append(live_of(brief).mark)
    assert len(set(marks)) == 4
    assert live_of(brief).mark == marks[-1]
    assert swarm_status(brief)["metrics"]["tokens"] == 40  # money and tokens are never stale


def test_a_list_of_swarms_takes_as_many_queries_as_one(
    acme: Tenant, brief: Swarm, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    others = [make_swarm(acme, [StepOf("do", items=2)]) for _ in range(5)]
    lease(others[0], 2)
    call(brief, 500)
    rows = list(Swarm.objects.select_related("tenant").order_by("created_at", "id"))
    for asked in (rows[:1], rows):
        with django_assert_num_queries(4):
            found = summaries(asked)
        assert [row["id"] for row in found] == [swarm.pk for swarm in asked]
    assert {row["id"]: row["progress"]["running"] for row in found}[others[0].pk] == 2
    with django_assert_num_queries(0):
        assert summaries([]) == []


def test_a_summary_says_the_same_as_the_status(brief: Swarm) -> None:
    lease(brief, 2)
    settle([Settlement(call(brief, 900), 700)], now=NOW)
    call(brief, 50)
    (summary,) = summaries([Swarm.objects.get(pk=brief.pk)])
    status = swarm_status(read(brief))
    assert summary == {key: status[key] for key in summary}
    assert status.keys() - summary.keys() == {"agents", "metrics"}


# -- why a task waits


def reasons(swarm: Swarm) -> dict[str, str]:
    return {task.key: waiting_reason(task) for task in Task.objects.named().filter(swarm=swarm)}


def test_a_task_says_which_needs_are_open(brief: Swarm) -> None:  # O3
    for task in lease(brief, 2):
        finish(task)
    assert reasons(brief) == {
        "gather[0]": "",
        "gather[1]": "",
        "gather[2]": "It waits for a runner to take it.",
        "brief": "It needs gather (2 of 3 done).",
    }


def test_a_task_says_that_every_replica_is_busy(acme: Tenant) -> None:
    swarm = make_swarm(acme, [StepOf("do", items=3)], {"worker": AgentOf(2)})
    assert reasons(swarm)["do[2]"] == "It waits for a free replica of worker (2 of 2 busy)."


def test_a_task_says_when_its_retry_is_due(brief: Swarm) -> None:
    task = lease(brief)[0]
    finish(task, TaskStatus.WAITING, failure_code="provider_error", retry_at=NOW + dt.timedelta(seconds=5))
    assert reasons(brief)["gather[0]"] == "Attempt 1 failed; the next one is due at 12:00:05 UTC."


def test_a_task_says_which_runners_alone_may_take_it(brief: Swarm) -> None:
    Provider.objects.filter(name="simulated").update(secret_name="EU_KEY", worker_classes=["agents-eu"])
    assert (
        reasons(brief)["gather[2]"] == "It waits for a runner of the class agents-eu, which alone may call simulated."
    )


def test_a_task_says_what_holds_its_whole_swarm(brief: Swarm) -> None:
    lifecycle.pause(brief, by=BY, reason="budget review", now=NOW)
    assert set(reasons(brief).values()) == {"Its swarm is paused: budget review"}
    Swarm.objects.filter(pk=brief.pk).update(holds_resources=False, status="queued", queue_reason="The pool is full.")
    assert set(reasons(brief).values()) == {"Its swarm is queued: The pool is full."}


def test_reasons_of_many_tasks_take_two_queries(
    acme: Tenant, brief: Swarm, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    make_swarm(acme, [StepOf("a"), StepOf("b", needs=["a"]), StepOf("c", needs=["a", "b"])])
    tasks = list(Task.objects.named())
    with django_assert_num_queries(2):
        found = waiting_reasons(tasks)
    assert {task.key: found[task.pk] for task in tasks}["c"] == "It needs a, b."
