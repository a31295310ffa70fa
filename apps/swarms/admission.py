"""Admitting queued swarms to the pool, and telling the others why they wait."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from django.db import connection, transaction

from apps.costs.budgets import blocked_tenants
from apps.events.log import NewEvent, emit
from apps.swarms import progress
from apps.swarms.models import ResourcePool, Swarm, SwarmStatus
from apps.swarms.resources import Resources
from apps.swarms.scheduling import (
    Facts,
    Holding,
    QueuePolicy,
    Standing,
    Wait,
    Waiting,
    remaining,
)
from apps.tenants.models import Tenant

POLICY = QueuePolicy()
BATCH = 20
"""Most swarms admitted in one transaction: the pool's row is locked meanwhile."""
STOPPING_TAKES = dt.timedelta(seconds=5)
ESTIMATE_TOLERANCE = 0.1
"""An estimated start is written again when it moved by more than this fraction of the wait (and 5 seconds)."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What a round did: how many swarms were admitted, how many wait."""

    admitted: int
    waiting: int


def admit(*, now: dt.datetime, limit: int | None = None, tell: bool = True, policy: QueuePolicy = POLICY) -> Admission:
    """Starts the queued swarms for which there is room, at most ``limit``, best first.

    Writes to the others their reason, position and estimated start, where these changed. ``tell=False`` does so only
    for swarms that were told nothing yet: for rounds that follow each other closely.
    """
    admitted = 0
    while True:
        batch = BATCH if limit is None else min(BATCH, limit - admitted)
        done = _round(now=now, limit=batch, tell=tell, policy=policy)
        admitted += done.admitted
        if done.admitted < batch or admitted == limit:
            return Admission(admitted, done.waiting)


def _round(*, now: dt.datetime, limit: int, tell: bool, policy: QueuePolicy) -> Admission:
    """One transaction: the pool's row is locked first, so only one process at a time decides."""
    queued = {swarm.pk: swarm for swarm in _queued()}
    if not queued:
        return Admission(0, 0)
    blocked = blocked_tenants(now=now)
    with transaction.atomic():
        pool = ResourcePool.objects.locked()
        facts = _facts(pool, queued.values(), blocked, now, policy)
        new = {pk for pk, swarm in queued.items() if swarm.queue_position is None}
        plan = policy.plan(facts, now=now, limit=limit, explain=tell or bool(new))
        started = _start(pool, [queued[swarm.id] for swarm in plan.start], now)
        if len(plan.start) < limit:  # else another round follows, and what it would tell is wrong soon
            _tell(queued, [wait for wait in plan.wait if tell or wait.id in new], now)
    return Admission(len(started), len(queued) - len(started))


def _queued() -> Iterable[Swarm]:
    """Queued swarms with what the policy asks about them; not locked, so a long queue is not written to."""
    return Swarm.objects.filter(status=SwarmStatus.QUEUED).only(
        "tenant_id",
        "priority",
        "queued_at",
        "estimated_duration_s",
        "agents_asked",
        "memory_gb_asked",
        "cpu_asked",
        "queue_reason",
        "queue_position",
        "estimated_start",
    )


def _facts(
    pool: ResourcePool,
    queued: Collection[Swarm],
    blocked: Mapping[uuid.UUID, tuple[str, dt.datetime | None]],
    now: dt.datetime,
    policy: QueuePolicy,
) -> Facts:
    holding = list(
        Swarm.objects.filter(holds_resources=True, status__in=_HOLDING).only(
            "tenant_id",
            "status",
            "agents_asked",
            "memory_gb_asked",
            "cpu_asked",
            "started_at",
            "estimated_duration_s",
            "tasks_total",
            "tasks_succeeded",
            "tasks_failed",
            "tasks_cancelled",
        )
    )
    tenants = Tenant.objects.filter(pk__in={swarm.tenant_id for swarm in queued}).only("weight", "max_agents")
    return Facts(
        total=pool.total,
        used=pool.used,
        waiting=[
            Waiting(swarm.pk, swarm.tenant_id, swarm.priority, swarm.queued_at, _asks(swarm), _seconds(swarm))
            for swarm in queued
        ],
        holding=[Holding(swarm.tenant_id, _asks(swarm), _ends_at(swarm, now, policy)) for swarm in holding],
        tenants={
            tenant.pk: Standing(tenant.weight, tenant.max_agents, *blocked.get(tenant.pk, ("", None)))
            for tenant in tenants
        },
    )


