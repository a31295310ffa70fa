"""The policy of the queue: who starts, who waits for what, and until when."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.swarms.resources import Resources
from apps.swarms.scheduling import (
    Facts,
    Holding,
    QueuePolicy,
    Standing,
    Waiting,
    remaining,
    task_rank,
)

NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
POLICY = QueuePolicy()
LOW, NORMAL, HIGH, CRITICAL = range(4)
A, B, C = (uuid.UUID(int=n) for n in (1, 2, 3))


def ago(minutes: float) -> dt.datetime:
    return NOW - dt.timedelta(minutes=minutes)


def minutes(count: float) -> dt.timedelta:
    return dt.timedelta(minutes=count)


def agents(count: int, **more: Any) -> Resources:
    """An ordinary swarm's ask: 2 GB and half a core per agent."""
    return Resources(count, more.get("memory_gb", Decimal(2) * count), more.get("cpu", Decimal(count) / 2), 1)


POOL = Resources(100, Decimal(200), Decimal(50), 10)


class Queue:
    """Names for swarms, so that rows of a table can be read."""

    def __init__(self, total: Resources = POOL, **tenants: Standing) -> None:
        self.total, self.used = total, Resources()
        self.waiting: list[Waiting] = []
        self.holding: list[Holding] = []
        self.tenants = {{"A": A, "B": B, "C": C}[name]: standing for name, standing in tenants.items()}
        self.names: dict[uuid.UUID, str] = {}

    def wait(
        self,
        name: str,
        count: int = 10,
        tenant: uuid.UUID = A,
        priority: int = NORMAL,
        waited: float = 1,
        asks: Resources | None = None,
        runs: float | None = None,
    ) -> Queue:
        swarm_id = uuid.UUID(int=1000 + len(self.names))
        self.names[swarm_id] = name
        duration = None if runs is None else minutes(runs)
        asks = asks or agents(count)
        self.waiting.append(Waiting(swarm_id, tenant, priority, ago(waited), asks, duration))
        return self

    def hold(self, count: int, tenant: uuid.UUID = A, ends: float | None = None) -> Queue:
        ends_at = None if ends is None else NOW + minutes(ends)
        self.holding.append(Holding(tenant, agents(count), ends_at))
        self.used += agents(count)
        return self

    @property
    def facts(self) -> Facts:
        return Facts(self.total, self.used, self.waiting, self.holding, self.tenants)

    def order(self) -> str:
        return " ".join(self.names[swarm.id] for swarm in POLICY.order(self.facts))

    def starts(self, **kwargs: Any) -> str:
        return " ".join(self.names[swarm.id] for swarm in POLICY.plan(self.facts, now=NOW, **kwargs).start)

    def reasons(self) -> dict[str, str]:
        return {self.names[wait.id]: wait.reason for wait in POLICY.plan(self.facts, now=NOW).wait}

    def estimates(self) -> dict[str, float | None]:
        """Minutes from now."""
        return {
            self.names[wait.id]: (wait.estimated_start - NOW) / minutes(1) if wait.estimated_start else None
            for wait in POLICY.plan(self.facts, now=NOW).wait
        }


