"""A hard budget stops a swarm that runs: a real runner, a real provider, calls in flight that finish or are cut."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.utils import timezone

from apps.costs.actions import change_budget
from apps.costs.models import Budget, BudgetPeriod, LedgerEntry
from apps.costs.prices import ModelPrice
from apps.events.models import Event
from apps.execution.runner import Runner, RunnerConfig
from apps.swarms.actions import lifecycle
from apps.swarms.models import ResourcePool, Swarm, Task
from apps.tenants.access import principal_of_command
from apps.tenants.models import Tenant
from tests.costs import budget, verify_money_is_whole
from tests.running import SimulatorProcess, run_until, simulator, wait_until
from tests.swarms import AgentOf, StepOf, make_swarm, simulated_provider, start

pytestmark = pytest.mark.processes
CONFIG = RunnerConfig(concurrency=50, grace_s=8, write_reserve_s=5)
PRICE = ModelPrice("simulated:small", 150_000_000, 600_000_000)
IN_FLIGHT = 5
ROOM = IN_FLIGHT * PRICE.highest(1000, 100)
BY = principal_of_command("test")


class AtOnce:
    """A runtime that makes no call."""

    async def run(self, call: Any, gate: Any) -> Any:
        return "done"


@pytest.fixture
def provider(own_database: str, acme: Tenant) -> Iterator[SimulatorProcess]:
    with simulator(latency_ms=500) as running:
        simulated_provider(running.port)
        yield running


def run_into(month: Budget, tenant: Tenant, *, model: str) -> Swarm:
    """A swarm whose expensive call comes when five cheap ones are in flight; when it is over, and nobody waits."""
    swarm = make_swarm(
        tenant,
        [
            StepOf("cheap", items=IN_FLIGHT, agent="cheap"),
            StepOf("first", agent="quick"),
            StepOf("dear", needs=["first"], agent="dear"),
            StepOf("later", needs=["dear"], agent="quick"),
        ],
        {
            "cheap": AgentOf(IN_FLIGHT, {"model": f"simulated:{model}", "max_output_tokens": 100, "timeout_s": 60}),
            "quick": AgentOf(1, {"runtime": "python"}),
            "dear": AgentOf(1, {"max_output_tokens": 1_000_000}),
        },
        now=timezone.now(),
    )
    run_until(lambda: Swarm.objects.get(pk=swarm.pk).is_over, config=CONFIG, runtimes={"python": AtOnce()})
    swarm.refresh_from_db()
    assert swarm.status == "failed"
    assert swarm.status_reason.startswith(f'Stopped: budget "{month.name}" is used up: it has $')
    assert ResourcePool.objects.current().agents_used == 0
    assert BudgetPeriod.objects.get(budget=month).reserved == 0
    verify_money_is_whole()
    return swarm


def test_calls_in_flight_finish_and_a_retry_goes_on(provider: SimulatorProcess, acme: Tenant) -> None:  # C5
    month = budget(acme, ROOM, "Month")
    swarm = run_into(month, acme, model="small")
    assert (swarm.tasks_succeeded, swarm.tasks_failed, swarm.tasks_cancelled) == (IN_FLIGHT + 1, 1, 1)
    assert list(LedgerEntry.objects.values_list("unsettled", flat=True)) == [False] * IN_FLIGHT
    change_budget(month, limit=1000 * ROOM, by=BY)
    lifecycle.retry_failed(swarm, by=BY)
    start(swarm, now=timezone.now())
    run_until(lambda: Swarm.objects.get(pk=swarm.pk).is_over, config=CONFIG, runtimes={"python": AtOnce()})
    swarm.refresh_from_db()
    assert (swarm.status, swarm.tasks_succeeded) == ("succeeded", IN_FLIGHT + 3)


def test_calls_in_flight_are_cut_within_a_second_where_the_tenant_wants_it(
    provider: SimulatorProcess, acme: Tenant
) -> None:  # C5, E7
    Tenant.objects.update(calls_at_limit="cancel")
    swarm = run_into(budget(acme, ROOM, "Month"), acme, model="hang")
    stopping = Event.objects.get(kind="swarm.stopping", swarm_id=swarm.pk)
    assert stopping.data["in_flight"] == IN_FLIGHT
    assert swarm.finished_at is not None
    assert (swarm.finished_at - stopping.at).total_seconds() < 1.0
    assert (swarm.tasks_succeeded, swarm.tasks_failed, swarm.tasks_cancelled) == (1, 1, IN_FLIGHT + 1)
    codes = set(Task.objects.filter(swarm=swarm, status="cancelled").values_list("failure_code", flat=True))
    assert codes == {"budget_exhausted"}
    # What the provider will bill for the cut calls nobody knows: they are charged as reserved.
    assert list(LedgerEntry.objects.values_list("unsettled", flat=True)) == [True] * IN_FLIGHT


def test_a_listener_that_was_away_cuts_only_what_is_to_be_cut(provider: SimulatorProcess, acme: Tenant) -> None:
    swarms = [
        make_swarm(acme, [StepOf("a")], {"worker": AgentOf(1, {"model": "simulated:hang", "timeout_s": 60})})
        for _ in range(2)
    ]

    def lose_the_order(runner: Runner) -> None:
        wait_until(lambda: provider.stats()["in_flight"] == 2, what="both calls")
        for swarm, code in zip(swarms, ("budget_exhausted", ""), strict=True):
            Swarm.objects.filter(pk=swarm.pk).update(status="stopping", stop_code=code)
        runner._on_reconnect()
        wait_until(lambda: provider.stats()["in_flight"] == 1, what="one call cut")

    run_until(
        lambda: Swarm.objects.get(pk=swarms[1].pk).is_over,
        config=RunnerConfig(concurrency=50, grace_s=5.5, write_reserve_s=5),
        meanwhile=lose_the_order,
    )
    assert Swarm.objects.get(pk=swarms[1].pk).status == "terminated"
