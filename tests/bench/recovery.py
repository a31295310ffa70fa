"""How fast the rate is back after a kill, with the leases of production (30 s).

``python -m tests.bench.recovery [--only FAULT,...] [--json]`` keeps two workers busy, kills one thing at a time, and
prints for each how long it took until the rate of results, over a sliding five seconds, was back at 95 % of what it
was, on average, in the fifteen seconds before. The rate is bounded by the replicas (60 at a second each), so noise can
only lower it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

LATENCY_MS = 1000
REPLICAS = 60
TASKS = 6000
BEFORE_S = 15.0
WINDOW_S = 5.0
WATCH_S = 60.0


def results(swarm: Any, begin: Any) -> list[float]:
    """When the results came, in seconds after ``begin``."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT extract(epoch FROM finished_at - %s) FROM swarms_task WHERE swarm_id = %s AND status = 'succeeded'",
            [begin, swarm.pk],
        )
        return sorted(float(row[0]) for row in cursor)


def rate(at: list[float], begin: float, end: float) -> float:
    """Results per second from ``begin`` to ``end``."""
    return sum(begin <= moment < end for moment in at) / (end - begin)


def recovery(plant: Any, fault: Callable[[Any], None]) -> dict[str, float]:
    """Runs one swarm through one fault; rates before and after, and the seconds until 95 % were back for good."""
    from django.db import connections
    from django.utils import timezone

    from apps.swarms.actions import lifecycle
    from apps.swarms.models import Task
    from apps.tenants.access import principal_of_command
    from apps.tenants.models import Tenant
    from tests.running import wait_until
    from tests.swarms import AgentOf, StepOf, make_swarm

    agent = AgentOf(REPLICAS, {"max_output_tokens": 100, "timeout_s": 60})
    tenant = Tenant.objects.get(slug="acme")
    swarm = make_swarm(tenant, [StepOf("gather", items=TASKS)], {"worker": agent}, now=timezone.now())
    wait_until(lambda: Task.objects.filter(swarm=swarm, status="succeeded").count() > REPLICAS)
    start = timezone.now()
    time.sleep(BEFORE_S)
    before = rate(results(swarm, start), 0, BEFORE_S)
    killed = timezone.now()
    fault(plant)
    connections.close_all()
    time.sleep(WATCH_S)
    at = results(swarm, killed)
    ends = [WINDOW_S + step / 2 for step in range(int((WATCH_S - WINDOW_S) * 2))]
    after = {end: rate(at, end - WINDOW_S, end) for end in ends}
    # Back is when a window reaches it, and from its begin on the average does.
    enough = 0.95 * before
    back = [
        end for end, reached in after.items() if reached >= enough and rate(at, end - WINDOW_S, WATCH_S - 1) >= enough
    ]
    lifecycle.terminate(swarm, by=principal_of_command("bench"), reason="Measured.")
    wait_until(lambda: type(swarm).objects.get(pk=swarm.pk).is_over)
    return {
        "before_per_second": before,
        "lowest_per_second": min(after.values()),
        "last_20_s_per_second": rate(at, WATCH_S - 21, WATCH_S - 1),
        "back_after_s": back[0] if back else math.inf,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="Faults, by commas; default: all.")
    parser.add_argument("--json", action="store_true", help="Print JSON instead of a table.")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended then, too
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    os.environ.setdefault("STANDALONE", "true")
    os.environ["DATABASE_URL"] = "postgresql://postgres@/postgres"  # replaced by the plant's
    import django

    django.setup()
    from apps.tenants.models import Tenant
    from tests.plant import plant, wait_for_runners
    from tests.running import simulator
    from tests.swarms import simulated_provider
    from tests.test_never_lost import FAULTS

    found: dict[str, dict[str, float]] = {}
    with simulator(latency_ms=LATENCY_MS) as provider, plant() as made:
        Tenant.objects.create(slug="acme", name="Acme")
        simulated_provider(provider.port)
        for _ in range(2):
            made.start("orchestrate")
        made.start("work", "--cluster", "agents", "--workers", "2")
        wait_for_runners(2)
        for fault in FAULTS:
            if options.only and fault.__name__ not in options.only.split(","):
                continue
            wait_for_runners(2)
            figures = found[fault.__name__] = recovery(made, fault)
            if not options.json:
                line = "".join(f"{key} {value:7.1f}   " for key, value in figures.items())
                print(f"{fault.__name__:20}{line}", flush=True)
    if options.json:
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