@pytest.mark.parametrize(
    ("queue", "expected"),
    [
        # Nobody is more important: who came first goes first.
        (Queue().wait("late", waited=1).wait("early", waited=2), "early late"),
        # Of the same moment, the more important goes first.
        (Queue().wait("low", priority=LOW).wait("critical", priority=CRITICAL).wait("high", priority=HIGH),
         "critical high low"),
        # A level of priority is worth ten minutes of waiting...
        (Queue().wait("normal", waited=9).wait("high", priority=HIGH, waited=0), "high normal"),
        # ... and no more: who waited longer than that is not passed. This is what keeps low ones from starving.
        (Queue().wait("normal", waited=11).wait("high", priority=HIGH, waited=0), "normal high"),
        # Low waits at most thirty minutes longer than critical.
        (Queue().wait("low", priority=LOW, waited=31).wait("critical", priority=CRITICAL, waited=0), "low critical"),
        # Two tenants with nothing running take turns, though one came first with everything.
        (Queue().wait("a1", waited=9).wait("a2", waited=8).wait("a3", waited=7)
         .wait("b1", tenant=B).wait("b2", tenant=B),
         "a1 b1 a2 b2 a3"),
        # Who has less in use goes first, however long the other's queue has waited.
        (Queue().hold(50, A).wait("a", waited=60).wait("b", tenant=B, waited=1), "b a"),
        # Calling everything critical does not win another tenant's share.
        (Queue().hold(50, A).wait("a", priority=CRITICAL).wait("b", tenant=B, priority=LOW), "b a"),
        # Weight 3 gets three places for every one of weight 1 (A's equal share comes first by its longer wait).
        (Queue(A=Standing(weight=3), B=Standing(weight=1))
         .wait("a1", waited=9).wait("a2", waited=9).wait("a3", waited=9).wait("a4", waited=9).wait("a5", waited=9)
         .wait("b1", tenant=B).wait("b2", tenant=B),
         "a1 b1 a2 a3 a4 b2 a5"),
        # The share that counts is that of the scarcest resource: little memory, but half of the CPU.
        (Queue().wait("a1", asks=Resources(1, Decimal(1), Decimal(25), 1), waited=9)
         .wait("a2", asks=Resources(1, Decimal(1), Decimal(1), 1), waited=9)
         .wait("b1", count=30, tenant=B).wait("b2", count=30, tenant=B),
         "a1 b1 b2 a2"),
        # A swarm over its tenant's cap does not push that tenant's small ones behind everybody else.
        (Queue(A=Standing(max_agents=20)).wait("big", 30, waited=9).wait("small", 10, waited=8).wait("b", 10, tenant=B),
         "big small b"),
    ],
)  # fmt: skip
def test_the_order_of_the_queue(queue: Queue, expected: str) -> None:  # O3
    assert queue.order() == expected


@pytest.mark.parametrize(
    ("queue", "expected"),
    [
        # An empty pool takes all there is.
        (Queue().wait("one", 60).wait("two", 40), "one two"),
        # What does not fit waits.
        (Queue().wait("one", 60).wait("two", 41), "one"),
        # A small one passes a big one that does not fit and has not waited long...
        (Queue().hold(50).wait("big", 60, waited=4).wait("small", 10, waited=1), "small"),
        # ... but after five minutes what is free is kept for the big one.
        (Queue().hold(50).wait("big", 60, waited=5).wait("small", 10, waited=1), ""),
        # It is kept on what the big one lacks; who does not need that may pass.
        (Queue().hold(50).wait("memory", asks=Resources(1, Decimal(150), Decimal(1), 1), waited=9)
         .wait("no-memory", asks=Resources(1, Decimal(0), Decimal(1), 1)),
         "no-memory"),
        # What it does not lack is kept too, up to what it asks: CPU that passes now would be lacking later.
        (Queue().wait("greedy", asks=Resources(1, Decimal(190), Decimal(45), 1), waited=9).hold(20)
         .wait("cpu", asks=Resources(1, Decimal(0), Decimal(6), 1)),
         ""),
        # Who can never start keeps nothing: not one that is larger than the pool...
        (Queue().wait("huge", 101, waited=60).wait("small", 10), "small"),
        # ... nor one beyond its tenant's cap...
        (Queue(A=Standing(max_agents=5)).wait("huge", 6, waited=60).wait("small", 5, waited=1), "small"),
        # ... nor one whose budget is spent.
        (Queue(A=Standing(blocked="No money.")).hold(95, B).wait("poor", 10, waited=60).wait("b", 5, tenant=B), "b"),
        # A tenant's cap counts what it runs.
        (Queue(A=Standing(max_agents=20)).hold(15).wait("a", 10).wait("b", 10, tenant=B), "b"),
        # Under the cap too, small ones pass at first...
        (Queue(A=Standing(max_agents=20)).hold(15).wait("big", 10, waited=4).wait("small", 5, waited=1), "small"),
        # ... but not for ever.
        (Queue(A=Standing(max_agents=20)).hold(15).wait("big", 10, waited=6).wait("small", 5, waited=1), ""),
        # Room for one more swarm, and two that want it.
        (Queue(Resources(100, Decimal(200), Decimal(50), 1)).wait("one", waited=2).wait("two"), "one"),
        # A pool of nothing starts nothing.
        (Queue(Resources()).wait("one"), ""),
        # A block that has run out is none.
        (Queue(A=Standing(blocked="No money", blocked_until=ago(1))).wait("a"), "a"),
    ],
)  # fmt: skip
def test_who_starts(queue: Queue, expected: str) -> None:  # O2 O3
    assert queue.starts() == expected


