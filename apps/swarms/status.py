"""The status of swarms, as the API, the console and the command line tell it. Money is in integer nano-dollars.

What takes long to add up (outcomes by agent, durations) is cached for an hour under the swarm's version, so it is new
whenever something changed; what moves without it is read anew every time. Without a cache, all is.
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import structlog
from django.core.cache import cache
from django.db import connection
from django.db.models import Count

from apps.costs.models import LedgerEntry, Reservation
from apps.costs.models.ledger import Cost
from apps.swarms.live import RUN_BUDGETS, UNDER_WAY, budget_status, live_of
from apps.swarms.models import Agent, Priority, Swarm, Task, TaskStatus
from apps.tenants.models import Tenant
from portal.money import usd_text

log = structlog.get_logger(__name__)

CACHE_SECONDS = 3600
OVER = (TaskStatus.SUCCEEDED, TaskStatus.FAILED, TaskStatus.CANCELLED)


def swarm_status(swarm: Swarm) -> dict[str, Any]:
    """The status of one swarm, whose row the caller has just read. One query while nothing changes, and none when the
    row was read ``with_live``.

    ``id, name, tenant`` (slug), ``status, status_reason, priority`` (word);
    ``progress`` {total, succeeded, failed, cancelled, running, pending, percent (of tasks that are over)};
    ``queue`` {position, estimated_start, reason};
    ``agents`` [{name, runtime, model, replicas, and the number of tasks by status}];
    ``metrics`` {error_rate (failed attempts of those finished; None before the first), p50_seconds, p99_seconds (of
    finished tasks; None before the first), tokens};
    ``cost`` {llm, infrastructure, storage, adjustment, total, reserved}; ``budget`` (of the run; None without one)
    {id, name, limit, spent, reserved, remaining, percent}; ``created_at, started_at, finished_at``; ``archived``.
    """
    live = live_of(swarm)
    done = _cached(swarm)
    running = sum(counts.get(TaskStatus.RUNNING, 0) for counts in live.tasks.values())
    agents = []
    for agent in done["agents"]:
        tasks = {**agent["tasks"], **dict.fromkeys(UNDER_WAY, 0), **live.tasks.get(agent["name"], {})}
        tasks["pending"] = max(agent["total"] - sum(n for status, n in tasks.items() if status != "pending"), 0)
        agents.append(
            {**{key: agent[key] for key in ("name", "runtime", "model", "replicas")}, "total": agent["total"]}
            | {status.value: tasks.get(status, 0) for status in TaskStatus}
        )
    slug = swarm.tenant.slug if Swarm.tenant.is_cached(swarm) else done["tenant"]  # type: ignore[attr-defined]
    return {
        **_facts(swarm, slug),
        "progress": _progress(swarm, running),
        "agents": agents,
        "metrics": {**done["metrics"], "tokens": live.tokens},
        "cost": _cost(live.cost, live.reserved),
        "budget": live.budget,
    }


def summaries(swarms: Iterable[Swarm]) -> list[dict[str, Any]]:
    """Of each swarm its status without agents and metrics, in the same order. At most five queries, however many."""
    rows = list(swarms)
    ids = [swarm.pk for swarm in rows]
    if not rows:
        return []
    slugs = _slugs(rows)
    running = dict(
        Task.objects.filter(swarm__in=ids, status=TaskStatus.RUNNING)
        .order_by()
        .values_list("swarm_id")
        .annotate(n=Count("id"))
    )
    costs = LedgerEntry.objects.of_swarms(ids)
    reserved = Reservation.objects.of_swarms(ids)
    budgets = _run_budgets(rows)
    return [
        {
            **_facts(swarm, slugs[swarm.tenant_id]),
            "progress": _progress(swarm, running.get(swarm.pk, 0)),
            "cost": _cost(costs[swarm.pk], reserved.get(swarm.pk, 0)),
            "budget": budgets.get(swarm.pk),
        }
        for swarm in rows
    ]


def as_json(status: Mapping[str, Any]) -> dict[str, Any]:
    """A status as a JSON document: amounts as decimal texts under ``..._usd``, times as RFC 3339, ids as texts."""
    return {key: _json(value, money=key in ("cost", "budget")) for key, value in status.items()}


def _json(value: Any, *, money: bool = False) -> Any:
    match value:
        case uuid.UUID():
            return str(value)
        case dt.datetime():
            return value.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
        case Decimal():
            return format(value, "f")
        case Mapping():
            return {
                f"{key}_usd" if money and isinstance(entry, int) else key: usd_text(entry)
                if money and isinstance(entry, int)
                else _json(entry)
                for key, entry in value.items()
            }
        case list():
            return [_json(entry) for entry in value]
    return value


# -- parts -----------------------------------------------------------------------------------------------------------


def _facts(swarm: Swarm, slug: str) -> dict[str, Any]:
    return {
        "id": swarm.pk,
        "name": swarm.name,
        "tenant": slug,
        "status": str(swarm.status),
        "status_reason": swarm.status_reason,
        "priority": Priority(swarm.priority).name.lower(),
        "queue": {
            "position": swarm.queue_position,
            "estimated_start": swarm.estimated_start,
            "reason": swarm.queue_reason,
        },
        "created_at": swarm.created_at,
        "started_at": swarm.started_at,
        "finished_at": swarm.finished_at,
        "archived": swarm.archived_at is not None,
    }


def _progress(swarm: Swarm, running: int) -> dict[str, Any]:
    over = swarm.tasks_succeeded + swarm.tasks_failed + swarm.tasks_cancelled
    running = min(running, swarm.tasks_total - over)
    return {
        "total": swarm.tasks_total,
        "succeeded": swarm.tasks_succeeded,
        "failed": swarm.tasks_failed,
        "cancelled": swarm.tasks_cancelled,
        "running": running,
        "pending": swarm.tasks_total - over - running,
        # Rounded down: 100 means that all are over.
        "percent": over * 1000 // swarm.tasks_total / 10 if swarm.tasks_total else 0.0,
    }


def _cost(cost: Cost, reserved: int) -> dict[str, int]:
    return {
        "llm": cost.llm,
        "infrastructure": cost.infrastructure,
        "storage": cost.storage,
        "adjustment": cost.adjustment,
        "total": cost.total,
        "reserved": reserved,
    }


def _slugs(swarms: Sequence[Swarm]) -> dict[uuid.UUID, str]:
    if all(Swarm.tenant.is_cached(swarm) for swarm in swarms):  # type: ignore[attr-defined]
        return {swarm.tenant_id: swarm.tenant.slug for swarm in swarms}
    return dict(Tenant.objects.filter(pk__in={swarm.tenant_id for swarm in swarms}).values_list("pk", "slug"))


def _run_budgets(swarms: Sequence[Swarm]) -> dict[uuid.UUID, dict[str, Any]]:
    """The budgets that runs have of their own, by swarm. One query."""
    asked: dict[str, Any] = {"tenants": list({s.tenant_id for s in swarms}), "swarms": [str(s.pk) for s in swarms]}
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT b.target, b.id, b.name, b."limit", p.spent + p.overage, p.reserved
            {RUN_BUDGETS} AND b.tenant_id = ANY(%(tenants)s) AND b.target = ANY(%(swarms)s)
            ORDER BY b.created_at
            """,
            asked,
        )
        return {uuid.UUID(target): budget_status(*row) for target, *row in reversed(cursor.fetchall())}


