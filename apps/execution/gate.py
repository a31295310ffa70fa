"""The gate: the highest possible cost of a call is reserved before it is made, and settled after."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic_ai.exceptions import ModelConnectionError, ModelHTTPError

from apps.costs.cached_calls import CachedCall
from apps.costs.prices import ModelPrice
from apps.costs.reserving import CallRequest, Settlement, Verdict
from apps.execution.errors import BudgetBusy, BudgetExhausted
from apps.execution.results import Spending
from portal.ids import uuid7

T = TypeVar("T")


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
    """On whose account calls are made: one attempt at a task; or none, for a call that a person makes.

    ``expires_at`` follows the attempt's lease. ``deadline`` is when its time is up, in the loop's time.
    """

    tenant_id: uuid.UUID
    subject_id: uuid.UUID | None
    swarm_id: uuid.UUID | None
    task_id: uuid.UUID | None
    attempt_id: uuid.UUID
    agent: str
    model: str
    price: ModelPrice
    expires_at: dt.datetime
    deadline: float | None = None
    spending: Spending = field(default_factory=Spending)


class Gate:
    """Reserves and settles for all attempts of a process.

    ``reserve(request)`` and ``settle(settlement)`` add to the process's batches and return futures of what was written;
    so does ``cached(call)`` with calls that were answered from the cache, where there is one.
    """

    def __init__(
        self,
        reserve: Callable[[CallRequest], asyncio.Future[Verdict]],
        settle: Callable[[Settlement], asyncio.Future[Any]],
        release: Callable[[uuid.UUID], asyncio.Future[Any]],
        *,
        cached: Callable[[CachedCall], asyncio.Future[Any]] | None = None,
        patience_s: float = 10.0,
    ) -> None:
        self._record_soon = cached
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
        held = await self.reserve(context, highest)
        try:
            answer, usage = await send()
        except BaseException as error:
            if certainly_not_billed(error):
                held.release()
            else:
                held.charge()
            raise
        held.settle(usage)
        return answer

    async def reserve(self, context: CallContext, highest: int) -> HeldMoney:
        """The highest possible cost of one request, in nano-dollars; raises as ``call`` does.

        Whoever gets it sends at most one request that may be billed, and then says what became of it, once.
        """
        reservation = await self._reserve(context, highest)
        context.spending.requests += 1
        context.spending.estimated += highest
        return HeldMoney(self, context, reservation, highest)

    def record_cached(self, call: CachedCall) -> None:
        """A call was answered from the cache: nothing was reserved, and nothing is owed."""
        if self._record_soon is not None:
            self._record_soon(call)

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


class HeldMoney:
    """A reservation in hand. ``release``, ``charge`` or ``settle`` ends it; what comes after that changes nothing."""

    __slots__ = ("_context", "_gate", "_highest", "_open", "_reservation")

    def __init__(self, gate: Gate, context: CallContext, reservation: uuid.UUID, highest: int) -> None:
        self._gate = gate
        self._context = context
        self._reservation = reservation
        self._highest = highest
        self._open = True

    def release(self) -> None:
        """No request was sent, or none that can be billed."""
        if self._open:
            self._open = False
            self._gate._release_soon(self._reservation)

    def charge(self) -> None:
        """What the request cost nobody knows: all of it is charged, and marked."""
        if self._open:
            self._open = False
            self._context.spending.cost += self._highest
            self._gate._settle_soon(Settlement(self._reservation, None))

    def settle(self, usage: Usage) -> None:
        """The request was answered, and billed for these tokens."""
        if not usage.input_tokens and not usage.output_tokens:
            self.charge()
        elif self._open:
            self._open = False
            price, spending = self._context.price, self._context.spending
            cost = price.cost(
                usage.input_tokens,
                usage.output_tokens,
                cache_read_tokens=usage.cache_read_tokens,
                cache_write_tokens=usage.cache_write_tokens,
            )
            spending.input_tokens += usage.input_tokens
            spending.output_tokens += usage.output_tokens
            spending.cost += cost
            self._gate._settle_soon(
                Settlement(
                    self._reservation,
                    cost,
                    usage.input_tokens,
                    usage.output_tokens,
                    cache_read_tokens=usage.cache_read_tokens,
                    cache_write_tokens=usage.cache_write_tokens,
                    rates=price.rates(usage.input_tokens),
                )
            )


def certainly_not_billed(error: BaseException) -> bool:
    """Whether a failed call cost nothing: it was never sent, or the provider refused it with an error status."""
    if isinstance(error, ModelConnectionError):
        return error.phase in ("pool", "connect")
    return isinstance(error, ModelHTTPError) and not error.in_stream
