"""The runner: an event loop that leases tasks in batches, runs up to two hundred agents at once, writes in batches."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import random
import signal
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import structlog
from django.db import DatabaseError
from django.utils import timezone

from apps.costs.cached_calls import CachedCall
from apps.costs.reserving import Settlement
from apps.execution import leases, results, trying
from apps.execution.artifacts import storing
from apps.execution.artifacts.saving import AttemptFiles
from apps.execution.artifacts.storing import FileStore
from apps.execution.batches import releases, reservations
from apps.execution.briefing import Brief, Briefing
from apps.execution.errors import Busy
from apps.execution.failures import Failure, classify
from apps.execution.flights import Flight, RunnerConfig, Stop
from apps.execution.gate import CallContext, Gate
from apps.execution.leases import Leased
from apps.execution.models import LooseObject
from apps.execution.models import Runner as RunnerRow
from apps.execution.results import Finished, Spending
from apps.execution.runtimes import AgentCall, AgentRuntime, LlmRuntime, PythonRuntime
from apps.execution.trying_calls import TryingCalls
from apps.providers.answer_cache import AnswerCache
from apps.providers.catalogue import CatalogueReader
from apps.providers.clients import ModelClients
from apps.providers.secrets.keeper import Keeper
from apps.providers.switchboard import Switchboard
from apps.swarms.models import FailureCode, Runtime, Swarm, TaskStatus
from apps.swarms.progress import TaskOutcome
from portal.batching import Batcher, DatabaseThread
from portal.notify import Channel, Listener
from portal.redaction import redacted

__all__ = ["Runner", "RunnerConfig", "Stop"]

log = structlog.get_logger(__name__)

HEARTBEAT_S = 2.0
IDLE_POLL_S = 2.0
LEASE_INTERVAL_S = 0.03
ENOUGH_ROOM = 64
WRITE_INTERVAL_S = 0.04


class Runner:
    """One runner: ``await Runner(node).run()`` ends after SIGTERM, or when its lifetime is over and nothing flies."""

    def __init__(
        self,
        node: str,
        config: RunnerConfig | None = None,
        *,
        runtimes: Mapping[str, AgentRuntime] | None = None,
        keeper: Keeper | None = None,
        now: Callable[[], dt.datetime] = timezone.now,
    ) -> None:
        self.config = config or RunnerConfig.from_settings()
        self._now = now
        self._flights: dict[uuid.UUID, Flight] = {}
        self._draining = False
        self._briefing = Briefing()
        self._keeper = keeper or Keeper()
        self._row = RunnerRow(
            node=node, pid=os.getpid(), concurrency=self.config.concurrency, worker_class=self._keeper.worker_class
        )
        self._clients = ModelClients(self._keeper, connections=self.config.concurrency + 8)
        self._board = Switchboard(str(self._row.pk), self._clients.ask, now=now)
        self._answers = AnswerCache(now=now)
        self._runtimes: dict[str, AgentRuntime] = {
            Runtime.LLM: LlmRuntime(self._clients, self._board, self._answers, now=now),
            Runtime.PYTHON: PythonRuntime(),
            **(runtimes or {}),
        }

    async def run(self) -> int:
        """Works until it is told to stop; how many attempts it finished."""
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._finished = 0
        self._deadline: float | None = None
        # Neither leasing nor reserving must wait behind the writing of results: each has a connection of its own.
        self._books, self._reserves, self._leases = map(DatabaseThread, ("books", "reserves", "leases"))
        self._writer: Batcher[Settlement | CachedCall | Finished, None] = Batcher(
            self._books, self._write, interval_s=WRITE_INTERVAL_S
        )
        reserver = reservations(self._reserves, now=self._now)
        releaser = releases(self._reserves)
        announcer: Batcher[LooseObject, None] = Batcher(self._leases, storing.announce, interval_s=WRITE_INTERVAL_S)
        self._files = FileStore(announcer.submit, now=self._now)
        self._gate = Gate(reserver.submit, self._writer.submit, releaser.submit, cached=self._writer.submit)
        self._tries = TryingCalls(
            self._row.pk,
            self._keeper,
            self._clients,
            self._books,
            reserve=reserver.submit,
            settle=self._writer.submit,
            release=releaser.submit,
            drains=lambda: self._draining,
            now=self._now,
        )
        self._catalogue = CatalogueReader(self._books, self._clients.names, lambda: self._keeper.names, now=self._now)
        self._loop.add_signal_handler(signal.SIGTERM, self.drain)
        await self._leases.run(lambda: self._row.save(force_insert=True))
        await self._board.start()
        await asyncio.to_thread(self._keeper.start)
        channels = [Channel.READY, Channel.CONTROL, Channel.REGIONS, Channel.CACHES]
        listener = Listener(channels, self._on_hint, self._on_reconnect)
        listener.start()
        self._tries.start()
        self._catalogue.start()
        log.info("runner_started", runner=str(self._row.pk), concurrency=self.config.concurrency)
        keeper = asyncio.create_task(self._keep_alive())
        try:
            await self._lease_until_drained()
            await self._finish_flights()
            await self._tries.aclose(trying.CALL_S if self._deadline is None else self._deadline - self._loop.time())
            for batcher in (self._writer, reserver, releaser, announcer):
                await batcher.drain()
        finally:
            await self._tries.aclose(0.0)
            await self._catalogue.aclose()
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            listener.stop()
            self._keeper.stop()
            self._loop.remove_signal_handler(signal.SIGTERM)
            self._files.close()
            await self._answers.aclose()
            await self._board.aclose()
            await self._clients.aclose()
            await self._leases.run(lambda: self._beat(finished=True))
            for thread in (self._books, self._reserves, self._leases):
                await thread.aclose()
        log.info("runner_ended", runner=str(self._row.pk), finished=self._finished)
        return self._finished

    def drain(self) -> None:
        """Leases nothing more; what is in flight may finish within the grace, the rest is handed back."""
        if not self._draining:
            self._draining = True
            self._deadline = self._loop.time() + self.config.grace_s - self.config.write_reserve_s
            log.info("runner_draining", in_flight=len(self._flights))
        self._wake.set()

    # -- leasing -----------------------------------------------------------------------------------------------------

    async def _lease_until_drained(self) -> None:
        end = self._loop.time() + self.config.lifetime_s * random.uniform(0.9, 1.0)
        while not self._draining and self._loop.time() < end:
            room = self.config.concurrency - len(self._flights)
            self._wake.clear()
            got = await self._lease(room) if room > 0 else 0
            if got < room or room == 0:
                await self._woken(min(IDLE_POLL_S, max(end - self._loop.time(), 0.0)))
            # One lease for several tasks that end or open within a moment; many at once need not wait for more.
            if 0 < self.config.concurrency - len(self._flights) < ENOUGH_ROOM and self._flights:
                await asyncio.sleep(LEASE_INTERVAL_S)
        self._draining = True

    async def _woken(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _lease(self, room: int) -> int:
        now = self._now()
        expires_at = now + dt.timedelta(seconds=self.config.lease_s)

        def work() -> tuple[list[Leased], list[Brief]]:
            taken = leases.lease(self._row.pk, room, now=now, expires_at=expires_at, not_of=self._keeper.closed)
            return taken, self._briefing.prepare(taken, now=now) if taken else []

        try:
            taken, briefs = await self._leases.run(work)
        except DatabaseError as error:
            # What was leased, if anything, runs again when its lease ends.
            log.warning("lease_failed", error=str(error).splitlines()[0])
            await asyncio.sleep(1)
            return 0
        for leased, brief in zip(taken, briefs, strict=True):
            flight = Flight(leased, expires_at)
            self._flights[leased.token] = flight
            flight.task = self._loop.create_task(self._fly(flight, brief))
            flight.task.add_done_callback(partial(self._land_unstarted, flight, brief))
        return len(taken)

    # -- one attempt -------------------------------------------------------------------------------------------------

    async def _fly(self, flight: Flight, brief: Brief) -> None:
        outcome: TaskOutcome | None
        try:
            result = await self._attempt(flight, brief)
            outcome = self._outcome(flight, TaskStatus.SUCCEEDED, result=results.storable(result))
        except asyncio.CancelledError:
            outcome = self._cancelled(flight)
        except Busy as error:
            waiting = self._outcome(flight, TaskStatus.WAITING, failure=classify(error))
            retry_at = self._now() + dt.timedelta(seconds=error.again_in_s)
            outcome = replace(waiting, retry_at=retry_at, counted=False)
        except Exception as error:
            outcome = self._failed(flight, brief, classify(error))
        self._land(flight, brief, outcome)

    async def _attempt(self, flight: Flight, brief: Brief) -> Any:
        leased, agent = flight.leased, brief.agent.settings
        if brief.problem is not None:
            raise brief.problem
        if brief.price is not None:
            flight.context = CallContext(
                tenant_id=leased.tenant_id,
                subject_id=brief.agent.subject_id,
                swarm_id=leased.swarm_id,
                task_id=leased.task_id,
                attempt_id=leased.token,
                agent=agent.name,
                model=agent.model,
                price=brief.price,
                expires_at=flight.expires_at,
                deadline=self._loop.time() + agent.timeout_s,
            )
        if agent.saves_files or agent.runtime == Runtime.PYTHON:
            flight.files = AttemptFiles(self._files, leased)
        call = AgentCall(agent, brief.prompt, leased.item, leased.number, flight.context, flight.notes, flight.files)
        try:
            async with asyncio.timeout(agent.timeout_s):
                return await self._runtimes[agent.runtime].run(call, self._gate)
        except TimeoutError as error:
            raise TimeoutError(f"It took longer than its timeout of {agent.timeout_s:g} s.") from error

    def _outcome(
        self, flight: Flight, status: TaskStatus, *, result: Any = None, failure: Failure | None = None
    ) -> TaskOutcome:
        return TaskOutcome(
            flight.leased.task_id,
            flight.leased.token,
            status,
            result=result,
            failure_code=failure.code if failure else "",
            error=redacted(results.storable_text(failure.message)) if failure else "",
            refused=failure.refused if failure else None,
            degraded=status is TaskStatus.SUCCEEDED and bool(flight.notes.get("cache", {}).get("degraded")),
        )

    def _failed(self, flight: Flight, brief: Brief, failure: Failure) -> TaskOutcome:
        retry_at = None
        if failure.can_heal:
            retry_at = brief.agent.retry.retry_at(flight.leased.number, now=self._now(), jitter=random.random())
        outcome = self._outcome(flight, TaskStatus.WAITING if retry_at else TaskStatus.FAILED, failure=failure)
        return replace(outcome, retry_at=retry_at)

    def _cancelled(self, flight: Flight) -> TaskOutcome | None:
        if flight.stop is Stop.LEASE_LOST:
            return None
        if flight.stop is Stop.STOPPED:
            failure = Failure(FailureCode.CANCELLED, "Its swarm was stopped while it ran.", can_heal=False)
            return self._outcome(flight, TaskStatus.CANCELLED, failure=failure)
        return replace(self._outcome(flight, TaskStatus.READY), counted=False)

    def _land_unstarted(self, flight: Flight, brief: Brief, _: asyncio.Task[None]) -> None:
        """A task cancelled before its first step never entered ``_fly``: it lands all the same."""
        if flight.leased.token in self._flights:
            self._land(flight, brief, self._cancelled(flight))

    def _land(self, flight: Flight, brief: Brief, outcome: TaskOutcome | None) -> None:
        self._flights.pop(flight.leased.token, None)
        self._finished += 1
        self._wake.set()
        if outcome is None:
            return
        agent = brief.agent.settings
        files = flight.files.close() if flight.files else []
        if files:
            flight.notes["files"] = [{"name": file.name, "size": file.size} for file in files]
        self._writer.submit(
            Finished(
                flight.leased,
                self._row.pk,
                outcome,
                self._now(),
                {
                    "agent": agent.name,
                    "runtime": agent.runtime,
                    "model": agent.model,
                    "prompt": results.storable_text(brief.prompt)[:20_000],
                    "max_output_tokens": agent.max_output_tokens,
                    "timeout_s": agent.timeout_s,
                    **flight.notes,
                },
                flight.context.spending if flight.context else Spending(),
                files,
            )
        )

    def _write(self, items: Sequence[Settlement | CachedCall | Finished]) -> list[None]:
        results.write(items, now=self._now())
        return [None] * len(items)

    # -- leases, heartbeats, orders ----------------------------------------------------------------------------------

    async def _keep_alive(self) -> None:
        """Heartbeats, and prolongs leases."""
        while True:
            try:
                await self._renew()
                await self._leases.run(self._beat)
            except DatabaseError as error:
                log.warning("heartbeat_failed", error=str(error).splitlines()[0])
            await asyncio.sleep(HEARTBEAT_S)

    def _beat(self, *, finished: bool = False) -> None:
        now = self._now()
        RunnerRow.objects.filter(pk=self._row.pk).update(
            heartbeat_at=now,
            in_flight=len(self._flights),
            draining=self._draining,
            finished_at=now if finished else None,
        )

    async def _renew(self) -> None:
        now = self._now()
        # Two thirds of a lease are always left, so one missed round loses nothing.
        soon = now + dt.timedelta(seconds=self.config.lease_s * 2 / 3)
        due = [flight for flight in list(self._flights.values()) if flight.expires_at <= soon]
        if not due:
            return
        expires_at = now + dt.timedelta(seconds=self.config.lease_s)
        held = await self._leases.run(
            lambda: leases.renew([flight.leased.token for flight in due], expires_at=expires_at)
        )
        for flight in due:
            if flight.leased.token in held:
                flight.expires_at = expires_at
                if flight.context:
                    flight.context.expires_at = expires_at
            elif flight.leased.token in self._flights:
                self._cancel(flight, Stop.LEASE_LOST)

    def _cancel(self, flight: Flight, why: Stop) -> None:
        flight.stop = flight.stop or why
        if flight.task is not None:
            flight.task.cancel()

    def _on_hint(self, channel: Channel, payload: dict[str, Any]) -> None:
        self._loop.call_soon_threadsafe(self._heed, channel, payload)

    def _heed(self, channel: Channel, payload: dict[str, Any]) -> None:
        if channel is Channel.READY:
            self._wake.set()
        elif channel is Channel.CONTROL and "refresh_secrets" in payload:
            self._keeper.hurry()
        elif channel is Channel.CONTROL and "try" in payload:
            self._tries.hear()
        elif channel is Channel.CONTROL and "stop" in payload:
            self._stop_swarms({uuid.UUID(payload["stop"])})
        elif channel is Channel.REGIONS:
            self._board.hear()
        elif channel is Channel.CACHES:
            self._answers.hear()
            self._catalogue.hear()

    def _stop_swarms(self, swarm_ids: set[uuid.UUID]) -> None:
        for flight in list(self._flights.values()):
            if flight.leased.swarm_id in swarm_ids:
                self._cancel(flight, Stop.STOPPED)

    def _on_reconnect(self) -> None:
        """Orders may have been given while nobody listened: look who is stopping. Runs on the listener's thread."""
        from django.db import connection

        flying = {flight.leased.swarm_id for flight in list(self._flights.values())}
        if flying:
            stopping = set(Swarm.objects.cancelling().filter(pk__in=flying).values_list("pk", flat=True))
            connection.close()
            self._loop.call_soon_threadsafe(self._stop_swarms, stopping)
        self._loop.call_soon_threadsafe(self._wake.set)
        self._loop.call_soon_threadsafe(self._tries.hear)
        self._loop.call_soon_threadsafe(self._board.hear)
        self._loop.call_soon_threadsafe(self._answers.hear)

    # -- the end -----------------------------------------------------------------------------------------------------

    async def _finish_flights(self) -> None:
        tasks = [flight.task for flight in self._flights.values() if flight.task]
        if not tasks:
            return
        log.info("runner_finishing", in_flight=len(tasks))
        # A runner whose lifetime is over has no deadline: its agents' own timeouts end what is in flight.
        pending: set[asyncio.Task[None]] = set(tasks)
        while pending:
            left = None if self._deadline is None else self._deadline - self._loop.time()
            if left is not None and left <= 0:
                break
            _, pending = await asyncio.wait(pending, timeout=1.0 if left is None else min(left, 1.0))
        for flight in list(self._flights.values()):
            self._cancel(flight, Stop.HANDED_BACK)
        if pending:
            await asyncio.wait(pending)