def test_no_more_start_than_the_limit_and_the_rest_hears_so() -> None:
    queue = Queue().wait("one", 5, waited=3).wait("two", 5, waited=2)
    assert queue.starts(limit=1) == "one"
    (wait,) = POLICY.plan(queue.facts, now=NOW, limit=1).wait
    assert (wait.position, wait.reason) == (1, "Starts in a moment, after those before it.")
    assert wait.estimated_start == NOW


@pytest.mark.parametrize(
    ("queue", "name", "reason"),
    [
        # The pool: which resource, and how much is missing.
        (Queue().hold(95).wait("a", 10), "a", "Pool: 5 agents, 10 GB of memory and 2.5 CPU cores missing."),
        # One resource, in the singular.
        (Queue().hold(0).wait("a", asks=Resources(1, Decimal(0), Decimal(51), 1)).hold(0), "a",
         "Can never start: it asks 1 CPU core more than the whole pool has."),
        # The cap on concurrent swarms.
        (Queue(Resources(100, Decimal(200), Decimal(50), 1)).hold(1).wait("a", 1), "a",
         "Pool: 1 place for swarms missing."),
        # Kept for another: it is not named, as it may be another tenant's.
        (Queue().hold(50, B).wait("big", 60, waited=6).wait("small", 1, tenant=B), "small",
         "Pool: 1 agent, 2 GB of memory and 0.5 CPU cores kept for a swarm that has waited longer."),
        # The tenant's cap, with what is missing under it.
        (Queue(A=Standing(max_agents=20)).hold(15).wait("a", 8), "a",
         "Tenant limit of 20 agents at once: 3 agents missing."),
        (Queue(A=Standing(max_agents=20)).hold(15).wait("big", 10, waited=9).wait("small", 5), "small",
         "Tenant limit: what is left of it is kept for a swarm that has waited longer."),
        # A cap that was lowered below what runs.
        (Queue(A=Standing(max_agents=10)).hold(15).wait("a", 8), "a",
         "Tenant limit of 10 agents at once: 8 agents missing."),
        (Queue(A=Standing(max_agents=5)).wait("a", 8), "a",
         "Can never start: it asks 8 agents, and its tenant may have 5 at once."),
        # The budget, with its end where there is one.
        (Queue(A=Standing(blocked="Budget “Daily” is spent", blocked_until=NOW + minutes(60))).wait("a"), "a",
         "Budget “Daily” is spent, until 2026-11-21 13:00 UTC."),
        (Queue(A=Standing(blocked="Budget “All” is spent.")).wait("a"), "a", "Budget “All” is spent."),
    ],
)  # fmt: skip
def test_why_a_swarm_waits(queue: Queue, name: str, reason: str) -> None:  # O3
    assert queue.reasons()[name] == reason
    assert len(reason) <= 200


