"""Steering a swarm: terminate, pause, resume, retry. Each act is one transaction with its audit row and events."""

from __future__ import annotations

import datetime as dt
import uuid
from collections import Counter

from django.db import transaction
from django.utils import timezone

from apps.audit import trail
from apps.events.log import NewEvent, emit
from apps.swarms import progress, stopping
from apps.swarms.models import FailureCode, Swarm, SwarmStatus, Task, TaskStatus
from apps.swarms.models.swarm import CannotAct
from apps.tenants.access import Principal
from apps.tenants.roles import Permission, Resource
from portal.notify import Channel, notify

__all__ = ["CannotAct", "pause", "resume", "retry_failed", "retry_task", "terminate"]


def _locked(swarm: Swarm) -> Swarm:
    """The swarm's row as it is now, locked; the first write of every act here."""
    return Swarm.objects.select_for_update(of=("self",)).get(pk=swarm.pk)


def _withdraw_ready(swarm: Swarm) -> None:
    """Takes tasks that nobody runs yet out of the lease queue and frees their replicas."""
    ready = Task.objects.filter(swarm=swarm, status=TaskStatus.READY).select_for_update()
    held = list(ready.values_list("pk", "agent_id"))
    Task.objects.filter(pk__in=[pk for pk, _ in held]).update(status=TaskStatus.PENDING)
    progress.free_slots(Counter(agent_id for _, agent_id in held))


def terminate(swarm: Swarm, *, by: Principal, reason: str, now: dt.datetime | None = None) -> Swarm:
    """Stops a swarm for good: nothing new starts, calls in flight are cancelled, resources go back to the pool.

    Raises CannotAct when it is over already or the reason is empty, AccessDenied without the permission.
    """
    now = now or timezone.now()
    reason = reason.strip()
    if not reason:
        raise CannotAct("Say why it is terminated: the reason is kept in the audit trail.")
    with transaction.atomic():
        swarm = _locked(swarm)
        by.verify(Permission.SWARM_TERMINATE, swarm.tenant_id, swarm_id=swarm.pk)
        swarm.verify_terminate()
        idle = stopping.cancel_idle(
            swarm, code=FailureCode.CANCELLED, error=f"The swarm was terminated: {reason}", now=now
        )
        progress.free_slots(idle.slots)
        in_flight = Task.objects.filter(swarm=swarm, status=TaskStatus.RUNNING).count()
        swarm.tasks_cancelled += idle.tasks
        swarm.status_reason, swarm.stop_code = reason, ""
        swarm.leave_queue()
        # One that its budget stops is stopping already: now its calls in flight are cancelled, too.
        status = SwarmStatus.STOPPING if in_flight else SwarmStatus.TERMINATED
        if swarm.status != status:
            swarm.move_to(status)
        event = NewEvent(
            f"swarm.{swarm.status}",
            swarm.tenant_id,
            swarm.pk,
            data={"reason": reason, "cancelled": idle.tasks, "in_flight": in_flight},
        )
        if in_flight:
            emit([event], now=now)
        else:
            swarm.finished_at = now
            progress.end([swarm], [event], now=now)
        swarm.version += 1
        swarm.save()
        trail.record(by, Permission.SWARM_TERMINATE, swarm, tenant_id=swarm.tenant_id, reason=reason)
        notify(Channel.CONTROL, {"stop": str(swarm.pk)})
    return swarm


def pause(swarm: Swarm, *, by: Principal, reason: str = "", now: dt.datetime | None = None) -> Swarm:
    """Starts nothing new until resumed; calls in flight finish, and the pool's resources stay with it."""
    now = now or timezone.now()
    with transaction.atomic():
        swarm = _locked(swarm)
        by.verify(Permission.SWARM_UPDATE, swarm.tenant_id, swarm_id=swarm.pk)
        swarm.verify_pause()
        _withdraw_ready(swarm)
        swarm.leave_queue()
        swarm.status_reason = reason
        _move(swarm, SwarmStatus.PAUSED, now, reason)
        trail.record(
            by,
            Permission.SWARM_UPDATE,
            swarm,
            tenant_id=swarm.tenant_id,
            reason=reason,
            details={"act": "pause"},
        )
    return swarm


