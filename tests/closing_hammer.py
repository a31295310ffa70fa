"""Processes that record costs of months being closed: ``python -m tests.closing_hammer SEED TENANT SECONDS``.

As :mod:`tests.hammer`. Each worker reports events of agents elsewhere, writes entries, adjusts some, closes months.
"""

from __future__ import annotations

import datetime as dt
import random
import sys
import time
import uuid
from contextlib import suppress

from tests.hammer import main

ROUNDS = 24
FIRST, DAYS = dt.datetime(2026, 1, 1, tzinfo=dt.UTC), 300
CLOSES = 0.08
ADJUSTED = "by the hammer"


def work(seed: str, tenant_id: uuid.UUID, ends_at: float, *, changes_limits: bool) -> None:
    """One thread: records, writes, adjusts and closes, until its rounds or time are up."""
    from django.db import IntegrityError, connection
    from django.utils import timezone

    from apps.costs import external
    from apps.costs.adjusting import CannotAdjust, adjust, owed_for
    from apps.costs.entries import NewEntry, write
    from apps.costs.external_events import CostEvent
    from apps.costs.models import Kind, LedgerEntry
    from apps.costs.periods import Month, last_statement
    from apps.costs.statements import CannotClose, close
    from apps.tenants.access import principal_of_command
    from apps.tenants.models import Tenant

    rng = random.Random(seed)
    by = principal_of_command("hammer")
    tenant, last_month = Tenant.objects.get(pk=tenant_id), Month(2026, 10)

    def a_moment() -> dt.datetime:
        return FIRST + rng.random() * DAYS * dt.timedelta(days=1)

    for number in range(ROUNDS):
        if time.monotonic() > ends_at:
            break
        events = [
            CostEvent(tenant_id=tenant_id, event_id=f"{seed}/{number}/{n}", at=a_moment(), amount=rng.randint(1, 999))
            for n in range(20)
        ]
        external.record(events, by=by, now=timezone.now())
        with suppress(IntegrityError):  # its month is closed
            write([NewEntry(tenant_id=tenant_id, kind=Kind.LLM, amount=7, at=a_moment())], now=timezone.now())
        with suppress(CannotAdjust):
            entry = LedgerEntry.objects.filter(tenant_id=tenant_id).order_by("?").first()
            if entry and number % 3 == 0:
                adjust(
                    entry, owed=rng.randint(0, 999), seen=owed_for(entry), reason=ADJUSTED, by=by, now=timezone.now()
                )
        if rng.random() < CLOSES:
            last = last_statement(tenant_id)
            month = Month.parse(last.period).next if last else Month(2026, 1)
            if month <= last_month:
                with suppress(CannotClose):
                    close(tenant, month, by=by, now=timezone.now())
        sys.stdout.write(".\n")
        sys.stdout.flush()
    connection.close()


if __name__ == "__main__":
    main(work)
