"""Three regions, one slow, one failing, one dark, in every order, under load: ``python -m tests.bench.failover``.

Two worker processes run swarms against three simulated regions of 100 ms. In each of the six orders one region answers
ten times slower, one answers 500, one never answers. Told for each order: tasks that failed (wanted: none), seconds
until the breakers that calls meet were open, the latency of calls that began after that beyond what it is when the live
region is the only one (wanted: under 50 ms), and seconds until traffic was back with the primary after all was well. At
the end: requests and charges (wanted: no more charges than requests), and most probes of one region at a time (wanted:
one).
"""

from __future__ import annotations

import argparse
import itertools
import json
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

from tests.bench.gate import quantile
from tests.bench.setting import Setting, setting, wait_for
from tests.processes import free_port

LATENCY_MS = 100
NAMES = ("one", "two", "three")
FAULTS = ("slow", "500", "hang")
AT_ONCE = 20


@dataclass
class Order:
    """What one order of faults came to. Milliseconds of latency beyond those with the live region alone."""

    faults: str
    tasks: int
    failed: int
    opened_after_s: float
    added_p50_ms: float
    added_p99_ms: float
    back_after_s: float


class Regions:
    """The three simulators."""

    def __init__(self, place: Setting, stack: ExitStack) -> None:
        self.ports = {name: free_port() for name in NAMES}
        for name, port in self.ports.items():
            arguments = ("--port", str(port), "--latency-ms", str(LATENCY_MS), "--region", name)
            stack.enter_context(place.running("manage.py", "simulate_provider", *arguments))
        for port in self.ports.values():
            wait_for(lambda port=port: _listens(port), "a simulator's start", 30)  # type: ignore[misc]

    def break_(self, name: str, mode: str) -> None:
        self._outage(name, None, mode)

    def mend(self) -> None:
        for name in NAMES:
            self._outage(name, 0, "refuse")

    def stats(self) -> dict[str, Any]:
        found = {}
        for name, port in self.ports.items():
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/simulator/stats", timeout=5) as answer:
                found[name] = json.load(answer)
        return found

    def _outage(self, name: str, seconds: float | None, mode: str) -> None:
        body = json.dumps({"seconds": seconds, "mode": mode}).encode()
        urllib.request.urlopen(f"http://127.0.0.1:{self.ports[name]}/simulator/outage", body, timeout=5).close()


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def prepare(ports: dict[str, int]) -> None:
    from apps.providers.models import Provider, Region
    from tests.bench.throughput import tenant_with_budgets

    tenant_with_budgets()
    provider = Provider.objects.get(name="simulated")
    Provider.objects.update(patience_s=2, probe_every_s=2)
    Region.objects.all().delete()
    for order, (name, port) in enumerate(ports.items(), 1):
        Region.objects.create(provider=provider, name=name, order=order, base_url=f"http://127.0.0.1:{port}/v1")


def states() -> dict[str, str]:
    from apps.providers.models import Breaker

    return dict(Breaker.objects.values_list("region__name", "state"))


def run_swarm(tasks: int, replicas: int) -> Any:
    from apps.swarms.models import Swarm
    from tests.bench.throughput import submit

    swarm = submit(tasks, replicas)
    wait_for(lambda: Swarm.objects.get(pk=swarm.pk).is_over, "the end of a swarm", 120)
    return swarm


def failed(swarm: Any) -> int:
    from apps.swarms.models import Task

    return Task.objects.filter(swarm=swarm).exclude(status="succeeded").count()


def durations(swarm: Any) -> list[float]:
    """Milliseconds of the attempts that met only what was live."""
    from apps.execution.models import Attempt

    rows = Attempt.objects.filter(task__swarm=swarm).values_list("started_at", "finished_at", "context")
    return [(end - start).total_seconds() * 1e3 for start, end, context in rows if "regions_tried" not in context]


@contextmanager
def only_live(met_not: tuple[str, ...]) -> Iterator[None]:
    """Without these regions, in every worker."""
    from apps.providers.models import Region

    Region.objects.filter(name__in=met_not).update(is_enabled=False)
    time.sleep(3)
    yield
    Region.objects.filter(name__in=met_not).update(is_enabled=True)
    time.sleep(3)


