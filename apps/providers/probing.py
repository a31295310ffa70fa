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


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a prober waits for what. Seconds."""

    ask_s: float = 3.0  # for the answer to the question
    claim_s: float = 8.0  # lease of a prober that asks
    trial_s: float = 10.0  # for a call to decide about a region that is back; without one, its good answer decides
    check_every_s: float = 30.0  # until a region that gets no calls is asked
    again_s: float = 0.5  # until an idle region that does not answer is asked again: a restart is no outage
    busy_s: float = 10.0  # a process that called the provider within this time probes first: it has a call to try
    yield_s: float = 2.0  # how long the others leave it to such a one


USUAL = Patience()

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

    def __init__(
        self, thread: DatabaseThread, ask: Ask, now: Callable[[], dt.datetime], patience: Patience = USUAL
    ) -> None:
        self._thread = thread
        self._ask = ask
        self._now = now
        self._patience = patience
        self._busy: dict[uuid.UUID, asyncio.Task[None]] = {}
        self.trials: dict[uuid.UUID, Trial] = {}

    def look(self, standings: Sequence[Standing], last_called: Callable[[str], float]) -> None:
        """Starts what is due. ``last_called(provider)`` is when this process last called it, in the loop's time."""
        now, clock = self._now(), asyncio.get_running_loop().time()
        for standing in standings:
            if standing.id in self._busy or standing.id in self.trials:
                continue
            if standing.circuit.state is State.CLOSED:
                idle_s = now.timestamp() - standing.last_call
                if idle_s > self._patience.check_every_s and not self._was_checked(standing, now):
                    self._start(standing, self._check)
                continue
            is_busy = clock - last_called(standing.endpoint.provider) < self._patience.busy_s
            if standing.circuit.is_due(now if is_busy else now - dt.timedelta(seconds=self._patience.yield_s)):
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
        if not await self._run(switching.claim_probe, standing.id, token, lease_s=self._patience.claim_s):
            return
        if problem := await self._problem(standing):
            await self._run(switching.probe_refused, standing.id, token, error=problem)
            return
        trial_s = self._patience.trial_s
        if await self._run(switching.probe_answered, standing.id, token, lease_s=trial_s + standing.patience_s + 5):
            until = asyncio.get_running_loop().time() + trial_s
            self.trials[standing.id] = Trial(standing, token, until)

    async def _pass(self, trial: Trial, standing: Standing) -> None:
        cause = f"It answers again, and no call came within {self._patience.trial_s:g} s to say otherwise."
        await self._run(switching.probe_passed, standing.id, trial.token, cause=cause)

    async def _check(self, standing: Standing) -> None:
        if not await self._run(switching.claim_check, standing.id, every_s=self._patience.check_every_s):
            return
        problem = ""
        for number in range(standing.checks):
            await asyncio.sleep(self._patience.again_s * bool(number))
            if not (problem := await self._problem(standing)):
                return
        failures = [Failure(self._now())] * standing.checks
        await self._run(switching.report_failures, standing.id, failures, error=f"asked while idle, {problem}")

    async def _problem(self, standing: Standing) -> str:
        """What is wrong with a region's answer; nothing when it is well."""
        try:
            async with asyncio.timeout(self._patience.ask_s):
                await self._ask(standing.endpoint)
        except TimeoutError:
            return f"it was silent for {self._patience.ask_s:g} s"
        except Exception as error:
            return redacted(str(error) or type(error).__name__)[:300]
        return ""

    async def _run(self, act: Callable[..., R], *args: object, **more: object) -> R:
        return await self._thread.run(lambda: act(*args, now=self._now(), **more))

    def _was_checked(self, standing: Standing, now: dt.datetime) -> bool:
        at = standing.checked_at
        return at is not None and (now - at).total_seconds() < self._patience.check_every_s
