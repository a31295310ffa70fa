"""How a swarm moves forward as the outcomes of its tasks are recorded."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import pytest
from django.db import transaction

from apps.events.models import Event
from apps.execution import leases, results
from apps.execution.models import Attempt
from apps.execution.results import Finished, Spending
from apps.swarms import progress
from apps.swarms.models import Agent, ResourcePool, Step, Swarm, Task, TaskStatus
from apps.swarms.progress import TaskOutcome
from apps.tenants.models import Tenant
from tests.swarms import NOW, AgentOf, StepOf, make_swarm

pytestmark = pytest.mark.django_db
RUNNER = uuid.uuid4()


def lease(limit: int = 100, now: dt.datetime = NOW) -> list[leases.Leased]:
    return leases.lease(RUNNER, limit, now=now, expires_at=now + dt.timedelta(seconds=30))


def outcome(leased: leases.Leased, status: TaskStatus = TaskStatus.SUCCEEDED, **fields: Any) -> TaskOutcome:
    return TaskOutcome(leased.task_id, leased.token, status, **fields)


def record(*outcomes: TaskOutcome, now: dt.datetime = NOW) -> progress.Recorded:
    with transaction.atomic():
        progress.lock_swarms(
            Task.objects.filter(pk__in=[o.task_id for o in outcomes]).values_list("swarm_id", flat=True)
        )
        return progress.record(outcomes, now=now)


def keys(tasks: Any) -> list[str]:
    return [task.key for task in tasks.select_related("step").order_by("step__position", "index")]


def of(swarm: Swarm, status: str) -> list[str]:
    return keys(Task.objects.filter(swarm=swarm, status=status))


def test_only_tasks_without_open_needs_are_ready(acme: Tenant) -> None:
    swarm = make_swarm(acme, [StepOf("gather", items=3), StepOf("brief", needs=["gather"])])
    assert of(swarm, "ready") == ["gather[0]", "gather[1]", "gather[2]"]
    assert of(swarm, "pending") == ["brief"]


def test_no_more_tasks_are_ready_than_the_agent_has_replicas(acme: Tenant) -> None:
    swarm = make_swarm(acme, [StepOf("gather", items=5)], {"worker": AgentOf(replicas=2)})
    assert of(swarm, "ready") == ["gather[0]", "gather[1]"]
    first, second = lease()
    assert lease() == []
    record(outcome(first))
    assert of(swarm, "ready") == ["gather[2]"]
    record(outcome(second, TaskStatus.FAILED, failure_code="agent_error"))
    assert of(swarm, "ready") == ["gather[2]", "gather[3]"]


def test_a_step_opens_when_all_that_it_needs_is_complete(acme: Tenant) -> None:
    swarm = make_swarm(acme, [StepOf("a", items=2), StepOf("b"), StepOf("c", needs=["a", "b"])])
    one, two, three = sorted(lease(), key=lambda leased: (str(leased.step_id), leased.index))
    record(outcome(one))
    record(outcome(two))
    assert of(swarm, "pending") == ["c"]
    record(outcome(three))
    assert of(swarm, "ready") == ["c"]


def test_two_needs_completed_in_one_batch_both_count(acme: Tenant) -> None:
    swarm = make_swarm(acme, [StepOf("a"), StepOf("b"), StepOf("c", needs=["a", "b"])])
    record(*[outcome(leased) for leased in lease()])
    assert of(swarm, "ready") == ["c"]


def test_a_swarm_succeeds_with_its_last_task_and_gives_its_resources_back(acme: Tenant) -> None:
    swarm = make_swarm(acme, [StepOf("only", items=2)])
    assert ResourcePool.objects.current().agents_used == 10
    record(*[outcome(leased, result="done") for leased in lease()])
    swarm.refresh_from_db()
    assert (swarm.status, swarm.tasks_succeeded, swarm.finished_at) == ("succeeded", 2, NOW)
    pool = ResourcePool.objects.current()
    assert not any((pool.agents_used, pool.swarms_used, pool.memory_gb_used, pool.cpu_used))
    assert Task.objects.filter(swarm=swarm).values_list("result", flat=True)[0] == "done"


def test_what_needs_a_failed_task_is_cancelled_and_says_why(acme: Tenant) -> None:
    swarm = make_swarm(acme, [StepOf("a", items=2), StepOf("b", needs=["a"]), StepOf("c", needs=["b"]), StepOf("d")])
    leased = {(task.step_id, task.index): task for task in lease()}
    step = Step.objects.get(swarm=swarm, name="a")
    record(outcome(leased[step.pk, 1], TaskStatus.FAILED, failure_code="agent_error", error="broken"))
    assert of(swarm, "cancelled") == ["b", "c"]
    assert set(Task.objects.filter(swarm=swarm, status="cancelled").values_list("error", flat=True)) == {
        "It needs a, which failed."
    }
    # What does not depend on it goes on, and only then is the swarm over.
    rest = [outcome(task) for (step_id, index), task in leased.items() if (step_id, index) != (step.pk, 1)]
    record(*rest)
    swarm.refresh_from_db()
    assert (swarm.status, swarm.tasks_failed, swarm.tasks_cancelled, swarm.tasks_succeeded) == ("failed", 1, 2, 2)
    assert swarm.status_reason == "1 of 5 tasks failed."


def test_an_outcome_under_a_lost_lease_changes_nothing(acme: Tenant) -> None:
    swarm = make_swarm(acme, [StepOf("only")])
    (old,) = lease()
    assert leases.expire(now=NOW + dt.timedelta(seconds=31)) == 1
    (new,) = lease(now=NOW + dt.timedelta(seconds=31))
    assert new.number == 2
    stale = record(outcome(old, result="stale"))
    assert stale.statuses == {}
    assert Task.objects.get(swarm=swarm).status == "running"
    record(outcome(new, result="fresh"))
    assert Task.objects.get(swarm=swarm).result == "fresh"
    swarm.refresh_from_db()
    assert swarm.tasks_succeeded == 1


def test_a_waiting_task_frees_its_replica_and_comes_back_when_due(acme: Tenant) -> None:
    swarm = make_swarm(acme, [StepOf("gather", items=2)], {"worker": AgentOf(replicas=1)})
    (first,) = lease()
    due = NOW + dt.timedelta(seconds=5)
    record(outcome(first, TaskStatus.WAITING, retry_at=due, failure_code="provider_error", error="503"))
    assert of(swarm, "waiting") == ["gather[0]"]
    assert of(swarm, "ready") == ["gather[1]"]
    assert leases.next_due() == due
    assert leases.release_due(now=due - dt.timedelta(milliseconds=1)) == 0
    assert leases.release_due(now=due) == 1
    # No replica is free yet, so it waits in line.
    assert of(swarm, "pending") == ["gather[0]"]
    (second,) = lease(now=due)
    record(outcome(second), now=due)
    assert of(swarm, "ready") == ["gather[0]"]
    (again,) = lease(now=due)
    assert again.number == 2


def test_a_task_handed_back_keeps_its_replica_and_the_attempt_is_not_counted(acme: Tenant) -> None:
    swarm = make_swarm(acme, [StepOf("only")], {"worker": AgentOf(replicas=1)})
    (leased,) = lease()
    record(outcome(leased, TaskStatus.READY, counted=False))
    assert of(swarm, "ready") == ["only"]
    assert Agent.objects.get(swarm=swarm).slots_free == 0
    (again,) = lease()
    assert again.number == 1


def test_the_fourth_lost_lease_is_permanent(acme: Tenant) -> None:
    swarm = make_swarm(acme, [StepOf("only")])
    now = NOW
    for number in range(1, 5):
        (leased,) = lease(now=now)
        assert leased.number == number
        now += dt.timedelta(seconds=31)
        leases.expire(now=now)
    task = Task.objects.get(swarm=swarm)
    assert (task.status, task.failure_code) == ("failed", "lease_expired")
    assert task.attempts.count() == 4


def test_a_higher_priority_goes_first_and_age_overtakes_it(acme: Tenant) -> None:
    make_swarm(acme, [StepOf("low")], priority=0, now=NOW)
    make_swarm(acme, [StepOf("critical")], priority=3, now=NOW + dt.timedelta(seconds=10))
    make_swarm(acme, [StepOf("late")], priority=3, now=NOW + dt.timedelta(hours=1))
    order = [leased.task_id for leased in (lease(1)[0], lease(1)[0], lease(1)[0])]
    assert [Task.objects.select_related("step").get(pk=pk).key for pk in order] == ["critical", "low", "late"]


def test_every_change_of_status_is_an_event(acme: Tenant) -> None:
    swarm = make_swarm(acme, [StepOf("a"), StepOf("b", needs=["a"])])
    record(outcome(lease()[0]))
    record(outcome(lease()[0]))
    kinds = list(Event.objects.filter(swarm_id=swarm.pk).order_by("id").values_list("kind", flat=True))
    assert kinds == [
        "task.ready",
        "task.running",
        "task.succeeded",
        "task.ready",
        "task.running",
        "task.succeeded",
        "swarm.succeeded",
    ]


def test_recording_costs_the_same_number_of_queries_for_one_task_or_fifty(
    acme: Tenant, django_assert_max_num_queries: Any
) -> None:
    make_swarm(acme, [StepOf("gather", items=100)], {"worker": AgentOf(replicas=51)})
    with django_assert_max_num_queries(4):
        leased = lease(51)
    with django_assert_max_num_queries(12):
        record(outcome(leased[0]))
    with django_assert_max_num_queries(12):
        record(*[outcome(task) for task in leased[1:]])


def test_an_attempt_whose_lease_had_ended_is_kept_as_failed_with_its_cost(acme: Tenant) -> None:
    make_swarm(acme, [StepOf("only")])
    (old,) = lease()
    leases.expire(now=NOW + dt.timedelta(seconds=31))
    Attempt.objects.all().delete()  # as if the lease had been lost without a trace
    stale = Finished(old, RUNNER, outcome(old, result="stale"), NOW, {}, Spending(requests=1, cost=7))
    results.write([stale], now=NOW)
    attempt = Attempt.objects.get()
    assert (attempt.outcome, attempt.failure_code, attempt.cost) == ("failed", "lease_expired", 7)


def test_a_batch_that_is_written_twice_counts_once(acme: Tenant) -> None:
    swarm = make_swarm(acme, [StepOf("only")])
    (leased,) = lease()
    done = Finished(leased, RUNNER, outcome(leased, result="done"), NOW, {}, Spending())
    results.write([done], now=NOW)
    results.write([done], now=NOW)
    swarm.refresh_from_db()
    assert (swarm.status, swarm.tasks_succeeded) == ("succeeded", 1)
    assert Attempt.objects.get().outcome == "succeeded"
