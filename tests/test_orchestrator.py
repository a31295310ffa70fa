"""The orchestrator: its loop, its duties, and who takes over when the leader dies."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.db import OperationalError, connection

from apps.execution import orchestrator as module
from apps.execution.models import Tick
from apps.execution.orchestrator import Duty, Orchestrator, register_duty
from apps.swarms.models import Swarm, SwarmStatus, Task
from apps.tenants.models import Tenant
from portal.notify import Channel, notify
from tests.forks import Forked
from tests.queueing import NOW, queued


def until(condition: Callable[[], Any], *, seconds: float = 15, meanwhile: Callable[[], None] = lambda: None) -> Any:
    """The first true answer of ``condition``; fails when there is none in time."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while time.monotonic() < deadline:
        if answer := condition():
            return answer
        meanwhile()
        pause.wait(0.05)
    raise AssertionError(f"not within {seconds} s")


def fail(*, now: dt.datetime) -> int:
    raise RuntimeError("the duty is broken\nwith details")


# -- one tick ----------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_tick_admits_and_is_recorded_with_what_it_did(acme: Tenant) -> None:
    swarm = queued(acme)
    Orchestrator(name="one", clock=lambda: NOW).tick()
    assert Swarm.objects.get(pk=swarm.pk).status == SwarmStatus.RUNNING
    tick = Tick.objects.get()
    assert (tick.at, tick.leader, tick.ok, tick.error, tick.did) == (NOW, "one", True, "", {"admitted": 1})


@pytest.mark.django_db
def test_due_retries_and_ended_leases_are_seen_to(acme: Tenant) -> None:  # E2 E4
    swarm = queued(acme, agents=3, tasks=3)
    orchestrator = Orchestrator(clock=lambda: NOW)
    orchestrator.tick()
    retry, lost, _ = Task.objects.filter(swarm=swarm).order_by("index")
    past = NOW - dt.timedelta(seconds=1)
    Task.objects.filter(pk=retry.pk).update(status="waiting", ready_at=past)
    swarm.agents.update(slots_free=1)
    Task.objects.filter(pk=lost.pk).update(
        status="running", lease_token=lost.pk, lease_expires_at=past, started_at=past, attempts_counted=1
    )
    orchestrator.tick()
    assert set(Task.objects.filter(swarm=swarm).values_list("status", flat=True)) == {"ready"}


@pytest.mark.django_db
def test_a_duty_that_fails_is_recorded_and_keeps_no_other_from_being_done() -> None:
    done: list[dt.datetime] = []

    def succeed(*, now: dt.datetime) -> int:
        done.append(now)
        return len(done)

    after = Duty("after", 0, succeed)
    orchestrator = Orchestrator(duties=[Duty("before", 0, fail), after], clock=lambda: NOW)
    orchestrator.tick()
    assert done == [NOW]
    tick = Tick.objects.get()
    assert (tick.ok, tick.error, tick.did) == (False, "before: RuntimeError: the duty is broken", {"after": 1})


@pytest.mark.django_db
def test_a_duty_with_a_period_is_not_done_on_every_tick() -> None:
    done: list[str] = []
    often = Duty("often", 0, lambda now: done.append("often"))
    orchestrator = Orchestrator(duties=[often, Duty("rarely", 60, lambda now: done.append("rarely"))])
    orchestrator.tick()
    assert 0 < orchestrator.tick() <= 5
    assert done == ["often", "rarely", "often"]


@pytest.mark.django_db
def test_ticks_of_a_burst_are_recorded_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    orchestrator = Orchestrator(duties=[Duty("work", 0, lambda now: 2)], clock=lambda: NOW)
    for _ in range(5):
        orchestrator.tick()
    assert Tick.objects.get().did == {"work": 2}
    monkeypatch.setattr(module, "BUSY_RECORD_S", 0.0)
    orchestrator.tick()
    assert Tick.objects.first() != Tick.objects.last()
    assert Tick.objects.latest("id").did == {"work": 10}


@pytest.mark.django_db
def test_a_retry_that_is_due_soon_shortens_the_pause(acme: Tenant) -> None:
    swarm = queued(acme)
    orchestrator = Orchestrator(clock=lambda: NOW)
    orchestrator._duties = [duty for duty in orchestrator.duties if not 0 < duty.every_s < module.TICK_S]
    assert orchestrator.tick() > 4
    task = Task.objects.filter(swarm=swarm, status="ready").first()
    assert task is not None
    Task.objects.filter(pk=task.pk).update(status="waiting", ready_at=NOW + dt.timedelta(seconds=2))
    assert 1.5 < orchestrator.tick() <= 2


