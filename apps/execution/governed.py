"""The gate as a model: one wrapper around the pydantic-ai model, so no runtime can go round it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import ModelMessage, ModelResponse, SystemPromptPart, UserPromptPart
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from apps.execution.answering import CachedAnswers
from apps.execution.failover import Line
from apps.execution.gate import CallContext, Gate, Usage
from apps.providers.transport import LaunchPad

PART_OVERHEAD = 64
"""Bytes added for each message and part: roles, names and separators that a provider puts round the content."""


class GovernedModel(WrapperModel):
    """A model whose every request passes the gate, with a bound on its output. Anything else it could do is refused.

    With ``answers``, each request may be answered from the cache. With a ``line``, it goes along that, from region to
    region until one answers; else to ``wrapped``.
    """

    def __init__(
        self,
        wrapped: Model,
        gate: Gate,
        context: CallContext,
        *,
        max_output_tokens: int,
        pad: LaunchPad | None = None,
        line: Line | None = None,
        answers: CachedAnswers | None = None,
    ) -> None:
        super().__init__(wrapped)
        self._answers = answers
        self._line = line
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
        if self._answers is None:
            return await self._ask(messages, settings, model_request_parameters)
        ask = partial(self._ask, messages, settings, model_request_parameters)
        return await self._answers.answer(messages, settings, model_request_parameters, ask)

    async def _ask(
        self, messages: list[ModelMessage], settings: ModelSettings, parameters: ModelRequestParameters
    ) -> ModelResponse:
        most_input = request_bytes(messages, parameters)
        highest = self._context.price.highest(most_input, settings["max_tokens"])

        async def send(model: Model, within_s: float | None = None) -> tuple[ModelResponse, Usage]:
            async with self._pad.launching(), asyncio.timeout(within_s):
                response = await model.request(messages, settings, parameters)
            used = response.usage
            return response, Usage(
                used.input_tokens, used.output_tokens, used.cache_read_tokens, used.cache_write_tokens
            )

        if self._line is None:
            return await self._gate.call(self._context, highest, partial(send, self.wrapped))
        return await self._line.call(self._gate, self._context, highest, most_input + settings["max_tokens"], send)

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
