"""Terminate, pause, resume and retry: what they do, who may, and what they leave behind."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import pytest
from django.db import transaction

from apps.audit import trail
from apps.audit.models import AuditEntry
from apps.events.models import Event
from apps.execution import leases
from apps.swarms import progress
from apps.swarms.actions import lifecycle
from apps.swarms.actions.lifecycle import CannotAct
from apps.swarms.models import Agent, ResourcePool, Swarm, Task, TaskStatus
from apps.tenants.access import AccessDenied, Principal, principal_of
from apps.tenants.models import Tenant, User
from tests.swarms import NOW, AgentOf, StepOf, make_swarm

pytestmark = pytest.mark.django_db


@pytest.fixture
def by(operator: User) -> Principal:
    return principal_of(operator)


def lease(limit: int = 100) -> list[leases.Leased]:
    return leases.lease(uuid.uuid4(), limit, now=NOW, expires_at=NOW + dt.timedelta(seconds=30))


def record(leased: leases.Leased, status: TaskStatus, **fields: Any) -> None:
    with transaction.atomic():
        progress.lock_swarms([leased.swarm_id])
        progress.record([progress.TaskOutcome(leased.task_id, leased.token, status, **fields)], now=NOW)


def statuses(swarm: Swarm) -> dict[str, str]:
    return {task.key: task.status for task in Task.objects.filter(swarm=swarm).select_related("step")}


def test_terminating_an_idle_swarm_ends_it_at_once(acme: Tenant, by: Principal) -> None:
    swarm = make_swarm(acme, [StepOf("a", items=2), StepOf("b", needs=["a"])])
    lifecycle.terminate(swarm, by=by, reason="Wrong input.", now=NOW)
    swarm.refresh_from_db()
    assert (swarm.status, swarm.status_reason, swarm.tasks_cancelled) == ("terminated", "Wrong input.", 3)
    assert set(statuses(swarm).values()) == {"cancelled"}
    assert ResourcePool.objects.current().agents_used == 0
    entry = AuditEntry.objects.get(action="swarm:terminate")
    assert (entry.actor_kind, entry.actor, entry.resource_id, entry.reason) == (
        "user",
        by.ref,
        str(swarm.pk),
        "Wrong input.",
    )
    assert Event.objects.filter(kind="swarm.terminated", swarm_id=swarm.pk).exists()


def test_terminating_waits_for_calls_in_flight_then_frees_the_pool(acme: Tenant, by: Principal) -> None:
    swarm = make_swarm(acme, [StepOf("a", items=3)])
    (leased,) = lease(1)
    swarm = lifecycle.terminate(swarm, by=by, reason="Enough.", now=NOW)
    assert (swarm.status, swarm.tasks_cancelled) == ("stopping", 2)
    assert lease() == []
    record(leased, TaskStatus.CANCELLED, failure_code="cancelled")
    swarm.refresh_from_db()
    assert (swarm.status, swarm.tasks_cancelled) == ("terminated", 3)
    assert ResourcePool.objects.current().agents_used == 0


@pytest.mark.parametrize("status", [TaskStatus.WAITING, TaskStatus.READY])
def test_nothing_of_a_stopping_swarm_runs_again(acme: Tenant, by: Principal, status: TaskStatus) -> None:
    swarm = make_swarm(acme, [StepOf("a")])
    (leased,) = lease()
    lifecycle.terminate(swarm, by=by, reason="Enough.", now=NOW)
    record(leased, status, retry_at=NOW)
    assert statuses(swarm) == {"a": "cancelled"}


def test_a_lease_that_ends_in_a_stopping_swarm_ends_the_swarm(acme: Tenant, by: Principal) -> None:
    swarm = make_swarm(acme, [StepOf("a")])
    lease()
    lifecycle.terminate(swarm, by=by, reason="Enough.", now=NOW)
    leases.expire(now=NOW + dt.timedelta(seconds=31))
    swarm.refresh_from_db()
    assert swarm.status == "terminated"


def test_a_paused_swarm_starts_nothing_and_goes_on_where_it_was(acme: Tenant, by: Principal) -> None:
    swarm = make_swarm(acme, [StepOf("a", items=3)], {"worker": AgentOf(replicas=2)})
    (leased,) = lease(1)
    lifecycle.pause(swarm, by=by, reason="Looking at it.", now=NOW)
    assert statuses(swarm) == {"a[0]": "running", "a[1]": "pending", "a[2]": "pending"}
    record(leased, TaskStatus.SUCCEEDED)
    assert lease() == []
    swarm.refresh_from_db()
    lifecycle.resume(swarm, by=by, now=NOW)
    assert statuses(swarm) == {"a[0]": "succeeded", "a[1]": "ready", "a[2]": "ready"}


def test_a_paused_swarm_whose_last_call_ends_is_over(acme: Tenant, by: Principal) -> None:
    swarm = make_swarm(acme, [StepOf("a")])
    (leased,) = lease()
    lifecycle.pause(swarm, by=by, now=NOW)
    record(leased, TaskStatus.SUCCEEDED)
    swarm.refresh_from_db()
    assert swarm.status == "succeeded"


def test_a_swarm_paused_in_the_queue_goes_back_to_the_queue(acme: Tenant, by: Principal) -> None:
    swarm = make_swarm(acme, [StepOf("a")], running=False)
    swarm = lifecycle.pause(swarm, by=by, now=NOW)
    assert swarm.status == "paused"
    assert lifecycle.resume(swarm, by=by, now=NOW).status == "queued"


def test_retry_runs_only_what_failed_and_what_waited_for_it(acme: Tenant, by: Principal) -> None:
    swarm = make_swarm(acme, [StepOf("a", items=2), StepOf("b", needs=["a"])])
    good, bad = sorted(lease(), key=lambda leased: leased.index)
    record(good, TaskStatus.SUCCEEDED, result="kept")
    record(bad, TaskStatus.FAILED, failure_code="provider_error", error="503")
    swarm.refresh_from_db()
    assert swarm.status == "failed"
    swarm = lifecycle.retry_failed(swarm, by=by, now=NOW)
    assert (swarm.status, swarm.tasks_failed, swarm.tasks_cancelled) == ("queued", 0, 0)
    assert statuses(swarm) == {"a[0]": "succeeded", "a[1]": "pending", "b": "pending"}
    assert Task.objects.get(swarm=swarm, status="succeeded").result == "kept"
    from tests.swarms import start

    start(swarm)
    (again,) = lease()
    assert again.number == 1
    record(again, TaskStatus.SUCCEEDED)
    record(lease()[0], TaskStatus.SUCCEEDED)
    swarm.refresh_from_db()
    assert (swarm.status, swarm.tasks_succeeded) == ("succeeded", 3)


def test_retrying_one_task_leaves_what_another_failure_blocks(acme: Tenant, by: Principal) -> None:
    swarm = make_swarm(
        acme, [StepOf("a"), StepOf("b"), StepOf("after_a", needs=["a"]), StepOf("after_both", needs=["a", "b"])]
    )
    for leased in lease():
        record(leased, TaskStatus.FAILED, failure_code="agent_error")
    task = Task.objects.get(swarm=swarm, step__name="a")
    task = lifecycle.retry_task(task, by=by, now=NOW)
    assert statuses(swarm) == {"a": "pending", "b": "failed", "after_a": "pending", "after_both": "cancelled"}
    swarm.refresh_from_db()
    assert (swarm.tasks_failed, swarm.tasks_cancelled) == (1, 1)


REFUSED = [
    # act, state of the swarm, what the person reads
    ("terminate", "terminated", "It is over already: terminated."),
    ("pause", "terminated", "Only a running or queued swarm can be paused; this one is terminated."),
    ("resume", "running", "Only a paused swarm can be resumed; this one is running."),
    ("retry_failed", "running", "None of its tasks has failed."),
    ("retry_failed", "terminated", "A terminated swarm has nothing to retry."),
]


@pytest.mark.parametrize(("act", "state", "reason"), REFUSED)
def test_refusals_say_why(acme: Tenant, by: Principal, act: str, state: str, reason: str) -> None:
    swarm = make_swarm(acme, [StepOf("a")])
    if state == "terminated":
        lifecycle.terminate(swarm, by=by, reason="Enough.", now=NOW)
    arguments = {"reason": "Again."} if act == "terminate" else {}
    with pytest.raises(CannotAct) as refusal:
        getattr(lifecycle, act)(swarm, by=by, **arguments)
    assert str(refusal.value) == reason


def test_termination_without_a_reason_is_refused(acme: Tenant, by: Principal) -> None:
    swarm = make_swarm(acme, [StepOf("a")])
    with pytest.raises(CannotAct, match="Say why"):
        lifecycle.terminate(swarm, by=by, reason="  ")


@pytest.mark.parametrize("act", ["terminate", "pause", "resume", "retry_failed"])
@pytest.mark.parametrize("who", ["viewer", "outsider"])
def test_viewers_and_outsiders_may_not(acme: Tenant, act: str, who: str, request: pytest.FixtureRequest) -> None:
    swarm = make_swarm(acme, [StepOf("a")])
    principal = principal_of(request.getfixturevalue(who))
    arguments = {"reason": "Because."} if act == "terminate" else {}
    with pytest.raises(AccessDenied):
        getattr(lifecycle, act)(swarm, by=principal, **arguments)
    swarm.refresh_from_db()
    assert swarm.status == "running"


def test_a_developer_may_pause_and_not_terminate(acme: Tenant, developer: User) -> None:
    swarm = make_swarm(acme, [StepOf("a")])
    with pytest.raises(AccessDenied, match="swarm:terminate"):
        lifecycle.terminate(swarm, by=principal_of(developer), reason="Because.")
    assert lifecycle.pause(swarm, by=principal_of(developer)).status == "paused"


def test_an_act_whose_audit_row_cannot_be_written_did_not_happen(
    acme: Tenant, by: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm = make_swarm(acme, [StepOf("a")])

    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("the trail is broken")

    monkeypatch.setattr(trail, "record", broken)
    with pytest.raises(RuntimeError):
        lifecycle.terminate(swarm, by=by, reason="Enough.", now=NOW)
    swarm.refresh_from_db()
    assert swarm.status == "running"
    assert statuses(swarm) == {"a": "ready"}
    assert Agent.objects.get(swarm=swarm).slots_free == 9
    assert not Event.objects.filter(kind="swarm.terminated").exists()
