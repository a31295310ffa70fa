"""Admission: queued swarms start when there is room, the others hear why not; never more than the pool has."""

from __future__ import annotations

import datetime as dt
import os
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection, transaction

from apps.costs.models import Budget, BudgetPeriod
from apps.events.models import Event
from apps.swarms import admission
from apps.swarms.actions import lifecycle
from apps.swarms.models import ResourcePool, Swarm, SwarmStatus, Task
from apps.swarms.resources import Resources
from apps.tenants.access import principal_of_command
from apps.tenants.models import Tenant
from tests.forks import Forked
from tests.queueing import NOW, queued

OPERATOR = principal_of_command("test")


def fresh(swarm: Swarm) -> Swarm:
    return Swarm.objects.get(pk=swarm.pk)


@pytest.mark.django_db
def test_a_swarm_that_fits_starts_and_its_tasks_are_ready(acme: Tenant) -> None:  # O1
    swarm = queued(acme, agents=2, tasks=3)
    assert admission.admit(now=NOW) == admission.Admission(admitted=1, waiting=0)
    started = fresh(swarm)
    assert (started.status, started.started_at, started.holds_resources) == (SwarmStatus.RUNNING, NOW, True)
    assert started.version > swarm.version
    assert sorted(Task.objects.filter(swarm=swarm).values_list("status", flat=True)) == ["pending", "ready", "ready"]
    (event,) = Event.objects.filter(kind="swarm.started")
    assert (event.swarm_id, event.tenant_id, event.data) == (swarm.pk, acme.pk, {"waited_s": 60.0})
    assert ResourcePool.objects.current().used.agents == 2


@pytest.mark.django_db
def test_what_waits_is_told_its_place_reason_and_start(acme: Tenant, rival: Tenant) -> None:  # O3
    ResourcePool.objects.update(agents_total=10)
    queued(acme, agents=8, estimated_duration_s=120, waited_s=90)
    second, third = queued(rival, agents=8, waited_s=80), queued(acme, agents=4, waited_s=70)
    assert admission.admit(now=NOW) == admission.Admission(1, 2)
    second, third = fresh(second), fresh(third)
    assert (second.queue_position, third.queue_position) == (1, 2)
    assert second.queue_reason == "Pool: 6 agents missing."
    assert second.estimated_start == NOW + dt.timedelta(seconds=120)
    assert third.estimated_start == NOW + dt.timedelta(seconds=120 + 300)


@pytest.mark.django_db
def test_starting_clears_what_was_said_about_the_wait(acme: Tenant) -> None:
    ResourcePool.objects.update(agents_total=1)
    swarm = queued(acme, agents=2)
    admission.admit(now=NOW)
    assert fresh(swarm).queue_reason == "Can never start: it asks 1 agent more than the whole pool has."
    ResourcePool.objects.update(agents_total=2)
    admission.admit(now=NOW)
    started = fresh(swarm)
    assert started.status == SwarmStatus.RUNNING
    assert (started.queue_reason, started.queue_position, started.estimated_start) == ("", None, None)


@pytest.mark.django_db
def test_who_hears_nothing_new_is_not_written_to(acme: Tenant) -> None:
    ResourcePool.objects.update(agents_total=10)
    queued(acme, agents=10, estimated_duration_s=600, waited_s=90)
    waiting = queued(acme, agents=10)
    admission.admit(now=NOW)
    told = fresh(waiting)
    admission.admit(now=NOW + dt.timedelta(seconds=5))  # the estimate moves with the clock, but hardly
    assert fresh(waiting).version == told.version
    admission.admit(now=NOW + dt.timedelta(seconds=900))  # the running one outlived its estimate
    later = fresh(waiting)
    assert later.version == told.version + 1
    assert later.estimated_start == NOW + dt.timedelta(seconds=990)


@pytest.mark.django_db
def test_between_two_tellings_only_newcomers_hear(acme: Tenant) -> None:
    ResourcePool.objects.update(agents_total=1)
    older = queued(acme, agents=1, waited_s=50, priority=0)
    ResourcePool.objects.update(agents_used=1)
    admission.admit(now=NOW)
    newer = queued(acme, agents=1, waited_s=0, priority=3)
    admission.admit(now=NOW, tell=False)
    assert (fresh(newer).queue_position, fresh(older).queue_position) == (1, 1)
    admission.admit(now=NOW)
    assert (fresh(newer).queue_position, fresh(older).queue_position) == (1, 2)


@pytest.mark.django_db
def test_a_tenant_limit_holds_across_its_swarms(acme: Tenant, rival: Tenant) -> None:  # O3
    Tenant.objects.filter(pk=acme.pk).update(max_agents=5)
    first, second, other = queued(acme, agents=3), queued(acme, agents=3), queued(rival, agents=3)
    admission.admit(now=NOW)
    assert [fresh(swarm).status for swarm in (first, second, other)] == ["running", "queued", "running"]
    assert fresh(second).queue_reason == "Tenant limit of 5 agents at once: 1 agent missing."


