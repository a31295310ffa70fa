"""Failover inside one call, over real HTTP: which region serves it, what it costs, what it says when none can."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest
from django.utils import timezone

from apps.audit import trail
from apps.costs.models import BudgetPeriod, LedgerEntry, Reservation
from apps.costs.prices import ModelPrice
from apps.events.models import Event
from apps.execution.models import Attempt
from apps.execution.runner import Runner, RunnerConfig
from apps.providers import switching
from apps.providers.models import Breaker, Provider, Region, RegionMinute, ResidencyRule
from apps.providers.switchboard import Switchboard
from apps.swarms.models import Swarm, Task
from apps.tenants.models import Tenant
from portal.money import NANO
from tests.costs import budget as make_budget
from tests.running import SimulatorProcess, run_until, simulator, wait_until
from tests.swarms import AgentOf, StepOf, make_swarm, simulated_provider

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("failover")]
CONFIG = RunnerConfig(concurrency=50, grace_s=8, write_reserve_s=5)
PRICE = ModelPrice("simulated:small", 150_000_000, 600_000_000)
LATENCY_MS = 20
NAMES = ("one", "two", "three")

Regions = Mapping[str, SimulatorProcess]


@pytest.fixture(scope="module")
def simulators() -> Iterator[Regions]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(simulator(latency_ms=LATENCY_MS)) for name in NAMES}


@pytest.fixture
def regions(simulators: Regions, own_database: str, acme: Tenant, monkeypatch: pytest.MonkeyPatch) -> Iterator[Regions]:
    """Three regions in order, all well, with breakers that open after three failures and are probed each second.

    No call explores: one in a hundred would go to a region that another one should serve.
    """
    defaults = Switchboard.__init__.__kwdefaults__
    assert defaults
    monkeypatch.setitem(defaults, "chance", lambda: 1.0)
    simulated_provider(simulators["one"].port)
    Region.objects.update(name="one")
    provider = Provider.objects.get()
    Provider.objects.update(breaker_failures=3, probe_every_s=1, patience_s=15)
    for order, name in enumerate(NAMES[1:], 2):
        url = f"http://127.0.0.1:{simulators[name].port}/v1"
        Region.objects.create(provider=provider, name=name, order=order, base_url=url)
    yield simulators
    for each in simulators.values():
        each.outage(0)


def swarm_of(tenant: Tenant, items: int, **agent: Any) -> Swarm:
    fields = {"model": "simulated:small", "max_output_tokens": 100, "retry": {"max_retries": 0}, **agent}
    return make_swarm(tenant, [StepOf("do", items=items)], {"worker": AgentOf(20, fields)}, now=timezone.now())


def over(swarm: Swarm) -> Callable[[], bool]:
    return lambda: Swarm.objects.get(pk=swarm.pk).is_over


def requests(regions: Regions) -> dict[str, int]:
    return {name: each.stats()["requests"] for name, each in regions.items()}


def since(regions: Regions, before: dict[str, int]) -> list[int]:
    return [count - before[name] for name, count in requests(regions).items()]


def states() -> dict[str, str]:
    return dict(Breaker.objects.values_list("region__name", "state"))


def run(tenant: Tenant, items: int = 1, **agent: Any) -> Swarm:
    swarm = swarm_of(tenant, items, **agent)
    run_until(over(swarm), config=CONFIG)
    swarm.refresh_from_db()
    return swarm


# -- money -------------------------------------------------------------------------------------------------------------


def test_a_region_that_refuses_costs_nothing_and_one_reservation_serves_them_all(
    regions: Regions, acme: Tenant
) -> None:  # P3
    budget = make_budget(acme, 5 * NANO)
    regions["one"].outage(None, "500")
    regions["two"].outage(None, "refuse")
    before = requests(regions)
    swarm = run(acme)
    assert swarm.status == "succeeded"
    assert since(regions, before) == [1, 1, 1]
    attempt = Attempt.objects.get()
    assert attempt.context["region"] == "three"
    tried = [(each["region"], each["what"].partition(" after")[0]) for each in attempt.context["regions_tried"]]
    # The second one took the request before it dropped the connection: who knows what it will bill.
    assert tried == [("one", "answered 500"), ("two", "dropped the connection"), ("three", "answered")]
    entries = {entry.unsettled: entry for entry in LedgerEntry.objects.all()}
    assert LedgerEntry.objects.count() == 2
    assert entries[False].amount == PRICE.cost(entries[False].input_tokens, entries[False].output_tokens)
    assert attempt.estimated == 2 * entries[True].amount, "two reservations: for one and two, and for three"
    assert attempt.requests == 3
    period = BudgetPeriod.objects.get(budget=budget)
    assert (period.spent, period.reserved) == (sum(e.amount for e in entries.values()), 0)
    assert attempt.cost == period.spent


def test_a_silent_region_is_charged_and_the_next_needs_money_of_its_own(regions: Regions, acme: Tenant) -> None:
    highest = PRICE.highest(600, 100)
    Provider.objects.update(patience_s=1)
    # Enough for one request, not for two.
    budget = make_budget(acme, int(highest * 1.2))
    regions["one"].outage(None, "hang")
    before = requests(regions)
    swarm = run(acme)
    task = Task.objects.get(swarm=swarm)
    assert (task.status, task.failure_code) == ("failed", "budget_exhausted")
    assert since(regions, before) == [1, 0, 0], "never a request without a reservation"
    entry = LedgerEntry.objects.get()
    assert entry.unsettled
    assert BudgetPeriod.objects.get(budget=budget).spent == entry.amount
    assert Reservation.objects.count() == 0


# -- where a call goes -------------------------------------------------------------------------------------------------


def test_a_pinned_tenant_is_never_served_elsewhere_even_when_its_regions_are_down(
    regions: Regions, acme: Tenant, rival: Tenant
) -> None:
    rule = ResidencyRule.objects.create(tenant=acme, provider=Provider.objects.get())
    rule.regions.add(Region.objects.get(name="two"))
    before = requests(regions)
    assert run(acme, 5).status == "succeeded"
    assert since(regions, before) == [0, 5, 0]
    regions["two"].outage(None, "500")
    before = requests(regions)
    mine = swarm_of(acme, 5)
    theirs = swarm_of(rival, 5)
    run_until(lambda: over(mine)() and over(theirs)(), config=CONFIG)
    assert Swarm.objects.get(pk=theirs.pk).status == "succeeded"
    errors = set(Task.objects.filter(swarm=mine).values_list("error", flat=True))
    assert len(errors) == 1
    assert "two answered 500" in errors.pop()
    assert "Data residency keeps this tenant's calls in two." in Task.objects.filter(swarm=mine)[0].error
    assert since(regions, before)[0] == 5
    assert since(regions, before)[2] == 0


def test_a_429_sends_calls_elsewhere_for_a_while_and_breaks_nothing(regions: Regions, acme: Tenant) -> None:
    regions["one"].outage(None, "429")
    before = requests(regions)
    assert run(acme, 20).status == "succeeded"
    # Its Retry-After is a second: whoever came before the first answer got one, and nobody else.
    assert 1 <= since(regions, before)[0] <= 20
    assert states().get("one") == "closed"
    assert Event.objects.filter(kind="region.slowed").exists()
    assert not Event.objects.filter(kind="breaker.opened").exists()
    assert LedgerEntry.objects.filter(unsettled=True).count() == 0


def test_a_drained_region_gets_nothing_new(regions: Regions, acme: Tenant) -> None:
    switching.drain(Region.objects.get(name="one"), by=trail.Actor("command", "test"), reason="Move.")
    before = requests(regions)
    assert run(acme, 5).status == "succeeded"
    assert since(regions, before) == [0, 5, 0]


def test_when_all_are_broken_the_primary_is_tried_once_and_a_good_answer_closes_it(
    regions: Regions, acme: Tenant
) -> None:  # P3
    for region in Region.objects.all():
        Breaker.objects.create(region=region, state="open", cause="test")
        Breaker.objects.update(next_probe_at=timezone.now() + dt.timedelta(hours=1))
    regions["one"].outage(None, "500")
    before = requests(regions)
    swarm = run(acme)
    assert since(regions, before) == [1, 0, 0]
    assert "answered 500" in Task.objects.get(swarm=swarm).error.replace("The provider ", "")
    regions["one"].outage(0)
    assert run(acme).status == "succeeded"
    assert states() == {"one": "closed", "two": "open", "three": "open"}


# -- limits ------------------------------------------------------------------------------------------------------------


def test_what_a_regions_limits_leave_no_room_for_goes_to_the_next(regions: Regions, acme: Tenant) -> None:
    Region.objects.filter(name="one").update(requests_per_minute=4)
    Region.objects.filter(name="two").update(concurrency=2)
    before = requests(regions)
    assert run(acme, 12).status == "succeeded"
    one, two, three = since(regions, before)
    assert (one, one + two + three) == (4, 12)
    assert two >= 2


def test_a_call_waits_for_a_place_when_there_is_no_other_region(regions: Regions, acme: Tenant) -> None:
    Region.objects.exclude(name="three").delete()
    with simulator(latency_ms=LATENCY_MS) as fresh:
        Region.objects.update(concurrency=3, base_url=f"http://127.0.0.1:{fresh.port}/v1")
        assert run(acme, 12).status == "succeeded"
        assert (fresh.stats()["requests"], fresh.stats()["peak_in_flight"]) == (12, 3)


def test_a_call_that_cannot_get_a_place_in_its_time_waits_without_counting(regions: Regions, acme: Tenant) -> None:
    Region.objects.exclude(name="three").delete()
    Region.objects.update(requests_per_minute=1)
    swarm = swarm_of(acme, 2, timeout_s=2)

    def one_waits() -> bool:
        return set(Task.objects.filter(swarm=swarm).values_list("status", "attempts_counted")) == {
            ("succeeded", 1),
            ("waiting", 0),
        }

    run_until(one_waits, config=CONFIG)
    assert "at its limits" in Task.objects.get(swarm=swarm, status="waiting").error


# -- the drill ---------------------------------------------------------------------------------------------------------


def test_a_slow_a_failing_and_a_dark_region_in_every_order(regions: Regions, acme: Tenant) -> None:  # P2 P3 P4 P7
    """No task fails that a live region could serve; every request is charged at most once; traffic returns."""
    budget = make_budget(acme, 5 * NANO)
    Provider.objects.update(patience_s=1)
    before = requests(regions)
    swarms: list[Swarm] = []
    after_opening: list[float] = []

    def work(items: int) -> Swarm:
        swarms.append(swarm_of(acme, items, timeout_s=20))
        wait_until(over(swarms[-1]), what=f"the end of swarm {len(swarms)}", timeout_s=30)
        return swarms[-1]

    def recovered() -> bool:
        if Provider.objects.get().health == "healthy" and set(states().values()) <= {"closed"}:
            return True
        work(2)  # regions come back by the calls that try them
        return False

    def drill(runner: Runner) -> None:
        for faults in itertools.permutations(("slow", "500", "hang")):
            for name, fault in zip(NAMES, faults, strict=True):
                regions[name].outage(None, fault)
            before_slow = NAMES[: faults.index("slow")]
            work(12)
            wait_until(lambda: all(states().get(n) in ("open", "half_open") for n in before_slow), what=f"{faults}")  # noqa: B023
            later = Attempt.objects.filter(task__swarm=work(8))
            calls = [(end - start, c) for start, end, c in later.values_list("started_at", "finished_at", "context")]
            assert not [context["regions_tried"] for _, context in calls if "regions_tried" in context], faults
            after_opening.extend(took.total_seconds() for took, context in calls if "regions_tried" not in context)
            for each in regions.values():
                each.outage(0)
            wait_until(recovered, what=f"recovery from {faults}", timeout_s=30)
            # A region that would be served next must not be left with failures of this round.
            Breaker.objects.update(failures=[])
        work(10)

    run_until(lambda: True, config=CONFIG, meanwhile=drill, timeout_s=5)
    assert {Swarm.objects.get(pk=swarm.pk).status for swarm in swarms} == {"succeeded"}
    # Ten times 20 ms and not a second of patience: the figures are those of tests.bench.failover.
    assert sorted(after_opening)[len(after_opening) // 2] < 0.2 + 0.5
    assert Attempt.objects.filter(task__swarm=swarms[-1], context__region="one").count() >= 8, "traffic is back"
    sent = sum(since(regions, before))
    assert Attempt.objects.count() <= LedgerEntry.objects.count() <= sent
    assert LedgerEntry.objects.values("reservation_id").distinct().count() == LedgerEntry.objects.count()
    period = BudgetPeriod.objects.get(budget=budget)
    assert period.spent == sum(LedgerEntry.objects.values_list("amount", flat=True))
    assert (period.reserved, Reservation.objects.count()) == (0, 0)
    kinds = set(Event.objects.filter(kind__startswith="provider.").values_list("kind", flat=True))
    assert {"provider.failed_over", "provider.recovered"} <= kinds
    assert all(each.stats()["peak_being_asked"] <= 1 for each in regions.values()), "one probe at a time"
    assert RegionMinute.objects.filter(errors__gt=0).exists()
