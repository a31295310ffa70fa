"""What a runner must know of leased tasks before it can run them, read in a few queries per batch and remembered."""

from __future__ import annotations

import datetime as dt
import uuid
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from apps.costs.prices import ModelPrice, price_of
from apps.execution.leases import Leased
from apps.execution.recovery import RetryPolicy
from apps.execution.runtimes.base import AgentSettings
from apps.swarms.models import Agent, Step, Task
from apps.swarms.prompts import PromptError, render, uses

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

PRICE_SECONDS = 60


class Lru(Generic[K, V]):
    """A mapping that forgets what was least recently used beyond ``size`` entries."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key]
        return None

    def put(self, key: K, value: V) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def missing(self, keys: Iterable[K]) -> list[K]:
        return [key for key in dict.fromkeys(keys) if key not in self._entries]


@dataclass(frozen=True, slots=True)
class AgentBrief:
    """An agent of a swarm: how it runs, when it retries, on whose account."""

    settings: AgentSettings
    retry: RetryPolicy
    subject_id: uuid.UUID | None


@dataclass(frozen=True, slots=True)
class StepBrief:
    """A step: its prompt template and the steps whose results the template may use."""

    prompt: str
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Brief:
    """All that one attempt needs. ``problem`` is set when the prompt or the price cannot be made."""

    agent: AgentBrief
    prompt: str
    price: ModelPrice | None
    problem: Exception | None = None


class Briefing:
    """Makes briefs. Agents and steps of a swarm never change, and results of a complete step are final: remembered."""

    def __init__(self) -> None:
        self._agents: Lru[uuid.UUID, AgentBrief] = Lru(2_000)
        self._steps: Lru[uuid.UUID, StepBrief] = Lru(2_000)
        self._results: Lru[tuple[uuid.UUID, str], Any] = Lru(256)
        self._prices: Lru[tuple[uuid.UUID, str], tuple[dt.datetime, ModelPrice]] = Lru(1_000)

    def prepare(self, batch: Sequence[Leased], *, now: dt.datetime) -> list[Brief]:
        """The briefs of leased tasks, in their order; no query when everything is known already."""
        self._load_agents(self._agents.missing(task.agent_id for task in batch))
        self._load_steps(batch)
        self._load_results(batch)
        return [self._brief(task, now) for task in batch]

    def _brief(self, task: Leased, now: dt.datetime) -> Brief:
        agent, step = self._agents.get(task.agent_id), self._steps.get(task.step_id)
        assert agent is not None
        assert step is not None
        prompt, price = "", None
        try:
            results = {name: self._results.get((task.swarm_id, name)) for name in step.sources}
            prompt = render(step.prompt, item=task.item, results=results)
            if agent.settings.model:
                price = self._price(task.tenant_id, agent.settings.model, now)
        except Exception as error:
            # Whatever a template or a missing price raises is this attempt's failure, not the runner's.
            return Brief(agent, prompt, None, error)
        return Brief(agent, prompt, price)

    def _price(self, tenant_id: uuid.UUID, model: str, now: dt.datetime) -> ModelPrice:
        known = self._prices.get((tenant_id, model))
        if known is not None and now - known[0] < dt.timedelta(seconds=PRICE_SECONDS):
            return known[1]
        price = price_of(model, tenant_id=tenant_id, at=now)
        self._prices.put((tenant_id, model), (now, price))
        return price

    def _load_agents(self, ids: Sequence[uuid.UUID]) -> None:
        if not ids:
            return
        for agent in Agent.objects.filter(pk__in=ids).select_related("swarm"):
            self._agents.put(
                agent.pk,
                AgentBrief(
                    AgentSettings(
                        id=agent.pk,
                        name=agent.name,
                        runtime=agent.runtime,
                        model=agent.model,
                        instructions=agent.instructions,
                        max_output_tokens=agent.max_output_tokens,
                        timeout_s=agent.timeout_s,
                        options=agent.options,
                    ),
                    RetryPolicy.of(agent.retry),
                    agent.swarm.subject_id,
                ),
            )

    def _load_steps(self, batch: Sequence[Leased]) -> None:
        missing = set(self._steps.missing(task.step_id for task in batch))
        if not missing:
            return
        swarm_ids = {task.swarm_id for task in batch if task.step_id in missing}
        needs: dict[tuple[uuid.UUID, str], list[str]] = {}
        steps = list(Step.objects.filter(swarm_id__in=swarm_ids))
        for step in steps:
            needs[step.swarm_id, step.name] = step.needs
        for step in steps:
            if step.pk in missing:
                self._steps.put(step.pk, StepBrief(step.prompt, _sources(step, needs)))

    def _load_results(self, batch: Sequence[Leased]) -> None:
        wanted: list[tuple[uuid.UUID, str]] = []
        for task in batch:
            step = self._steps.get(task.step_id)
            assert step is not None
            wanted += [(task.swarm_id, name) for name in step.sources]
        for swarm_id, name in self._results.missing(wanted):
            rows = Task.objects.filter(swarm_id=swarm_id, step__name=name).order_by("index")
            values = list(rows.values_list("result", "step__is_fan_out"))
            self._results.put((swarm_id, name), [result for result, _ in values] if values[0][1] else values[0][0])


def _sources(step: Step, needs: dict[tuple[uuid.UUID, str], list[str]]) -> tuple[str, ...]:
    """The steps needed, directly or not, whose results the step's template uses."""
    found: dict[str, None] = {}
    queue = list(step.needs)
    while queue:
        name = queue.pop()
        if name not in found:
            found[name] = None
            queue += needs.get((step.swarm_id, name), [])
    try:
        used = uses(step.prompt).results
    except PromptError:
        return ()  # rendering it fails the attempt, with what is wrong
    return tuple(name for name in found if name in used)
