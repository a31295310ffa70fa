"""What one process knows of the regions, and tells the others: where a call goes, and what came of it.

Asking and telling cost microseconds and no query. A keeper task reads what all workers share every two seconds, or at
once on a hint, and writes what this process saw since; failures are written within a moment, since they may open a
breaker.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from django.conf import settings
from django.db import DatabaseError, InterfaceError
from django.utils import timezone

from apps.providers import cache_usage, switching, traffic
from apps.providers.breaker import Circuit, Failure, State
from apps.providers.cache_usage import Counts, Key
from apps.providers.directory import Directory, Endpoint, Standing
from apps.providers.errors import ProviderUnavailable
from apps.providers.models import Cache
from apps.providers.permits import Permit, Permits
from apps.providers.probing import USUAL, Ask, Patience, Prober, Trial
from apps.providers.routing import DEFAULT, Route, RoutingPolicy, find_route
from apps.providers.traffic import Tally
from portal.batching import Batcher, DatabaseThread
from portal.redaction import redacted

log = structlog.get_logger(__name__)
R = TypeVar("R")

REFRESH_S = 2.0
REPORT_INTERVAL_S = 0.05
COUNT_S = 10.0
"""How often it is added up how often what is known was used."""
GAP_S = 0.02
"""Shortest time between two refreshes: a burst of hints is answered together."""


@dataclass(frozen=True, slots=True)
class Hop:
    """A region that a call may try. With a ``trial``, the call decides whether the region is back."""

    standing: Standing
    trial: Trial | None = None

    @property
    def endpoint(self) -> Endpoint:
        return self.standing.endpoint


@dataclass(frozen=True, slots=True)
class Hops:
    """The regions for one call, in order. ``pinned`` names those that data residency leaves, None: all."""

    hops: tuple[Hop, ...]
    pinned: frozenset[str] | None
    last_resort: bool


@dataclass(slots=True)
class _Line:
    route: Route
    pinned: frozenset[str] | None
    turn: int = 0


@dataclass(frozen=True, slots=True)
class _Report:
    region_id: uuid.UUID
    failure: Failure
    error: str


class Switchboard:
    """For one event loop: ``await start()``, ask, tell, ``await aclose()``.

    ``holder`` names the process; ``ask(endpoint)`` asks whether a region answers (:mod:`apps.providers.probing`).
    """

    def __init__(
        self,
        holder: str,
        ask: Ask,
        *,
        now: Callable[[], dt.datetime] = timezone.now,
        chance: Callable[[], float] = random.random,
        policy: RoutingPolicy = DEFAULT,
        refresh_s: float = REFRESH_S,
        patience: Patience = USUAL,
    ) -> None:
        self._now = now
        self._chance = chance
        self._policy = policy
        self._refresh_s = refresh_s
        self._thread = DatabaseThread("regions")
        self._permits = Permits(self._thread, holder, now)
        self._prober = Prober(self._thread, ask, now, patience)
        self._reports: Batcher[_Report, State] = Batcher(self._thread, self._report, interval_s=REPORT_INTERVAL_S)
        self._errands: set[asyncio.Task[Any]] = set()
        self._directory = Directory()
        self._standings: dict[uuid.UUID, Standing] = {}
        self._lines: dict[tuple[str, frozenset[str] | None], _Line] = {}
        self._leaders: dict[tuple[str, frozenset[str] | None], uuid.UUID] = {}
        self._tallies: dict[uuid.UUID, Tally] = {}
        self._since_failure: dict[uuid.UUID, int] = {}
        self._full_until: dict[uuid.UUID, float] = {}
        self._called: dict[str, float] = {}
        self._uses = self._reads = 0
        self._counted_at = self._read_at = float("-inf")

    async def start(self) -> None:
        """Reads the directory, and keeps it fresh from then on. Raises a database error when it cannot be read."""
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        await self._refresh()
        self._keeper = self._loop.create_task(self._keep())

    async def aclose(self) -> None:
        """Writes what is not written yet, and ends."""
        self._keeper.cancel()
        await asyncio.gather(self._keeper, return_exceptions=True)
        await self._prober.aclose()
        if self._errands:
            await asyncio.wait(self._errands)
        await self._reports.drain()
        await self._permits.drain()
        with suppress(DatabaseError, InterfaceError):
            await self._flush()
        await self._thread.aclose()

    def hear(self) -> None:
        """Something changed: look soon. Runs in the event loop."""
        self._wake.set()

    # -- where a call goes -------------------------------------------------------------------------------------------

    def hops(self, provider: str, tenant_id: uuid.UUID, *, peek: bool = False) -> Hops:
        """The regions that a call of the tenant may try, best first; ``peek``: for no call, just to know.

        Raises ProviderUnavailable, which says what to do, when there is none. A hop with a trial that is not taken is
        given back with ``gave_up``.
        """
        pinned = self._directory.pins.get((tenant_id, provider))
        line = self._lines.get((provider, pinned)) or self._find_line(provider, pinned)
        route = line.route
        if route.problem:
            raise ProviderUnavailable(f"Provider {provider!r} cannot be called. {route.problem}")
        if peek:
            return Hops(tuple(Hop(self._standings[id]) for id in route.order), pinned, route.last_resort)
        now = self._called[provider] = self._loop.time()
        self._uses += 1
        if now - self._read_at > settings.CONFIGURATION_CACHE_S:
            raise ProviderUnavailable(
                "What is known of the regions is too old to be used: the database could not be read for "
                f"{now - self._read_at:,.0f} s."
            )
        line.turn += 1
        explores = bool(route.unknown) and self._chance() < self._policy.explore
        hops = tuple(Hop(self._standings[id]) for id in route.turned(line.turn, explore=explores))
        if self._prober.trials and (trial := self._take_trial(provider, pinned)):
            standing = trial.standing
            rest = () if route.last_resort and hops[0].standing.id == standing.id else hops
            return Hops((Hop(standing, trial), *rest), pinned, False)
        return Hops(hops, pinned, route.last_resort)

    def held_up_s(self, hop: Hop) -> float:
        """For how many seconds the region should get no call: it asked for that, or is known to be at its limits."""
        left = self._full_until.get(hop.standing.id, 0.0) - self._loop.time()
        if hop.standing.slowed_until is not None:
            left = max(left, (hop.standing.slowed_until - self._now()).total_seconds())
        return max(left, 0.0)

    async def permit(self, hop: Hop, tokens: int) -> Permit | float | None:
        """Leave to call a region that has limits, or in how many seconds to ask again; None when it has none."""
        if not hop.standing.limits:
            return None
        answer = await self._permits.take(hop.standing.id, tokens)
        if isinstance(answer, float):
            self._full_until[hop.standing.id] = self._loop.time() + answer
            self._lines.clear()
        return answer

    def is_fresh(self, permit: Permit) -> bool:
        """Whether the permit may still be used."""
        return permit.is_fresh(self._now())

    def ended(self, permit: Permit, used_tokens: int | None, *, sent: bool = True) -> None:
        """The call with this permit is over; ``used_tokens`` None: nobody knows. ``sent`` False: it was not made."""
        self._permits.end(permit, used_tokens, sent=sent)

    def _find_line(self, provider: str, pinned: frozenset[str] | None) -> _Line:
        standings = self._directory.providers.get(provider)
        if standings is None:
            raise ProviderUnavailable(f"There is no enabled provider {provider!r}: add it under Model providers.")
        facts = [each.facts(held_up=self.held_up_s(Hop(each)) > 0) for each in standings]
        key = (provider, pinned)
        route = find_route(facts, allowed=pinned, leader=self._leaders.get(key), policy=self._policy)
        if route.order and not route.last_resort:
            self._leaders[key] = route.order[0]
        line = self._lines[key] = _Line(route, pinned, turn=random.randrange(1024))
        return line

    def _take_trial(self, provider: str, pinned: frozenset[str] | None) -> Trial | None:
        for trial in list(self._prober.trials.values()):
            endpoint = trial.standing.endpoint
            if endpoint.provider == provider and (pinned is None or endpoint.region in pinned):
                return self._prober.trials.pop(trial.standing.id)
        return None

    # -- what came of it ---------------------------------------------------------------------------------------------

    def answered(self, hop: Hop, seconds: float) -> None:
        """The region answered a call, after so many seconds."""
        id = hop.standing.id
        self._tally(id).answered(seconds, self._now().timestamp())
        self._since_failure[id] = self._since_failure.get(id, 0) + 1
        if hop.trial is not None:
            token = hop.trial.token
            cause = "The call that tried it succeeded."
            self._send(id, lambda now: switching.probe_passed(id, token, cause=cause, now=now))
        elif hop.standing.circuit.state is not State.CLOSED and not hop.standing.circuit.held:
            hop.standing.circuit = Circuit()
            self._lines.clear()
            self._send(id, lambda now: switching.proved(id, now=now))

    def refused(self, hop: Hop) -> None:
        """The region answered that it would not do it (4xx): it is up."""
        if hop.trial is not None:
            id, token, cause = hop.standing.id, hop.trial.token, "The call that tried it was answered."
            self._send(id, lambda now: switching.probe_passed(id, token, cause=cause, now=now))

    def failed(self, hop: Hop, error: str, *, silent_s: float | None = None) -> None:
        """A call failed there: an answer of 500 or above, no connection, or silence for ``silent_s`` seconds."""
        id, now, error = hop.standing.id, self._now(), redacted(error)[:300]
        tally = self._tally(id)
        if silent_s is None:
            tally.calls += 1
            tally.errors += 1
        else:
            tally.silent(silent_s, now.timestamp())
        if hop.trial is not None:
            token = hop.trial.token
            self._send(id, lambda now: switching.probe_refused(id, token, error=error, now=now))
            return
        calls = self._since_failure.pop(id, 0) + 1
        report = self._reports.submit(_Report(id, Failure(now, calls), error))
        report.add_done_callback(lambda done: self._heed(id, done))

    def limited(self, hop: Hop, retry_after_s: float) -> None:
        """The region answered 429: nobody calls it for so long."""
        id = hop.standing.id
        self._tally(id).limited += 1
        self.refused(hop)
        now, known = self._now(), hop.standing.slowed_until
        until = now + dt.timedelta(seconds=retry_after_s)
        # Of many calls that are told the same within a moment, one tells the others.
        if known is None or (until - known).total_seconds() > 0.1 + 0.1 * retry_after_s:
            hop.standing.slowed_until = until
            self._lines.clear()
            self._send(id, lambda now: switching.slow_down(id, seconds=retry_after_s, now=now))

    def gave_up(self, hop: Hop) -> None:
        """The call was cut for a reason that says nothing about the region; a trial is left to the next call."""
        if hop.trial is not None and hop.trial.until > self._loop.time():
            self._prober.trials[hop.standing.id] = hop.trial

    def _tally(self, id: uuid.UUID) -> Tally:
        tally = self._tallies.get(id)
        if tally is None:
            tally = self._tallies[id] = Tally()
        return tally

    def _report(self, items: Sequence[_Report]) -> list[State]:
        by_region: dict[uuid.UUID, list[_Report]] = {}
        for item in items:
            by_region.setdefault(item.region_id, []).append(item)
        states = {
            id: switching.report_failures(id, [each.failure for each in mine], error=mine[-1].error, now=self._now())
            for id, mine in sorted(by_region.items())
        }
        return [states[item.region_id] for item in items]

    def _send(self, id: uuid.UUID, act: Callable[[dt.datetime], object]) -> None:
        """Lets the others know; the call does not wait for it."""

        async def run() -> None:
            try:
                await self._thread.run(lambda: act(self._now()))
                self._wake.set()
            except (DatabaseError, InterfaceError) as error:
                # The lease of the probe ends by itself, and then another one decides.
                log.warning("region_report_lost", region=str(id), error=str(error).split("\n", 1)[0])

        task = self._loop.create_task(run())
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    def _heed(self, id: uuid.UUID, done: asyncio.Future[State]) -> None:
        if done.cancelled() or done.exception() is not None:
            return
        standing = self._standings.get(id)
        if standing is not None and done.result() is not standing.circuit.state:
            self._wake.set()

    # -- what all know -----------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._refresh_s):
                    await self._wake.wait()
                await asyncio.sleep(GAP_S)
            self._wake.clear()
            try:
                await self._flush()
                await self._refresh()
                self._permits.renew()
                self._prober.expire()
                self._prober.look(list(self._standings.values()), lambda name: self._called.get(name, -1e9))
            except (DatabaseError, InterfaceError) as error:
                log.warning("regions_not_refreshed", error=str(error).split("\n", 1)[0])

    async def _flush(self) -> None:
        tallies, self._tallies = self._tallies, {}
        if tallies:
            await self._thread.run(lambda: traffic.add(tallies, now=self._now()))
        if self._uses and self._loop.time() - self._counted_at >= COUNT_S:
            used: dict[Key, Counts] = {(Cache.CONFIGURATION, None): Counts(hits=self._uses, misses=self._reads)}
            self._uses, self._reads, self._counted_at = 0, 0, self._loop.time()
            await self._thread.run(lambda: cache_usage.add(used, now=self._now()))

    async def _refresh(self) -> None:
        self._directory = await self._thread.run(lambda: Directory.load(now=self._now()))
        self._reads += 1
        self._read_at = self._loop.time()
        self._standings = {each.id: each for group in self._directory.providers.values() for each in group}
        self._lines.clear()
