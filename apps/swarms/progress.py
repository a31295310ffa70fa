"""How a swarm moves forward: outcomes of attempts are recorded, steps complete, tasks open, swarms end.

Everything here runs inside a transaction whose first write locked the rows of the swarms concerned
(:func:`lock_swarms`), so that counters, steps and slots of a swarm change one transaction at a time.
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from django.db import connection

from apps.costs.reserving import Refused
from apps.events.log import TOLD, WRITTEN, NewEvent, emit
from apps.swarms.models import FailureCode, Priority, ResourcePool, Step, Swarm, SwarmStatus, Task, TaskStatus
from apps.swarms.scheduling import task_rank
from apps.swarms.stopping import stop_for_budgets
from portal.database.arrays import as_rows
from portal.notify import Channel, notify


@dataclass(frozen=True, slots=True)
class TaskOutcome:
    """What became of one attempt. ``status`` is what the task should be now:

    succeeded, failed, cancelled; waiting (``retry_at`` says until when); or ready (handed back, or to run again at
    once). ``counted`` is False when the attempt must not count against the task's retries. ``refused`` is the hard
    budget that has no room for a failed task's call: it stops the whole swarm. ``degraded``: its result rests on an
    older answer from the cache, as no region answered.
    """

    task_id: uuid.UUID
    lease_token: uuid.UUID
    status: TaskStatus
    result: Any = None
    failure_code: str = ""
    error: str = ""
    retry_at: dt.datetime | None = None
    counted: bool = True
    refused: Refused | None = None
    degraded: bool = False


@dataclass(slots=True)
class Recorded:
    """What :func:`record` did: the lease tokens whose outcome was taken, with the status each task has now."""

    statuses: dict[uuid.UUID, str] = field(default_factory=dict)
    ended: list[Swarm] = field(default_factory=list)


def lock_swarms(swarm_ids: Collection[uuid.UUID], *, wait: bool = True) -> list[uuid.UUID]:
    """Locks swarm rows in id order; the ids locked. Without ``wait``, those that others hold are left out."""
    others = "" if wait else "SKIP LOCKED"
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT id FROM swarms_swarm WHERE id = ANY(%s) ORDER BY id FOR UPDATE {others}", [list(swarm_ids)]
        )
        return [id for (id,) in cursor.fetchall()]


def record(outcomes: Sequence[TaskOutcome], *, now: dt.datetime) -> Recorded:
    """Records outcomes of attempts and all that follows from them. The swarms must be locked.

    An outcome whose lease token is not the task's current one changes nothing: its lease ended and the task belongs to
    somebody else now.
    """
    recorded = Recorded()
    if not outcomes:
        return recorded
    taken = _write_outcomes(outcomes, now)
    freed: Counter[uuid.UUID] = Counter()
    done: dict[uuid.UUID, Counter[str]] = defaultdict(Counter)
    succeeded: Counter[uuid.UUID] = Counter()
    for group in taken:
        recorded.statuses.update(dict.fromkeys(group.tokens, group.status))
        done[group.swarm_id][group.status] += len(group.tokens)
        if group.status != TaskStatus.READY:
            freed[group.agent_id] += len(group.tokens)
        if group.status == TaskStatus.SUCCEEDED:
            succeeded[group.step_id] += len(group.tokens)
    if not taken:
        return recorded
    stopped = stop_for_budgets(_refusals(outcomes, taken), now=now)
    events = stopped.events
    for swarm_id, counts in done.items():
        if swarm_id in stopped.cancelled:
            counts[TaskStatus.CANCELLED] += stopped.cancelled[swarm_id]
        elif counts[TaskStatus.FAILED]:
            cancelled = cancel_blocked(swarm_id, now=now)
            counts[TaskStatus.CANCELLED] += len(cancelled)
            events += cancelled
    tally = _count(done, succeeded, freed + stopped.slots)
    for swarm_id, names in tally.complete.items():
        _meet_needs(swarm_id, names)
    ended, end_events = _ended(tally.over, now)
    emit(events, now=now)
    open_tasks(done.keys() - {swarm.pk for swarm in ended}, now=now)
    if ended:
        end(ended, end_events, now=now)
        recorded.ended = ended
    if any(counts[TaskStatus.WAITING] for counts in done.values()):
        notify(Channel.ADMIT)
    return recorded


def _refusals(outcomes: Sequence[TaskOutcome], taken: Sequence[_Taken]) -> dict[uuid.UUID, Refused]:
    """The first refusal for good of each swarm, among the outcomes that were taken."""
    refused = [(outcome.lease_token, outcome.refused) for outcome in outcomes if outcome.refused]
    if not refused:
        return {}
    swarms = {token: group.swarm_id for group in taken if group.status == TaskStatus.FAILED for token in group.tokens}
    return {swarms[token]: budget for token, budget in reversed(refused) if token in swarms}


_OUTCOME: dict[str, str] = {
    **dict.fromkeys(("task_id", "token"), "uuid"),
    "status": "text",
    "result": "jsonb",
    **dict.fromkeys(("failure_code", "error"), "text"),
    "retry_at": "timestamptz",
    **dict.fromkeys(("counted", "degraded"), "boolean"),
}
"""By column of an outcome: its type."""


class _Taken(NamedTuple):
    """Outcomes that were taken: tasks of one step and agent that have the same status now."""

    swarm_id: uuid.UUID
    step_id: uuid.UUID
    agent_id: uuid.UUID
    status: str
    tokens: list[uuid.UUID]


def _write_outcomes(outcomes: Sequence[TaskOutcome], now: dt.datetime) -> list[_Taken]:
    """Writes outcomes to the tasks that still hold their lease, and an event for each.

    What a swarm that stops or rests would have run again is cancelled or goes back to pending; where a budget stops
    it, with that code and reason.
    """
    rows, parameters = as_rows(
        _OUTCOME,
        {
            "task_id": [o.task_id for o in outcomes],
            "token": [o.lease_token for o in outcomes],
            "status": [str(o.status) for o in outcomes],
            "result": [None if o.result is None else json.dumps(o.result) for o in outcomes],
            "failure_code": [str(o.failure_code) for o in outcomes],
            "error": [o.error for o in outcomes],
            "retry_at": [o.retry_at for o in outcomes],
            "counted": [o.counted for o in outcomes],
            "degraded": [o.degraded for o in outcomes],
        },
    )
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            WITH outcome AS (
                SELECT u.task_id, u.token, u.result, u.retry_at, u.counted, u.degraded, s.tenant_id,
                    CASE
                        WHEN s.status = 'stopping' AND u.status IN ('ready', 'waiting') THEN 'cancelled'
                        WHEN s.status <> 'running' AND u.status = 'ready' THEN 'pending'
                        ELSE u.status
                    END AS status,
                    CASE
                        WHEN s.status <> 'stopping' OR u.status NOT IN ('ready', 'waiting', 'cancelled')
                            THEN u.failure_code
                        WHEN s.stop_code <> '' THEN s.stop_code
                        ELSE 'cancelled'
                    END AS failure_code,
                    CASE
                        WHEN s.status = 'stopping' AND s.stop_code <> ''
                            AND u.status IN ('ready', 'waiting', 'cancelled') THEN s.status_reason
                        ELSE u.error
                    END AS error
                FROM ({rows}) AS u
                JOIN swarms_task ut ON ut.id = u.task_id
                JOIN swarms_swarm s ON s.id = ut.swarm_id
            ), taken AS (
                UPDATE swarms_task t SET
                    status = o.status, result = o.result, degraded = o.degraded,
                    failure_code = o.failure_code, error = o.error,
                    ready_at = CASE WHEN o.status = 'waiting' THEN o.retry_at ELSE t.ready_at END,
                    finished_at = CASE WHEN o.status IN ('succeeded', 'failed', 'cancelled') THEN %(now)s END,
                    attempts_counted = t.attempts_counted - CASE WHEN o.counted THEN 0 ELSE 1 END,
                    lease_token = NULL, lease_expires_at = NULL, runner_id = NULL
                FROM outcome o
                WHERE t.id = o.task_id AND t.lease_token = o.token
                RETURNING o.token, t.id, o.tenant_id, t.swarm_id, t.step_id, t.agent_id, t.status, t.failure_code,
                    t.degraded
            ), happened AS (
                SELECT 'task.' || status AS kind, tenant_id, swarm_id, id AS task_id,
                    CASE WHEN failure_code <> '' THEN jsonb_build_object('code', failure_code) ELSE '{{}}' END
                        || CASE WHEN degraded THEN '{{"degraded": true}}'::jsonb ELSE '{{}}' END AS data
                FROM taken
            ), {WRITTEN}
            SELECT swarm_id, step_id, agent_id, status, array_agg(token), {TOLD}
            FROM taken GROUP BY swarm_id, step_id, agent_id, status
            """,
            {**parameters, "now": now},
        )
        return [_Taken(*row[:-1]) for row in cursor.fetchall()]