def drill(regions: Regions, faults: tuple[str, ...], tasks: int) -> Order:
    from apps.execution.models import Attempt
    from apps.swarms.models import Swarm
    from tests.bench.throughput import submit

    for name, fault in zip(NAMES, faults, strict=True):
        regions.break_(name, fault)
    met = NAMES[: faults.index("slow")]
    began = time.monotonic()
    first = submit(tasks, AT_ONCE)
    wait_for(lambda: all(states().get(name) in ("open", "half_open") for name in met), "the breakers to open", 60)
    opened = time.monotonic() - began
    wait_for(lambda: Swarm.objects.get(pk=first.pk).is_over, "the end of a swarm", 120)
    second = run_swarm(tasks, AT_ONCE)
    with only_live(met_not=tuple(name for name, fault in zip(NAMES, faults, strict=True) if fault != "slow")):
        alone = durations(run_swarm(tasks, AT_ONCE))
    took = durations(second)
    regions.mend()
    began = time.monotonic()
    swarms = [first, second]

    def is_back() -> bool:
        swarms.append(run_swarm(20, 20))
        served = Attempt.objects.filter(task__swarm=swarms[-1], context__region="one").count()
        return served >= 15 and set(states().values()) <= {"closed"}

    wait_for(is_back, "traffic to return", 120)
    return Order(
        ", ".join(faults),
        2 * tasks,
        sum(failed(swarm) for swarm in swarms),
        opened,
        quantile(took, 0.5) - quantile(alone, 0.5),
        quantile(took, 0.99) - quantile(alone, 0.99),
        time.monotonic() - began,
    )


def books(regions: Regions) -> dict[str, Any]:
    from django.db.models import Sum

    from apps.costs.models import BudgetPeriod, LedgerEntry, Reservation

    entries = LedgerEntry.objects.filter(kind="llm")
    spent = entries.aggregate(sum=Sum("amount"))["sum"]
    stats = regions.stats().values()
    return {
        "requests": sum(each["requests"] for each in stats),
        "charges": entries.count(),
        "charged_twice": entries.count() - entries.values("reservation_id").distinct().count(),
        "unsettled": entries.filter(unsettled=True).count(),
        "reservations_left": Reservation.objects.count(),
        "books_agree": set(BudgetPeriod.objects.filter(budget__scope="tenant").values_list("spent", flat=True))
        == {spent},
        "most_probes_at_a_time": max(each["peak_being_asked"] for each in stats),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=150, help="Of each of an order's two swarms. Default: 150.")
    parser.add_argument("--json", action="store_true", help="Print JSON instead of a table.")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with setting() as place, ExitStack() as stack:
        regions = Regions(place, stack)
        prepare(regions.ports)
        from apps.execution.models import Runner

        stack.enter_context(place.running("manage.py", "orchestrate"))
        stack.enter_context(place.running("manage.py", "work", "--cluster", "agents", "--workers", "2"))
        wait_for(lambda: Runner.objects.filter(finished_at=None).count() >= 2, "the runners' start", 60)
        run_swarm(40, 40)
        rows = [drill(regions, faults, options.tasks) for faults in itertools.permutations(FAULTS)]
        told = books(regions)
    if options.json:
        print(json.dumps({"orders": [asdict(row) for row in rows], "books": told}))
        return
    print(f"{'one, two, three':20}{'tasks':>7}{'failed':>8}{'opened s':>10}{'added p50':>11}{'p99 ms':>9}{'back s':>8}")
    for row in rows:
        print(
            f"{row.faults:20}{row.tasks:>7}{row.failed:>8}{row.opened_after_s:>10.1f}{row.added_p50_ms:>11.0f}{row.added_p99_ms:>9.0f}"
            f"{row.back_after_s:>8.1f}"
        )
    for name, value in told.items():
        print(f"{name.replace('_', ' ')}: {value}")


if __name__ == "__main__":
    main()