@pytest.mark.django_db
def test_an_idle_tick_is_a_handful_of_queries(django_assert_max_num_queries: Callable[[int], Any]) -> None:
    orchestrator = Orchestrator(duties=None)
    with django_assert_max_num_queries(10):
        orchestrator._duties = [duty for duty in orchestrator.duties if not duty.every_s]
        orchestrator.tick()


def test_two_duties_cannot_share_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_registered", {})
    register_duty("watch", 60, fail)
    register_duty("watch", 60, fail)  # an app may be made ready twice
    with pytest.raises(ValueError, match="'watch'"):
        register_duty("watch", 60, lambda now: 1)
    assert [duty.name for duty in module.registered_duties()] == ["watch"]


# -- the loop ----------------------------------------------------------------------------------------------------------


class Running:
    """An orchestrator on a thread of its own."""

    def __init__(self, *duties: Duty) -> None:
        self.orchestrator = Orchestrator(duties=duties)
        self.thread = threading.Thread(target=self.orchestrator.run)

    def __enter__(self) -> Orchestrator:
        self.thread.start()
        return self.orchestrator

    def __exit__(self, *_: object) -> None:
        self.orchestrator.stop()
        self.thread.join(5)
        assert not self.thread.is_alive()


def test_a_hint_wakes_it_and_a_burst_of_hints_is_answered_together(own_database: str) -> None:
    ticks: list[float] = []
    with Running(Duty("count", 0, lambda now: ticks.append(time.monotonic()))):
        until(lambda: ticks)
        threading.Event().wait(0.7)  # the listener's first look is over
        before = len(ticks)
        for _ in range(200):
            notify(Channel.ADMIT)
        until(lambda: len(ticks) > before, seconds=2)
        threading.Event().wait(0.5)
    assert len(ticks) - before <= 12


def test_it_outlives_the_loss_of_its_connections(own_database: str) -> None:
    ticks: list[float] = []
    with Running(Duty("count", 0, lambda now: ticks.append(Tick.objects.count()))) as orchestrator:
        until(lambda: ticks)
        _cut_connections()
        before = len(ticks)
        until(lambda: len(ticks) > before + 1, meanwhile=orchestrator.wake)
        until(lambda: Tick.objects.count() >= 2)


def test_a_duty_that_loses_the_database_does_not_end_it(own_database: str) -> None:
    tries: list[int] = []

    def lose(*, now: dt.datetime) -> None:
        tries.append(1)
        if len(tries) < 3:
            connection.close()
            raise OperationalError("the server went away")

    with Running(Duty("lose", 0, lose)) as orchestrator:
        until(lambda: len(tries) > 3, meanwhile=orchestrator.wake)
    assert Tick.objects.filter(ok=False).exists()


def _cut_connections() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


# -- processes ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def start(own_database: str) -> Iterator[Callable[[], Forked]]:
    processes: list[Forked] = []

    def start_one() -> Forked:
        process = Forked(
            "manage.py",
            "orchestrate",
            env={**os.environ, "DATABASE_URL": own_database, "DJANGO_SETTINGS_MODULE": "portal.settings"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        processes.append(process)
        return process

    yield start_one
    for process in processes:
        process.kill()
        process.communicate()


def leaders() -> list[str]:
    return list(Tick.objects.order_by("id").values_list("leader", flat=True))


def led_by(process: Forked) -> Callable[[], bool]:
    return lambda: any(leader.endswith(f"/{process.pid}") for leader in leaders())


@pytest.mark.processes
def test_a_stand_by_takes_over_within_ten_seconds_of_the_leaders_sigkill(
    start: Callable[[], Forked], acme: Tenant
) -> None:
    first = start()
    until(led_by(first), seconds=60)
    second = start()
    _wait_for_line(second, "standing_by")
    assert not led_by(second)()
    first.kill()
    killed = time.monotonic()
    swarm = queued(acme)
    until(led_by(second), seconds=10)
    assert time.monotonic() - killed < 10
    until(lambda: Swarm.objects.get(pk=swarm.pk).status == SwarmStatus.RUNNING, seconds=6)
    _ends_in_time(second)


@pytest.mark.processes
def test_sigterm_ends_it_within_two_seconds_though_a_lock_keeps_it_waiting(
    start: Callable[[], Forked], acme: Tenant
) -> None:
    process = start()
    until(led_by(process), seconds=60)
    queued(acme)
    with psycopg.connect(os.environ["DATABASE_URL"]) as other:
        other.execute("SELECT * FROM swarms_resourcepool FOR UPDATE")
        notify(Channel.ADMIT)
        until(
            lambda: other.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'").fetchone(), seconds=6
        )
        _ends_in_time(process)


def _ends_in_time(process: Forked) -> None:
    """It promises two seconds; a machine that runs other tests may take one more to clean up after it."""
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert process.wait(10) == 0
    assert time.monotonic() - began < 3


def _wait_for_line(process: Forked, text: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"it ended without saying {text}")
