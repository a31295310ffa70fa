"""One call, several regions: the next is tried when one fails, within the task's time and without a second charge.

A reservation covers every request that was certainly not billed: the next region is called under the same one. Where a
request was sent and nobody knows what became of it, its reservation is charged whole, and the next region is called
under a reservation of its own.
"""

from __future__ import annotations

import asyncio
import math
import random
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from pydantic_ai.exceptions import ModelConnectionError, ModelHTTPError
from pydantic_ai.models import Model

from apps.execution.errors import NoRegionAnswered, RegionsBusy
from apps.execution.gate import CallContext, Gate, HeldMoney, Usage, certainly_not_billed
from apps.providers.clients import ModelClients
from apps.providers.permits import Permit
from apps.providers.routing import patience_s
from apps.providers.switchboard import Hop, Hops, Switchboard

T = TypeVar("T")
Send = Callable[[Model, float | None], Awaitable[tuple[T, Usage]]]
"""Sends the request to a model, and gives up with TimeoutError after so many seconds."""

UNBOUNDED_S = 3600.0
"""What is left of the time of a call that has no deadline."""
RETRY_AFTER_S = 1.0
"""How long a region is left alone that answers 429 and does not say."""
NOTES_KEPT = 20


class Outcome(StrEnum):
    FAILED = "failed"  # 5xx or no connection: the region's fault
    SILENT = "silent"  # nothing within our patience, or within the task's time
    LIMITED = "limited"  # 429: too many calls
    REFUSED = "refused"  # another 4xx: the call's fault, and no other region would take it
    CUT = "cut"  # stopped from here, or an answer that made no sense


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of the call in one region."""

    region: str
    outcome: Outcome
    what: str


def verdict(error: BaseException, *, out_of_time: bool = False) -> tuple[Outcome, str]:
    """What an error of a request says about its region, and in words. ``out_of_time``: the task's time was up."""
    match error:
        case ModelHTTPError(status_code=429):
            return Outcome.LIMITED, "answered 429, too many requests"
        case ModelHTTPError() if error.status_code >= 500 or error.status_code == 408:
            return Outcome.FAILED, f"answered {error.status_code}"
        case ModelHTTPError():
            return Outcome.REFUSED, f"answered {error.status_code}"
        case ModelConnectionError():
            phase = {"connect": "could not be reached", "pool": "had no free connection"}
            return Outcome.FAILED, phase.get(error.phase or "", "dropped the connection")
        case TimeoutError():
            return Outcome.SILENT, "was silent"
        case asyncio.CancelledError() if out_of_time:
            return Outcome.SILENT, "was silent"
    return Outcome.CUT, type(error).__name__


@dataclass(slots=True)
class Line:
    """The calls of one attempt to a model, in whatever region serves it. ``notes`` gets what happened on the way."""

    board: Switchboard
    clients: ModelClients
    provider: str
    model_name: str
    tenant_id: uuid.UUID
    notes: dict[str, Any]

    def face(self) -> Model:
        """The model in the region that would serve it now. Raises ProviderUnavailable when there is none."""
        first = self.board.hops(self.provider, self.tenant_id, peek=True).hops[0]
        return self.clients.model(first.endpoint, self.model_name)

    async def call(self, gate: Gate, context: CallContext, highest: int, tokens: int, send: Send[T]) -> T:
        """Sends one request, to one region after another until one answers; its answer.

        It costs at most ``highest`` nano-dollars and takes at most ``tokens``, each time it is sent. Raises what
        ``Gate.reserve`` does, the region's own error when it was the only one, and NoRegionAnswered after several.
        """
        way = _Way(self, gate, context, highest, tokens)
        try:
            while await way.find_next():
                if (answer := await way.send(send)) is not None:
                    return answer[0]
            raise way.failure()
        finally:
            way.close()


