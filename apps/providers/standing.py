"""How regions did in the last hour, for pages and the API: read in one query for all of them."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from apps.providers.latency import BOUNDS_S, quantile_of_histogram
from apps.providers.models import RegionMinute

HOUR = dt.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Calls to a region in a time. Seconds are None without a call that was answered; ``answered`` counts those."""

    calls: int = 0
    errors: int = 0
    limited: int = 0
    p50_s: float | None = None
    p99_s: float | None = None
    answered: int = 0

    @property
    def error_rate(self) -> float:
        """The share of calls that failed, from 0 to 1."""
        return self.errors / self.calls if self.calls else 0.0

    @classmethod
    def of(cls, minutes: Iterable[RegionMinute]) -> Traffic:
        """The traffic of these minutes together."""
        calls = errors = limited = 0
        histogram = [0] * (len(BOUNDS_S) + 1)
        for minute in minutes:
            calls += minute.calls
            errors += minute.errors
            limited += minute.limited
            for number, count in enumerate(minute.latencies):
                histogram[number] += count
        p50_s, p99_s = quantile_of_histogram(histogram, 0.5), quantile_of_histogram(histogram, 0.99)
        return cls(calls, errors, limited, p50_s, p99_s, sum(histogram))


def minutes(region_ids: Iterable[uuid.UUID], *, now: dt.datetime) -> dict[uuid.UUID, list[RegionMinute]]:
    """The last sixty minutes of each of these regions in which it was called, oldest first. One query."""
    found: dict[uuid.UUID, list[RegionMinute]] = {id: [] for id in region_ids}
    rows = RegionMinute.objects.filter(region__in=list(found), minute__gt=now - HOUR, minute__lte=now)
    for row in rows.order_by("minute"):
        found[row.region_id].append(row)
    return found


def last_hour(region_ids: Iterable[uuid.UUID], *, now: dt.datetime) -> dict[uuid.UUID, Traffic]:
    """The traffic of each of these regions over the last hour. One query."""
    return {id: Traffic.of(rows) for id, rows in minutes(region_ids, now=now).items()}


@dataclass(frozen=True, slots=True)
class Span:
    """The traffic of some minutes from ``start`` on."""

    start: dt.datetime
    length: dt.timedelta
    traffic: Traffic

    @property
    def end(self) -> dt.datetime:
        return self.start + self.length

    @property
    def calls_per_minute(self) -> float:
        return self.traffic.calls / (self.length / dt.timedelta(minutes=1))


def spans(rows: Sequence[RegionMinute], *, each: int, now: dt.datetime) -> list[Span]:
    """The last sixty minutes in parts of ``each`` minutes, oldest first; the last one is not over yet."""
    by_minute: Mapping[dt.datetime, RegionMinute] = {row.minute: row for row in rows}
    minute = dt.timedelta(minutes=1)
    first = now.replace(second=0, microsecond=0) - 59 * minute
    parts = []
    for offset in range(0, 60, each):
        start = first + offset * minute
        inside = (by_minute.get(start + n * minute) for n in range(each))
        parts.append(Span(start, each * minute, Traffic.of(row for row in inside if row is not None)))
    return parts