# -- what is cached --------------------------------------------------------------------------------------------------


def _cached(swarm: Swarm) -> dict[str, Any]:
    """What took long to add up, from the cache when nothing changed since, else from the database."""
    key = f"swarm-status:{swarm.pk}:{swarm.version}"
    try:
        found: dict[str, Any] | None = cache.get(key)
    except Exception as error:  # whatever is wrong with the cache, the database knows
        log.warning("cache_down", error=str(error))
        return _added_up(swarm)
    if found is None:
        found = _added_up(swarm)
        try:
            cache.set(key, found, CACHE_SECONDS)
        except Exception as error:
            log.warning("cache_down", error=str(error))
    return found


def _added_up(swarm: Swarm) -> dict[str, Any]:
    """Outcomes by agent, and seconds that half, and 99 of 100, of the finished tasks took in their last attempt."""
    with connection.cursor() as cursor:
        cursor.execute(_ADD_UP, {"swarm": swarm.pk})
        counted, took = cursor.fetchone() or ("null", None)
    agents: dict[str, dict[str, Any]] = {}
    attempts = failed = 0
    for name, runtime, model, replicas, status, n, made in json.loads(counted or "null") or ():
        about = {"name": name, "runtime": runtime, "model": model, "replicas": replicas, "total": 0}
        agent = agents.setdefault(name, {**about, "tasks": dict.fromkeys(map(str, OVER), 0)})
        if status is None:  # an agent without tasks
            continue
        agent["total"] += n
        if status in OVER:
            agent["tasks"][status] = n
        if status == TaskStatus.CANCELLED:
            continue  # whether its last attempt failed or was cut off is not known
        # The last attempt of a task that runs is not over, and that of one that succeeded did not fail.
        attempts += made - (n if status == TaskStatus.RUNNING else 0)
        failed += made - (n if status in (TaskStatus.RUNNING, TaskStatus.SUCCEEDED) else 0)
    p50, p99 = (round(seconds, 3) for seconds in took) if took else (None, None)
    return {
        "tenant": swarm.tenant.slug,
        "agents": list(agents.values()),
        "metrics": {
            "error_rate": round(max(failed, 0) / attempts, 4) if attempts > 0 else None,
            "p50_seconds": p50,
            "p99_seconds": p99,
        },
    }


_ADD_UP = f"""
    SELECT (
        SELECT jsonb_agg(jsonb_build_array(a.name, a.runtime, a.model, a.replicas, t.status, t.n, t.made) ORDER BY a.id)
        FROM {Agent._meta.db_table} a LEFT JOIN (
            SELECT agent_id, status, count(*) AS n, sum(attempts_counted) AS made FROM {Task._meta.db_table}
            WHERE swarm_id = %(swarm)s GROUP BY agent_id, status
        ) t ON t.agent_id = a.id
        WHERE a.swarm_id = %(swarm)s
    ), (
        SELECT percentile_disc(ARRAY[0.5, 0.99]) WITHIN GROUP (
            ORDER BY extract(epoch FROM finished_at - started_at)::float8
        )
        FROM {Task._meta.db_table}
        WHERE swarm_id = %(swarm)s AND status IN ('succeeded', 'failed') AND finished_at >= started_at
    )
"""
