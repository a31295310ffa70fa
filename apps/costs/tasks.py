"""Doors for the scheduled jobs of costs."""

from __future__ import annotations

import structlog
from django.utils import timezone

from apps.costs import accrual

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
