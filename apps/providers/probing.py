"""Asking regions whether they answer: one that is left alone whether it is back, an idle one whether it is there.

The question is GET on the region's list of models. It costs nothing and carries no key: any answer below 500, even
"unauthorised", shows that the region is up. What calls would meet there only a call can tell, so a region that is back
gets one before it gets all (:mod:`apps.providers.breaker`).
"""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import structlog
from django.db import DatabaseError, InterfaceError

from apps.providers import switching
from apps.providers.breaker import Failure, State
from apps.providers.directory import Endpoint, Standing
from portal.batching import DatabaseThread
from portal.redaction import redacted

R = TypeVar("R")
log = structlog.get_logger(__name__)

ASK_S = 3.0
"""How long a region may take to answer the question."""
CLAIM_S = 8.0
"""Lease of a prober that asks."""
TRIAL_S = 10.0
"""How long a region that is back waits for a call to decide; without one, its good answer decides."""
CHECK_EVERY_S = 30.0
"""How often a region that gets no calls is asked."""
AGAIN_S = 0.5
"""How soon an idle region that does not answer is asked again: a restart is no outage."""
BUSY_S = 10.0
"""A process that called the provider within this time probes before others do: it has a call to try it with."""
YIELD_S = 2.0

Ask = Callable[[Endpoint], Awaitable[None]]
"""Raises what the region met the question with."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A region that waits for its deciding call. ``until`` is in the loop's time."""

    standing: Standing
    token: uuid.UUID
    until: float


class Prober:
    """The probes of one process."""

    def __init__(self, thread: DatabaseThread, ask: Ask, now: Callable[[], dt.datetime]) -> None:
        self._thread = thread
        self._ask = ask
        self._now = now
        self._busy: dict[uuid.UUID, asyncio.Task[None]] = {}
        self.trials: dict[uuid.UUID, Trial] = {}

    def look(self, standings: Sequence[Standing], last_called: Callable[[str], float]) -> None:
        """Starts what is due. ``last_called(provider)`` is when this process last called it, in the loop's time."""
        now, clock = self._now(), asyncio.get_running_loop().time()
        for standing in standings:
            if standing.id in self._busy or standing.id in self.trials:
                continue
            if standing.circuit.state is State.CLOSED:
                if now.timestamp() - standing.last_call > CHECK_EVERY_S and not _checked(standing, now):
                    self._start(standing, self._check)
                continue
            is_busy = clock - last_called(standing.endpoint.provider) < BUSY_S
            if standing.circuit.is_due(now if is_busy else now - dt.timedelta(seconds=YIELD_S)):
                self._start(standing, self._probe)

    def expire(self) -> None:
        """Ends trials for which no call came."""
        clock = asyncio.get_running_loop().time()
        for trial in [trial for trial in self.trials.values() if trial.until <= clock]:
            del self.trials[trial.standing.id]
            self._start(trial.standing, partial(self._pass, trial))

    async def aclose(self) -> None:
        for task in self._busy.values():
            task.cancel()
        await asyncio.gather(*self._busy.values(), return_exceptions=True)

    def _start(self, standing: Standing, work: Callable[[Standing], Awaitable[None]]) -> None:
        async def run() -> None:
            try:
                await work(standing)
            except (DatabaseError, InterfaceError) as error:
                log.warning("probe_failed", region=standing.endpoint.region, error=str(error).split("\n", 1)[0])
            finally:
                self._busy.pop(standing.id, None)

        self._busy[standing.id] = asyncio.get_running_loop().create_task(run())

    async def _probe(self, standing: Standing) -> None:
        token = uuid.uuid4()
        if not await self._run(switching.claim_probe, standing.id, token, lease_s=CLAIM_S):
            return
        if problem := await self._problem(standing):
            await self._run(switching.probe_refused, standing.id, token, error=problem)
        elif await self._run(switching.probe_answered, standing.id, token, lease_s=TRIAL_S + standing.patience_s + 5):
            until = asyncio.get_running_loop().time() + TRIAL_S
            self.trials[standing.id] = Trial(standing, token, until)

    async def _pass(self, trial: Trial, standing: Standing) -> None:
        cause = f"It answers again, and no call came within {TRIAL_S:g} s to say otherwise."
        await self._run(switching.probe_passed, standing.id, trial.token, cause=cause)

    async def _check(self, standing: Standing) -> None:
        if not await self._run(switching.claim_check, standing.id, every_s=CHECK_EVERY_S):
            return
        problem = ""
        for number in range(standing.checks):
            await asyncio.sleep(AGAIN_S * bool(number))
            if not (problem := await self._problem(standing)):
                return
        failures = [Failure(self._now())] * standing.checks
        await self._run(switching.report_failures, standing.id, failures, error=f"asked while idle, {problem}")

    async def _problem(self, standing: Standing) -> str:
        """What is wrong with a region's answer; nothing when it is well."""
        try:
            async with asyncio.timeout(ASK_S):
                await self._ask(standing.endpoint)
        except TimeoutError:
            return f"it was silent for {ASK_S:g} s"
        except Exception as error:
            return redacted(str(error) or type(error).__name__)[:300]
        return ""

    async def _run(self, act: Callable[..., R], *args: object, **more: object) -> R:
        return await self._thread.run(lambda: act(*args, now=self._now(), **more))


def _checked(standing: Standing, now: dt.datetime) -> bool:
    at = standing.checked_at
    return at is not None and (now - at).total_seconds() < CHECK_EVERY_S
