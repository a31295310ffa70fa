"""The ``llm`` runtime: a model with instructions, run by pydantic-ai, every request through the gate."""

from __future__ import annotations

import datetime as dt
import uuid
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from django.utils import timezone
from pydantic_ai import Agent
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import UsageLimits

from apps.execution.answering import CachedAnswers, CachePolicy
from apps.execution.artifacts.saving import SAVE_FILE, AttemptFiles
from apps.execution.failover import Line
from apps.execution.gate import Gate
from apps.execution.governed import GovernedModel
from apps.execution.runtimes.base import AgentCall, AgentSettings
from apps.providers.answer_cache import AnswerCache
from apps.providers.clients import ModelClients
from apps.providers.switchboard import Switchboard
from apps.providers.transport import LaunchPad

MAX_CACHED_AGENTS = 512
REQUESTS = 50
"""Most requests of one attempt, beside one for each file that it may save."""


class LlmRuntime:
    """Keeps the pydantic-ai agents of a process; they hold no state of a run, so tasks share them."""

    def __init__(
        self,
        clients: ModelClients,
        board: Switchboard,
        cache: AnswerCache,
        *,
        now: Callable[[], dt.datetime] = timezone.now,
    ) -> None:
        self._clients = clients
        self._board = board
        self._cache = cache
        self._now = now
        self._pad = LaunchPad()
        self._agents: OrderedDict[uuid.UUID, Agent[AttemptFiles | None, str]] = OrderedDict()

    async def run(self, call: AgentCall, gate: Gate) -> Any:
        """The model's final text."""
        assert call.context is not None
        provider, _, model_name = call.agent.model.partition(":")
        policy, answers = CachePolicy.of(call.agent.options), None
        if policy is not None:
            answers = CachedAnswers(self._cache, policy, gate, call.context, call.notes, self._now)
        line = Line(self._board, self._clients, provider, model_name, call.context.tenant_id, call.notes)
        model = GovernedModel(
            line.face(),
            gate,
            call.context,
            max_output_tokens=call.agent.max_output_tokens,
            pad=self._pad,
            line=line,
            answers=answers,
        )
        limits = UsageLimits(request_limit=REQUESTS + (call.files.most if call.files else 0))
        agent = self._agent(call.agent)
        result = await agent.run(call.prompt, model=model, deps=call.files, usage_limits=limits)
        if answers is not None:
            answers.keep()
        return result.output

    def _agent(self, settings: AgentSettings) -> Agent[AttemptFiles | None, str]:
        agent = self._agents.get(settings.id)
        if agent is None:
            agent = Agent(
                instructions=settings.instructions or None,
                model_settings=ModelSettings(max_tokens=settings.max_output_tokens),
                deps_type=AttemptFiles,
                tools=[SAVE_FILE] if settings.saves_files else [],
                retries=1,
            )
            self._agents[settings.id] = agent
            if len(self._agents) > MAX_CACHED_AGENTS:
                self._agents.popitem(last=False)
        return agent
