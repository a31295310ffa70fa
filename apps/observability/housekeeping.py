"""Upkeep of tables that only grow: partitions made ahead, old ticks, runners, watchdog runs and sessions removed."""

from __future__ import annotations

import datetime as dt

from django.contrib.sessions.models import Session
from django.db import DatabaseError, transaction

from apps.audit.models import AuditEntry
from apps.costs.models import LedgerEntry
from apps.events.models import Event
from apps.execution import trying
from apps.execution.models import Runner, Tick
from apps.observability.models import WatchdogRun
from apps.providers import traffic
from portal.partitions import make_partitions

PARTITIONED = (Event, AuditEntry, LedgerEntry)
TICKS_KEPT = dt.timedelta(days=1)
RUNNERS_KEPT = dt.timedelta(days=7)
RUNS_KEPT = dt.timedelta(days=7)


def partitions_ahead(*, now: dt.datetime) -> list[str]:
    """Makes the partitions of this month and the next three; the names of those that were missing.

    Raises DatabaseError, after trying each table, when rows of such a month lie in a default partition already.
    """
    made: list[str] = []
    failed: list[Exception] = []
    for model in PARTITIONED:
        try:
            with transaction.atomic():
                made += make_partitions(model, today=now.astimezone(dt.UTC).date())
        except DatabaseError as error:  # rows in the default partition: that must not keep the others from theirs
            failed.append(error)
    if failed:
        raise failed[0]
    return made


def prune(*, now: dt.datetime) -> dict[str, int]:
    """Removes ticks older than a day, minutes of regions older than two hours, runners that ended, tries of regions
    and watchdog runs older than a week, and sessions that are over; how many of each.
    """
    return {
        "ticks": Tick.objects.filter(at__lt=now - TICKS_KEPT).delete()[0],
        "runners": Runner.objects.filter(finished_at__lt=now - RUNNERS_KEPT).delete()[0],
        "tries": trying.prune(now=now),
        "watchdog_runs": WatchdogRun.objects.filter(at__lt=now - RUNS_KEPT).delete()[0],
        "region_minutes": traffic.prune(now=now),
        "sessions": Session.objects.filter(expire_date__lt=now).delete()[0],
    }