@dataclass(slots=True)
class _Way:
    """One request on its way from region to region."""

    line: Line
    gate: Gate
    context: CallContext
    highest: int
    tokens: int
    tried: dict[uuid.UUID, Tried] = field(default_factory=dict)
    money: HeldMoney | None = None
    permit: Permit | None = None
    hop: Hop | None = None
    others: int = 0
    sent: int = 0  # requests under the reservation in hand
    pinned: frozenset[str] | None = None
    error: BaseException | None = None

    def left_s(self) -> float:
        if self.context.deadline is None:
            return UNBOUNDED_S
        return self.context.deadline - asyncio.get_running_loop().time()

    async def find_next(self) -> bool:
        """Finds a region that takes the call now, and the money for it; False when every one has been tried.

        Raises RegionsBusy when those that are left will not take it within the task's time.
        """
        board = self.line.board
        while True:
            found = board.hops(self.line.provider, self.line.tenant_id)
            self.pinned = found.pinned
            wait = await self._take_one(found)
            if self.hop is None:
                if wait is None:
                    return False
                if not await self._wait(wait):
                    return False
                continue
            if self.money is None:
                self.money = await self.gate.reserve(self.context, self.highest)
                self.sent = 0
            if self.permit is None or board.is_fresh(self.permit):
                return True
            self._drop_permit(used=0, sent=False)

    async def _take_one(self, found: Hops) -> float | None:
        """Sets ``hop`` to the first that takes the call; else in how many seconds one may, None when none is left."""
        board = self.line.board
        hops = [hop for hop in found.hops if hop.standing.id not in self.tried]
        self.hop, soonest = None, math.inf
        for hop in hops:
            wait: float | Permit | None = board.held_up_s(hop)
            if not wait:
                wait = await board.permit(hop, self.tokens)
                if not isinstance(wait, float):
                    self.permit, self.hop = wait, hop
                    self.others = 0 if found.last_resort else len(hops) - 1
                    break
            assert isinstance(wait, float)
            soonest = min(soonest, wait)
        for hop in found.hops:
            if hop is not self.hop:
                board.gave_up(hop)
        return None if soonest == math.inf else soonest

    async def _wait(self, seconds: float) -> bool:
        """Waits; whether it was worth it. A call that failed somewhere does not wait longer than its time."""
        if seconds > self.left_s() - 0.5:
            if self.tried:
                return False
            raise RegionsBusy(
                f"Every region of provider {self.line.provider!r} that could take this call is at its limits, "
                f"or asked for fewer calls.",
                again_in_s=min(seconds, 60.0),
            )
        await asyncio.sleep(seconds * random.uniform(1.0, 1.1) + 0.01)
        return True

    async def send(self, send: Send[T]) -> tuple[T] | None:
        """Sends the request; its answer, or None when the next region should be tried. Raises what ends the call."""
        hop, money = self.hop, self.money
        assert hop is not None
        assert money is not None
        board, standing = self.line.board, hop.standing
        model = self.line.clients.model(hop.endpoint, self.line.model_name)
        patience = None
        if self.others:
            patience = patience_s(standing.patience_s, p99_s=standing.p99_s, left_s=self.left_s(), others=True)
        loop = asyncio.get_running_loop()
        began = loop.time()
        self.context.spending.requests += self.sent > 0
        self.sent += 1
        try:
            answer, usage = await send(model, patience)
        except BaseException as error:
            took = loop.time() - began
            outcome, what = verdict(error, out_of_time=self.left_s() <= 0.05)
            if certainly_not_billed(error):
                self._drop_permit(used=0)
            else:
                money.charge()
                self.money = None
                self._drop_permit(used=None)
            self._tell(hop, outcome, what, error, took)
            self.tried[standing.id] = Tried(hop.endpoint.region, outcome, what)
            self._note(hop, f"{what} after {took:.3g} s" if outcome is not Outcome.CUT else what)
            self.error = error
            if isinstance(error, asyncio.CancelledError) or outcome in (Outcome.REFUSED, Outcome.CUT):
                raise
            return None
        money.settle(usage)
        self.money = self.hop = None
        board.answered(hop, loop.time() - began)
        self._drop_permit(used=usage.input_tokens + usage.output_tokens or None)
        self.line.notes["region"] = hop.endpoint.region
        if self.tried:
            self._note(hop, "answered")
        return (answer,)

    def _tell(self, hop: Hop, outcome: Outcome, what: str, error: BaseException, took: float) -> None:
        board = self.line.board
        self.hop = None
        if outcome is Outcome.FAILED:
            board.failed(hop, what)
        elif outcome is Outcome.SILENT:
            board.failed(hop, f"{what} for {took:.3g} s", silent_s=took)
        elif outcome is Outcome.LIMITED:
            board.limited(hop, getattr(error, "retry_after", None) or RETRY_AFTER_S)
        elif outcome is Outcome.REFUSED:
            board.refused(hop)
        else:
            board.gave_up(hop)

    def _note(self, hop: Hop, what: str) -> None:
        notes = self.line.notes
        notes["region"] = hop.endpoint.region
        tried = notes.setdefault("regions_tried", [])
        if len(tried) < NOTES_KEPT:
            tried.append({"region": hop.endpoint.region, "what": what})

    def failure(self) -> BaseException:
        """What the call ends with when no region is left."""
        assert self.error is not None
        if len(self.tried) == 1 and self.pinned is None:
            return self.error
        told = "; ".join(f"{each.region} {each.what}" for each in self.tried.values())
        text = f"No region of provider {self.line.provider!r} answered: {told}."
        if self.pinned is not None:
            text += f" Data residency keeps this tenant's calls in {', '.join(sorted(self.pinned))}."
        is_timeout = all(each.outcome is Outcome.SILENT for each in self.tried.values())
        failure = NoRegionAnswered(text, is_timeout=is_timeout)
        failure.__cause__ = self.error
        return failure

    def close(self) -> None:
        """Gives back what is still held: no request was sent with it."""
        if self.hop is not None:
            self.line.board.gave_up(self.hop)
        if self.money is not None:
            self.money.release()
        self._drop_permit(used=0, sent=False)

    def _drop_permit(self, *, used: int | None, sent: bool = True) -> None:
        if self.permit is not None:
            self.line.board.ended(self.permit, used, sent=sent)
            self.permit = None
