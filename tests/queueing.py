"""Swarms for tests of the queue, the orchestrator and the watchdog: written straight to their tables."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

from apps.swarms.models import Agent, Priority, Step, Swarm, Task
from apps.tenants.models import Tenant

NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)


def queued(
    tenant: Tenant, *, agents: int = 2, tasks: int = 3, waited_s: float = 60, now: dt.datetime = NOW, **fields: Any
) -> Swarm:
    """A queued swarm: one agent of ``agents`` replicas (2 GB, half a core each) and one step of ``tasks`` tasks."""
    swarm = Swarm.objects.create(
        **{
            "tenant": tenant,
            "name": "swarm",
            "spec": {},
            "priority": Priority.NORMAL,
            "agents_asked": agents,
            "memory_gb_asked": Decimal(2) * agents,
            "cpu_asked": Decimal("0.5") * agents,
            "tasks_total": tasks,
            "created_at": now - dt.timedelta(seconds=waited_s),
            "queued_at": now - dt.timedelta(seconds=waited_s),
            **fields,
        }
    )
    agent = Agent.objects.create(swarm=swarm, name="worker", runtime="python", replicas=agents, slots_free=agents)
    step = Step.objects.create(
        swarm=swarm,
        agent=agent,
        name="work",
        position=0,
        prompt="Work.",
        is_fan_out=True,
        tasks_total=tasks,
        tasks_open=tasks,
    )
    Task.objects.bulk_create(Task(swarm=swarm, step=step, agent=agent, index=index) for index in range(tasks))
    return swarm
