"""Budgets, as the API tells them, and the bodies that make and change them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from drf_spectacular.utils import OpenApiExample
from rest_framework import serializers

from apps.api.serializers.base import StrictSerializer, TenantField, UsdField
from apps.costs.forecasting import outlooks
from apps.costs.models import Budget, Cause, Enforcement, Period, Scope
from apps.costs.models.budget import HIGHEST_LEVEL, MOST_LEVELS, default_alert_levels


class StandingSerializer(serializers.Serializer):
    """The period that the amounts are of."""

    key = serializers.CharField(help_text='"2026-11", "2026-11-21" in the tenant\'s time zone, or the id of a run.')
    holder = serializers.CharField(
        allow_blank=True, help_text="Whose it is, where the budget watches each one separately: the fullest."
    )
    starts_at = serializers.DateTimeField(allow_null=True)
    ends_at = serializers.DateTimeField(allow_null=True)
    periods = serializers.IntegerField(source="of", help_text="How many current periods there are, one per holder.")


class AlertSerializer(serializers.Serializer):
    """A level of the limit that was reached in the period that the amounts are of."""

    level = serializers.IntegerField(help_text="Percent of the limit.")
    at = serializers.DateTimeField()
    cause = serializers.ChoiceField(Cause.choices)
    spent_usd = UsdField(source="owed", help_text="What was spent then.")
    limit_usd = UsdField(source="limit", help_text="What the limit was then.")


class LevelsField(serializers.ListField):
    """Percents of the limit, in any order; the action that takes them says what is wrong with them."""

    child = serializers.IntegerField(min_value=1, max_value=HIGHEST_LEVEL)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            max_length=MOST_LEVELS,
            help_text=f"Percents of the limit, 1 to {HIGHEST_LEVEL}: an alert for each, once per period. [] for none.",
            **kwargs,
        )


class BudgetSerializer(serializers.Serializer):
    """A budget and how it stands in its current period."""

    id = serializers.UUIDField()
    tenant = serializers.CharField(source="tenant.slug")
    name = serializers.CharField()
    scope = serializers.ChoiceField(Scope.choices)
    target = serializers.CharField(allow_blank=True, help_text="Empty: each one of the scope separately.")
    period = serializers.ChoiceField(Period.choices)
    enforcement = serializers.ChoiceField(Enforcement.choices)
    limit_usd = UsdField(source="limit")
    spent_usd = UsdField(source="standing.spent")
    reserved_usd = UsdField(source="standing.reserved", help_text="Held for calls in flight.")
    remaining_usd = UsdField(source="standing.remaining")
    percent = serializers.FloatField(help_text="Of the limit, what is spent or reserved.")
    forecast_usd = UsdField(
        source="forecast.spent",
        allow_null=True,
        help_text="Spent at the end of the period, at its rate so far. Null where it cannot be told yet.",
    )
    burn_rate_usd = UsdField(
        source="forecast.per_day", allow_null=True, help_text="What a day (24 hours) of this period costs so far."
    )
    forecast_reason = serializers.CharField(
        source="forecast.reason", allow_blank=True, help_text="Why there is no forecast; empty where there is one."
    )
    exhausts_on = serializers.DateField(
        source="forecast.exhausts_on",
        allow_null=True,
        help_text="Date in the tenant's time zone on which nothing is left, at that rate. Null: it lasts.",
    )
    alert_levels = serializers.ListField(child=serializers.IntegerField(), help_text="Percents, lowest first.")
    alerts = AlertSerializer(many=True, help_text="Those of the current period that stand, lowest level first.")
    current = StandingSerializer(source="standing")
    is_active = serializers.BooleanField()
    note = serializers.CharField(allow_blank=True)
    created_at = serializers.DateTimeField()


def with_standing(budgets: Sequence[Budget], *, now: dt.datetime) -> list[Budget]:
    """The budgets with ``standing``, ``percent``, ``forecast`` and ``alerts``. Three queries; reads their tenants."""
    found = outlooks(budgets, now=now)
    for budget in budgets:
        outlook: Any = found[budget.pk]
        budget.standing = outlook.standing  # type: ignore[attr-defined]
        budget.percent = round(outlook.standing.percent, 1)  # type: ignore[attr-defined]
        budget.forecast = outlook.forecast  # type: ignore[attr-defined]
        budget.alerts = outlook.alerts  # type: ignore[attr-defined]
    return list(budgets)


class NewBudgetSerializer(StrictSerializer):
    """A budget to be made."""

    tenant = TenantField(help_text="Slug.")
    name = serializers.CharField(max_length=100)
    limit_usd = UsdField(source="limit")
    scope = serializers.ChoiceField(Scope.choices, default=Scope.TENANT)
    target = serializers.CharField(
        max_length=200,
        default="",
        allow_blank=True,
        help_text="What is watched inside the scope: your reference of an end user (as in a spec) or their data "
        "subject's id, a swarm's id, an agent's name. Empty: each one separately.",
    )
    period = serializers.ChoiceField(Period.choices, default=Period.MONTHLY)
    enforcement = serializers.ChoiceField(Enforcement.choices, default=Enforcement.HARD)
    alert_levels = LevelsField(default=default_alert_levels)
    note = serializers.CharField(max_length=2000, default="", allow_blank=True)


class BudgetChangesSerializer(StrictSerializer):
    """What of a budget is to change; the rest stays."""

    name = serializers.CharField(max_length=100, required=False)
    limit_usd = UsdField(source="limit", required=False)
    enforcement = serializers.ChoiceField(Enforcement.choices, required=False)
    is_active = serializers.BooleanField(required=False)
    alert_levels = LevelsField(required=False)
    note = serializers.CharField(max_length=2000, required=False, allow_blank=True)


NEW_BUDGET_EXAMPLE = OpenApiExample(
    "50 USD a month",
    {"tenant": "acme", "name": "All of Acme", "limit_usd": "50.00", "period": "monthly", "enforcement": "hard"},
    request_only=True,
)
BUDGET_EXAMPLE = OpenApiExample(
    "Two thirds through the month",
    {
        "id": "019a9b3c-5d1e-7c3a-9f10-2b6f6f0f1c11",
        "tenant": "acme",
        "name": "All of Acme",
        "scope": "tenant",
        "target": "",
        "period": "monthly",
        "enforcement": "hard",
        "limit_usd": "50.00",
        "spent_usd": "41.210000125",
        "reserved_usd": "0.42",
        "remaining_usd": "8.369999875",
        "percent": 83.3,
        "forecast_usd": "61.815000187",
        "burn_rate_usd": "2.060500006",
        "forecast_reason": "",
        "exhausts_on": "2026-11-25",
        "alert_levels": [80, 90, 100],
        "alerts": [
            {
                "level": 80,
                "at": "2026-11-20T14:02:11.402915Z",
                "cause": "spent",
                "spent_usd": "40.00125",
                "limit_usd": "50.00",
            }
        ],
        "current": {
            "key": "2026-11",
            "holder": "",
            "starts_at": "2026-11-01T04:00:00Z",
            "ends_at": "2026-12-01T05:00:00Z",
            "periods": 1,
        },
        "is_active": True,
        "note": "",
        "created_at": "2026-10-30T09:12:44.120332Z",
    },
    response_only=True,
    status_codes=["200", "201"],
)
