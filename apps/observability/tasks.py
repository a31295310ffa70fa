"""Doors for the scheduled jobs of the ops cluster."""

from __future__ import annotations

import structlog
from django.utils import timezone

from apps.observability import housekeeping

log = structlog.get_logger(__name__)


def make_partitions_ahead() -> list[str]:
    """The partitions that were missing, by name."""
    made = housekeeping.partitions_ahead(now=timezone.now())
    log.info("partitions_made", made=made)
    return made


def prune_old_rows() -> dict[str, int]:
    """How many rows of each kind were removed."""
    removed = housekeeping.prune(now=timezone.now())
    log.info("old_rows_removed", **removed)
    return removed
