"""The policy of the queue: who starts next, who waits for what, and until when. Facts in, decision out.

The order of the queue comes from two rules, one inside a tenant and one between tenants.

*Inside a tenant*, swarms are ranked by the time they were queued, less ``QueuePolicy.bonus`` for each level of their
priority. All of them age alike, so these fixed numbers are priority with ageing: a swarm passes older ones of lower
priority, but none that is older by more than the bonus, and so nothing starves.

*Between tenants*, weighted dominant shares decide (Ghodsi et al., "Dominant Resource Fairness", NSDI 2011). A tenant's
share is the largest fraction it holds of any one resource of the pool::

    share(tenant) = max over resources r of  held(tenant, r) / total(r)

The next place in the queue goes to the first swarm of the tenant with the lowest ``share / weight``; what that swarm
asks then counts as held, and so on down the queue. Between equals the rank decides. A tenant cannot gain another's
share by calling everything critical.

A swarm that does not fit lets smaller ones pass, until it has waited ``patience``: from then on whatever comes free is
set aside for it, up to what it asks, and nothing behind it may take that.
"""

from __future__ import annotations

import datetime as dt
import heapq
import uuid
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from apps.swarms.resources import Resources

TASK_BONUS = dt.timedelta(seconds=60)
"""How much earlier a ready task counts for each level of priority above low."""

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND = dt.timedelta(milliseconds=1)


def task_rank(priority: int, ready_at: dt.datetime) -> int:
    """The place of a ready task among all ready tasks, in milliseconds: the lowest runs first.

    It is the time at which the task became ready, less ``TASK_BONUS`` for each level of its swarm's
    priority. All tasks age alike, so a number that never changes orders them by priority with ageing: a
    critical task passes normal ones that are up to two minutes older, and none that is older still.
    """
    return (ready_at - priority * TASK_BONUS - _EPOCH) // _MILLISECOND


# -- facts -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queued swarm. ``duration`` is how long it is thought to run; None if nobody said."""

    id: uuid.UUID
    tenant_id: uuid.UUID
    priority: int
    queued_at: dt.datetime
    asks: Resources
    duration: dt.timedelta | None = None


@dataclass(frozen=True, slots=True)
class Holding:
    """What a swarm holds of the pool. ``ends_at`` is when it is thought to give it back; None: unknown."""

    tenant_id: uuid.UUID
    holds: Resources
    ends_at: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """What the queue knows of a tenant. ``blocked`` says why none of its swarms may start ("": they may)."""

    weight: int = 1
    max_agents: int | None = None
    blocked: str = ""
    blocked_until: dt.datetime | None = None

    def is_blocked(self, now: dt.datetime) -> bool:
        return bool(self.blocked) and (self.blocked_until is None or now < self.blocked_until)


@dataclass(frozen=True, slots=True)
class Facts:
    """The queue, the pool and the tenants, all at one moment. A tenant without standing has weight 1, no cap."""

    total: Resources
    used: Resources
    waiting: Sequence[Waiting] = ()
    holding: Sequence[Holding] = ()
    tenants: Mapping[uuid.UUID, Standing] = field(default_factory=dict)


def remaining(
    estimate: dt.timedelta | None, *, elapsed: dt.timedelta, done: float, default: dt.timedelta
) -> dt.timedelta:
    """How much longer a running swarm is thought to need. ``done`` is the finished fraction of its tasks, 0 to 1.

    From a tenth on, its own progress is the best witness. Before, it is its estimate (or the default) less
    what has passed; one that outlives its estimate is given another tenth of the time that it has taken.
    """
    if done >= 0.1:
        return elapsed * ((1 - min(done, 1.0)) / done)
    return max((estimate or default) - elapsed, elapsed / 10)


