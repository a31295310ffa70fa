"""Forecasts: a straight line through the period's own history, on the tenant's clocks, or why there is none."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import DjangoAssertNumQueries

from apps.audit.trail import ORCHESTRATOR
from apps.costs.actions import change_budget
from apps.costs.budgets import Standing
from apps.costs.forecasting import POLICY, Forecast, ForecastPolicy, outlooks
from apps.costs.models import Budget, BudgetAlert
from apps.costs.reserving import Settlement, reserve, settle
from apps.costs.watching import span_of
from apps.tenants.models import Tenant
from portal.ids import uuid7
from portal.money import NANO
from tests.costs import budget, call

NEW_YORK, TOKYO, UTC = (zoneinfo.ZoneInfo(name) for name in ("America/New_York", "Asia/Tokyo", "UTC"))


def _utc(*args: int) -> dt.datetime:
    return dt.datetime(*args, tzinfo=dt.UTC)  # type: ignore[misc, arg-type]


def standing(period: str, zone: zoneinfo.ZoneInfo, now: dt.datetime, usd: float, limit: int, **facts: Any) -> Standing:
    span = span_of(period, zone, now, None)
    assert span
    return Standing(uuid4(), span.key, "", span.starts_at, span.ends_at, limit * NANO, int(usd * NANO), of=1, **facts)


def usd(amount: float | None) -> int | None:
    return None if amount is None else round(amount * NANO)


HOUR, DAY30 = "a forecast needs 60 minutes.", "a forecast needs 30 hours."
NOV_11 = _utc(2026, 11, 11)


@pytest.mark.parametrize(
    ("period", "zone", "now", "spent", "limit", "expected", "why"),
    [
        # In a month of 720 hours, after 240 of them.
        ("monthly", UTC, NOV_11, 10, 50, (30, 1, None, ""), "a fifth of the limit in a third of the month: it lasts"),
        ("monthly", UTC, NOV_11, 25, 50, (75, 2.5, "2026-11-21", ""), "50 USD are gone after twenty days"),
        ("monthly", UTC, NOV_11, 0, 50, (0, 0, None, ""), "nothing spent, nothing foretold"),
        ("monthly", UTC, NOV_11, 50, 50, (150, 5, "2026-11-11", ""), "used up, and nobody knows since when: today"),
        ("monthly", UTC, NOV_11, 16.66, 50, (49.98, 1.666, None, ""), "it ends just below the limit"),
        # The first thirtieth of a month, and the first hour of a day, say nothing.
        ("monthly", UTC, _utc(2026, 11, 2, 5, 59), 5, 50, (None, None, None, DAY30), "29 h 59 min are too little"),
        ("monthly", UTC, _utc(2026, 11, 2, 6), 5, 500, (120, 4, None, ""), "30 h are enough"),
        ("daily", UTC, _utc(2026, 11, 11, 0, 59), 5, 50, (None, None, None, HOUR), "59 min are too little"),
        ("daily", UTC, _utc(2026, 11, 11, 1), 5, 500, (120, 120, None, ""), "an hour is enough"),
        ("daily", UTC, _utc(2026, 11, 11, 0, 10), 60, 50, (None, None, "2026-11-11", HOUR), "used up at once"),
        # A day of 25 hours, and one of 23: 12 hours after it began.
        ("daily", NEW_YORK, _utc(2026, 11, 1, 16), 12, 20, (25, 24, "2026-11-01", ""), "clocks go back: 25 h"),
        ("daily", NEW_YORK, _utc(2026, 11, 2, 17), 12, 24, (24, 24, None, ""), "the day after has 24 h"),
        ("daily", NEW_YORK, _utc(2026, 3, 8, 17), 12, 23, (23, 24, None, ""), "clocks go forward: 23 h, it just lasts"),
        ("daily", NEW_YORK, _utc(2026, 3, 8, 5, 58), 12, 99, (None, None, None, HOUR), "an hour there, too"),
        # A month with an hour more, and one with an hour less.
        (
            "monthly",
            NEW_YORK,
            _utc(2026, 11, 16, 5),
            361,
            999,
            (721, 24, None, ""),
            "November: 721 h",
        ),
        ("monthly", NEW_YORK, _utc(2026, 3, 16, 4), 359, 999, (743, 24, None, ""), "March: 743 h"),
        # The date is the tenant's: the same moments, another day.
        ("monthly", UTC, _utc(2026, 11, 10, 23), 50, 50, (None, None, "2026-11-10", None), "the tenth in London"),
        ("monthly", TOKYO, _utc(2026, 11, 10, 23), 50, 50, (None, None, "2026-11-11", None), "the eleventh in Tokyo"),
        # At the very end, what was spent.
        ("monthly", UTC, _utc(2026, 11, 30, 23, 59, 59), 20, 50, (20.00000771, 0.66666692, None, ""), "a second left"),
    ],
)
def test_the_forecast_is_a_straight_line_through_the_period(
    period: str,
    zone: zoneinfo.ZoneInfo,
    now: dt.datetime,
    spent: float,
    limit: int,
    expected: tuple[float | None, float | None, str | None, str | None],
    why: str,
) -> None:  # C10
    found = POLICY.forecast(standing(period, zone, now, spent, limit), zone, now=now)
    at_end, per_day, date, reason = expected
    assert (found.exhausts_on and found.exhausts_on.isoformat()) == date, why
    if reason is None:
        return
    assert found.reason.endswith(reason), why
    assert bool(found.reason) == bool(reason), why
    for amount, wanted in ((found.spent, at_end), (found.per_day, per_day)):
        assert amount == pytest.approx(usd(wanted), abs=100) if wanted is not None else amount is None, why


def test_a_run_has_no_forecast_and_says_so() -> None:
    found = POLICY.forecast(Standing(uuid4(), "x", "", NOV_11, None, 1), UTC, now=NOV_11)
    assert found == Forecast(reason="A run has no set end to look ahead to.")


def test_a_budget_counts_from_when_it_was_made() -> None:
    made = _utc(2026, 11, 9)
    facts = standing("monthly", UTC, NOV_11, 10, 50, counts_from=made)
    found = POLICY.forecast(facts, UTC, now=NOV_11)
    assert (found.per_day, found.spent) == (5 * NANO, 110 * NANO)  # two days so far, and twenty to come
    assert found.exhausts_on == dt.date(2026, 11, 19)
    early = POLICY.forecast(facts, UTC, now=made + dt.timedelta(minutes=1))
    assert early == Forecast(reason="Too little history: 1 minute so far, a forecast needs 30 hours.")


def test_a_budget_made_in_an_earlier_period_counts_from_this_ones_start() -> None:
    facts = standing("monthly", UTC, NOV_11, 10, 50, counts_from=_utc(2026, 1, 1))
    assert POLICY.forecast(facts, UTC, now=NOV_11).per_day == NANO


def test_what_ran_out_has_the_date_on_which_it_did() -> None:
    facts = standing("monthly", UTC, NOV_11, 50, 50)
    found = POLICY.forecast(facts, UTC, now=NOV_11, used_up_at=_utc(2026, 11, 5, 12))
    assert found.exhausts_on == dt.date(2026, 11, 5)


def test_how_much_history_is_needed_is_a_matter_of_policy() -> None:
    early = _utc(2026, 11, 1, 0, 10)
    facts = standing("monthly", UTC, early, 1, 50)
    eager = ForecastPolicy(least=dt.timedelta(minutes=5), least_part=10_000)
    assert eager.forecast(facts, UTC, now=early).spent == 4320 * NANO


@given(
    st.integers(0, 10**13),
    st.integers(1, 10**13),
    st.integers(0, 30 * 24 * 3600 - 1),
    st.sampled_from(["America/New_York", "Asia/Tokyo", "Pacific/Chatham"]),
)
def test_a_date_is_told_exactly_when_the_forecast_passes_the_limit(
    spent: int, limit: int, seconds: int, name: str
) -> None:
    zone = zoneinfo.ZoneInfo(name)
    now = _utc(2026, 11, 1, 13) + dt.timedelta(seconds=seconds)
    facts = standing("monthly", zone, now, 0, 1)
    facts = Standing(facts.budget_id, facts.key, "", facts.starts_at, facts.ends_at, limit, spent, of=1)
    found = POLICY.forecast(facts, zone, now=now)
    assert facts.ends_at
    if found.spent is None:
        assert found.reason
        return
    assert found.spent >= spent
    assert (found.exhausts_on is not None) is (found.spent > limit or spent >= limit)
    if found.exhausts_on:
        assert now.astimezone(zone).date() <= found.exhausts_on <= facts.ends_at.astimezone(zone).date()


# -- of rows -----------------------------------------------------------------------------------------------------------


def spend(tenant: Tenant, amount: int, now: dt.datetime) -> None:
    request = call(tenant, amount, expires_at=now + dt.timedelta(seconds=30))
    assert reserve([request], now=now)[0].granted
    settle([Settlement(request.id, amount)], now=now)


@pytest.mark.django_db
def test_a_new_period_forgets_the_rate_of_the_last_one(acme: Tenant) -> None:
    day = budget(acme, 100, period="daily")
    Budget.objects.update(created_at=_utc(2026, 1, 1))
    day.refresh_from_db()
    spend(acme, 48, _utc(2026, 11, 10, 17))
    yesterday = outlooks([day], now=_utc(2026, 11, 10, 17))[day.pk]
    assert (yesterday.forecast.per_day, yesterday.forecast.spent) == (96, 96)
    fresh = outlooks([day], now=_utc(2026, 11, 11, 5, 30))[day.pk]
    assert fresh.forecast.reason.startswith("Too little history: 30 minutes")
    later = outlooks([day], now=_utc(2026, 11, 11, 17))[day.pk]
    assert (later.forecast.per_day, later.forecast.spent, later.alerts) == (0, 0, [])


@pytest.mark.django_db
def test_an_outlook_tells_the_alerts_of_the_period_and_when_it_ran_out(acme: Tenant) -> None:
    month = budget(acme, 100)
    spend(acme, 95, _utc(2026, 11, 3, 12))
    spend(acme, 5, _utc(2026, 11, 5, 12))
    found = outlooks([month], now=_utc(2026, 11, 20, 12))[month.pk]
    assert [alert.level for alert in found.alerts] == [80, 90, 100]
    assert found.forecast.exhausts_on == dt.date(2026, 11, 5)
    change_budget(month, limit=105, by=ORCHESTRATOR, now=_utc(2026, 11, 20, 12))
    found = outlooks([Budget.objects.get()], now=_utc(2026, 11, 20, 12))[month.pk]
    assert [alert.level for alert in found.alerts] == [80, 90]
    assert BudgetAlert.objects.count() == 3


@pytest.mark.django_db
def test_outlooks_of_many_budgets_take_three_queries(
    acme: Tenant, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(20):
        budget(acme, 100, f"b{number}", enforcement="soft")
    spend(acme, 95, NOV_11)
    rows = list(Budget.objects.select_related("tenant"))
    with django_assert_num_queries(3):
        found = outlooks(rows, now=NOV_11)
    assert {len(outlook.alerts) for outlook in found.values()} == {2}
    assert {outlook.standing.level for outlook in found.values()} == {90}
    with django_assert_num_queries(0):
        assert outlooks([], now=NOV_11) == {}


@pytest.mark.django_db
def test_the_level_of_a_standing_is_that_of_its_alerts(acme: Tenant) -> None:
    month = budget(acme, 100)
    spend(acme, 79, NOV_11)
    assert outlooks([month], now=NOV_11)[month.pk].standing.level is None
    spend(acme, 1, NOV_11)
    assert outlooks([month], now=NOV_11)[month.pk].standing.level == 80
    request = call(acme, 30, id=uuid7())
    assert not reserve([request], now=NOV_11)[0].granted
    found = outlooks([month], now=NOV_11)[month.pk]
    assert (found.standing.level, [alert.level for alert in found.alerts]) == (100, [80, 100])
