"""How a runner makes the calls behind "Try it": beside its agents, with its keys, through its gate."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import structlog
from django.db import DatabaseError
from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart, UserPromptPart
from pydantic_ai.models import Model, ModelRequestParameters

from apps.costs.reserving import CallRequest, Settlement, Verdict
from apps.execution import trying
from apps.execution.errors import BudgetExhausted, Busy
from apps.execution.failover import verdict
from apps.execution.gate import CallContext, Gate
from apps.execution.governed import GovernedModel
from apps.execution.models import TryStatus
from apps.execution.results import Spending, storable_text
from apps.execution.trying import MAX_OUTPUT_TOKENS, Found, Taken
from apps.providers.clients import ModelClients
from apps.providers.errors import ProviderUnavailable
from apps.providers.secrets.keeper import Keeper
from portal.batching import DatabaseThread
from portal.redaction import redacted

log = structlog.get_logger(__name__)

PROMPT = "Answer with the word yes."
AGENT = "try-it"
"""What the ledger names as the agent."""
AT_ONCE = 8
AGAIN_S = 0.5
"""How soon to look again for calls that wait for a key, or while the database is away."""
KEY_WITHIN_S = 4.0
"""How long a call waits for a key that its provider was given a moment ago."""


class TryingCalls:
    """The calls of one runner, for its event loop: ``start()``, ``hear()`` of new ones, ``await aclose()``.

    ``reserve``, ``settle`` and ``release`` add to the runner's batches and return futures of what was written. While it
    ``drains()``, nothing new is taken.
    """

    def __init__(
        self,
        runner_id: uuid.UUID,
        keeper: Keeper,
        clients: ModelClients,
        thread: DatabaseThread,
        *,
        reserve: Callable[[CallRequest], asyncio.Future[Verdict]],
        settle: Callable[[Settlement], asyncio.Future[Any]],
        release: Callable[[uuid.UUID], asyncio.Future[Any]],
        drains: Callable[[], bool],
        now: Callable[[], dt.datetime],
    ) -> None:
        self._runner_id = runner_id
        self._keeper = keeper
        self._clients = clients
        self._thread = thread
        self._reserve, self._settle, self._release = reserve, settle, release
        self._drains = drains
        self._now = now
        self._wake = asyncio.Event()
        self._closing = False
        self._calls: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """From now on takes calls; also those that were asked for just before."""
        self._wake.set()
        self._taker = asyncio.create_task(self._take())

    def hear(self) -> None:
        """A call was asked for, or may have been. Runs in the event loop."""
        self._wake.set()

    async def aclose(self, within_s: float) -> None:
        """Takes nothing more, and waits so long for calls under way; the rest is cut, and told to have been."""
        self._closing = True
        self._wake.set()
        await asyncio.gather(self._taker, return_exceptions=True)
        if self._calls:
            _, late = await asyncio.wait(self._calls, timeout=max(within_s, 0.0))
            for call in late:
                call.cancel()
            if late:
                await asyncio.wait(late)

    async def _take(self) -> None:
        pause: float | None = None
        while not self._closing:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            self._wake.clear()
            if not self._closing and not self._drains():
                pause = AGAIN_S if await self._look() else None

    async def _look(self) -> bool:
        """Starts what there is to do; whether to look again without being told."""
        limit = AT_ONCE - len(self._calls)
        if limit <= 0:
            return True
        try:
            taken, more = await self._thread.run(
                lambda: trying.take(
                    self._runner_id,
                    self._keeper.worker_class,
                    limit,
                    not_of=self._keeper.closed,
                    now=self._now(),
                )
            )
        except DatabaseError as error:
            log.warning("tries_not_taken", error=str(error).split("\n", 1)[0])
            return True
        for each in taken:
            call = asyncio.create_task(self._make(each))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
        return more

    async def _make(self, taken: Taken) -> None:
        written: list[asyncio.Future[Any]] = []
        try:
            found = await self._call(taken, written)
        except asyncio.CancelledError:
            found = Found(TryStatus.FAILED, "The worker was stopped while the call was under way. Try it again.")
        except Exception as error:
            log.exception("try_failed", id=str(taken.id))
            found = Found(TryStatus.FAILED, f"{type(error).__name__}: {error}")
        if written:  # who sees the outcome finds it in the ledger, too
            await asyncio.gather(*written, return_exceptions=True)
        outcome = replace(found, text=storable_text(redacted(found.text))[:500])
        with suppress(DatabaseError):  # it is lost then, as will be told when its lease ends
            await self._thread.run(lambda: trying.tell(taken.id, self._runner_id, outcome, now=self._now()))

    async def _call(self, taken: Taken, written: list[asyncio.Future[Any]]) -> Found:
        if taken.price is None:
            return Found(TryStatus.REFUSED, taken.problem)

        def later(future: asyncio.Future[Any]) -> asyncio.Future[Any]:
            written.append(future)
            return future

        gate = Gate(
            self._reserve,
            lambda settlement: later(self._settle(settlement)),
            lambda id: later(self._release(id)),
            patience_s=2.0,
        )
        spending = Spending()
        context = CallContext(
            tenant_id=taken.tenant_id,
            subject_id=None,
            swarm_id=None,
            task_id=None,
            attempt_id=taken.id,
            agent=AGENT,
            model=taken.price.model,
            price=taken.price,
            expires_at=taken.expires_at,
            spending=spending,
        )
        status, text, began = TryStatus.WORKS, "", time.monotonic()
        try:
            model = GovernedModel(await self._model(taken), gate, context, max_output_tokens=MAX_OUTPUT_TOKENS)
            began = time.monotonic()
            async with asyncio.timeout(trying.CALL_S):
                answer = await model.request([ModelRequest([UserPromptPart(PROMPT)])], None, ModelRequestParameters())
            text = _text_of(answer)
        except (BudgetExhausted, Busy, ProviderUnavailable) as refusal:
            status, text = TryStatus.REFUSED, str(refusal)
        except asyncio.CancelledError:
            status, text = TryStatus.FAILED, "The worker was stopped while the call was under way. Try it again."
        except Exception as error:
            status, text = TryStatus.FAILED, f"It {verdict(error)[1]}: {error}"
        seconds = 0.0 if status is TryStatus.REFUSED else time.monotonic() - began
        return Found(status, text, seconds, spending.input_tokens, spending.output_tokens, spending.cost)

    async def _model(self, taken: Taken) -> Model:
        """The model to call. A key that its provider was given a moment ago is waited for."""
        patient_until = time.monotonic() + KEY_WITHIN_S
        while True:
            try:
                return self._clients.model(taken.endpoint, taken.model)
            except ProviderUnavailable:
                if time.monotonic() > patient_until:
                    raise
                self._keeper.hurry()
                await asyncio.sleep(AGAIN_S)


def _text_of(answer: ModelResponse) -> str:
    return " ".join(part.content for part in answer.parts if isinstance(part, TextPart))[:500]
