"""The gate: the highest possible cost of a call is reserved before it is made, and settled after.

It is one wrapper around the pydantic-ai model (:class:`GovernedModel`), so no runtime can go round it.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from pydantic_ai.exceptions import ModelConnectionError, ModelHTTPError, UserError
from pydantic_ai.messages import ModelMessage, ModelResponse, SystemPromptPart, UserPromptPart
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from apps.costs.prices import ModelPrice
from apps.costs.reserving import CallRequest, Settlement, Verdict
from apps.execution.errors import BudgetBusy, BudgetExhausted
from apps.execution.results import Spending
from apps.providers.transport import LaunchPad
from portal.ids import uuid7

T = TypeVar("T")

PART_OVERHEAD = 64
"""Bytes added for each message and part: roles, names and separators that a provider puts round the content."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens a call was billed for. Both zero means that the provider did not say.

    Tokens read from or written to the provider's prompt cache are among the input tokens, at a price of their own.
    """

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0


@dataclass(slots=True)
class CallContext:
    """On whose account calls are made: one attempt. ``expires_at`` follows the attempt's lease."""

    tenant_id: uuid.UUID
    subject_id: uuid.UUID | None
    swarm_id: uuid.UUID
    task_id: uuid.UUID
    attempt_id: uuid.UUID
    agent: str
    model: str
    price: ModelPrice
    expires_at: dt.datetime
    spending: Spending = field(default_factory=Spending)


class Gate:
    """Reserves and settles for all attempts of a process.

    ``reserve(request)`` and ``settle(settlement)`` add to the process's batches and return futures of what was written.
    """

    def __init__(
        self,
        reserve: Callable[[CallRequest], asyncio.Future[Verdict]],
        settle: Callable[[Settlement], asyncio.Future[Any]],
        release: Callable[[uuid.UUID], asyncio.Future[Any]],
        *,
        patience_s: float = 10.0,
    ) -> None:
        self._reserve_soon = reserve
        self._settle_soon = settle
        self._release_soon = release
        self._patience_s = patience_s

    async def call(self, context: CallContext, highest: int, send: Callable[[], Awaitable[tuple[T, Usage]]]) -> T:
        """Makes one call under a reservation of ``highest`` nano-dollars; what ``send`` answered.

        Raises BudgetExhausted when a hard budget has no room for it, BudgetBusy when there was none for
        ``patience_s`` seconds because of calls in flight. A call that was certainly not billed gives its reservation
        back; one of which that is not known is charged as reserved, and marked.
        """
        reservation = await self._reserve(context, highest)
        context.spending.requests += 1
        context.spending.estimated += highest
        try:
            answer, usage = await send()
        except BaseException as error:
            if _certainly_not_billed(error):
                self._release_soon(reservation)
            else:
                context.spending.cost += highest
                self._settle_soon(Settlement(reservation, None))
            raise
        if not usage.input_tokens and not usage.output_tokens:
            context.spending.cost += highest
            self._settle_soon(Settlement(reservation, None))
            return answer
        cost = context.price.cost(
            usage.input_tokens,
            usage.output_tokens,
            cache_read_tokens=usage.cache_read_tokens,
            cache_write_tokens=usage.cache_write_tokens,
        )
        context.spending.input_tokens += usage.input_tokens
        context.spending.output_tokens += usage.output_tokens
        context.spending.cost += cost
        self._settle_soon(
            Settlement(
                reservation,
                cost,
                usage.input_tokens,
                usage.output_tokens,
                cache_read_tokens=usage.cache_read_tokens,
                cache_write_tokens=usage.cache_write_tokens,
                rates=context.price.rates(usage.input_tokens),
            )
        )
        return answer

    async def _reserve(self, context: CallContext, highest: int) -> uuid.UUID:
        loop = asyncio.get_running_loop()
        patient_until = loop.time() + self._patience_s
        pause = 0.05
        while True:
            request = CallRequest(
                id=uuid7(),
                tenant_id=context.tenant_id,
                subject_id=context.subject_id,
                swarm_id=context.swarm_id,
                task_id=context.task_id,
                attempt_id=context.attempt_id,
                agent=context.agent,
                model=context.model,
                amount=highest,
                expires_at=context.expires_at,
            )
            pending = self._reserve_soon(request)
            try:
                verdict = await asyncio.shield(pending)
            except asyncio.CancelledError:
                # The batch may be on its way: what it grants is given back, as nobody will make the call.
                pending.add_done_callback(self._give_back)
                raise
            if verdict.granted:
                return verdict.id
            if not verdict.may_fit_later:
                raise BudgetExhausted(verdict.reason, verdict.refused)
            if loop.time() >= patient_until:
                raise BudgetBusy(verdict.reason)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)

    def _give_back(self, pending: asyncio.Future[Verdict]) -> None:
        if not pending.cancelled() and pending.exception() is None and pending.result().granted:
            self._release_soon(pending.result().id)


