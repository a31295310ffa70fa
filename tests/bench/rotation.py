"""Rotates a key again and again under load: ``python -m tests.bench.rotation --seconds 60 --rotations 5 --runners 3``.

Fifty calls a second and more through real runner processes, keys in a Vault over HTTP, a provider that revokes the old
key when the grace is over. With ``--at-once`` it does so as soon as every process has the new one: what is on its way
with the old one then is refused, and goes out again. Ends 1 when a call failed or was tried twice, a call was refused
although the grace was over, or a process took ten seconds to have the new key.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.bench.setting import Setting, setting, wait_for


def run(made: Setting, seconds: float, rotations: int, runners: int, *, at_once: bool) -> bool:
    """Prints what happened; whether all went well."""
    from apps.execution.models import Attempt
    from apps.swarms.models import Swarm
    from apps.tenants.models import Tenant
    from tests import rotation
    from tests.running import simulator
    from tests.swarms import simulated_provider
    from tests.vault_server import vault_server

    with (
        vault_server() as vault,
        simulator("--api-key", rotation.key(0), latency_ms=rotation.LATENCY_MS) as at,
    ):
        simulated_provider(at.port)
        rotation.prepare(vault, at)
        with rotation.workers("agents", runners, vault, "secret/desk/", Path(made.directory)) as crew:
            wait_for(lambda: len(crew.runners()) == runners, "the start of the runners", 90)
            swarm = rotation.load(Tenant.objects.create(slug="bench", name="Bench"), seconds)
            slowest = 0.0
            for number in range(1, rotations + 1):
                rotation.wait_for_calls(swarm, swarm.tasks_total * number // (rotations + 1), timeout_s=seconds * 3)
                done = rotation.rotate(number, vault, at, crew, at_once=at_once)
                slowest = max(slowest, done.all_on_new_s)
                print(
                    f"rotation {number}: all {len(done.runners)} runners have the new key after "
                    f"{done.all_on_new_s:.2f} s, the old one is revoked after {done.revoked_s:.2f} s"
                )
            wait_for(lambda: Swarm.objects.get(pk=swarm.pk).is_over, "the end of the swarm", seconds * 3)
        swarm.refresh_from_db()
        assert swarm.finished_at is not None
        assert swarm.started_at is not None
        rate = swarm.tasks_total / (swarm.finished_at - swarm.started_at).total_seconds()
        statuses = at.stats()["statuses"]
        tries = Attempt.objects.filter(task__swarm=swarm).count()
        print(f"{swarm.tasks_succeeded} of {swarm.tasks_total} calls succeeded, {rate:.0f} a second")
        print(f"answers by status: {statuses}; attempts: {tries}; slowest rotation: {slowest:.2f} s")
        expected = {"200", "401"} if at_once else {"200"}
        return swarm.tasks_succeeded == tries == swarm.tasks_total and set(statuses) <= expected and slowest < 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rotations", type=int, default=5)
    parser.add_argument("--runners", type=int, default=3)
    parser.add_argument("--at-once", action="store_true", help="Revoke the old key without waiting for the grace.")
    options = parser.parse_args()
    with setting() as made:
        ok = run(made, options.seconds, options.rotations, options.runners, at_once=options.at_once)
        sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
