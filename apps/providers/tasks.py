"""Doors for the jobs of providers."""

from __future__ import annotations

import structlog
from django.utils import timezone

from apps.providers import answers, cache_usage, invalidating

log = structlog.get_logger(__name__)


def prune_caches() -> dict[str, int]:
    """How many answers that are over, old counts and old orders were removed."""
    now = timezone.now()
    removed = {"answers": 0, "usage": cache_usage.prune(now=now), "orders": invalidating.prune(now=now)}
    while gone := answers.prune(now=now):
        removed["answers"] += gone
    log.info("caches_pruned", **removed)
    return removed
