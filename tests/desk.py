"""Work for the console to show, done through the real actions: submitted, admitted, leased, paid for, recorded."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import yaml
from django.utils import timezone

from apps.costs.models import Price
from apps.costs.reserving import CallRequest, Settlement, reserve
from apps.execution import leases, results
from apps.execution.artifacts.storing import StoredFile
from apps.execution.models import Runner, Tick
from apps.providers.models import Provider, Region
from apps.swarms import admission, prompts
from apps.swarms.actions.submit import submit
from apps.swarms.models import Agent, Step, Swarm, TaskStatus
from apps.swarms.progress import TaskOutcome
from apps.tenants.access import principal_of
from apps.tenants.models import Tenant, User
from portal.ids import uuid7

EXAMPLES = Path(__file__).resolve().parents[1] / "docs" / "examples"
RUNNER = uuid.UUID(int=0xBEE)
MILLION = 1_000_000  # nano-dollars: a tenth of a cent


def models_for_sale() -> None:
    """The provider ``simulated`` and the prices of its models."""
    provider, _ = Provider.objects.get_or_create(name="simulated")
    Region.objects.get_or_create(provider=provider, name="here", defaults={"base_url": "http://127.0.0.1:9/v1"})
    for model, factor in (("small", 1), ("large", 10)):
        Price.objects.get_or_create(
            provider="simulated",
            model=model,
            effective_from=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
            defaults={"input_per_mtok": 150_000_000 * factor, "output_per_mtok": 600_000_000 * factor},
        )


def platform_is_up(now: dt.datetime | None = None) -> None:
    """An orchestrator that has just ticked, and a runner that has just said so."""
    now = now or timezone.now()
    Tick.objects.create(at=now, leader="desk/1")
    Runner.objects.create(id=RUNNER, node="desk", pid=1, concurrency=200, heartbeat_at=now)


def spec(name: str, *, items: int = 4, replicas: int = 2, **fields: Any) -> dict[str, Any]:
    """A spec with a fan-out and a step that needs it."""
    return {
        "swarm": name,
        "agents": {
            "reader": {"runtime": "llm", "model": "simulated:small", "instructions": "Read.", "replicas": replicas},
            "writer": {"runtime": "llm", "model": "simulated:large", "instructions": "Write."},
        },
        "tasks": [
            {
                "id": "read",
                "agent": "reader",
                "for_each": [f"page {n}" for n in range(items)],
                "prompt": "Read {{ item }}.",
            },
            {"id": "write", "agent": "writer", "needs": ["read"], "prompt": "Sum up: {{ results.read }}"},
        ],
        **fields,
    }


def submitted(source: dict[str, Any] | str, tenant: Tenant, user: User, now: dt.datetime | None = None) -> Swarm:
    """Submits a spec, or the example of that name."""
    if isinstance(source, str):
        source = yaml.safe_load((EXAMPLES / f"{source}.yaml").read_text(encoding="utf-8"))
    return submit(source, tenant=tenant, by=principal_of(user), user=user, now=now)


def started(source: dict[str, Any] | str, tenant: Tenant, user: User, now: dt.datetime | None = None) -> Swarm:
    """Submits a spec and admits what the pool has room for."""
    swarm = submitted(source, tenant, user, now)
    admission.admit(now=now or timezone.now())
    swarm.refresh_from_db()
    return swarm


def take(limit: int, now: dt.datetime | None = None, seconds: float = 30) -> list[leases.Leased]:
    """Leases ready tasks and leaves them running."""
    now = now or timezone.now()
    return leases.lease(RUNNER, limit, now=now, expires_at=now + dt.timedelta(seconds=seconds))


def work(
    limit: int = 100,
    *,
    status: TaskStatus = TaskStatus.SUCCEEDED,
    error: str = "",
    cost: int = 3 * MILLION,
    now: dt.datetime | None = None,
    took_s: float = 1.4,
    of: Collection[leases.Leased] | None = None,
) -> int:
    """Runs ready tasks as a runner would, with one paid call each; how many."""
    now = now or timezone.now()
    leased = list(of) if of is not None else take(limit, now - dt.timedelta(seconds=took_s))
    agents = Agent.objects.in_bulk([task.agent_id for task in leased])
    steps = Step.objects.in_bulk([task.step_id for task in leased])
    calls = [
        CallRequest(
            uuid7(),
            task.tenant_id,
            None,
            task.swarm_id,
            task.task_id,
            task.token,
            agents[task.agent_id].name,
            agents[task.agent_id].model,
            2 * cost,
            now + dt.timedelta(seconds=30),
        )
        for task in leased
    ]
    granted = {call.id for call, verdict in zip(calls, reserve(calls, now=now), strict=True) if verdict.granted}
    done: list[Settlement | results.Finished] = [
        Settlement(call.id, cost, 420, 96) for call in calls if call.id in granted
    ]
    for task in leased:
        spending = results.Spending(1, 420, 96, 2 * cost, cost)
        outcome = TaskOutcome(
            task.task_id,
            task.token,
            status,
            result=f"Three facts on {task.item}." if status == TaskStatus.SUCCEEDED else None,
            failure_code="" if status == TaskStatus.SUCCEEDED else "provider_error",
            error=error,
            retry_at=now + dt.timedelta(seconds=15) if status == TaskStatus.WAITING else None,
        )
        context = {"model": agents[task.agent_id].model, "prompt": _prompt(steps[task.step_id], task), "region": "here"}
        done.append(results.Finished(task, RUNNER, outcome, now, context, spending))
    results.write(done, now=now)
    return len(leased)


def done(leased: leases.Leased, files: Sequence[StoredFile], now: dt.datetime) -> results.Finished:
    """An attempt that succeeded without a call, with the files that it saved."""
    outcome = TaskOutcome(leased.task_id, leased.token, TaskStatus.SUCCEEDED, result="done")
    return results.Finished(leased, RUNNER, outcome, now, {}, files=files)


def _prompt(step: Step, task: leases.Leased) -> str:
    return prompts.render(step.prompt, item=task.item, results=dict.fromkeys(step.needs, "Much was found."))


def finish(swarm: Swarm, now: dt.datetime | None = None) -> Swarm:
    """Works until nothing is ready any more."""
    while work(now=now):
        pass
    swarm.refresh_from_db()
    return swarm