_FREE_SLOTS = """
    UPDATE swarms_agent a SET slots_free = LEAST(a.replicas, a.slots_free + f.n)
    FROM unnest(%(agents)s::uuid[], %(freed)s::int[]) AS f (agent_id, n) WHERE a.id = f.agent_id
"""


def free_slots(freed: Counter[uuid.UUID]) -> None:
    """Gives replicas back to their agents: {agent id: how many}."""
    if not freed:
        return
    with connection.cursor() as cursor:
        cursor.execute(_FREE_SLOTS, {"agents": list(freed), "freed": list(freed.values())})


@dataclass(slots=True)
class _Tally:
    """{swarm id: names of the steps that are complete now}, and the ids of the swarms that are over."""

    complete: dict[uuid.UUID, list[str]]
    over: list[uuid.UUID]


def _count(done: dict[uuid.UUID, Counter[str]], succeeded: Counter[uuid.UUID], freed: Counter[uuid.UUID]) -> _Tally:
    """Adds to the counters of swarms and bumps their version, counts succeeded tasks off their steps, frees replicas.

    ``succeeded`` is by step, ``freed`` by agent. One statement for all three: while it is under way, the swarms are
    locked.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            WITH slots AS ({_FREE_SLOTS}), steps AS (
                UPDATE swarms_step s SET tasks_open = s.tasks_open - d.n
                FROM unnest(%(steps)s::uuid[], %(closed)s::int[]) AS d (step_id, n) WHERE s.id = d.step_id
                RETURNING s.swarm_id, s.name, s.tasks_open
            ), swarms AS (
                UPDATE swarms_swarm s SET tasks_succeeded = s.tasks_succeeded + d.succeeded,
                    tasks_failed = s.tasks_failed + d.failed, tasks_cancelled = s.tasks_cancelled + d.cancelled,
                    version = s.version + 1
                FROM unnest(%(swarms)s::uuid[], %(succeeded)s::int[], %(failed)s::int[], %(cancelled)s::int[])
                         AS d (id, succeeded, failed, cancelled)
                WHERE s.id = d.id
                RETURNING s.id, s.tasks_succeeded + s.tasks_failed + s.tasks_cancelled >= s.tasks_total AS is_over
            )
            SELECT swarm_id, name FROM steps WHERE tasks_open = 0
            UNION ALL SELECT id, NULL FROM swarms WHERE is_over
            """,
            {
                "agents": list(freed),
                "freed": list(freed.values()),
                "steps": list(succeeded),
                "closed": list(succeeded.values()),
                "swarms": list(done),
                "succeeded": [c[TaskStatus.SUCCEEDED] for c in done.values()],
                "failed": [c[TaskStatus.FAILED] for c in done.values()],
                "cancelled": [c[TaskStatus.CANCELLED] for c in done.values()],
            },
        )
        tally = _Tally(defaultdict(list), [])
        for swarm_id, name in cursor.fetchall():
            if name is None:
                tally.over.append(swarm_id)
            else:
                tally.complete[swarm_id].append(name)
    return tally


