"""How regions did in the last hour, for pages and the API: read in one query for all of them."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import zip_longest

from apps.providers.latency import BOUNDS_S, quantile_of_histogram
from apps.providers.models import RegionMinute

HOUR = dt.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Calls to a region in an hour. Seconds are None without a call that was answered."""

    calls: int = 0
    errors: int = 0
    limited: int = 0
    p50_s: float | None = None
    p99_s: float | None = None

    @property
    def error_rate(self) -> float:
        """The share of calls that failed, from 0 to 1."""
        return self.errors / self.calls if self.calls else 0.0


def last_hour(region_ids: Iterable[uuid.UUID], *, now: dt.datetime) -> dict[uuid.UUID, Traffic]:
    """The traffic of each of these regions over the last hour. One query."""
    found = {id: Traffic() for id in region_ids}
    histograms = {id: [0] * (len(BOUNDS_S) + 1) for id in found}
    minutes = RegionMinute.objects.filter(region__in=list(found), minute__gt=now - HOUR)
    for id, calls, errors, limited, latencies in minutes.values_list(
        "region_id", "calls", "errors", "limited", "latencies"
    ):
        known = found[id]
        found[id] = Traffic(known.calls + calls, known.errors + errors, known.limited + limited)
        histograms[id] = list(map(sum, zip_longest(histograms[id], latencies, fillvalue=0)))
    return {
        id: replace(
            known, p50_s=quantile_of_histogram(histograms[id], 0.5), p99_s=quantile_of_histogram(histograms[id], 0.99)
        )
        for id, known in found.items()
    }
