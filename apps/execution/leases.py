"""Leases: who may work on a task, until when. A write without the current token changes nothing."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connection, transaction
from django.db.models import Min

from apps.costs import reserving
from apps.events import log
from apps.execution.models import Attempt, Outcome
from apps.execution.recovery import RetryPolicy
from apps.swarms import progress
from apps.swarms.models import FailureCode, SwarmStatus, Task, TaskStatus

EXPIRED = "The worker that ran it went silent and its lease ended."


@dataclass(frozen=True, slots=True)
class Leased:
    """A task leased to a runner. ``token`` is also the id of the attempt; ``number`` counts attempts from 1."""

    task_id: uuid.UUID
    token: uuid.UUID
    swarm_id: uuid.UUID
    tenant_id: uuid.UUID
    step_id: uuid.UUID
    agent_id: uuid.UUID
    index: int
    item: Any
    number: int
    started_at: dt.datetime


def lease(
    runner_id: uuid.UUID,
    limit: int,
    *,
    now: dt.datetime,
    expires_at: dt.datetime,
    not_of: Collection[str] = (),
) -> list[Leased]:
    """Leases up to ``limit`` ready tasks, best rank first; those another runner is just taking are passed over.

    ``not_of`` are providers whose agents are left to other runners. Its commit does not wait for the disk: whatever
    lasting is done under a lease (a reservation, a result, a reader's position) is written behind it in PostgreSQL's
    log, so none of it can be there after a crash of the server without the lease.
    """
    others = (
        "AND split_part((SELECT model FROM swarms_agent WHERE id = agent_id), ':', 1) <> ALL(%(not_of)s)"
        if not_of
        else ""
    )
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            WITH picked AS (
                SELECT id FROM swarms_task WHERE status = 'ready' {others} ORDER BY rank
                LIMIT %(limit)s FOR UPDATE SKIP LOCKED
            ), leased AS (
                UPDATE swarms_task t SET status = 'running', lease_token = gen_random_uuid(),
                    lease_expires_at = %(expires_at)s, runner_id = %(runner)s, started_at = %(now)s,
                    attempts_counted = attempts_counted + 1, error = '', failure_code = ''
                FROM picked, swarms_swarm s
                WHERE t.id = picked.id AND s.id = t.swarm_id
                RETURNING t.id, t.lease_token, t.swarm_id, s.tenant_id, t.step_id, t.agent_id, t.index, t.item,
                    t.attempts_counted
            ), happened AS (
                SELECT 'task.running' AS kind, tenant_id, swarm_id, id AS task_id,
                    jsonb_build_object('attempt', attempts_counted) AS data
                FROM leased
            ), {log.WRITTEN}
            SELECT id, lease_token, swarm_id, tenant_id, step_id, agent_id, index, item, attempts_counted,
                {log.TOLD}, (SELECT set_config('synchronous_commit', 'off', true))
            FROM leased
            """,
            {"limit": limit, "expires_at": expires_at, "runner": runner_id, "now": now, "not_of": list(not_of)},
        )
        # Raw cursors hand JSON over as text.
        return [
            Leased(*[*task, None if item is None else json.loads(item), number, now])
            for *task, item, number, _, _ in cursor.fetchall()
        ]


def renew(tokens: Sequence[uuid.UUID], *, expires_at: dt.datetime) -> set[uuid.UUID]:
    """Prolongs leases and the reservations made under them; the tokens that still hold."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            """
            WITH held AS (
                SELECT id FROM swarms_task WHERE lease_token = ANY(%(tokens)s) AND status = 'running'
                ORDER BY id FOR UPDATE
            )
            UPDATE swarms_task t SET lease_expires_at = %(expires_at)s FROM held WHERE t.id = held.id
            RETURNING t.lease_token
            """,
            {"tokens": list(tokens), "expires_at": expires_at},
        )
        held = {token for (token,) in cursor.fetchall()}
        if held:
            reserving.extend(list(held), expires_at)
    return held


def expire(*, now: dt.datetime, limit: int = 500) -> int:
    """Takes back leases that ended: the attempt counts as failed, its money is charged, the task runs again at once.

    One whose retries are used up fails for good.
    """
    swarm_ids = set(
        Task.objects.filter(status=TaskStatus.RUNNING, lease_expires_at__lt=now)
        .order_by("lease_expires_at")
        .values_list("swarm_id", flat=True)[:limit]
    )
    if not swarm_ids:
        return 0
    reserving.charge_expired(now=now)
    with transaction.atomic():
        locked = progress.lock_swarms(swarm_ids, wait=False)
        tasks = list(
            Task.objects.select_for_update(of=("self",), skip_locked=True)
            .select_related("agent")
            .filter(swarm_id__in=locked, status=TaskStatus.RUNNING, lease_expires_at__lt=now)
            .order_by("pk")[:limit]
        )
        outcomes = []
        attempts = []
        for task in tasks:
            assert task.lease_token is not None
            assert task.started_at is not None
            again = RetryPolicy.of(task.agent.retry).delay_s(task.attempts_counted) is not None
            outcomes.append(
                progress.TaskOutcome(
                    task.pk,
                    task.lease_token,
                    TaskStatus.READY if again else TaskStatus.FAILED,
                    failure_code=FailureCode.LEASE_EXPIRED,
                    error=EXPIRED,
                )
            )
            attempts.append(
                Attempt(
                    id=task.lease_token,
                    task_id=task.pk,
                    number=task.attempts_counted,
                    runner_id=task.runner_id,
                    started_at=task.started_at,
                    finished_at=now,
                    outcome=Outcome.FAILED,
                    failure_code=FailureCode.LEASE_EXPIRED,
                    error=EXPIRED,
                    context={"model": task.agent.model, "runtime": task.agent.runtime},
                )
            )
        progress.record(outcomes, now=now)
        Attempt.objects.bulk_create(attempts, ignore_conflicts=True)
        if any(outcome.status == TaskStatus.READY for outcome in outcomes):
            progress.announce_ready()
    return len(outcomes)


def _due(now: dt.datetime | None = None) -> Any:
    waiting = Task.objects.filter(status=TaskStatus.WAITING, swarm__status=SwarmStatus.RUNNING)
    return waiting if now is None else waiting.filter(ready_at__lte=now)


def release_due(*, now: dt.datetime, limit: int = 1000) -> int:
    """Tasks whose retry is due get in line again, and open as far as their agents have replicas free; how many."""
    swarm_ids = set(_due(now).order_by("ready_at").values_list("swarm_id", flat=True)[:limit])
    if not swarm_ids:
        return 0
    with transaction.atomic():
        locked = progress.lock_swarms(swarm_ids, wait=False)
        due = list(_due(now).filter(swarm_id__in=locked).order_by("pk").values_list("pk", flat=True)[:limit])
        Task.objects.filter(pk__in=due).update(status=TaskStatus.PENDING, ready_at=None)
        progress.open_tasks(locked, now=now)
    return len(due)


def next_due() -> dt.datetime | None:
    """When the orchestrator must look next for the sake of a retry or a lease; None when nothing is pending."""
    due = _due().aggregate(at=Min("ready_at"))["at"]
    lease_end = Task.objects.filter(status=TaskStatus.RUNNING).aggregate(at=Min("lease_expires_at"))["at"]
    return min((at for at in (due, lease_end) if at is not None), default=None)