def resume(swarm: Swarm, *, by: Principal, now: dt.datetime | None = None) -> Swarm:
    """Goes on where it was paused: at once when it still holds its resources, else through the queue."""
    now = now or timezone.now()
    with transaction.atomic():
        swarm = _locked(swarm)
        by.verify(Permission.SWARM_UPDATE, swarm.tenant_id, swarm_id=swarm.pk)
        swarm.verify_resume()
        swarm.status_reason = ""
        if swarm.holds_resources:
            _move(swarm, SwarmStatus.RUNNING, now)
            progress.open_tasks([swarm.pk], now=now)
        else:
            swarm.queued_at = now
            _move(swarm, SwarmStatus.QUEUED, now)
        trail.record(by, Permission.SWARM_UPDATE, swarm, tenant_id=swarm.tenant_id, details={"act": "resume"})
        notify(Channel.ADMIT)
    return swarm


def retry_failed(swarm: Swarm, *, by: Principal, now: dt.datetime | None = None) -> Swarm:
    """Runs the failed tasks again, and what was cancelled because of them; what succeeded stays."""
    return _retry(swarm, None, by=by, now=now or timezone.now())


def retry_task(task: Task, *, by: Principal, now: dt.datetime | None = None) -> Task:
    """Runs one failed task again, and what was cancelled only because of it."""
    _retry(task.swarm, task.pk, by=by, now=now or timezone.now())
    return Task.objects.select_related("step", "swarm").get(pk=task.pk)


def _retry(swarm: Swarm, task_id: uuid.UUID | None, *, by: Principal, now: dt.datetime) -> Swarm:
    with transaction.atomic():
        swarm = _locked(swarm)
        about = Resource.TASK if task_id else Resource.SWARM
        by.verify(Permission.SWARM_UPDATE, swarm.tenant_id, swarm_id=swarm.pk, resource=about)
        swarm.verify_retry()
        failed = Task.objects.filter(swarm=swarm, status=TaskStatus.FAILED)
        if task_id:
            failed = failed.filter(pk=task_id)
        fresh = {
            "status": TaskStatus.PENDING,
            "attempts_counted": 0,
            "failure_code": "",
            "error": "",
            "ready_at": None,
            "finished_at": None,
        }
        again = failed.update(**fresh)
        if not again:
            raise CannotAct("Only a failed task can be retried.")
        reopened = Task.objects.filter(swarm=swarm, status=TaskStatus.CANCELLED).update(**fresh)
        blocked = progress.cancel_blocked(swarm.pk, now=now)
        swarm.tasks_failed -= again
        swarm.tasks_cancelled += len(blocked) - reopened
        if swarm.status == SwarmStatus.FAILED:
            swarm.queued_at, swarm.finished_at = now, None
            swarm.status_reason = swarm.stop_code = ""
            _move(swarm, SwarmStatus.QUEUED, now)
        else:
            swarm.version += 1
            swarm.save()
            progress.open_tasks([swarm.pk], now=now)
        emit([NewEvent("swarm.retried", swarm.tenant_id, swarm.pk, task_id, {"tasks": again})], now=now)
        trail.record(
            by,
            Permission.SWARM_UPDATE,
            swarm,
            tenant_id=swarm.tenant_id,
            details={"act": "retry", "tasks": again},
        )
        notify(Channel.ADMIT)
    return swarm


def _move(swarm: Swarm, status: SwarmStatus, now: dt.datetime, reason: str = "") -> None:
    swarm.move_to(status)
    swarm.version += 1
    swarm.save()
    emit(
        [NewEvent(f"swarm.{status}", swarm.tenant_id, swarm.pk, data={"reason": reason} if reason else {})],
        now=now,
    )