def _certainly_not_billed(error: BaseException) -> bool:
    """Whether a failed call cost nothing: it was never sent, or the provider refused it with an error status."""
    if isinstance(error, ModelConnectionError):
        return error.phase in ("pool", "connect")
    return isinstance(error, ModelHTTPError) and not error.in_stream


class GovernedModel(WrapperModel):
    """A model whose every request passes the gate, with a bound on its output. Anything else it could do is refused."""

    def __init__(
        self, wrapped: Model, gate: Gate, context: CallContext, *, max_output_tokens: int, pad: LaunchPad | None = None
    ) -> None:
        super().__init__(wrapped)
        self._pad = pad or LaunchPad()
        self._gate = gate
        self._context = context
        self._max_output_tokens = max_output_tokens

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        if model_request_parameters.native_tools:
            self._refuse("use tools that the provider runs and bills by itself")
        settings = ModelSettings(**(model_settings or {}))
        settings["max_tokens"] = min(settings.get("max_tokens") or self._max_output_tokens, self._max_output_tokens)
        highest = self._context.price.highest(request_bytes(messages, model_request_parameters), settings["max_tokens"])

        async def send() -> tuple[ModelResponse, Usage]:
            async with self._pad.launching():
                response = await self.wrapped.request(messages, settings, model_request_parameters)
            used = response.usage
            return response, Usage(
                used.input_tokens, used.output_tokens, used.cache_read_tokens, used.cache_write_tokens
            )

        return await self._gate.call(self._context, highest, send)

    def request_stream(self, *args: Any, **kwargs: Any) -> Any:
        self._refuse("stream")

    async def count_tokens(self, *args: Any, **kwargs: Any) -> Any:
        self._refuse("count tokens")

    async def batch_create(self, *args: Any, **kwargs: Any) -> Any:
        self._refuse("send batches")

    def _refuse(self, what: str) -> NoReturn:
        raise UserError(f"Agents here cannot {what}: the gate governs plain requests only.")


def request_bytes(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> int:
    """UTF-8 bytes of all that the model reads; a bound on its input tokens.

    A byte-level tokeniser never makes more tokens than bytes, and ``PART_OVERHEAD`` covers what a provider adds round
    each message, part and tool.
    """
    total = PART_OVERHEAD
    for message in messages:
        total += PART_OVERHEAD
        for part in message.parts:
            if isinstance(part, UserPromptPart | SystemPromptPart) and isinstance(part.content, str):
                total += _size(part.content) + PART_OVERHEAD
            else:
                total += _size(_everything(part)) + PART_OVERHEAD
    # Only the current request's instructions are sent; those of earlier messages are history.
    rendered = getattr(messages[-1], "instructions", None) or ""
    parts = [_size(part.content) + PART_OVERHEAD for part in parameters.instruction_parts or ()]
    total += max(_size(rendered) + PART_OVERHEAD, sum(parts))
    for tool in (*parameters.function_tools, *parameters.output_tools):
        total += _size(json.dumps([tool.name, tool.description, tool.parameters_json_schema])) + PART_OVERHEAD
    return total


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _everything(part: Any) -> str:
    return json.dumps(vars(part), default=str, ensure_ascii=False)
