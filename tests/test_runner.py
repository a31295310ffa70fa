"""The runner against a real provider over HTTP: results, money, retries, timeouts, orders to stop."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from django.utils import timezone

from apps.costs.models import BudgetPeriod, LedgerEntry, Reservation
from apps.costs.prices import ModelPrice
from apps.events.models import Event
from apps.execution.models import Attempt
from apps.execution.models import Runner as RunnerRow
from apps.execution.runner import Runner, RunnerConfig
from apps.swarms.actions import lifecycle
from apps.swarms.models import ResourcePool, Swarm, Task
from apps.tenants.access import principal_of_command
from apps.tenants.models import Tenant
from portal.money import NANO
from tests.costs import budget as make_budget
from tests.running import SimulatorProcess, run_until, simulator, wait_until
from tests.swarms import AgentOf, StepOf, make_swarm, simulated_provider

pytestmark = pytest.mark.processes
CONFIG = RunnerConfig(concurrency=50, grace_s=8, write_reserve_s=5)
PRICE = ModelPrice("simulated:small", 150_000_000, 600_000_000)


@pytest.fixture
def provider(own_database: str, acme: Tenant) -> Iterator[SimulatorProcess]:
    with simulator() as running:
        simulated_provider(running.port)
        yield running


def swarm_of(tenant: Tenant, *steps: StepOf, model: str = "small", replicas: int = 20, **agent: Any) -> Swarm:
    fields = {"model": f"simulated:{model}", "max_output_tokens": 100, **agent}
    return make_swarm(tenant, steps, {"worker": AgentOf(replicas, fields)}, now=timezone.now())


def over(swarm: Swarm) -> Any:
    return lambda: Swarm.objects.get(pk=swarm.pk).is_over


def test_a_swarm_runs_to_its_end_and_every_call_is_in_the_ledger(provider: SimulatorProcess, acme: Tenant) -> None:
    budget = make_budget(acme, 5 * NANO)
    swarm = swarm_of(
        acme,
        StepOf("gather", items=30, prompt="Collect three facts on {{ item }}."),
        StepOf("brief", needs=["gather"], prompt="Write a page from: {{ results.gather }}"),
    )
    runner = run_until(over(swarm), config=CONFIG)
    swarm.refresh_from_db()
    assert (swarm.status, swarm.tasks_succeeded) == ("succeeded", 31)
    entries = list(LedgerEntry.objects.filter(swarm_id=swarm.pk))
    assert len(entries) == 31
    for entry in entries:
        assert entry.amount == PRICE.cost(entry.input_tokens, entry.output_tokens) > 0
        assert not entry.unsettled
    period = BudgetPeriod.objects.get(budget=budget)
    assert (period.spent, period.reserved) == (sum(entry.amount for entry in entries), 0)
    assert Reservation.objects.count() == 0
    assert ResourcePool.objects.current().agents_used == 0
    # The last prompt was made from the results before it.
    brief = Attempt.objects.get(task__step__name="brief")
    first = Task.objects.get(step__name="gather", index=0)
    assert first.result in brief.context["prompt"]
    assert brief.context["region"] == "test"
    assert brief.outcome == "succeeded"
    assert brief.estimated >= brief.cost == PRICE.cost(brief.input_tokens, brief.output_tokens)
    assert provider.stats()["requests"] == 31
    assert RunnerRow.objects.get(pk=runner._row.pk).finished_at is not None


def test_calls_run_at_once_up_to_the_replicas(own_database: str, acme: Tenant) -> None:
    with simulator(latency_ms=300) as provider:  # none ends before the last of seven has begun
        simulated_provider(provider.port)
        swarm = swarm_of(acme, StepOf("gather", items=14), replicas=7)
        run_until(over(swarm), config=CONFIG)
        assert provider.stats()["peak_in_flight"] == 7


def test_a_bad_request_is_not_retried_and_costs_nothing(provider: SimulatorProcess, acme: Tenant) -> None:
    make_budget(acme, 5 * NANO)
    swarm = swarm_of(acme, StepOf("only"), model="fail-bad-request")
    run_until(over(swarm), config=CONFIG)
    task = Task.objects.get(swarm=swarm)
    assert (task.status, task.failure_code, task.attempts_counted) == ("failed", "provider_error", 1)
    assert "400" in task.error
    assert LedgerEntry.objects.count() == 0
    assert BudgetPeriod.objects.get().committed == 0


def test_a_failing_provider_is_tried_four_times_then_the_task_fails(provider: SimulatorProcess, acme: Tenant) -> None:
    from apps.execution import leases

    swarm = swarm_of(acme, StepOf("only"), model="fail-server", retry={"base_delay_s": 0.05, "factor": 1})

    def release_until_over(runner: Runner) -> None:
        def done() -> bool:
            leases.release_due(now=timezone.now())
            return Swarm.objects.get(pk=swarm.pk).is_over

        wait_until(done)

    run_until(over(swarm), config=CONFIG, meanwhile=release_until_over)
    attempts = list(Attempt.objects.filter(task__swarm=swarm).order_by("number"))
    assert [attempt.number for attempt in attempts] == [1, 2, 3, 4]
    assert {attempt.failure_code for attempt in attempts} == {"provider_error"}
    assert all("500" in attempt.error and attempt.context["prompt"] for attempt in attempts)
    assert LedgerEntry.objects.count() == 0


def test_the_first_retry_is_due_after_five_seconds(provider: SimulatorProcess, acme: Tenant) -> None:  # E2
    swarm = swarm_of(acme, StepOf("only"), model="fail-server")
    run_until(lambda: Task.objects.get(swarm=swarm).status == "waiting", config=CONFIG)
    task = Task.objects.get(swarm=swarm)
    attempt = Attempt.objects.get(task=task)
    assert task.ready_at is not None
    delay = (task.ready_at - attempt.finished_at).total_seconds()
    assert 4.9 < delay < 5.7


def test_an_exhausted_budget_fails_the_task_at_once_and_names_the_budget(
    provider: SimulatorProcess, acme: Tenant
) -> None:
    make_budget(acme, 1, name="Tiny")
    swarm = swarm_of(acme, StepOf("only"))
    run_until(over(swarm), config=CONFIG)
    task = Task.objects.get(swarm=swarm)
    assert (task.failure_code, task.attempts_counted) == ("budget_exhausted", 1)
    assert 'Budget "Tiny"' in task.error
    assert provider.stats()["requests"] == 0
    assert Event.objects.filter(kind="budget.exhausted").count() == 1


def test_calls_wait_for_money_that_calls_in_flight_only_hold(provider: SimulatorProcess, acme: Tenant) -> None:
    """Twenty calls at once reserve far more than they cost; nobody is refused what is not owed."""
    highest = PRICE.highest(400, 100)
    make_budget(acme, 3 * highest)
    swarm = swarm_of(acme, StepOf("gather", items=20, prompt="Say {{ item }}."))
    run_until(over(swarm), config=CONFIG, timeout_s=40)
    swarm.refresh_from_db()
    spent = sum(LedgerEntry.objects.values_list("amount", flat=True))
    refused = Task.objects.filter(swarm=swarm, failure_code="budget_exhausted").count()
    # Whoever was refused could really not be paid: the rest is smaller than one more call could cost.
    assert swarm.tasks_succeeded + refused == 20
    if refused:
        assert 3 * highest - spent < highest
    assert BudgetPeriod.objects.get().spent == spent


def test_a_call_that_takes_too_long_is_cut_and_charged_as_reserved(provider: SimulatorProcess, acme: Tenant) -> None:
    make_budget(acme, 5 * NANO)
    swarm = swarm_of(acme, StepOf("only"), model="hang", timeout_s=0.5, retry={"max_retries": 0})
    run_until(over(swarm), config=CONFIG)
    task = Task.objects.get(swarm=swarm)
    assert (task.failure_code, task.error) == ("provider_timeout", "It took longer than its timeout of 0.5 s.")
    entry = LedgerEntry.objects.get()
    assert entry.unsettled
    assert BudgetPeriod.objects.get().spent == entry.amount == Attempt.objects.get().estimated


def test_terminate_cancels_calls_in_flight_within_a_second(provider: SimulatorProcess, acme: Tenant) -> None:  # O4 E7
    swarm = swarm_of(acme, StepOf("gather", items=30), model="hang", timeout_s=120)
    took: list[float] = []

    def terminate(runner: Runner) -> None:
        wait_until(lambda: provider.stats()["in_flight"] == 20, what="twenty calls in flight")
        begun = time.monotonic()
        lifecycle.terminate(swarm, by=principal_of_command("test"), reason="Stop it.")
        wait_until(lambda: provider.stats()["in_flight"] == 0, what="no call in flight")
        took.append(time.monotonic() - begun)

    run_until(over(swarm), config=CONFIG, meanwhile=terminate)
    assert took[0] < 1.0
    swarm.refresh_from_db()
    assert (swarm.status, swarm.tasks_cancelled) == ("terminated", 30)
    assert ResourcePool.objects.current().agents_used == 0
    # What the provider will bill for the cut calls nobody knows.
    assert LedgerEntry.objects.filter(unsettled=True).count() == 20


def test_draining_hands_back_what_does_not_finish_and_counts_no_attempt(  # E5
    provider: SimulatorProcess, acme: Tenant
) -> None:
    swarm = swarm_of(acme, StepOf("gather", items=10), model="hang", timeout_s=120)
    begun: list[float] = []

    def in_flight() -> bool:
        if provider.stats()["in_flight"] < 10:
            return False
        begun.append(time.monotonic())
        return True

    run_until(in_flight, config=dataclasses.replace(CONFIG, grace_s=6.0, write_reserve_s=5.0))
    assert time.monotonic() - begun[0] < 6
    assert set(Task.objects.filter(swarm=swarm).values_list("status", "attempts_counted")) == {("ready", 0)}
    assert set(Attempt.objects.values_list("outcome", flat=True)) == {"handed_back"}


def test_a_runner_that_lost_its_lease_writes_nothing(provider: SimulatorProcess, acme: Tenant) -> None:
    swarm = swarm_of(acme, StepOf("only"), model="hang", timeout_s=120)

    def steal(runner: Runner) -> None:
        wait_until(lambda: provider.stats()["in_flight"] == 1)
        Task.objects.filter(swarm=swarm).update(lease_token=uuid.uuid4())

    run_until(
        lambda: provider.stats()["in_flight"] == 0,
        config=dataclasses.replace(CONFIG, lease_s=1.0),
        meanwhile=steal,
    )
    assert Task.objects.get(swarm=swarm).status == "running"
    assert Attempt.objects.count() == 0


def test_leases_are_renewed_while_a_call_lasts(provider: SimulatorProcess, acme: Tenant) -> None:
    make_budget(acme, 5 * NANO)
    swarm = swarm_of(acme, StepOf("only"), model="hang", timeout_s=120)
    seen: set[dt.datetime] = set()

    def renewed() -> bool:
        task = Task.objects.get(swarm=swarm)
        if task.lease_expires_at:
            seen.add(task.lease_expires_at)
        return len(seen) >= 2 and Reservation.objects.filter(expires_at=max(seen)).exists()

    run_until(renewed, config=dataclasses.replace(CONFIG, lease_s=3.0, grace_s=5.5))
    assert len(seen) >= 2


class Echo:
    """A runtime that answers with what it was asked, without a model."""

    async def run(self, call: Any, gate: Any) -> Any:
        await asyncio.sleep(0)
        return {"prompt": call.prompt, "nul": "a\x00b"}


def test_results_that_the_database_cannot_hold_are_mended(provider: SimulatorProcess, acme: Tenant) -> None:
    swarm = swarm_of(acme, StepOf("only", prompt="Hello"))
    run_until(over(swarm), config=CONFIG, runtimes={"llm": Echo()})
    assert Task.objects.get(swarm=swarm).result == {"prompt": "Hello", "nul": "ab"}


def test_a_prompt_that_cannot_be_made_fails_its_task_only(provider: SimulatorProcess, acme: Tenant) -> None:
    swarm = swarm_of(acme, StepOf("bad", prompt="{{ item.nothing.there }}"), StepOf("good", prompt="Hello"))
    run_until(over(swarm), config=CONFIG)
    assert dict(Task.objects.filter(swarm=swarm).values_list("step__name", "status")) == {
        "bad": "failed",
        "good": "succeeded",
    }
