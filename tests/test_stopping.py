"""A used-up hard budget stops the swarm: nothing new starts, and it ends as failed with the budget's name."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import pytest
from django.db import transaction
from django.test import Client
from django.urls import reverse

from apps.audit import trail
from apps.audit.models import AuditEntry
from apps.audit.trail import ORCHESTRATOR
from apps.costs.actions import change_budget
from apps.costs.models import BudgetAlert
from apps.costs.reserving import reserve
from apps.events.models import Event
from apps.execution import leases
from apps.execution.leases import Leased
from apps.swarms import progress
from apps.swarms.actions import lifecycle
from apps.swarms.actions.lifecycle import CannotAct
from apps.swarms.models import Agent, ResourcePool, Swarm, Task, TaskStatus
from apps.swarms.progress import TaskOutcome
from apps.swarms.waiting import waiting_reason
from apps.tenants.access import principal_of
from apps.tenants.models import Tenant, User
from portal.money import NANO
from tests.costs import SOMEBODY, budget, call
from tests.swarms import NOW, AgentOf, StepOf, make_swarm, start

pytestmark = pytest.mark.django_db

CENT = NANO // 100
REASON = 'Stopped: budget "All of Acme" is used up: it has $0.05 left of $0.05, too little for the next call.'


def lease(limit: int = 100) -> list[Leased]:
    return leases.lease(uuid.uuid4(), limit, now=NOW, expires_at=NOW + dt.timedelta(seconds=30))


def record(*outcomes: TaskOutcome) -> None:
    with transaction.atomic():
        progress.lock_swarms(
            Task.objects.filter(pk__in=[o.task_id for o in outcomes]).values_list("swarm_id", flat=True)
        )
        progress.record(outcomes, now=NOW)


def outcome(leased: Leased, status: TaskStatus = TaskStatus.SUCCEEDED, **fields: Any) -> TaskOutcome:
    return TaskOutcome(leased.task_id, leased.token, status, **fields)


def refused(leased: Leased, amount: int = 6 * CENT, **of: Any) -> TaskOutcome:
    """The outcome of a task whose call a hard budget has no room for, as the runner hands it in."""
    request = call(Tenant(pk=leased.tenant_id), amount, swarm_id=leased.swarm_id, task_id=leased.task_id, **of)
    (verdict,) = reserve([request], now=NOW)
    assert verdict.refused
    assert not verdict.may_fit_later
    return outcome(
        leased, TaskStatus.FAILED, failure_code="budget_exhausted", error=verdict.reason, refused=verdict.refused
    )


def tasks(swarm: Swarm) -> dict[str, tuple[str, str]]:
    return {task.key: (task.status, task.failure_code) for task in Task.objects.filter(swarm=swarm).named()}


@pytest.fixture
def tight(acme: Tenant) -> Any:
    return budget(acme, 5 * CENT, "All of Acme")


def test_a_swarm_without_calls_in_flight_fails_at_once(acme: Tenant, tight: Any) -> None:  # C5
    swarm = make_swarm(acme, [StepOf("a", items=4), StepOf("b", needs=["a"])], {"worker": AgentOf(replicas=2)})
    first, second = lease()
    record(outcome(first), refused(second))
    swarm.refresh_from_db()
    assert (swarm.status, swarm.status_reason, swarm.finished_at) == ("failed", REASON, NOW)
    assert (swarm.tasks_succeeded, swarm.tasks_failed, swarm.tasks_cancelled) == (1, 1, 3)
    codes = tasks(swarm)
    assert [codes.pop(task.key) for task in Task.objects.filter(pk=second.task_id).named()] == [
        ("failed", "budget_exhausted")
    ]
    assert sorted(codes.values()) == [("cancelled", "budget_exhausted")] * 3 + [("succeeded", "")]
    assert set(Task.objects.filter(swarm=swarm, status="cancelled").values_list("error", flat=True)) == {REASON}
    assert ResourcePool.objects.current().agents_used == 0
    assert Agent.objects.get(swarm=swarm).slots_free == 2
    assert lease() == []
    event = Event.objects.get(kind="swarm.failed")
    assert (event.data["reason"], event.data["cause"]) == (REASON, "budget_exhausted")
    assert not Event.objects.filter(kind="swarm.stopping").exists()
    assert BudgetAlert.objects.get().level == 100
    entry = AuditEntry.objects.get(action="swarm:terminate")
    assert (entry.actor_kind, entry.actor, entry.reason) == ("system", "budgets", REASON)
    assert entry.resource_id == str(swarm.pk)
    assert (entry.details["budget_id"], entry.details["cancelled"]) == (str(tight.pk), 3)


def test_calls_in_flight_may_finish_and_count(acme: Tenant, tight: Any) -> None:
    swarm = make_swarm(acme, [StepOf("a", items=5), StepOf("b", needs=["a"])])
    good, bad, retried, handed_back, stopped = lease()
    record(refused(bad))
    swarm.refresh_from_db()
    assert (swarm.status, swarm.status_reason, swarm.tasks_cancelled) == ("stopping", REASON, 1)
    event = Event.objects.get(kind="swarm.stopping")
    assert (event.data["cause"], event.data["in_flight"], event.data["calls"]) == ("budget_exhausted", 4, "finish")
    assert lease() == []
    assert ResourcePool.objects.current().agents_used == 10
    record(
        outcome(good, result="fine"),
        outcome(retried, TaskStatus.WAITING, failure_code="provider_error", error="500", retry_at=NOW),
        outcome(handed_back, TaskStatus.READY, counted=False),
    )
    assert Swarm.objects.get(pk=swarm.pk).status == "stopping"
    record(outcome(stopped, TaskStatus.CANCELLED, failure_code="cancelled"))
    swarm.refresh_from_db()
    assert (swarm.status, swarm.status_reason) == ("failed", REASON)
    assert (swarm.tasks_succeeded, swarm.tasks_failed, swarm.tasks_cancelled) == (1, 1, 4)
    assert set(Task.objects.filter(swarm=swarm, status="cancelled").values_list("failure_code", "error")) == {
        ("budget_exhausted", REASON)
    }
    assert ResourcePool.objects.current().agents_used == 0
    assert Event.objects.get(kind="swarm.failed").data["cause"] == "budget_exhausted"


@pytest.mark.parametrize(
    ("scope", "of"),
    [
        ({"scope": "tenant"}, {}),
        ({"scope": "end_user", "period": "daily"}, {"subject_id": SOMEBODY}),
        ({"scope": "swarm", "period": "run"}, {}),
        ({"scope": "agent", "target": "writer"}, {"agent": "writer"}),
    ],
)
def test_every_scope_stops_the_swarm_that_ran_into_it(acme: Tenant, scope: dict[str, str], of: dict[str, Any]) -> None:
    budget(acme, 5 * CENT, "All of Acme", **scope)
    swarm, other = make_swarm(acme, [StepOf("a", items=2)]), make_swarm(acme, [StepOf("a")])
    mine = [leased for leased in lease() if leased.swarm_id == swarm.pk]
    record(refused(mine[0], **of))
    assert Swarm.objects.get(pk=swarm.pk).status == "stopping"
    assert Swarm.objects.get(pk=other.pk).status == "running"
    record(outcome(mine[1]))
    swarm.refresh_from_db()
    assert (swarm.status, swarm.status_reason) == ("failed", REASON)


def test_waiting_tasks_and_those_of_other_agents_are_cancelled_too(acme: Tenant, tight: Any) -> None:
    swarm = make_swarm(acme, [StepOf("a", items=2), StepOf("b", agent="idle", items=3)], {
        "worker": AgentOf(), "idle": AgentOf(replicas=2),
    })  # fmt: skip
    waits, bad = [leased for leased in lease(5) if leased.agent_id == Agent.objects.get(name="worker").pk]
    record(outcome(waits, TaskStatus.WAITING, failure_code="provider_error", retry_at=NOW + dt.timedelta(hours=1)))
    record(refused(bad))
    assert tasks(swarm)["a[0]" if waits.index == 0 else "a[1]"] == ("cancelled", "budget_exhausted")
    assert tasks(swarm)["b[2]"] == ("cancelled", "budget_exhausted")
    assert leases.next_due() == NOW + dt.timedelta(seconds=30)  # the lease of what is in flight, and no retry


def test_a_refusal_that_may_fit_later_stops_nothing(acme: Tenant, tight: Any) -> None:
    swarm = make_swarm(acme, [StepOf("a")])
    (leased,) = lease()
    record(outcome(leased, TaskStatus.WAITING, failure_code="budget_exhausted", retry_at=NOW, counted=False))
    assert Swarm.objects.get(pk=swarm.pk).status == "running"


def test_a_stale_outcome_stops_nothing(acme: Tenant, tight: Any) -> None:
    swarm = make_swarm(acme, [StepOf("a")])
    (leased,) = lease()
    late = refused(leased)
    leases.expire(now=NOW + dt.timedelta(seconds=31))
    record(late)
    assert Swarm.objects.get(pk=swarm.pk).status == "running"
    assert tasks(swarm) == {"a": ("ready", "lease_expired")}


def test_a_paused_swarm_is_stopped_by_what_was_in_flight(acme: Tenant, tight: Any, operator: User) -> None:
    swarm = make_swarm(acme, [StepOf("a", items=2)])
    (leased,) = lease(1)
    lifecycle.pause(swarm, by=principal_of(operator), now=NOW)
    record(refused(leased))
    swarm.refresh_from_db()
    assert (swarm.status, swarm.status_reason, swarm.holds_resources) == ("failed", REASON, False)


def test_a_swarm_that_a_person_stops_ends_as_terminated(acme: Tenant, tight: Any, operator: User) -> None:
    swarm = make_swarm(acme, [StepOf("a", items=2)])
    first, second = lease()
    lifecycle.terminate(swarm, by=principal_of(operator), reason="Enough.", now=NOW)
    record(refused(first), outcome(second))
    swarm.refresh_from_db()
    assert (swarm.status, swarm.status_reason) == ("terminated", "Enough.")


def test_a_person_can_terminate_what_a_budget_stops(acme: Tenant, tight: Any, operator: User) -> None:
    swarm = make_swarm(acme, [StepOf("a", items=3)])
    first, second = lease(2)
    record(refused(first))
    by = principal_of(operator)
    assert not Swarm.objects.cancelling().exists()
    lifecycle.terminate(swarm, by=by, reason="Not even those.", now=NOW)
    assert Swarm.objects.cancelling().count() == 1
    with pytest.raises(CannotAct, match="already"):
        lifecycle.terminate(swarm, by=by, reason="Again.", now=NOW)
    record(outcome(second, TaskStatus.CANCELLED, failure_code="cancelled"))
    swarm.refresh_from_db()
    assert (swarm.status, swarm.status_reason, swarm.tasks_cancelled) == ("terminated", "Not even those.", 2)


def test_calls_in_flight_are_cancelled_where_the_tenant_wants_it(acme: Tenant, rival: Tenant, tight: Any) -> None:
    budget(rival, 5 * CENT, "Rival")
    Tenant.objects.filter(pk=acme.pk).update(calls_at_limit="cancel")
    swarms = [make_swarm(tenant, [StepOf("a", items=2)]) for tenant in (acme, rival)]
    leased = lease()
    record(*[refused(next(item for item in leased if item.swarm_id == swarm.pk)) for swarm in swarms])
    assert {event.data["calls"] for event in Event.objects.filter(kind="swarm.stopping")} == {"cancel", "finish"}
    assert [swarm.tenant for swarm in Swarm.objects.cancelling()] == [acme]


def test_retrying_after_the_limit_was_raised_runs_all_that_was_stopped(
    acme: Tenant, tight: Any, operator: User
) -> None:
    swarm = make_swarm(acme, [StepOf("a", items=3), StepOf("b", needs=["a"])], {"worker": AgentOf(replicas=2)})
    first, second = lease()
    by = principal_of(operator)
    record(refused(first))
    with pytest.raises(CannotAct, match="still being stopped"):
        lifecycle.retry_failed(swarm, by=by, now=NOW)
    record(outcome(second))
    change_budget(tight, limit=50 * CENT, by=ORCHESTRATOR, now=NOW)
    swarm = lifecycle.retry_failed(swarm, by=by, now=NOW)
    assert (swarm.status, swarm.status_reason, swarm.stop_code) == ("queued", "", "")
    assert (swarm.tasks_succeeded, swarm.tasks_failed, swarm.tasks_cancelled) == (1, 0, 0)
    start(swarm)
    while again := lease():
        record(*map(outcome, again))
    swarm.refresh_from_db()
    assert (swarm.status, swarm.tasks_succeeded) == ("succeeded", 4)


def test_when_the_audit_row_cannot_be_written_nothing_of_the_outcome_stands(
    acme: Tenant, tight: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm = make_swarm(acme, [StepOf("a", items=2)])
    (leased,) = lease(1)
    bad = refused(leased)

    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("the trail is broken")

    monkeypatch.setattr(trail, "record", broken)
    with pytest.raises(RuntimeError):
        record(bad)
    assert sorted(status for status, _ in tasks(swarm).values()) == ["ready", "running"]
    assert Swarm.objects.get(pk=swarm.pk).stop_code == ""
    monkeypatch.undo()
    record(bad)
    assert Swarm.objects.get(pk=swarm.pk).status == "failed"


def test_pages_say_why_it_stopped_and_what_to_do(
    acme: Tenant, tight: Any, viewer: User, outsider: User, client: Client
) -> None:
    swarm = make_swarm(acme, [StepOf("a", items=2)])
    first, second = lease()
    record(refused(first))
    client.force_login(viewer)
    url = reverse("console:swarm", args=[swarm.pk])
    shown = client.get(url).content.decode()
    assert "is used up: it has $0.05 left of $0.05" in shown
    assert "may finish" in shown
    task = Task.objects.named().get(pk=second.task_id)
    task.status = TaskStatus.PENDING
    assert waiting_reason(task).startswith("Its swarm is being stopped: Stopped: budget")
    record(outcome(second))
    Swarm.objects.update(finished_at=dt.datetime.now(dt.UTC))
    overview = client.get(reverse("console:overview")).content.decode()
    assert "Raise the budget&#x27;s limit or wait for its next period, then retry it." in overview
    client.force_login(outsider)
    assert client.get(url).status_code == 404
