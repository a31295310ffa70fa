"""Requests of an attempt that may be answered from the response cache: before money is reserved, or when all is down.

What is never cached: requests that offer tools (a tool may act, and what to do is not decided once for all), answers
that were cut off, filtered or refused, and answers of a run that failed. An answer is kept when the run that asked for
it has succeeded, so that a retry never meets what made the first attempt fail.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from django.conf import settings as django_settings
from django.utils import timezone
from pydantic_ai.exceptions import ModelConnectionError, ModelHTTPError
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelResponse,
    TextPart,
    ThinkingPart,
    ToolCallPart,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage

from apps.costs.cached_calls import CachedCall
from apps.execution.gate import CallContext, Gate
from apps.execution.request_keys import HasNoKey, request_key
from apps.providers.answer_cache import AnswerCache
from apps.providers.answers import Found, NewAnswer
from apps.providers.errors import ProviderUnavailable
from portal.ids import uuid7
from portal.money import usd_text

MARGIN = 0.1
"""The share of an attempt's time, at most a second, that is kept for looking an older answer up."""


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """What an agent allows: cached answers up to ``max_age_s`` seconds old; older ones when no region answers."""

    answers: bool
    degraded: bool
    max_age_s: float
    degraded_s: float

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> CachePolicy | None:
        """The policy of an agent with these options; None when it allows nothing."""
        said = options.get("cache") or {}
        policy = cls(
            bool(said.get("answers")),
            bool(said.get("degraded")),
            said.get("max_age_s") or django_settings.RESPONSE_CACHE_S,
            django_settings.RESPONSE_CACHE_DEGRADED_S,
        )
        return policy if policy.answers or policy.degraded else None

    @property
    def kept_s(self) -> float:
        """How long an answer may be of use."""
        return max(self.max_age_s if self.answers else 0, self.degraded_s if self.degraded else 0)


