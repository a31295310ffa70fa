"""Whatever is killed while a swarm runs, the swarm completes, and every result is recorded once."""  # E4

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from django.db import DatabaseError, connections
from django.db.models import Count, Q, Sum
from django.utils import timezone

from apps.costs import consistency
from apps.costs.models import BudgetPeriod, LedgerEntry, Reservation
from apps.execution.models import Attempt, Runner, Tick
from apps.swarms.actions import lifecycle
from apps.swarms.models import ResourcePool, Swarm, Task
from apps.tenants.access import principal_of_command
from apps.tenants.models import Tenant
from portal.money import NANO
from tests.costs import budget
from tests.databases import pristine_url
from tests.plant import Plant, plant, wait_for_runners
from tests.running import SimulatorProcess, simulator, wait_until
from tests.swarms import AgentOf, StepOf, make_swarm, simulated_provider

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("tests/test_never_lost.py")]
TASKS = 500
AT_ONCE = 60  # calls in flight: as many, at most, are made in vain when something is killed
LEASE_S = 4
GRACE_S = 10


@pytest.fixture(scope="module")
def provider() -> Iterator[SimulatorProcess]:
    """Takes 0.4 s a call."""
    with simulator(latency_ms=400) as made:
        yield made


@pytest.fixture(scope="module")
def running(
    provider: SimulatorProcess, django_db_setup: None, django_db_blocker: pytest.FixtureRequest
) -> Iterator[Plant]:
    """A plant at work: two orchestrators, a cluster of two agent workers, and the provider."""
    with (
        django_db_blocker.unblock(),  # type: ignore[attr-defined]
        plant(lease_s=LEASE_S, grace_s=GRACE_S, like=pristine_url()) as made,
    ):
        tenant = Tenant.objects.create(slug="acme", name="Acme")
        budget(tenant, 1000 * NANO)
        simulated_provider(provider.port)
        for _ in range(2):
            made.start("orchestrate")
        made.workers = made.start("work", "--cluster", "agents", "--workers", "2")
        wait_for_runners(2)
        yield made


@pytest.fixture(autouse=True)
def db(running: Plant) -> None:
    """The plant's database, which is made like the migrated one of this test run."""


def submit() -> Swarm:
    """A run of 500 tasks in two steps, already admitted."""
    agent = AgentOf(AT_ONCE, {"max_output_tokens": 100, "timeout_s": 60})
    steps = [StepOf("gather", items=TASKS - 1), StepOf("brief", needs=["gather"], prompt="Sum it up.")]
    return make_swarm(Tenant.objects.get(slug="acme"), steps, {"worker": agent}, now=timezone.now())


def succeeded(swarm: Swarm) -> int:
    """Tasks that have succeeded; asked again when the database is just being restarted."""
    with suppress(DatabaseError):
        return Task.objects.filter(swarm=swarm, status="succeeded").count()
    connections.close_all()
    return -1


def busy_runner() -> int:
    runner = Runner.objects.filter(finished_at=None, in_flight__gt=0).order_by("?").first()
    assert runner is not None
    return runner.pid


def kill_busy_worker(plant: Plant) -> None:
    wait_until(lambda: Runner.objects.filter(finished_at=None, in_flight__gt=0).exists())
    os.kill(busy_runner(), signal.SIGKILL)


def kill_leader(plant: Plant) -> None:
    leader = Tick.objects.latest("id").leader
    os.kill(int(leader.rsplit("/", 1)[1].split("@")[0]), signal.SIGKILL)
    plant.start("orchestrate")


def kill_backend(plant: Plant) -> None:
    """A backend of a runner: PostgreSQL ends every session and recovers."""
    names = [child for child in plant.server.postmaster.children() if "[local]" in " ".join(child.cmdline())]
    random.choice(names).kill()


def restart_database(plant: Plant) -> None:
    plant.server.restart()


FAULTS: list[Callable[[Plant], None]] = [kill_busy_worker, kill_leader, kill_backend, restart_database]


