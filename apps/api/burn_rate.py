"""What a budget will have spent at the end of its period if spending goes on at the rate of the period so far."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from dataclasses import dataclass

from apps.costs.budgets import Standing

TOO_SHORT = dt.timedelta(hours=1)
"""A rate over less than this says nothing about a day or a month."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """``spent`` in nano-dollars at the period's end; the date, in the tenant's time zone, on which nothing is left.

    Both None where it cannot be told; no date where the budget lasts to the end of its period.
    """

    spent: int | None = None
    exhausts_on: dt.date | None = None


def forecast(standing: Standing, zone: zoneinfo.ZoneInfo, *, now: dt.datetime) -> Forecast:
    """A straight line through the start of the period and now. A run has no end to look ahead to."""
    if standing.starts_at is None or standing.ends_at is None:
        return Forecast()
    elapsed = now - standing.starts_at
    if standing.is_used_up:
        return Forecast(None if elapsed < TOO_SHORT else _at_end(standing, elapsed), now.astimezone(zone).date())
    if elapsed < TOO_SHORT:
        return Forecast()
    at_end = _at_end(standing, elapsed)
    if at_end <= standing.limit:
        return Forecast(at_end)
    exhausted_at = standing.starts_at + elapsed * (standing.limit / standing.spent)
    return Forecast(at_end, exhausted_at.astimezone(zone).date())


def _at_end(standing: Standing, elapsed: dt.timedelta) -> int:
    assert standing.starts_at
    assert standing.ends_at
    whole = standing.ends_at - standing.starts_at
    microsecond = dt.timedelta(microseconds=1)
    return max(standing.spent * (whole // microsecond) // (elapsed // microsecond), standing.spent)
