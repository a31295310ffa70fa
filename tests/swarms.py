"""Swarms for tests, written as rows: of any shape, already admitted, without a queue or an orchestrator."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import transaction

from apps.costs.models import Price
from apps.providers.models import Provider, Region
from apps.swarms import progress
from apps.swarms.models import Agent, ResourcePool, Step, Swarm, SwarmStatus, Task
from apps.tenants.models import Tenant

NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)


@dataclass(frozen=True)
class StepOf:
    """A step: ``items`` makes it a fan-out of that many tasks."""

    name: str
    needs: Sequence[str] = ()
    items: int | None = None
    agent: str = "worker"
    prompt: str = "Do {{ item }}."


@dataclass(frozen=True)
class AgentOf:
    """An agent; whatever is not said is the model's default."""

    replicas: int = 10
    fields: dict[str, Any] = field(default_factory=dict)


def make_swarm(
    tenant: Tenant,
    steps: Sequence[StepOf],
    agents: dict[str, AgentOf] | None = None,
    *,
    running: bool = True,
    now: dt.datetime = NOW,
    **fields: Any,
) -> Swarm:
    """A swarm with its agents, steps and tasks; running, with its first tasks ready, unless told otherwise."""
    agents = agents or {"worker": AgentOf()}
    with transaction.atomic():
        swarm = Swarm.objects.create(
            tenant=tenant,
            name="test",
            spec={},
            tasks_total=sum(step.items or 1 for step in steps),
            agents_asked=sum(agent.replicas for agent in agents.values()),
            memory_gb_asked=1,
            cpu_asked=1,
            created_at=now,
            queued_at=now,
            **fields,
        )
        made = {}
        for name, agent in agents.items():
            made[name] = Agent.objects.create(
                swarm=swarm,
                name=name,
                replicas=agent.replicas,
                slots_free=agent.replicas,
                **{"model": "simulated:small", **agent.fields},
            )
        for position, step in enumerate(steps):
            count = step.items or 1
            row = Step.objects.create(
                swarm=swarm,
                agent=made[step.agent],
                name=step.name,
                position=position,
                prompt=step.prompt,
                needs=list(step.needs),
                is_fan_out=step.items is not None,
                open_needs=len(step.needs),
                tasks_total=count,
                tasks_open=count,
            )
            Task.objects.bulk_create(
                Task(swarm=swarm, step=row, agent=made[step.agent], index=index, item=f"item {index}")
                for index in range(count)
            )
        if running:
            start(swarm, now=now)
    swarm.refresh_from_db()
    return swarm


def start(swarm: Swarm, *, now: dt.datetime = NOW) -> None:
    """Admits a swarm as the orchestrator would, without asking whether there is room."""
    with transaction.atomic():
        Swarm.objects.filter(pk=swarm.pk).update(status=SwarmStatus.RUNNING, started_at=now)
        ResourcePool.objects.locked().take([swarm], now=now)
        progress.open_tasks([swarm.pk], now=now)


def simulated_provider(port: int) -> None:
    """The provider ``simulated`` at a port of this machine, and what its models cost."""
    provider = Provider.objects.create(name="simulated")
    Region.objects.create(provider=provider, name="test", base_url=f"http://127.0.0.1:{port}/v1")
    for model in ("small", "fail-server", "fail-bad-request", "hang", "overbill"):
        Price.objects.create(
            provider="simulated",
            model=model,
            input_per_mtok=150_000_000,
            output_per_mtok=600_000_000,
            effective_from=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        )
