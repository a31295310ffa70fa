"""Regions shared by many real processes: one probe at a time, limits never exceeded, a killed prober blocks nobody."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from django.utils import timezone

from apps.events.models import Event
from apps.providers import switching
from apps.providers.breaker import Failure
from apps.providers.models import Provider, Region, RegionQuota
from apps.providers.permits import LEASE_S
from apps.providers.quota import Quota, Use
from tests.forks import RUNNER, Forked
from tests.regions import make_provider, region_of
from tests.running import simulator, wait_until

pytestmark = pytest.mark.processes

Spawn = Callable[..., Forked]


@pytest.fixture
def spawn(own_database: str) -> Iterator[Spawn]:
    """Starts hammers, several of a kind together, and ends them with the test."""
    started: list[Forked] = []

    def start(*arguments: str, count: int = 1) -> Forked:
        command = ("-m", "tests.region_hammer", str(count), *arguments)
        started.append(Forked(*command, ahead=RUNNER, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def line(process: Forked) -> str:
    assert process.stdout is not None
    told: str = process.stdout.readline()
    return told.strip()


def broken(provider: Provider, name: str) -> Region:
    region = region_of(provider, name)
    switching.report_failures(region.pk, [Failure(timezone.now())] * 5, error="test", now=timezone.now())
    return region


def test_five_processes_probe_one_at_a_time_and_announce_each_change_once(spawn: Spawn) -> None:  # P2 P7
    provider = make_provider("east", probe_every_s=1)
    with simulator(latency_ms=20) as here:
        Region.objects.update(base_url=f"http://127.0.0.1:{here.port}/v1")
        broken(provider, "east")
        here.outage(None, "hang")
        boards = spawn("board", count=5)
        assert [line(boards) for _ in range(5)] == ["ready"] * 5
        # Each question hangs for a second, so questions side by side would be seen.
        wait_until(lambda: here.stats()["asked"] >= 2, what="two probes")
        assert here.stats()["peak_being_asked"] == 1
        here.outage(0)
        wait_until(lambda: region_of(provider, "east").circuit.state.value == "closed", timeout_s=40, what="recovery")
        assert here.stats()["peak_being_asked"] == 1
    told = list(Event.objects.order_by("pk").values_list("kind", flat=True))
    assert told == [
        "breaker.opened",
        "provider.critical",
        "breaker.half_opened",
        "breaker.closed",
        "provider.recovered",
    ]


def test_a_prober_that_is_killed_keeps_nobody_from_probing(spawn: Spawn) -> None:
    provider = make_provider("east", probe_every_s=1)
    east = broken(provider, "east")
    soon = timezone.now() + dt.timedelta(seconds=1)
    wait_until(lambda: timezone.now() > soon)
    prober = spawn("claim", str(east.pk), "5")
    assert line(prober) == "True"
    prober.kill()
    prober.wait()
    now = timezone.now()
    assert not switching.claim_probe(east.pk, uuid.uuid4(), lease_s=5, now=now), "its lease still runs"
    assert switching.claim_probe(east.pk, uuid.uuid4(), lease_s=5, now=now + dt.timedelta(seconds=5))


@contextmanager
def limited(**limits: int) -> Iterator[Region]:
    provider = make_provider("east")
    Region.objects.update(**limits)
    yield region_of(provider, "east")


@pytest.mark.parametrize(
    ("limits", "granted", "at_once"),
    [
        ({"requests_per_minute": 25}, 25, 60),
        ({"tokens_per_minute": 3000}, 30, 60),  # each call takes a hundred
        ({"concurrency": 4}, 60, 4),
    ],
    ids=["requests", "tokens", "concurrency"],
)
def test_three_processes_never_exceed_a_limit_nor_leave_it_unused(
    spawn: Spawn, limits: dict[str, int], granted: int, at_once: int
) -> None:
    with limited(**limits) as east:
        calls = hammered(spawn("permits", str(east.pk), "20", "0.01", "20", count=3), 3)
    assert len(calls) == granted
    assert most_at_once(calls) <= at_once


@pytest.mark.parametrize(
    ("limits", "granted", "at_once"),
    [
        ({"requests_per_minute": 250}, 250, 15),
        ({"tokens_per_minute": 25_000}, 250, 15),
        ({"requests_per_minute": 10_000, "concurrency": 12}, 300, 12),
    ],
    ids=["requests", "tokens", "concurrency"],
)
def test_leave_in_advance_is_within_the_limits_and_what_is_not_used_serves_others(
    spawn: Spawn, limits: dict[str, int], granted: int, at_once: int
) -> None:
    with limited(**limits) as east:
        calls = hammered(spawn("permits", str(east.pk), "100", "0.005", "5", count=3), 3)
        use = Quota.of_json(RegionQuota.objects.get(region=east).quota).in_use(now=time.time())
    assert len(calls) == granted
    assert most_at_once(calls) <= at_once
    assert use == Use(granted, granted * 100, 0)


def test_leave_of_a_process_that_is_killed_serves_others_after_its_lease(spawn: Spawn) -> None:
    with limited(concurrency=40) as east:
        doomed = spawn("permits", str(east.pk), "1000", "0.01", "20")
        assert line(doomed) == "ready"
        go(doomed)

        def quota() -> Quota:
            row = RegionQuota.objects.filter(region=east).first()
            return Quota.of_json(row.quota) if row else Quota()

        wait_until(lambda: quota().in_use(now=time.time()).calls > 20, what="leave in advance")
        doomed.kill()
        doomed.wait()
        left, now = quota(), time.time()
        most = {"asks": [1] * 50, "holder": "another", "holding": 0, "lease_s": 20}
        assert left.take(east.limits, now=now, **most)[1].granted == 40 - left.in_use(now=now).calls  # type: ignore[arg-type]
        assert left.take(east.limits, now=now + LEASE_S, **most)[1].granted == 40  # type: ignore[arg-type]


def go(hammers: Forked) -> None:
    assert hammers.stdin is not None
    hammers.stdin.close()
    hammers.stdin = None  # which ``communicate`` would close again


def hammered(hammers: Forked, count: int) -> list[tuple[float, float]]:
    """When the calls of these hammers began and ended."""
    assert [line(hammers) for _ in range(count)] == ["ready"] * count
    go(hammers)
    return [(began, ended) for _ in range(count) for began, ended in json.loads(line(hammers))]


def most_at_once(calls: list[tuple[float, float]]) -> int:
    return max(sum(began <= at < ended for began, ended in calls) for at, _ in calls)