@pytest.mark.timeout(150)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_run_survives(running: Plant, provider: SimulatorProcess, fault: Callable[[Plant], None]) -> None:
    asked_before = provider.stats()["requests"]
    swarm = submit()
    wait_until(lambda: succeeded(swarm) >= 60, what="the first sixty results")
    fault(running)
    connections.close_all()
    wait_until(lambda: succeeded(swarm) == TASKS, timeout_s=90, what="all results")
    verify_whole(swarm, provider, asked_before)


def test_a_run_survives_a_worker_that_was_killed_while_idle(running: Plant, provider: SimulatorProcess) -> None:
    asked_before = provider.stats()["requests"]
    runner = Runner.objects.filter(finished_at=None).latest("heartbeat_at")
    os.kill(runner.pid, signal.SIGKILL)
    swarm = submit()
    wait_until(lambda: succeeded(swarm) == TASKS, timeout_s=90, what="all results")
    verify_whole(swarm, provider, asked_before)
    wait_for_runners(2)


def test_sigterm_under_load_ends_within_the_grace_and_counts_no_attempt(running: Plant) -> None:  # E5
    assert running.workers is not None
    slow = AgentOf(60, {"model": "simulated:hang", "max_output_tokens": 100, "timeout_s": 300})
    tenant = Tenant.objects.get(slug="acme")
    swarm = make_swarm(tenant, [StepOf("gather", items=60)], {"worker": slow}, now=timezone.now())
    wait_until(lambda: Task.objects.filter(swarm=swarm, status="running").count() == 60, what="sixty calls in flight")
    begun = time.monotonic()
    running.workers.send_signal(signal.SIGTERM)
    running.workers.wait(GRACE_S + 5)
    assert time.monotonic() - begun <= GRACE_S + 1
    # Everything was handed back, nothing counted against its retries, and nobody had to wait for a lease to end.
    assert set(Task.objects.filter(swarm=swarm).values_list("status", "attempts_counted")) == {("ready", 0)}
    assert set(Attempt.objects.filter(task__swarm=swarm).values_list("outcome", flat=True)) == {"handed_back"}
    assert Reservation.objects.count() == 0
    lifecycle.terminate(swarm, by=principal_of_command("test"), reason="Over.")
    running.workers = running.start("work", "--cluster", "agents", "--workers", "2")


def verify_whole(swarm: Swarm, provider: SimulatorProcess, asked_before: int) -> None:
    """Every result once; no money lost, invented or held; the pool is whole."""
    wait_until(lambda: Swarm.objects.get(pk=swarm.pk).is_over)
    swarm.refresh_from_db()
    assert (swarm.status, swarm.tasks_succeeded) == ("succeeded", TASKS)
    wins = Attempt.objects.filter(task__swarm=swarm, outcome="succeeded")
    assert wins.count() == wins.values("task").distinct().count() == TASKS
    assert not Task.objects.filter(swarm=swarm, result=None).exists()
    # What a crash left unknown is charged when its lease ends, and no reservation outlives that.
    wait_until(lambda: not Reservation.objects.exists(), timeout_s=LEASE_S + 6, what="no reservation left")
    period = BudgetPeriod.objects.get(budget__name="all")
    charged = LedgerEntry.objects.aggregate(all=Sum("amount"))["all"]
    assert (period.spent + period.overage, period.reserved) == (charged, 0)
    assert consistency.spent_differs_from_ledger() == []
    assert consistency.reserved_differs_from_reservations() == []
    calls = LedgerEntry.objects.filter(swarm_id=swarm.pk, kind="llm").aggregate(
        settled=Count("id", filter=Q(unsettled=False)), unknown=Count("id", filter=Q(unsettled=True))
    )
    # What was done already is neither asked nor paid for again, and nothing was asked that is not charged.
    asked = provider.stats()["requests"] - asked_before
    assert TASKS <= asked <= calls["settled"] + calls["unknown"] <= TASKS + AT_ONCE
    assert ResourcePool.objects.current().agents_used == 0
