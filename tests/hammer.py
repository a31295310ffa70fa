"""Processes that hammer one tenant's budgets, to be killed at random: ``python -m tests.hammer SEED TENANT``.

One process forks PROCESSES workers with THREADS threads of IN_FLIGHT calls each. Each worker says its process id on
stdout, then "." now and then while it works; an error ends it with exit code 1 and a traceback on stderr.
"""

from __future__ import annotations

import datetime as dt
import os
import random
import sys
import threading
import time
import traceback
import uuid
from typing import Protocol

import django

PROCESSES = 8
THREADS = 4
IN_FLIGHT = 16  # of each thread: 64 calls of a process
USERS = [uuid.UUID(int=n) for n in range(1, 6)]
RUNS = [uuid.UUID(int=n) for n in range(11, 17)]
AGENTS = ["writer", "reader", "critic"]
HIGHEST = 1_000_000
LEASE = dt.timedelta(seconds=0.4)


def work(seed: str, tenant_id: uuid.UUID, ends_at: float, *, changes_limits: bool) -> None:
    """One thread: reserves calls, and ends them in every way, until nothing fits any more or time is up."""
    from django.db import connection
    from django.utils import timezone

    from apps.audit.trail import ORCHESTRATOR
    from apps.costs.actions import change_budget
    from apps.costs.models import Budget
    from apps.costs.reserving import CallRequest, Settlement, charge_expired, extend, release, reserve, settle
    from portal.ids import uuid7

    rng = random.Random(seed)
    flying: list[CallRequest] = []
    landed: list[CallRequest] = []
    refused_for_good = rounds = 0
    while time.monotonic() < ends_at and refused_for_good < 10:
        now = timezone.now()
        rounds += 1
        asked = [
            CallRequest(
                id=uuid7(),
                tenant_id=tenant_id,
                subject_id=rng.choice([None, *USERS]),
                swarm_id=rng.choice(RUNS),
                task_id=None,
                attempt_id=uuid7(),
                agent=rng.choice(AGENTS),
                model="simulated:small",
                amount=rng.randint(1, HIGHEST),
                expires_at=now + LEASE * rng.random(),
            )
            for _ in range(rng.randint(0, IN_FLIGHT - len(flying)))
        ]
        again = rng.sample(flying, min(len(flying), 1))
        verdicts = [*reserve(asked, now=now, fresh=True), *reserve(again, now=now)]
        for request, verdict in zip([*asked, *again], verdicts, strict=True):
            if verdict.granted:
                flying += [request] if request in asked else []
            elif not verdict.may_fit_later:
                refused_for_good += 1
        rng.shuffle(flying)
        ending = [flying.pop() for _ in range(rng.randint(0, len(flying)))]
        landed = (landed + ending)[-20:]
        match rng.randint(0, 12):
            case 0:
                release([request.id for request in ending])
            case 1:
                pass  # forgotten, as by a crash
            case 2:
                charge_expired(now=timezone.now(), limit=5)
                extend([request.attempt_id for request in flying if request.attempt_id], timezone.now() + LEASE)
            case 3 if changes_limits:
                moving = Budget.objects.get(name="moving")
                change_budget(moving, limit=rng.randint(190 * HIGHEST, 400 * HIGHEST), by=ORCHESTRATOR)
            case _:
                ending += rng.sample(landed, min(len(landed), 2))  # late, or twice
                settle(
                    [
                        Settlement(request.id, rng.choice([None, 0, request.amount, rng.randint(0, request.amount)]))
                        for request in ending
                    ],
                    now=timezone.now(),
                )
        if rounds % 3 == 0:
            sys.stdout.write(".\n")
            sys.stdout.flush()
    connection.close()


class Work(Protocol):
    """What each thread does until ``ends_at`` (monotonic)."""

    def __call__(self, seed: str, tenant_id: uuid.UUID, ends_at: float, *, changes_limits: bool) -> None: ...


def worker(seed: str, tenant_id: uuid.UUID, seconds: float, work: Work, *, first: bool) -> None:
    """One process. It leaves calls in flight behind, as a crash would."""
    sys.stdout.write(f"{os.getpid()}\n")
    sys.stdout.flush()

    def guarded(n: int) -> None:
        try:
            work(f"{seed}/{n}", tenant_id, time.monotonic() + seconds, changes_limits=first and n == 0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    threads = [threading.Thread(target=guarded, args=[n]) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main(work: Work) -> None:
    seed, tenant, seconds = sys.argv[1:]
    django.setup()
    import apps.costs.actions
    import apps.costs.external
    import apps.costs.external_reservations  # noqa: F401  (imported once, before the processes part)

    for n in range(PROCESSES):
        if os.fork() == 0:
            worker(f"{seed}/{n}", uuid.UUID(tenant), float(seconds), work, first=n == 0)
            os._exit(0)
    # The workers hold stdout now; it ends when the last of them does. Until the reader has seen that, none is waited
    # for, so that no process id is used again while it may still be killed.
    os.close(1)
    sys.stdin.read()
    sys.exit(max(os.WEXITSTATUS(status) for _, status in (os.wait() for _ in range(PROCESSES))))


if __name__ == "__main__":
    main(work)
