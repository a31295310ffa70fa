"""Submitting a swarm: what the spec says is checked against this installation, then written in one transaction."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from django.db import transaction
from django.utils import timezone

from apps.audit import trail
from apps.costs.actions import set_run_budget
from apps.costs.prices import UnknownModel, price_of, prices_of
from apps.events.log import NewEvent, emit
from apps.privacy.models import DataSubject
from apps.providers.models import Provider
from apps.swarms import runtimes
from apps.swarms.models import Agent, ResourcePool, Step, Swarm, Task
from apps.swarms.overriding import override
from apps.swarms.resources import Resources
from apps.swarms.spec_errors import Found, Suggestions, listed
from apps.swarms.specs import AgentSpec, SwarmSpec, examine
from apps.tenants.access import Principal
from apps.tenants.models import Tenant, User
from apps.tenants.policies import UNLIMITED
from apps.tenants.roles import Permission
from portal.ids import uuid7
from portal.notify import Channel, notify

BATCH = 5_000


class CannotSubmit(Exception):
    """Nothing can be submitted here now, whatever the spec; the text is for a person."""


def submit(
    source: str | Mapping[str, Any],
    *,
    tenant: Tenant,
    by: Principal,
    user: User | None = None,
    now: dt.datetime | None = None,
) -> Swarm:
    """Queues the swarm that a spec describes (YAML or JSON text, or data read from one).

    Raises SpecInvalid with everything that is wrong with the spec here; CannotSubmit for a tenant that takes nothing
    new; AccessDenied without the permission.
    """
    now = now or timezone.now()
    by.verify_held(Permission.SWARM_CREATE, tenant.pk)
    if not tenant.is_active:
        raise CannotSubmit(f"The tenant {tenant.slug} is not active: it can submit nothing new.")
    examined = examine(source)
    overridden = override(examined, tenant)
    taken = {problem.path for problem in examined.found}
    here = _problems_here(examined.agents, tenant, now)
    if examined.spec:
        here += _problems_of_size(examined.spec, tenant)
    examined.found += [_blamed(problem, overridden) for problem in here if problem.path not in taken]
    spec = examined.verify()
    # Without a budget of its own, nothing of the run's limits what is at stake.
    by.verify(Permission.SWARM_CREATE, tenant.pk, amount=UNLIMITED if spec.budget is None else spec.budget)
    with transaction.atomic():
        return _write(spec, examined.data, overridden, tenant, by, user, now)


def asks(spec: SwarmSpec) -> Resources:
    """What the swarm asks of the pool: all replicas of all its agents, and a place."""
    total = Resources(swarms=1)
    for agent in spec.agents.values():
        total += Resources(agent.replicas, agent.memory_gb * agent.replicas, agent.cpu * agent.replicas)
    return total


# -- what this installation can run ----------------------------------------------------------------------------------


def _problems_here(agents: Mapping[str, AgentSpec], tenant: Tenant, now: dt.datetime) -> list[Found]:
    found: list[Found] = []
    suggestions = Suggestions()
    models: dict[str, str] = {}
    for name, agent in agents.items():
        if agent.runtime not in runtimes.available:
            runs = listed(sorted(runtimes.available)) or "no"
            message = f"This installation runs {runs} agents only, not {agent.runtime} ones."
            found.append(Found(("agents", name, "runtime"), message, "not_available"))
        elif agent.callable and agent.callable not in runtimes.callables:
            sentence = f"No callable is registered here as {agent.callable!r}"
            message = suggestions.end(sentence, agent.callable, sorted(runtimes.callables))
            found.append(Found(("agents", name, "callable"), message, "unknown_callable"))
        elif agent.model:
            models[name] = agent.model
    if not models:
        return found
    enabled = dict(Provider.objects.values_list("name", "is_enabled"))
    usable = sorted(name for name, on in enabled.items() if on)
    unpriced = _unpriced({m for m in models.values() if enabled.get(m.partition(":")[0])}, tenant, now)
    for name, model in models.items():
        provider = model.partition(":")[0]
        path = ("agents", name, "model")
        if provider not in enabled:
            message = suggestions.end(f"There is no provider {provider!r}", provider, usable)
            found.append(Found(path, message, "unknown_provider"))
        elif not enabled[provider]:
            found.append(Found(path, f"The provider {provider!r} is switched off.", "unknown_provider"))
        elif model in unpriced:
            found.append(Found(path, unpriced[model], "unknown_model"))
    return found


def _unpriced(models: set[str], tenant: Tenant, now: dt.datetime) -> dict[str, str]:
    """The models that have no price, and what to do about each."""
    try:
        prices_of(models, tenant_id=tenant.pk, at=now)
    except UnknownModel as unknown:
        found = {}
        for model in unknown.models:
            try:
                price_of(model, tenant_id=tenant.pk, at=now)
            except UnknownModel as error:
                found[model] = str(error)
        return found
    return {}


def _blamed(problem: Found, overridden: Mapping[str, Any]) -> Found:
    """The problem, saying so where it comes from an override and not from the spec."""
    match problem.path:
        case ("agents", name, "model") if "model" in overridden.get(str(name), ()):
            message = f"{problem.message} An agent override sets this model: change it under Agent overrides."
            return replace(problem, message=message)
    return problem


def _problems_of_size(spec: SwarmSpec, tenant: Tenant) -> list[Found]:
    """Why it could never start, however long it waits: it asks more than there is in all."""
    asked = asks(spec)
    pool = ResourcePool.objects.current()
    total = Resources(pool.agents_total, pool.memory_gb_total, pool.cpu_total, pool.swarms_total)
    found = []
    if not asked.fits(total):
        missing = (asked - total).up_to(asked)
        message = (
            f"Its replicas ask for {Resources(asked.agents, asked.memory_gb, asked.cpu)}; the pool has {total} in all. "
            f"It can never start: {missing} too much."
        )
        found.append(Found(("agents",), message, "does_not_fit"))
    if tenant.max_agents is not None and asked.agents > tenant.max_agents:
        most = f"{tenant.slug} may have at once ({tenant.max_agents:,})"
        message = f"Its {asked.agents:,} replicas are more agents than {most}. It can never start."
        found.append(Found(("agents",), message, "does_not_fit"))
    return found


# -- writing it down -------------------------------------------------------------------------------------------------


def _write(
    spec: SwarmSpec,
    data: Mapping[str, Any],
    overridden: Mapping[str, Any],
    tenant: Tenant,
    by: Principal,
    user: User | None,
    now: dt.datetime,
) -> Swarm:
    asked = asks(spec)
    items = [task.items for task in spec.tasks]
    swarm = Swarm(
        tenant=tenant,
        name=spec.swarm,
        priority=spec.priority_value,
        # People are known by their pseudonym alone wherever data is kept for long.
        spec={key: value for key, value in data.items() if key != "end_user"},
        overrides=dict(overridden),
        subject_id=DataSubject.objects.pseudonym(tenant.pk, spec.end_user) if spec.end_user else None,
        submitted_by=user,
        estimated_duration_s=spec.estimated_duration_s,
        agents_asked=asked.agents,
        memory_gb_asked=asked.memory_gb,
        cpu_asked=asked.cpu,
        tasks_total=sum(map(len, items)),
        created_at=now,
        queued_at=now,
    )
    swarm.save(force_insert=True)
    # Ids of one millisecond are in no order; agents are listed by theirs, in the order of the spec.
    ids = sorted(uuid7() for _ in spec.agents)
    agents = {name: _agent(pk, swarm, name, agent) for pk, (name, agent) in zip(ids, spec.agents.items(), strict=True)}
    Agent.objects.bulk_create(agents.values(), batch_size=BATCH)
    steps = [
        Step(
            swarm=swarm,
            agent=agents[task.agent],
            name=task.id,
            position=position,
            prompt=task.prompt,
            needs=task.needs,
            is_fan_out=task.for_each is not None,
            open_needs=len(task.needs),
            tasks_total=len(items[position]),
            tasks_open=len(items[position]),
        )
        for position, task in enumerate(spec.tasks)
    ]
    Step.objects.bulk_create(steps, batch_size=BATCH)
    Task.objects.bulk_create(
        [
            Task(swarm=swarm, step=step, agent=step.agent, index=index, item=item)
            for step in steps
            for index, item in enumerate(items[step.position])
        ],
        batch_size=BATCH,
    )
    if spec.budget is not None:
        set_run_budget(swarm.pk, tenant, spec.budget, spec.swarm)
    facts = {
        "name": swarm.name,
        "priority": spec.priority,
        "agents": asked.agents,
        "tasks": swarm.tasks_total,
        "budget_usd": None if spec.budget_usd is None else f"{spec.budget_usd:f}",
    }
    if overridden:
        facts["overrides"] = dict(overridden)
    emit([NewEvent("swarm.submitted", tenant.pk, swarm.pk, data=facts)], now=now)
    trail.record(by, Permission.SWARM_CREATE, swarm, tenant_id=tenant.pk, details=facts)
    notify(Channel.ADMIT)
    return swarm


def _agent(pk: uuid.UUID, swarm: Swarm, name: str, spec: AgentSpec) -> Agent:
    return Agent(
        pk=pk,
        swarm=swarm,
        name=name,
        runtime=spec.runtime,
        model=spec.model or "",
        instructions=spec.instructions,
        options=spec.options,
        replicas=spec.replicas,
        slots_free=spec.replicas,
        memory_gb=spec.memory_gb,
        cpu=spec.cpu,
        max_output_tokens=spec.max_output_tokens,
        timeout_s=spec.timeout_s,
        # Only what was set: an empty mapping stands for the default delays.
        retry=spec.retry.model_dump(exclude_unset=True) if spec.retry else {},
    )
