"""Answers from the cache, at the runner: against a real provider over HTTP, with every hit in the ledger."""

from __future__ import annotations

import datetime as dt
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from django.utils import timezone

from apps.costs import rollups
from apps.costs.consistency import rollups_differ_from_ledger, spent_differs_from_ledger
from apps.costs.explaining import explain
from apps.costs.models import BudgetPeriod, LedgerEntry, Reservation
from apps.costs.reserving import charge_expired
from apps.events.models import Event
from apps.execution import leases
from apps.execution.models import Attempt
from apps.execution.runner import RunnerConfig
from apps.providers.models import CachedAnswer, CacheUsage, RegionMinute
from apps.swarms.models import Swarm, Task
from apps.tenants.models import Tenant
from portal.money import NANO, usd_text
from tests.costs import budget as make_budget
from tests.forks import RUNNER, Forked
from tests.running import SimulatorProcess, run_until, simulator
from tests.swarms import AgentOf, StepOf, make_swarm, simulated_provider

pytestmark = pytest.mark.processes
CONFIG = RunnerConfig(concurrency=50, grace_s=8, write_reserve_s=5)
ANSWERS = {"cache": {"answers": True}}
DEGRADED = {"cache": {"degraded": True}}


def used(tenant: Tenant, *counts: str) -> list[int]:
    """Sums over all of the cache's rows: one for each five minutes, whose border a test may cross."""
    rows = CacheUsage.objects.filter(cache="responses", tenant=tenant)
    return [sum(values) for values in zip(*rows.values_list(*counts), strict=True)]


@pytest.fixture
def provider(own_database: str, acme: Tenant) -> Iterator[SimulatorProcess]:
    with simulator() as running:
        simulated_provider(running.port)
        yield running


def run(tenant: Tenant, *, options: dict[str, Any] | None = ANSWERS, items: int = 1, **agent: Any) -> Swarm:
    """A swarm with a task for each item, all with the same prompt, run to its end."""
    fields = {"max_output_tokens": 200, "options": options or {}, **agent}
    prompt = fields.pop("prompt", "Explain the tides.")
    steps = [StepOf("ask", items=items, prompt=prompt)]
    swarm = make_swarm(tenant, steps, {"worker": AgentOf(fields=fields)}, now=timezone.now())
    run_until(lambda: Swarm.objects.get(pk=swarm.pk).is_over, config=CONFIG)
    swarm.refresh_from_db()
    return swarm


def entry_of(swarm: Swarm) -> LedgerEntry:
    return LedgerEntry.objects.get(swarm_id=swarm.pk)


def test_the_same_request_is_answered_again_for_nothing_and_the_ledger_says_so(  # P6
    provider: SimulatorProcess, acme: Tenant
) -> None:
    budget = make_budget(acme, 5 * NANO)
    first, second = run(acme), run(acme)
    asked, kept = Task.objects.get(swarm=first), Task.objects.get(swarm=second)
    assert kept.result == asked.result
    assert provider.stats()["requests"] == 1
    paid, free = entry_of(first), entry_of(second)
    assert (free.kind, free.amount, free.input_tokens, free.output_tokens) == ("llm", 0, 0, 0)
    assert paid.saved is None
    assert free.saved == paid.amount > 0
    assert free.note.startswith("Answered from the cache: the answer was ")
    assert explain(free)[0].startswith("No model was called and nothing is owed; at today's prices")
    assert (free.attempt_id, free.agent, free.model) == (kept.attempts.get().pk, "worker", "simulated:small")
    attempt = Attempt.objects.get(task=kept)
    assert (attempt.requests, attempt.cost, attempt.estimated) == (0, 0, 0)
    assert attempt.context["cache"]["answers"] == 1
    assert attempt.context["cache"]["saved_usd"] == usd_text(paid.amount)
    assert not kept.degraded
    period = BudgetPeriod.objects.get(budget=budget)
    assert (period.spent, period.reserved) == (paid.amount, 0)
    assert Reservation.objects.count() == 0
    # Roll-ups hold for entries of nothing as for all others.
    rollups.roll(now=timezone.now())
    assert list(rollups_differ_from_ledger()) == []
    assert used(acme, "hits", "misses", "stored", "saved") == [1, 1, 1, paid.amount]
    answer = CachedAnswer.objects.get()
    assert answer.hits == 1
    assert str(asked.result) not in answer.answer.sealed


def test_agents_that_do_not_allow_it_ask_each_time_and_touch_no_cache(provider: SimulatorProcess, acme: Tenant) -> None:
    run(acme, options=None)
    run(acme, options=None)
    assert provider.stats()["requests"] == 2
    assert not CachedAnswer.objects.exists()
    assert not CacheUsage.objects.filter(cache="responses").exists()


def test_another_tenant_is_never_answered_with_it(
    provider: SimulatorProcess, acme: Tenant, rival: Tenant
) -> None:  # A5
    run(acme)
    run(rival)
    assert provider.stats()["requests"] == 2
    assert set(CachedAnswer.objects.values_list("tenant__slug", flat=True)) == {"acme", "rival"}


def test_the_same_requests_at_once_share_one_call(provider: SimulatorProcess, acme: Tenant) -> None:
    swarm = run(acme, items=8)
    assert (swarm.status, swarm.tasks_succeeded) == ("succeeded", 8)
    assert provider.stats()["requests"] == 1
    assert LedgerEntry.objects.filter(swarm_id=swarm.pk, saved=None).count() == 1
    assert LedgerEntry.objects.filter(swarm_id=swarm.pk, saved__gt=0, amount=0).count() == 7


