"""What a budget will have spent at the end of its period: facts in, decision out, and how all of it stands now."""

from __future__ import annotations

import datetime as dt
import uuid
import zoneinfo
from collections.abc import Sequence
from dataclasses import dataclass

from apps.costs.alerting import USED_UP
from apps.costs.budgets import Standing, standings
from apps.costs.models import Budget, BudgetAlert, Cause

_MICROSECOND = dt.timedelta(microseconds=1)
_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Forecast:
    """``spent`` in nano-dollars at the period's end; ``per_day`` what 24 hours cost so far, the burn rate.

    ``exhausts_on`` is the date, in the tenant's time zone, on which nothing is left; None where the budget lasts to the
    end of its period. Where nothing can be foretold, ``reason`` says why, for a person, and the amounts are None.
    """

    spent: int | None = None
    per_day: int | None = None
    exhausts_on: dt.date | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ForecastPolicy:
    """A straight line through what the period itself has spent so far.

    It needs ``least_part`` of the period behind it and at least ``least``: an hour of a day, 30 hours of a month.
    """

    least: dt.timedelta = dt.timedelta(hours=1)
    least_part: int = 24

    def forecast(
        self, standing: Standing, zone: zoneinfo.ZoneInfo, *, now: dt.datetime, used_up_at: dt.datetime | None = None
    ) -> Forecast:
        """``used_up_at`` is when a budget that is used up ran out, where that is known; otherwise it is today."""
        if standing.starts_at is None or standing.ends_at is None:
            return Forecast(reason="A run has no set end to look ahead to.")
        gone_on = (used_up_at or now).astimezone(zone).date() if standing.is_used_up else None
        since = max(standing.starts_at, standing.counts_from or standing.starts_at)
        elapsed = now - since
        needed = max((standing.ends_at - standing.starts_at) / self.least_part, self.least)
        if elapsed < needed:
            reason = f"Too little history: {_span(elapsed)} so far, a forecast needs {_span(needed)}."
            return Forecast(exhausts_on=gone_on, reason=reason)
        rest = max(standing.ends_at - now, dt.timedelta(0))
        at_end = standing.spent + _share(standing.spent, rest, elapsed)
        per_day = _share(standing.spent, _DAY, elapsed)
        if standing.is_used_up or at_end <= standing.limit:
            return Forecast(at_end, per_day, gone_on)
        left = standing.limit - standing.spent
        runs_out = now + _MICROSECOND * ((elapsed // _MICROSECOND) * left // standing.spent)
        return Forecast(at_end, per_day, runs_out.astimezone(zone).date())


POLICY = ForecastPolicy()


@dataclass(frozen=True, slots=True)
class Outlook:
    """How a budget stands in its current period, what that leads to, and the alerts of that period that stand."""

    standing: Standing
    forecast: Forecast
    alerts: list[BudgetAlert]


def outlooks(
    budgets: Sequence[Budget], *, now: dt.datetime, policy: ForecastPolicy = POLICY
) -> dict[uuid.UUID, Outlook]:
    """The outlook of each of these budgets. Three queries, however many; reads their tenants."""
    stand = standings(budgets, now=now)
    alerts = BudgetAlert.objects.by_period([standing.period_id for standing in stand.values()])
    found = {}
    for budget in budgets:
        standing = stand[budget.pk]
        raised = alerts.get(standing.period_id or 0, [])
        used_up_at = next((a.at for a in raised if a.level == USED_UP and a.cause != Cause.REFUSED), None)
        forecast = policy.forecast(standing, budget.tenant.zone, now=now, used_up_at=used_up_at)
        found[budget.pk] = Outlook(standing, forecast, raised)
    return found


def _share(amount: int, part: dt.timedelta, whole: dt.timedelta) -> int:
    return amount * (part // _MICROSECOND) // (whole // _MICROSECOND)


def _span(length: dt.timedelta) -> str:
    """A length of time in whole units, as a person says it: "12 minutes", "30 hours", "3 days"."""
    minutes = max(length, dt.timedelta(0)) // dt.timedelta(minutes=1)
    if minutes < 120:
        return f"{minutes} minute{'' if minutes == 1 else 's'}"
    hours = minutes // 60
    return f"{hours} hours" if hours < 72 else f"{hours // 24} days"