@pytest.mark.parametrize(
    ("queue", "expected"),
    [
        # When the running one ends.
        (Queue().hold(100, ends=7).wait("a"), {"a": 7}),
        # One after the other, each by its own estimate.
        (Queue().hold(100, ends=7).wait("a", 100, waited=3, runs=10).wait("b", 100, waited=2, runs=1).wait("c", 100),
         {"a": 7, "b": 17, "c": 18}),
        # Without an estimate a swarm is thought to run for five minutes.
        (Queue().hold(100, ends=7).wait("a", 100, waited=3).wait("b", 100), {"a": 7, "b": 12}),
        # It counts what starts now, too.
        (Queue().wait("now", 100, waited=3, runs=2).wait("next", 100), {"next": 2}),
        # A small one that may pass starts earlier than the big one before it.
        (Queue().hold(60, ends=5).hold(40, ends=1).wait("big", 95, waited=2).wait("small", 10),
         {"big": 6, "small": 1}),
        # A paused swarm holds on to what it has: nobody can tell.
        (Queue().hold(100).wait("a"), {"a": None}),
        # A budget that is renewed.
        (Queue(A=Standing(blocked="Spent", blocked_until=NOW + minutes(30))).wait("a"), {"a": 30}),
        # A budget that is not, and an ask that can never be met.
        (Queue(A=Standing(blocked="Spent")).wait("a").wait("b", 101, tenant=B), {"a": None, "b": None}),
        # A tenant's cap frees up when its own swarm ends.
        (Queue(A=Standing(max_agents=20)).hold(20, ends=3).wait("a"), {"a": 3}),
    ],
)  # fmt: skip
def test_when_a_swarm_may_start(queue: Queue, expected: dict[str, float | None]) -> None:  # O3
    assert queue.estimates() == expected


def test_a_long_queue_is_simulated_at_its_head_and_extrapolated_behind() -> None:
    queue = Queue().hold(100, ends=1)
    for number in range(30):
        queue.wait(f"s{number:02}", 100, waited=100 - number, runs=2)
    policy = QueuePolicy(horizon=10)
    waits = policy.plan(queue.facts, now=NOW).wait
    starts = [wait.estimated_start for wait in waits]
    assert [wait.position for wait in waits] == list(range(1, 31))
    assert starts[9] == NOW + minutes(1 + 9 * 2)
    assert None not in starts
    assert starts == sorted(starts, key=lambda start: start or NOW)
    exact = [wait.estimated_start for wait in QueuePolicy().plan(queue.facts, now=NOW).wait]
    assert abs((starts[29] or NOW) - (exact[29] or NOW)) < minutes(3)


@pytest.mark.parametrize(
    ("estimate", "elapsed", "done", "left"),
    [
        (10, 4, 0.0, 6),  # by its estimate
        (None, 2, 0.0, 3),  # by the default of five minutes
        (10, 20, 0.0, 2),  # it outlived its estimate: another tenth
        (10, 4, 0.5, 4),  # by its own progress, which knows better than the estimate
        (10, 4, 0.05, 6),  # too little progress to tell
        (10, 4, 1.0, 0),  # all tasks are over
    ],
)
def test_how_much_longer_a_swarm_runs(estimate: float | None, elapsed: float, done: float, left: float) -> None:
    assert remaining(
        None if estimate is None else minutes(estimate), elapsed=minutes(elapsed), done=done, default=minutes(5)
    ) == minutes(left)


def test_a_task_rank_is_its_time_in_milliseconds_less_a_minute_per_level() -> None:
    assert task_rank(LOW, dt.datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=dt.UTC)) == 1500
    assert task_rank(CRITICAL, NOW) == task_rank(LOW, ago(3)) < task_rank(NORMAL, ago(1))


# -- properties --------------------------------------------------------------------------------------------------------

_amounts = st.builds(
    Resources,
    st.integers(0, 40),
    st.decimals(0, 80, places=3),
    st.decimals(0, 20, places=3),
    st.just(1),
)
_tenants = st.sampled_from([A, B, C])
_waiting = st.builds(
    Waiting,
    st.uuids(version=4),
    _tenants,
    st.integers(LOW, CRITICAL),
    st.integers(0, 120).map(ago),
    _amounts,
    st.none() | st.integers(1, 60).map(minutes),
)
_standing = st.builds(
    Standing,
    st.integers(1, 5),
    st.none() | st.integers(0, 60),
    st.sampled_from(["", "", "Spent"]),
    st.none() | st.integers(1, 60).map(lambda count: NOW + minutes(count)),
)


@st.composite
def facts(draw: st.DrawFn) -> Facts:
    holding = draw(
        st.lists(st.builds(Holding, _tenants, _amounts, st.none() | st.integers(0, 60).map(ago)), max_size=4)
    )
    used = sum((each.holds for each in holding), Resources())
    return Facts(
        total=used + draw(_amounts) + Resources(swarms=draw(st.integers(0, 5))),
        used=used,
        waiting=draw(st.lists(_waiting, max_size=12, unique_by=lambda swarm: swarm.id)),
        holding=holding,
        tenants=draw(st.dictionaries(_tenants, _standing, max_size=3)),
    )


