"""The ``llm`` runtime: a model with instructions, run by pydantic-ai, every request through the gate."""

from __future__ import annotations

import uuid
from collections import OrderedDict
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.settings import ModelSettings

from apps.execution.gate import Gate, GovernedModel
from apps.execution.runtimes.base import AgentCall, AgentSettings
from apps.providers.clients import ModelClients
from apps.providers.directory import Directory
from apps.providers.transport import LaunchPad

MAX_CACHED_AGENTS = 512


class LlmRuntime:
    """Keeps the pydantic-ai agents of a process; they hold no state of a run, so tasks share them."""

    def __init__(self, clients: ModelClients) -> None:
        self.directory = Directory({})
        self._clients = clients
        self._pad = LaunchPad()
        self._agents: OrderedDict[uuid.UUID, Agent[None, str]] = OrderedDict()

    async def run(self, call: AgentCall, gate: Gate) -> Any:
        """The model's final text."""
        assert call.context is not None
        provider, _, model_name = call.agent.model.partition(":")
        endpoint = self.directory.choose(provider, call=call.context.task_id, attempt=call.attempt)
        call.notes["region"] = endpoint.region
        model = GovernedModel(
            self._clients.model(endpoint, model_name),
            gate,
            call.context,
            max_output_tokens=call.agent.max_output_tokens,
            pad=self._pad,
        )
        result = await self._agent(call.agent).run(call.prompt, model=model)
        return result.output

    def _agent(self, settings: AgentSettings) -> Agent[None, str]:
        agent = self._agents.get(settings.id)
        if agent is None:
            agent = Agent(
                instructions=settings.instructions or None,
                model_settings=ModelSettings(max_tokens=settings.max_output_tokens),
                retries=1,
            )
            self._agents[settings.id] = agent
            if len(self._agents) > MAX_CACHED_AGENTS:
                self._agents.popitem(last=False)
        return agent