@dataclass(slots=True)
class CachedAnswers:
    """The requests of one attempt. ``notes`` gets what came from the cache."""

    cache: AnswerCache
    policy: CachePolicy
    gate: Gate
    context: CallContext
    notes: dict[str, Any]
    now: Callable[[], dt.datetime] = timezone.now
    _given: list[NewAnswer] = field(default_factory=list)
    _saved: int = 0

    def __post_init__(self) -> None:
        deadline = self.context.deadline
        if self.policy.degraded and deadline is not None:
            left = deadline - asyncio.get_running_loop().time()
            self.context.deadline = deadline - min(1.0, MARGIN * left)

    async def answer(
        self,
        messages: Sequence[ModelMessage],
        settings: ModelSettings,
        parameters: ModelRequestParameters,
        ask: Callable[[], Awaitable[ModelResponse]],
    ) -> ModelResponse:
        """The answer of the cache, else what ``ask`` is answered; raises what ``ask`` does."""
        context = self.context
        try:
            if parameters.function_tools:
                raise HasNoKey("The request offers tools.")
            key = request_key(context.tenant_id, context.agent, context.model, messages, settings, parameters)
        except HasNoKey:
            return await ask()
        flight = None
        if self.policy.answers:
            if (found := await self._find(key, self.policy.max_age_s)) is not None:
                return found
            shared = self.cache.flight(key)
            if shared is not None and (said := await asyncio.shield(shared)) and (response := _read(said)):
                return self._hit(key, response, 0.0)
            self.cache.count(context.tenant_id, misses=1)
            flight = self.cache.take_off(key)
        text = None
        try:
            began_at = self.now()
            response = await self._ask(key, ask)
            if not self._is_degraded and is_whole(response, parameters):
                text = _written(response)
                self._note(key, text, began_at)
            return response
        finally:
            if flight is not None:
                self.cache.land(key, flight, text)

    def keep(self) -> None:
        """The run has succeeded: what it was answered is of use to others."""
        for answer in self._given:
            self.cache.keep(answer)
        self._given.clear()

    @property
    def _is_degraded(self) -> bool:
        return bool(self.notes.get("cache", {}).get("degraded"))

    async def _find(self, key: str, younger_than_s: float, *, degraded: bool = False) -> ModelResponse | None:
        found: Found | None = await self.cache.find(key, self.context.tenant_id, younger_than_s=younger_than_s)
        response = _read(found.text) if found else None
        if found is None or response is None:
            return None
        age_s = max((self.now() - found.given_at).total_seconds(), 0.0)
        return self._hit(key, response, age_s, degraded=degraded)

    async def _ask(self, key: str, ask: Callable[[], Awaitable[ModelResponse]]) -> ModelResponse:
        if not self.policy.degraded:
            return await ask()
        try:
            async with asyncio.timeout_at(self.context.deadline):
                return await ask()
        except Exception as error:
            if not is_down(error):
                raise
            found = await self._find(key, self.policy.degraded_s, degraded=True)
            if found is None:
                raise
            self.notes.setdefault("cache", {})["because"] = (str(error).strip() or "No region answered in time.")[:500]
            return found

    def _note(self, key: str, text: str, began_at: dt.datetime) -> None:
        given_at = self.now()
        context = self.context
        expires_at = given_at + dt.timedelta(seconds=self.policy.kept_s)
        self._given.append(
            NewAnswer(key, context.tenant_id, context.agent, context.model, text, began_at, given_at, expires_at)
        )

    def _hit(self, key: str, response: ModelResponse, age_s: float, *, degraded: bool = False) -> ModelResponse:
        """The response as a cached one: it used no tokens, and cost nothing."""
        context, used = self.context, response.usage
        saved = None
        if used.input_tokens or used.output_tokens:
            saved = context.price.cost(
                used.input_tokens,
                used.output_tokens,
                cache_read_tokens=used.cache_read_tokens,
                cache_write_tokens=used.cache_write_tokens,
            )
        self.gate.record_cached(
            CachedCall(
                id=uuid7(),
                tenant_id=context.tenant_id,
                subject_id=context.subject_id,
                swarm_id=context.swarm_id,
                task_id=context.task_id,
                attempt_id=context.attempt_id,
                agent=context.agent,
                model=context.model,
                age_s=age_s,
                saved=saved,
                degraded=degraded,
            )
        )
        what = {"degraded": 1} if degraded else {"hits": 1}
        self.cache.count(context.tenant_id, used=key, saved=saved or 0, **what)
        self._tell(age_s, saved, degraded)
        return replace(response, usage=RequestUsage())

    def _tell(self, age_s: float, saved: int | None, degraded: bool) -> None:
        told = self.notes.setdefault("cache", {"answers": 0, "oldest_s": 0.0})
        told["answers"] += 1
        told["oldest_s"] = max(told["oldest_s"], round(age_s, 1))
        if saved is not None:
            self._saved += saved
            told["saved_usd"] = usd_text(self._saved)
        if degraded:
            told["degraded"] = True


def is_down(error: BaseException) -> bool:
    """Whether an error says that no region could answer: not that the call was wrong, refused or not paid for."""
    match error:
        case ModelHTTPError():
            return error.status_code >= 500 or error.status_code == 408
        case ProviderUnavailable() | ModelConnectionError() | TimeoutError():
            return True
    return False


def is_whole(response: ModelResponse, parameters: ModelRequestParameters) -> bool:
    """Whether an answer may be given again: it was not cut off, filtered or refused, and says something."""
    reasons = {"stop", "tool_call"} if parameters.output_tools else {"stop"}
    if response.finish_reason not in reasons:
        return False
    outputs = {tool.name for tool in parameters.output_tools}
    says_something = False
    for part in response.parts:
        match part:
            case TextPart():
                says_something = says_something or bool(part.content.strip())
            case ToolCallPart() if part.tool_name in outputs:
                says_something = True
            case ThinkingPart():
                continue
            case _:
                return False
    return says_something


def _written(response: ModelResponse) -> str:
    bare = replace(response, run_id=None, conversation_id=None)
    return ModelMessagesTypeAdapter.dump_json([bare]).decode()


def _read(text: str) -> ModelResponse | None:
    """The response in a text; None for one of another time that is no response any more."""
    try:
        (response,) = ModelMessagesTypeAdapter.validate_json(text)
    except ValueError:
        return None
    return response if isinstance(response, ModelResponse) else None
