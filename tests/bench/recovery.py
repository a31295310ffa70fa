"""How fast the rate is back after a kill, with the leases of production (30 s).

``python -m tests.bench.recovery [--only FAULT,...] [--json]`` keeps two workers busy, kills one thing at a time, and
prints for each how long it took until the rate of results, over a sliding three seconds, was back at 95 % of what it
was before.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from typing import Any

LATENCY_MS = 1000
REPLICAS = 60
TASKS = 6000
WINDOW_S = 3.0
WATCH_S = 60.0


def rates(swarm: Any, begin: Any, seconds: float) -> list[tuple[float, float]]:
    """(end of the window in seconds after ``begin``, results per second in it), each half second."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT extract(epoch FROM finished_at - %s) FROM swarms_task WHERE swarm_id = %s AND status = 'succeeded'",
            [begin, swarm.pk],
        )
        at = sorted(float(row[0]) for row in cursor)
    steps = int((seconds - WINDOW_S) * 2)
    ends = [WINDOW_S + step / 2 for step in range(steps)]
    return [(end, sum(end - WINDOW_S <= moment < end for moment in at) / WINDOW_S) for end in ends]


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
    time.sleep(10)
    before = rates(swarm, start, 10)[-1][1]
    fault(plant)
    connections.close_all()
    killed = timezone.now()
    time.sleep(WATCH_S)
    after = rates(swarm, killed, WATCH_S)
    # Back is when a window reaches it, and all that follow reach it on average.
    enough = 0.95 * before
    back = [
        end
        for place, (end, rate) in enumerate(after)
        if rate >= enough and sum(later for _, later in after[place:]) / len(after[place:]) >= enough
    ]
    lifecycle.terminate(swarm, by=principal_of_command("bench"), reason="Measured.")
    wait_until(lambda: type(swarm).objects.get(pk=swarm.pk).is_over)
    return {
        "before_per_second": before,
        "lowest_per_second": min(rate for _, rate in after),
        "back_after_s": back[0] if back else math.inf,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="Faults, by commas; default: all.")
    parser.add_argument("--json", action="store_true", help="Print JSON instead of a table.")
    options = parser.parse_args()
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
            figures = found[fault.__name__] = recovery(made, fault)
            if not options.json:
                line = "".join(f"{key} {value:7.1f}   " for key, value in figures.items())
                print(f"{fault.__name__:20}{line}", flush=True)
    if options.json:
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