def test_an_answer_that_was_cut_off_is_not_kept(provider: SimulatorProcess, acme: Tenant) -> None:
    run(acme, max_output_tokens=5)
    run(acme, max_output_tokens=5)
    assert provider.stats()["requests"] == 2
    assert not CachedAnswer.objects.exists()


def test_an_answer_gets_too_old(provider: SimulatorProcess, acme: Tenant) -> None:
    run(acme)
    now = timezone.now()
    CachedAnswer.objects.update(created_at=now - dt.timedelta(seconds=301))
    run(acme)
    assert provider.stats()["requests"] == 2
    CachedAnswer.objects.update(created_at=now - dt.timedelta(seconds=30))
    run(acme, options={"cache": {"answers": True, "max_age_s": 20}})
    assert provider.stats()["requests"] == 3


@pytest.mark.parametrize("outage", ["500", "refuse"])
def test_when_no_region_answers_an_older_answer_is_used_and_marked(  # P5
    provider: SimulatorProcess, acme: Tenant, outage: str
) -> None:
    first = run(acme, options=DEGRADED)
    run(acme, options=DEGRADED)
    assert provider.stats()["requests"] == 2, "with degraded alone, every call is made"
    CachedAnswer.objects.update(created_at=timezone.now() - dt.timedelta(hours=5))
    provider.outage(None, outage)
    swarm = run(acme, options=DEGRADED)
    task = Task.objects.get(swarm=swarm)
    assert (task.status, task.degraded, task.result) == ("succeeded", True, Task.objects.get(swarm=first).result)
    cache = Attempt.objects.get(task=task).context["cache"]
    assert cache["degraded"] is True
    assert cache["oldest_s"] == pytest.approx(5 * 3600, abs=60)
    assert cache["because"]
    assert Event.objects.get(swarm_id=swarm.pk, kind="task.succeeded").data == {"degraded": True}
    entry = LedgerEntry.objects.get(swarm_id=swarm.pk, amount=0)
    assert entry.note == "Answered from the cache, as no region answered: the answer was 5.0 h old."
    assert used(acme, "degraded") == [1]
    # An agent that does not allow it fails with a clear error; so does one whose answer is too old.
    for options in (None, ANSWERS):
        failed = Task.objects.get(swarm=run(acme, options=options, retry={"max_retries": 0}))
        assert (failed.status, failed.failure_code, failed.degraded) == ("failed", "provider_error", False)
    CachedAnswer.objects.update(created_at=timezone.now() - dt.timedelta(hours=25))
    failed = Task.objects.get(swarm=run(acme, options=DEGRADED, retry={"max_retries": 0}))
    assert (failed.status, failed.degraded) == ("failed", False)


def test_regions_that_hang_leave_time_for_the_older_answer(provider: SimulatorProcess, acme: Tenant) -> None:  # P5
    run(acme, options=DEGRADED)
    provider.outage(None, "hang")
    swarm = run(acme, options=DEGRADED, timeout_s=2.0)
    task = Task.objects.get(swarm=swarm)
    assert (task.status, task.degraded, task.attempts_counted) == ("succeeded", True, 1)
    # The region was told off for its silence, and what it may have done is charged.
    assert sum(RegionMinute.objects.values_list("errors", flat=True)) == 1
    assert LedgerEntry.objects.filter(swarm_id=swarm.pk, unsettled=True).count() == 1


def test_a_cache_that_cannot_be_read_is_a_miss(provider: SimulatorProcess, acme: Tenant) -> None:
    from django.db import connection

    run(acme)
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE providers_cachedanswer RENAME TO away")
    assert run(acme).status == "succeeded"
    assert provider.stats()["requests"] == 2


DOOMED = """
import asyncio, os, signal
import django
django.setup()
from apps.execution.runner import Runner, RunnerConfig
from apps.providers import answers
answers.keep = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(Runner("doomed", RunnerConfig(concurrency=5)).run())
"""


def test_a_process_that_is_killed_between_answer_and_keeping_loses_an_entry_of_the_cache_only(
    provider: SimulatorProcess, acme: Tenant
) -> None:
    make_budget(acme, 5 * NANO)
    fields = {"max_output_tokens": 200, "options": ANSWERS}
    steps = [StepOf("ask", prompt="Explain the tides.")]
    swarm = make_swarm(acme, steps, {"worker": AgentOf(fields=fields)}, now=timezone.now())
    doomed = Forked("-c", DOOMED, ahead=RUNNER)
    assert doomed.wait(60) == -signal.SIGKILL
    assert not CachedAnswer.objects.exists()
    later = timezone.now() + dt.timedelta(minutes=1)
    leases.expire(now=later)
    leases.release_due(now=later)
    charge_expired(now=later)
    if not Swarm.objects.get(pk=swarm.pk).is_over:
        run_until(lambda: Swarm.objects.get(pk=swarm.pk).is_over, config=CONFIG)
    run(acme)
    assert Task.objects.filter(status="succeeded").count() == 2
    assert CachedAnswer.objects.count() == 1
    assert spent_differs_from_ledger() == []
    assert Reservation.objects.count() == 0