@given(facts())
@settings(max_examples=150, deadline=None)
def test_never_more_is_given_than_there_is(given_facts: Facts) -> None:  # O2
    plan = POLICY.plan(given_facts, now=NOW)
    taken = sum((swarm.asks for swarm in plan.start), given_facts.used)
    assert taken.fits(given_facts.total)
    for tenant_id, standing in given_facts.tenants.items():
        started = [swarm.asks.agents for swarm in plan.start if swarm.tenant_id == tenant_id]
        held = sum(each.holds.agents for each in given_facts.holding if each.tenant_id == tenant_id)
        if started and standing.max_agents is not None:
            assert held + sum(started) <= standing.max_agents
        assert not (started and standing.is_blocked(NOW))


@given(facts(), st.none() | st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_who_starts_does_not_depend_on_whether_the_others_are_told(given_facts: Facts, limit: int | None) -> None:
    told = POLICY.plan(given_facts, now=NOW, limit=limit)
    assert POLICY.plan(given_facts, now=NOW, limit=limit, explain=False).start == told.start


@given(facts(), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_everybody_has_one_place_and_the_order_of_arrival_in_memory_does_not_matter(
    given_facts: Facts, random: Any
) -> None:
    plan = POLICY.plan(given_facts, now=NOW)
    placed = [swarm.id for swarm in plan.start] + [wait.id for wait in plan.wait]
    assert sorted(placed) == sorted(swarm.id for swarm in given_facts.waiting)
    assert [wait.position for wait in plan.wait] == list(range(1, len(plan.wait) + 1))
    assert all(0 < len(wait.reason) <= 200 for wait in plan.wait)
    shuffled = list(given_facts.waiting)
    random.shuffle(shuffled)
    again = Facts(given_facts.total, given_facts.used, shuffled, given_facts.holding, given_facts.tenants)
    assert POLICY.plan(again, now=NOW) == plan


@given(
    big=st.integers(1, 100),
    priority=st.integers(LOW, CRITICAL),
    others=st.lists(
        st.tuples(st.integers(1, 100), _tenants, st.integers(LOW, CRITICAL), st.integers(1, 20)),
        min_size=1,
        max_size=6,
    ),
)
@settings(max_examples=12, deadline=None)
def test_nothing_starves_though_others_keep_coming(
    big: int, priority: int, others: list[tuple[int, uuid.UUID, int, int]]
) -> None:  # O3
    """Every minute the same others arrive again, of any tenant, size and priority; each runs 1 to 20 minutes.

    A swarm is passed by what came before it (aged by at most 30 minutes), waits for its tenant's turn and then for
    what runs to end. So the bound: all that is ahead of it, one after the other, and the longest run on top.
    """
    victim = Waiting(uuid.UUID(int=1), A, priority, NOW, agents(big))
    waiting, clock, number = [victim], NOW, 100
    running: list[tuple[dt.datetime, Holding]] = []
    ahead = 30 * len(others)  # as many as may be younger and still rank before it
    bound = NOW + minutes((ahead + 2) * 20)
    while clock < bound:
        running = [(end, holding) for end, holding in running if end > clock]
        if clock < NOW + minutes(45):
            for count, tenant, level, length in others:
                number += 1
                waiting.append(Waiting(uuid.UUID(int=number), tenant, level, clock, agents(count), minutes(length)))
        used = sum((holding.holds for _, holding in running), Resources())
        queue = Facts(POOL, used, waiting, [holding for _, holding in running])
        started = POLICY.plan(queue, now=clock, explain=False).start
        if victim in started:
            return
        gone = {swarm.id for swarm in started}
        waiting = [swarm for swarm in waiting if swarm.id not in gone]
        running += [(clock + (swarm.duration or minutes(5)), Holding(swarm.tenant_id, swarm.asks)) for swarm in started]
        clock += minutes(1)
    raise AssertionError("it never started")
