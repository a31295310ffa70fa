"""Putting a tenant's overrides into the specs that it submits."""

from __future__ import annotations

from typing import Any

from apps.swarms.models import AgentOverride
from apps.swarms.specs import AgentSpec, Examined
from apps.tenants.models import Tenant


def override(examined: Examined, tenant: Tenant) -> dict[str, Any]:
    """Changes the agents of a spec as the tenant's overrides say; what was changed.

    That is {agent: {"model": [before, after], "replicas": [before, after]}}, empty where nothing was. One query.
    """
    changed: dict[str, Any] = {}
    for name, each in AgentOverride.objects.of(tenant, examined.agents).items():
        agent = examined.agents[name]
        update = _changes(agent, each)
        if update:
            changed[name] = {key: [getattr(agent, key), value] for key, value in update.items()}
            examined.agents[name] = agent.model_copy(update=update)
    if changed and examined.spec:
        agents = {**examined.spec.agents, **{name: examined.agents[name] for name in changed}}
        examined.spec = examined.spec.model_copy(update={"agents": agents})
    return changed


def _changes(agent: AgentSpec, by: AgentOverride) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    # Only what calls a model has one to replace.
    if by.model and agent.model and by.model != agent.model:
        changes["model"] = by.model
    if by.max_replicas and by.max_replicas < agent.replicas:
        changes["replicas"] = by.max_replicas
    return changes