def _meet_needs(swarm_id: uuid.UUID, complete: list[str]) -> None:
    """Counts completed steps off the needs of the steps that wait for them."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE swarms_step SET open_needs = open_needs
                - (SELECT count(DISTINCT n) FROM unnest(needs) AS n WHERE n = ANY(%(names)s))
            WHERE swarm_id = %(swarm)s AND needs && %(names)s::varchar[]
            """,
            {"swarm": swarm_id, "names": complete},
        )


def blocked_steps(steps: Iterable[Step], failed: Collection[uuid.UUID]) -> dict[uuid.UUID, str]:
    """Steps that can never run because a step they need, directly or not, has failed tasks: {id: that step's name}."""
    steps = list(steps)
    cause = {step.name: step.name for step in steps if step.pk in failed}
    blocked: dict[uuid.UUID, str] = {}
    changed = True
    while changed:
        changed = False
        for step in steps:
            reason = next((cause[need] for need in step.needs if need in cause), None)
            if reason and step.pk not in blocked:
                blocked[step.pk] = reason
                cause.setdefault(step.name, reason)
                changed = True
    return blocked


def cancel_blocked(swarm_id: uuid.UUID, *, now: dt.datetime) -> list[NewEvent]:
    """Cancels the pending tasks that need what has failed; their events, one each. Does not touch the counters."""
    failed = set(
        Task.objects.filter(swarm_id=swarm_id, status=TaskStatus.FAILED).values_list("step_id", flat=True).distinct()
    )
    blocked = blocked_steps(Step.objects.filter(swarm_id=swarm_id), failed)
    if not blocked:
        return []
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE swarms_task t SET status = 'cancelled', failure_code = %(code)s, finished_at = %(now)s,
                error = 'It needs ' || b.cause || ', which failed.'
            FROM unnest(%(steps)s::uuid[], %(causes)s::text[]) AS b (step_id, cause), swarms_swarm s
            WHERE t.step_id = b.step_id AND t.status = 'pending' AND s.id = t.swarm_id
            RETURNING t.id, s.tenant_id
            """,
            {
                "code": FailureCode.CANCELLED,
                "now": now,
                "steps": list(blocked),
                "causes": list(blocked.values()),
            },
        )
        return [
            NewEvent("task.cancelled", tenant_id, swarm_id, task_id, {"code": FailureCode.CANCELLED})
            for task_id, tenant_id in cursor.fetchall()
        ]


def _ended(over: Collection[uuid.UUID], now: dt.datetime) -> tuple[list[Swarm], list[NewEvent]]:
    """The swarms that are over, with their final status, and the events that say so."""
    if not over:
        return [], []
    swarms = list(Swarm.objects.filter(pk__in=over).order_by("pk"))
    events = []
    for swarm in swarms:
        if swarm.stop_code:
            final = SwarmStatus.FAILED
        elif swarm.status == SwarmStatus.STOPPING:
            final = SwarmStatus.TERMINATED
        elif swarm.tasks_failed:
            final = SwarmStatus.FAILED
            swarm.status_reason = f"{swarm.tasks_failed} of {swarm.tasks_total} tasks failed."
        else:
            final = SwarmStatus.SUCCEEDED
        swarm.move_to(final)
        swarm.finished_at = now
        data = {"reason": swarm.status_reason, **({"cause": swarm.stop_code} if swarm.stop_code else {})}
        events.append(NewEvent(f"swarm.{final}", swarm.tenant_id, swarm.pk, data=data))
    return swarms, events


def end(swarms: Sequence[Swarm], events: Sequence[NewEvent], *, now: dt.datetime) -> None:
    """Writes the final status of swarms, gives their resources back to the pool, and tells the orchestrator."""
    ResourcePool.objects.give_back([swarm for swarm in swarms if swarm.holds_resources], now=now)
    for swarm in swarms:
        swarm.holds_resources = False
    Swarm.objects.bulk_update(swarms, ["status", "status_reason", "finished_at", "holds_resources"])
    emit(events, now=now)
    notify(Channel.ADMIT)


def open_tasks(swarm_ids: Collection[uuid.UUID], *, now: dt.datetime) -> int:
    """Makes pending tasks ready, as far as their needs are met and their agents have replicas free; how many.

    Only of swarms that run. The swarms must be locked.
    """
    if not swarm_ids:
        return 0
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            WITH picked AS (
                SELECT t.id, a.id AS agent_id, s.priority, s.tenant_id
                FROM swarms_swarm s
                JOIN swarms_agent a ON a.swarm_id = s.id AND a.slots_free > 0
                CROSS JOIN LATERAL (
                    SELECT t.id FROM swarms_task t JOIN swarms_step st ON st.id = t.step_id AND st.open_needs = 0
                    WHERE t.agent_id = a.id AND t.status = 'pending' ORDER BY t.index LIMIT a.slots_free
                ) t
                WHERE s.id = ANY(%(swarms)s) AND s.status = 'running'
            ), opened AS (
                UPDATE swarms_task t SET status = 'ready', ready_at = %(now)s, finished_at = NULL,
                    rank = (%(ranks)s::bigint[])[p.priority + 1]
                FROM picked p WHERE t.id = p.id
                RETURNING t.id, t.agent_id, t.swarm_id, p.tenant_id
            ), taken AS (
                UPDATE swarms_agent a SET slots_free = a.slots_free - o.n
                FROM (SELECT agent_id, count(*) AS n FROM opened GROUP BY agent_id) o WHERE a.id = o.agent_id
            ), happened AS (
                SELECT 'task.ready' AS kind, tenant_id, swarm_id, id AS task_id, '{{}}'::jsonb AS data FROM opened
            ), {WRITTEN}
            SELECT count(*), {TOLD}, (SELECT pg_notify('{Channel.READY}', '{{}}')::text) FROM opened HAVING count(*) > 0
            """,
            {
                "swarms": list(swarm_ids),
                "now": now,
                "ranks": [task_rank(priority, now) for priority in Priority.values],
            },
        )
        opened, *_ = cursor.fetchone() or (0,)
    return int(opened)


def announce_ready() -> None:
    """Wakes the runners when the current transaction commits: there are tasks to lease."""
    notify(Channel.READY)
