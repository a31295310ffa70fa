"""Stopping a swarm: nothing new starts. A person does it, or a hard budget that has no room for its calls."""

from __future__ import annotations

import datetime as dt
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import structlog
from django.db.models import QuerySet

from apps.audit import trail
from apps.costs.reserving import Refused
from apps.events.log import NewEvent
from apps.swarms.models import FailureCode, Swarm, SwarmStatus, Task, TaskStatus
from apps.tenants.models import CallsInFlight
from apps.tenants.roles import Permission
from portal.money import usd_label
from portal.notify import Channel, notify

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Tasks that were cancelled before anybody ran them, and the replicas that were set aside: {agent id: how many}."""

    tasks: int
    slots: Counter[uuid.UUID]


def cancel_idle(swarm: Swarm, *, code: FailureCode, error: str, now: dt.datetime) -> Cancelled:
    """Cancels what does not run yet. The swarm must be locked; the caller counts the tasks and frees the replicas."""
    ready = Task.objects.filter(swarm=swarm, status=TaskStatus.READY).select_for_update()
    held = list(ready.values_list("pk", "agent_id"))
    tasks = _cancel(Task.objects.filter(pk__in=[pk for pk, _ in held]), code, error, now)
    idle = Task.objects.filter(swarm=swarm, status__in=[TaskStatus.PENDING, TaskStatus.WAITING])
    return Cancelled(tasks + _cancel(idle, code, error, now), Counter(agent_id for _, agent_id in held))


def _cancel(tasks: QuerySet[Task], code: FailureCode, error: str, now: dt.datetime) -> int:
    return tasks.update(status=TaskStatus.CANCELLED, failure_code=code, error=error, finished_at=now, ready_at=None)


@dataclass(frozen=True, slots=True)
class Stopped:
    """What :func:`stop_for_budgets` did: tasks cancelled by swarm, replicas to free, and the events to emit."""

    cancelled: dict[uuid.UUID, int]
    slots: Counter[uuid.UUID]
    events: list[NewEvent]


def stop_for_budgets(refusals: Mapping[uuid.UUID, Refused], *, now: dt.datetime) -> Stopped:
    """Stops swarms, by id, whose call a hard budget refused for good; their rows must be locked.

    Nothing new starts. Calls in flight finish, or are cancelled within a second, as the tenant wants it; then, or at
    once when there are none, the swarm ends as failed. Swarms that are stopped already are passed over.
    """
    stopped = Stopped({}, Counter(), [])
    active = Swarm.objects.filter(pk__in=refusals, status__in=[SwarmStatus.RUNNING, SwarmStatus.PAUSED])
    for swarm in active.select_related("tenant").order_by("pk"):
        refused = refusals[swarm.pk]
        reason = reason_of(refused)
        cancelled = cancel_idle(swarm, code=FailureCode.BUDGET_EXHAUSTED, error=reason, now=now)
        in_flight = Task.objects.filter(swarm=swarm, status=TaskStatus.RUNNING).count()
        swarm.stop_code, swarm.status_reason = FailureCode.BUDGET_EXHAUSTED, reason
        cause = {
            "cause": FailureCode.BUDGET_EXHAUSTED,
            "budget_id": str(refused.budget_id),
            "budget": refused.budget,
            "cancelled": cancelled.tasks,
            "in_flight": in_flight,
            "calls": swarm.tenant.calls_at_limit,
        }
        if in_flight:
            swarm.move_to(SwarmStatus.STOPPING)
            stopped.events.append(
                NewEvent("swarm.stopping", swarm.tenant_id, swarm.pk, data={"reason": reason, **cause})
            )
            if swarm.tenant.calls_at_limit == CallsInFlight.CANCEL:
                notify(Channel.CONTROL, {"stop": str(swarm.pk)})
        swarm.save(update_fields=["status", "status_reason", "stop_code"])
        trail.record(
            trail.BUDGETS, Permission.SWARM_TERMINATE, swarm, tenant_id=swarm.tenant_id, reason=reason, details=cause
        )
        log.warning("swarm_stopped_by_budget", swarm_id=str(swarm.pk), tenant_id=str(swarm.tenant_id), **cause)
        stopped.cancelled[swarm.pk] = cancelled.tasks
        stopped.slots.update(cancelled.slots)
    return stopped


def reason_of(refused: Refused) -> str:
    """Why the swarm stops, for a person."""
    return (
        f'Stopped: budget "{refused.budget}" is used up: it has {usd_label(refused.left)} left of '
        f"{usd_label(refused.limit)}, too little for the next call."
    )