# -- decision ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a swarm waits, at which place (1 is next), and when it may start (None: nobody can tell)."""

    id: uuid.UUID
    position: int
    reason: str
    estimated_start: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Who starts now, in order, and who waits, in the order of the queue."""

    start: tuple[Waiting, ...]
    wait: tuple[Wait, ...]


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """How the queue is ordered and who may pass whom (see the module's text for the rules)."""

    bonus: dt.timedelta = dt.timedelta(minutes=10)
    """How much earlier a swarm counts for each level of priority above low."""
    patience: dt.timedelta = dt.timedelta(minutes=5)
    """After waiting this long, a swarm that does not fit is passed no more."""
    default_duration: dt.timedelta = dt.timedelta(minutes=5)
    """How long a swarm is thought to run if nobody said."""
    horizon: int = 200
    """For how many waiting swarms the start is simulated; the rest is extrapolated from those."""

    def rank(self, swarm: Waiting) -> tuple[dt.datetime, uuid.UUID]:
        """Its place among its tenant's swarms, lowest first: an aged priority, and the id between equals."""
        return swarm.queued_at - swarm.priority * self.bonus, swarm.id

    def order(self, facts: Facts) -> list[Waiting]:
        """The queue: every waiting swarm once, the next to start first."""
        lines: dict[uuid.UUID, deque[Waiting]] = defaultdict(deque)
        for swarm in sorted(facts.waiting, key=self.rank):
            lines[swarm.tenant_id].append(swarm)
        held = _held(facts.holding)
        fair: list[tuple[float, tuple[dt.datetime, uuid.UUID], uuid.UUID]] = []

        def place(tenant_id: uuid.UUID) -> None:
            if line := lines[tenant_id]:
                weight = _standing(facts, tenant_id).weight
                share = round(held[tenant_id].share_of(facts.total) / weight, 9)
                heapq.heappush(fair, (share, self.rank(line[0]), tenant_id))

        for tenant_id in lines:
            place(tenant_id)
        queue: list[Waiting] = []
        while fair:
            *_, tenant_id = heapq.heappop(fair)
            swarm = lines[tenant_id].popleft()
            queue.append(swarm)
            # A swarm that its own tenant keeps from starting does not push that tenant's others back.
            standing = _standing(facts, tenant_id)
            with_it = held[tenant_id] + swarm.asks
            if not standing.blocked and (standing.max_agents is None or with_it.agents <= standing.max_agents):
                held[tenant_id] = with_it
            place(tenant_id)
        return queue

    def plan(self, facts: Facts, *, now: dt.datetime, limit: int | None = None, explain: bool = True) -> Plan:
        """Who starts now (at most ``limit``), and why and until when the others wait.

        Never starts more than fits: what starts, with ``facts.used``, is within ``facts.total``, and a tenant's
        agents are within its cap. ``explain=False`` leaves out those that wait, which is most of the work.
        """
        room = _Room(facts.total - facts.used, _held(facts.holding))
        if not explain and not _least(facts.waiting).fits(room.free):
            return Plan((), ())
        queue = self.order(facts)
        reasons: dict[uuid.UUID, str] = {}
        started = self._pass(queue, facts, room, now, limit=limit, reasons=reasons if explain else None)
        if not explain:
            return Plan(tuple(started), ())
        going = {swarm.id for swarm in started}
        rest = [swarm for swarm in queue if swarm.id not in going]
        starts = self._forecast(rest, started, facts, room, now)
        return Plan(
            tuple(started),
            tuple(
                Wait(swarm.id, place, reasons[swarm.id], starts.get(swarm.id))
                for place, swarm in enumerate(rest, start=1)
            ),
        )

    def _pass(
        self,
        queue: Iterable[Waiting],
        facts: Facts,
        room: _Room,
        now: dt.datetime,
        *,
        limit: int | None = None,
        reasons: dict[uuid.UUID, str] | None = None,
    ) -> list[Waiting]:
        """Goes once through the queue: who starts. Takes from ``room``; tells ``reasons`` why each other waits."""
        started: list[Waiting] = []
        open_to_all = room.free  # what is free less what is set aside for one that has waited too long
        aside = False
        capped: set[uuid.UUID] = set()  # tenants whose room under the cap is kept for one of their own
        for swarm in queue:
            asks, standing = swarm.asks, _standing(facts, swarm.tenant_id)
            overdue = now - swarm.queued_at >= self.patience
            under_cap = standing.max_agents is None or (
                room.held[swarm.tenant_id].agents + asks.agents <= standing.max_agents
            )
            fits = under_cap and swarm.tenant_id not in capped and asks.fits(open_to_all)
            full = limit is not None and len(started) >= limit
            if fits and not full and not standing.is_blocked(now):
                started.append(swarm)
                open_to_all -= asks
                room.take(swarm.tenant_id, asks)
                continue
            if reasons is not None:
                reasons[swarm.id] = self._reason(swarm, facts, room, open_to_all, now, capped=swarm.tenant_id in capped)
            if not overdue or standing.is_blocked(now) or never_fits(swarm, facts):
                continue
            if not under_cap:
                capped.add(swarm.tenant_id)
            elif not aside and not asks.fits(room.free):
                aside = True
                open_to_all = room.free - asks.up_to(room.free)
        return started

    def _reason(
        self,
        swarm: Waiting,
        facts: Facts,
        room: _Room,
        open_to_all: Resources,
        now: dt.datetime,
        *,
        capped: bool,
    ) -> str:
        """Why a swarm waits, for its owner; names no other tenant and no other swarm."""
        standing = _standing(facts, swarm.tenant_id)
        if never := never_fits(swarm, facts):
            return f"Can never start: {never}."
        if standing.is_blocked(now):
            until = standing.blocked_until
            return f"{standing.blocked.rstrip('.')}" + (f", until {until:%Y-%m-%d %H:%M} UTC." if until else ".")
        if standing.max_agents is not None:
            left = max(standing.max_agents - room.held[swarm.tenant_id].agents, 0)
            if swarm.asks.agents > left:
                missing = Resources(agents=swarm.asks.agents - left)
                return f"Tenant limit of {standing.max_agents} agents at once: {missing} missing."
            if capped:
                return "Tenant limit: what is left of it is kept for a swarm that has waited longer."
        if not swarm.asks.fits(room.free):
            return f"Pool: {_missing(swarm.asks, room.free)} missing."
        if not swarm.asks.fits(open_to_all):
            kept = _missing(swarm.asks, open_to_all)
            return f"Pool: {kept} kept for a swarm that has waited longer."
        return "Starts in a moment, after those before it."

    def _forecast(
        self,
        rest: Sequence[Waiting],
        started: Iterable[Waiting],
        facts: Facts,
        room: _Room,
        now: dt.datetime,
    ) -> dict[uuid.UUID, dt.datetime]:
        """When each waiting swarm starts if all others take as long as is thought, and nobody else comes.

        The order of the queue is held fixed meanwhile. Swarms that cannot start by anything known (an end of a
        running swarm, or of a block) are left out.
        """
        queue = list(rest[: self.horizon])
        ends = [
            (each.ends_at, number, each.tenant_id, each.holds)
            for number, each in enumerate(facts.holding)
            if each.ends_at is not None
        ]
        number = len(facts.holding)
        starts: dict[uuid.UUID, dt.datetime] = {}

        def start(swarms: Iterable[Waiting], at: dt.datetime) -> None:
            nonlocal number
            for swarm in swarms:
                number += 1
                end = at + (swarm.duration or self.default_duration)
                heapq.heappush(ends, (end, number, swarm.tenant_id, swarm.asks))

        heapq.heapify(ends)
        start(started, now)
        unblocks = {until for standing in facts.tenants.values() if (until := standing.blocked_until) and until > now}
        for until in unblocks:
            heapq.heappush(ends, (until, -1, uuid.UUID(int=0), Resources()))
        at, least = now, _least(queue)
        while queue:
            if least.fits(room.free) and (begun := self._pass(queue, facts, room, at)):
                start(begun, at)
                starts.update((swarm.id, at) for swarm in begun)
                queue = [swarm for swarm in queue if swarm.id not in starts]
            if not ends:
                break
            at = max(ends[0][0], at)
            while ends and ends[0][0] <= at:
                _, _, tenant_id, holds = heapq.heappop(ends)
                room.give_back(tenant_id, holds)
        if starts and len(rest) > self.horizon:
            last = max(starts.values())
            gap = (last - now) / len(starts)
            for behind, swarm in enumerate(rest[self.horizon :], start=1):
                standing = _standing(facts, swarm.tenant_id)
                if never_fits(swarm, facts) or (standing.is_blocked(now) and standing.blocked_until is None):
                    continue
                starts[swarm.id] = max(last + gap * behind, standing.blocked_until or now)
        return starts


@dataclass(slots=True)
class _Room:
    """What is free, and what each tenant holds, while a plan is made."""

    free: Resources
    held: dict[uuid.UUID, Resources]

    def take(self, tenant_id: uuid.UUID, asks: Resources) -> None:
        self.free -= asks
        self.held[tenant_id] += asks

    def give_back(self, tenant_id: uuid.UUID, holds: Resources) -> None:
        self.free += holds
        self.held[tenant_id] -= holds


def never_fits(swarm: Waiting, facts: Facts) -> str:
    """Why it could not start even if nothing else ran ("": it could)."""
    if not swarm.asks.fits(facts.total):
        return f"it asks {_missing(swarm.asks, facts.total)} more than the whole pool has"
    cap = _standing(facts, swarm.tenant_id).max_agents
    if cap is not None and swarm.asks.agents > cap:
        return f"it asks {swarm.asks.agents} agents, and its tenant may have {cap} at once"
    return ""


def _held(holding: Iterable[Holding]) -> dict[uuid.UUID, Resources]:
    held: dict[uuid.UUID, Resources] = defaultdict(Resources)
    for each in holding:
        held[each.tenant_id] += each.holds
    return held


_ORDINARY = Standing()


def _standing(facts: Facts, tenant_id: uuid.UUID) -> Standing:
    return facts.tenants.get(tenant_id, _ORDINARY)


def _missing(asks: Resources, room: Resources) -> Resources:
    """What is asked beyond the room there is."""
    return (asks - room).up_to(asks)


def _least(swarms: Sequence[Waiting]) -> Resources:
    """The least that any of them asks of each resource: without that much, none can start."""
    return Resources(
        min((swarm.asks.agents for swarm in swarms), default=0),
        min((swarm.asks.memory_gb for swarm in swarms), default=Decimal(0)),
        min((swarm.asks.cpu for swarm in swarms), default=Decimal(0)),
        min((swarm.asks.swarms for swarm in swarms), default=0),
    )
