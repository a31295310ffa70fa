"""Doors for the jobs of costs."""

from __future__ import annotations

import uuid

import structlog
from django.utils import timezone

from apps.costs import accrual, advising, rollups, statements

log = structlog.get_logger(__name__)


def accrue_costs() -> dict[str, int]:
    """Entries written for infrastructure and storage, by kind."""
    done = accrual.accrue(now=timezone.now())
    for each in done:
        log.info(
            "costs_accrued",
            kind=str(each.kind),
            hours=each.hours,
            entries=each.entries,
            amount_nano=each.amount,
            hours_behind=each.behind,
        )
    return {str(each.kind): each.entries for each in done}


def rebuild_rollups(tenant_id: str) -> int:
    """Counts a tenant's days in the time zone that it has now; how many ledger entries were read."""
    return rollups.rebuild_tenant(uuid.UUID(tenant_id))


def find_advice() -> int:
    """Pieces of advice that are open now."""
    found = advising.refresh(now=timezone.now())
    log.info("advice_found", open=found)
    return found


def finish_statement(statement_id: str) -> int:
    """Closes a month whose closing was begun, if that was cut short; how many entries it has."""
    return statements.finish(uuid.UUID(statement_id), now=timezone.now()).entries
