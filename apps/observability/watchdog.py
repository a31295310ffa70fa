"""The watchdog: every minute it proves the system whole, and says so when it is not."""

from __future__ import annotations

import datetime as dt
import time

import structlog
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from apps.events.log import NewEvent, emit
from apps.observability.models import WatchdogRun
from apps.observability.wholeness import CHECKS, Check

log = structlog.get_logger(__name__)

EVERY_S = 60
LONGEST_S = 5
"""A check that takes longer has failed: what cannot be proved is not whole."""


def run(*, now: dt.datetime | None = None) -> WatchdogRun:
    """Makes every check once and keeps the result.

    Emits ``watchdog.failed`` when something is wrong that was not wrong in the last run, and ``watchdog.recovered``
    when all is well again; nothing while nothing changes.
    """
    now = now or timezone.now()
    began = time.monotonic()
    findings = {}
    for check in CHECKS:
        if faults := _faults(check, now):
            findings[check.name] = {"about": check.about, "faults": faults}
    with transaction.atomic():
        with connection.cursor() as cursor:  # two runs at once would both tell of the same change
            cursor.execute("LOCK TABLE observability_watchdogrun IN SHARE ROW EXCLUSIVE MODE")
        before = WatchdogRun.objects.order_by("-id").first()
        done = WatchdogRun.objects.create(
            at=now, ok=not findings, findings=findings, seconds=round(time.monotonic() - began, 4)
        )
        if new := sorted(findings.keys() - (before.findings.keys() if before else set())):
            data = {"checks": {name: len(finding["faults"]) for name, finding in findings.items()}, "new": new}
            emit([NewEvent("watchdog.failed", data=data)], now=now)
            log.error("watchdog_failed", **data)
        elif before is not None and not before.ok and not findings:
            emit([NewEvent("watchdog.recovered", data={"checks": sorted(before.findings)})], now=now)
            log.info("watchdog_recovered", checks=sorted(before.findings))
    return done


def watch(*, now: dt.datetime) -> int:
    """The orchestrator's duty: one run; how many checks found something."""
    return len(run(now=now).findings)


def _faults(check: Check, now: dt.datetime) -> list[str]:
    try:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SELECT set_config('statement_timeout', %s, true)", [f"{LONGEST_S}s"])
            return check.find(now)
    except DatabaseError as error:
        connection.ensure_connection()
        log.warning("watchdog_check_failed", check=check.name, exc_info=error)
        reason = str(error).split("\n", 1)[0]
        return [f"The check could not be made within {LONGEST_S} s: {reason}"]