_HOLDING = [SwarmStatus.RUNNING, SwarmStatus.PAUSED, SwarmStatus.STOPPING]


def _asks(swarm: Swarm) -> Resources:
    return Resources(swarm.agents_asked, swarm.memory_gb_asked, swarm.cpu_asked, 1)


def _seconds(swarm: Swarm) -> dt.timedelta | None:
    estimate = swarm.estimated_duration_s
    return None if estimate is None else dt.timedelta(seconds=estimate)


def _ends_at(swarm: Swarm, now: dt.datetime, policy: QueuePolicy) -> dt.datetime | None:
    """When a swarm is thought to give its resources back; nobody knows when a paused one is resumed."""
    if swarm.status == SwarmStatus.PAUSED or swarm.started_at is None:
        return None
    if swarm.status == SwarmStatus.STOPPING:
        return now + STOPPING_TAKES
    over = swarm.tasks_succeeded + swarm.tasks_failed + swarm.tasks_cancelled
    return now + remaining(
        _seconds(swarm),
        elapsed=now - swarm.started_at,
        done=over / swarm.tasks_total if swarm.tasks_total else 0.0,
        default=policy.default_duration,
    )


def _start(pool: ResourcePool, wanted: Sequence[Swarm], now: dt.datetime) -> list[Swarm]:
    """Starts those that are still queued and that nobody else has locked; the swarms started."""
    if not wanted:
        return []
    rows = (
        Swarm.objects.select_for_update(skip_locked=True)
        .filter(status=SwarmStatus.QUEUED)
        .in_bulk([swarm.pk for swarm in wanted])
    )
    swarms = [rows[seen.pk] for seen in wanted if seen.pk in rows]
    if not swarms:
        return []
    waits = {}
    for swarm in swarms:
        swarm.move_to(SwarmStatus.RUNNING)
        swarm.leave_queue()
        swarm.started_at = now
        swarm.status_reason = ""
        swarm.version += 1
        waits[swarm.pk] = (now - swarm.queued_at).total_seconds()
    Swarm.objects.bulk_update(
        swarms,
        ["status", "status_reason", "queue_reason", "queue_position", "estimated_start", "started_at", "version"],
    )
    pool.take(swarms, now=now)
    emit(
        [
            NewEvent("swarm.started", swarm.tenant_id, swarm.pk, data={"waited_s": round(waits[swarm.pk], 3)})
            for swarm in swarms
        ],
        now=now,
    )
    progress.open_tasks([swarm.pk for swarm in swarms], now=now)
    return swarms


def _tell(queued: Mapping[uuid.UUID, Swarm], waits: Sequence[Wait], now: dt.datetime) -> int:
    """Writes reason, position and estimated start to the swarms whose own changed, in one statement; how many."""
    changed = [wait for wait in waits if _is_news(queued[wait.id], wait, now)]
    if not changed:
        return 0
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH held AS (
                SELECT id FROM swarms_swarm WHERE id = ANY(%(ids)s) AND status = 'queued' FOR UPDATE SKIP LOCKED
            )
            UPDATE swarms_swarm s SET queue_reason = n.reason, queue_position = n.position,
                estimated_start = n.estimated_start, version = s.version + 1
            FROM unnest(%(ids)s::uuid[], %(reasons)s::text[], %(positions)s::int[], %(starts)s::timestamptz[])
                AS n (id, reason, position, estimated_start)
            JOIN held USING (id)
            WHERE s.id = n.id
            """,
            {
                "ids": [wait.id for wait in changed],
                "reasons": [wait.reason[:200] for wait in changed],
                "positions": [wait.position for wait in changed],
                "starts": [wait.estimated_start for wait in changed],
            },
        )
        return int(cursor.rowcount)


def _is_news(swarm: Swarm, wait: Wait, now: dt.datetime) -> bool:
    """Whether what was told before is wrong now. Estimates drift all the time: a small move is no news."""
    if (swarm.queue_reason, swarm.queue_position) != (wait.reason[:200], wait.position):
        return True
    before, after = swarm.estimated_start, wait.estimated_start
    if before is None or after is None:
        return before is not after
    return abs(after - before) > max(dt.timedelta(seconds=5), (after - now) * ESTIMATE_TOLERANCE)
