"""Processes of agents elsewhere, to be killed at random: ``python -m tests.external_hammer SEED TENANT SECONDS``.

As :mod:`tests.hammer`, through the functions behind the REST API. A seed that begins with "events" reports cost events
too: the same ones from all processes, in batches of any order.
"""

from __future__ import annotations

import datetime as dt
import random
import sys
import time
import uuid
from typing import TYPE_CHECKING

from tests.hammer import AGENTS, HIGHEST, main

if TYPE_CHECKING:
    from apps.costs.external_events import CostEvent

LEASE = dt.timedelta(seconds=0.4)
EVENTS = 3000
ROUNDS = 40
BEGAN = dt.datetime(2026, 11, 10, 12, tzinfo=dt.UTC)


def work(seed: str, tenant_id: uuid.UUID, ends_at: float, *, changes_limits: bool) -> None:
    """One thread: reserves calls and ends them in every way, until nothing fits, or its rounds or time are up."""
    from contextlib import suppress

    from django.db import connection
    from django.utils import timezone

    from apps.costs import external
    from apps.costs.external_reservations import Billed, CannotSettle, Wanted, extend, release, reserve, settle
    from apps.costs.models import ExternalReservation
    from apps.costs.reserving import Refused, charge_expired
    from apps.tenants.access import principal_of_command

    rng = random.Random(seed)
    by = principal_of_command("hammer")
    flying: list[ExternalReservation] = []
    landed: list[ExternalReservation] = []
    refused_for_good = rounds = 0
    while time.monotonic() < ends_at and refused_for_good < 4 and rounds < ROUNDS:
        rounds += 1
        if seed.startswith("events") and rounds % 4 == 0:
            numbers = rng.sample(range(EVENTS), 60)
            external.record([an_event(tenant_id, number) for number in numbers], by=by, now=timezone.now())
        wanted = Wanted(
            tenant_id=tenant_id,
            amount=rng.randint(1, HIGHEST),
            lease=LEASE * rng.random(),
            agent=rng.choice(AGENTS),
            run=rng.choice(["", "run-1", "run-2", "run-3"]),
            end_user=rng.choice(["", "user-1", "user-2"]),
        )
        answer = reserve(wanted, by=by, now=timezone.now())
        if isinstance(answer, Refused):
            refused_for_good += not answer.may_fit_later
        else:
            flying.append(answer[0])
        for _ in range(rng.randint(0, min(len(flying), 3))):
            held = flying.pop(rng.randrange(len(flying)))
            landed = [*landed[-10:], held]
            with suppress(CannotSettle):
                match rng.randint(0, 9):
                    case 0:
                        release(held, by=by, now=timezone.now())
                    case 1:
                        pass  # forgotten, as by a crash
                    case 2:
                        extend(held, LEASE, by=by, now=timezone.now())
                        charge_expired(now=timezone.now(), limit=5)
                    case 3:
                        late = rng.choice(landed)  # or twice
                        settle(late, Billed(amount=rng.randint(0, late.amount)), by=by, now=timezone.now())
                    case _:
                        settle(held, Billed(amount=rng.randint(0, held.amount)), by=by, now=timezone.now())
        if rounds % 3 == 0:
            sys.stdout.write(".\n")
            sys.stdout.flush()
    connection.close()


def an_event(tenant_id: uuid.UUID, number: int) -> CostEvent:
    """The event of this number: the same in every process."""
    from apps.costs.external_events import CostEvent

    return CostEvent(
        tenant_id=tenant_id,
        event_id=f"event-{number}",
        at=BEGAN + dt.timedelta(minutes=number),
        amount=number * 1000,
        agent=AGENTS[number % 3],
        run=f"run-{number % 4}",
        end_user=f"user-{number % 50}",
    )


if __name__ == "__main__":
    main(work)