@pytest.mark.django_db
def test_a_tenant_without_money_waits_and_hears_until_when(acme: Tenant, rival: Tenant) -> None:  # C3 O3
    budget = Budget.objects.create(tenant=acme, name="Daily", period="daily", limit=100)
    local = NOW.astimezone(acme.zone)
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
    BudgetPeriod.objects.create(
        budget=budget,
        key=f"{local:%Y-%m-%d}",
        starts_at=midnight,
        ends_at=midnight + dt.timedelta(days=1),
        limit=100,
        ceiling=100,
        spent=100,
    )
    poor, rich = queued(acme), queued(rival)
    assert admission.admit(now=NOW) == admission.Admission(1, 1)
    assert fresh(rich).status == SwarmStatus.RUNNING
    waits = fresh(poor)
    assert waits.queue_reason.startswith('Budget "Daily" is used up')
    assert waits.queue_reason.endswith("until 2026-11-22 05:00 UTC.")
    assert waits.estimated_start == midnight + dt.timedelta(days=1)


@pytest.mark.django_db
def test_a_paused_swarm_is_not_in_the_queue(acme: Tenant) -> None:  # O3
    swarm = queued(acme)
    lifecycle.pause(swarm, by=OPERATOR)
    assert admission.admit(now=NOW) == admission.Admission(0, 0)
    assert fresh(swarm).queue_position is None


@pytest.mark.django_db
def test_more_than_a_batch_starts_in_one_call(acme: Tenant) -> None:
    for _ in range(admission.BATCH + 3):
        queued(acme, agents=1, tasks=1)
    assert admission.admit(now=NOW).admitted == admission.BATCH + 3


@pytest.mark.django_db
def test_the_limit_is_the_most_that_start(acme: Tenant) -> None:
    for _ in range(3):
        queued(acme)
    assert admission.admit(now=NOW, limit=2).admitted == 2


@pytest.mark.django_db
def test_an_empty_queue_costs_one_query_and_a_long_one_no_more_than_a_short_one(
    acme: Tenant, django_assert_num_queries: Callable[[int], Any], django_assert_max_num_queries: Callable[[int], Any]
) -> None:
    with django_assert_num_queries(1):
        admission.admit(now=NOW)
    ResourcePool.objects.update(agents_total=21)
    for _ in range(30):
        queued(acme, agents=2, tasks=1)
    with django_assert_max_num_queries(20):
        assert admission.admit(now=NOW) == admission.Admission(10, 20)


@pytest.mark.django_db
def test_a_crash_while_starting_leaves_everything_as_it_was(acme: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    swarm = queued(acme)
    monkeypatch.setattr("apps.swarms.progress.open_tasks", _crash)
    with pytest.raises(RuntimeError), transaction.atomic():
        admission.admit(now=NOW)
    assert fresh(swarm).status == SwarmStatus.QUEUED
    assert ResourcePool.objects.current().used.agents == 0
    assert not Event.objects.exists()


def _crash(*args: Any, **kwargs: Any) -> None:
    raise RuntimeError


# -- several processes -------------------------------------------------------------------------------------------------


def admit_and_end(seed: int) -> None:
    """One of several processes: admits, ends running swarms, and looks after each step whether the pool is whole."""
    chance = random.Random(seed)
    unfinished = Swarm.objects.unfinished()
    while ids := list(unfinished.values_list("pk", "status")):
        admission.admit(now=dt.datetime.now(dt.UTC), limit=chance.randint(1, 4))
        running = [pk for pk, status in ids if status == SwarmStatus.RUNNING]
        for pk in chance.sample(running, min(2, len(running))):
            try:
                lifecycle.terminate(Swarm.objects.get(pk=pk), by=OPERATOR, reason="done")
            except lifecycle.CannotAct:
                continue  # another process was faster
        with connection.cursor() as cursor:
            cursor.execute(
                """
                SELECT p.agents_used = h.agents AND p.memory_gb_used = h.memory AND p.swarms_used = h.swarms
                    AND h.agents <= p.agents_total AND h.swarms <= p.swarms_total
                FROM swarms_resourcepool p, (
                    SELECT coalesce(sum(agents_asked), 0) AS agents, coalesce(sum(memory_gb_asked), 0) AS memory,
                        count(*) AS swarms FROM swarms_swarm WHERE holds_resources
                ) h
                """
            )
            if cursor.fetchone() != (True,):
                sys.exit("the pool is not the sum of what swarms hold")


@pytest.mark.processes
def test_processes_that_admit_at_once_never_give_more_than_there_is(
    own_database: str, acme: Tenant, rival: Tenant
) -> None:  # O2
    ResourcePool.objects.update(agents_total=12, swarms_total=4)
    chance = random.Random(7)
    for number in range(60):
        queued(chance.choice([acme, rival]), agents=chance.randint(1, 6), tasks=2, priority=number % 4)
    script = (
        "import sys, django; django.setup(); from tests.test_admission import admit_and_end as a; a(int(sys.argv[1]))"
    )
    env = {**os.environ, "DATABASE_URL": own_database, "DJANGO_SETTINGS_MODULE": "portal.settings"}
    processes = [
        Forked("-c", script, str(seed), env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) for seed in range(3)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 3, "\n".join(errors)
    assert ResourcePool.objects.current().used == Resources()
    assert Event.objects.filter(kind="swarm.started").count() == 60
    assert Event.objects.filter(kind="swarm.started").values("swarm_id").distinct().count() == 60
