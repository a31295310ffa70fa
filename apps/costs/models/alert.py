"""Alerts: the levels of a budget's limit that spending has reached."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.utils import timezone

from apps.costs.models.budget import HIGHEST_LEVEL, BudgetPeriod
from apps.tenants.access import Principal
from apps.tenants.roles import Permission
from portal.money import NanoDollarField


class Cause(models.TextChoices):
    """What raised an alert."""

    SPENT = "spent", "Spent: spending reached the level"
    REFUSED = "refused", "Refused: a call that can cost more than what is left"
    CHANGED = "changed", "Changed: the budget was, and what is spent reaches the level now"


class BudgetAlertQuerySet(models.QuerySet["BudgetAlert"]):
    def visible_to(self, principal: Principal) -> BudgetAlertQuerySet:
        """The alerts of budgets that the principal may read."""
        rows: BudgetAlertQuerySet = principal.limit(self, Permission.BUDGET_READ, "period__budget__tenant_id")
        return rows

    def standing(self) -> BudgetAlertQuerySet:
        """Those that were not withdrawn."""
        return self.filter(withdrawn_at=None)

    def by_period(self, period_ids: Collection[int | None]) -> dict[int, list[BudgetAlert]]:
        """The standing alerts of these periods, lowest level first. One query; none for no periods."""
        found: dict[int, list[BudgetAlert]] = {}
        ids = [period_id for period_id in period_ids if period_id]
        for alert in self.standing().filter(period_id__in=ids).order_by("level") if ids else ():
            found.setdefault(alert.period_id, []).append(alert)
        return found


class BudgetAlert(models.Model):
    """Spending reached ``level`` percent of the limit in a period; written in the transaction that did it.

    One for each level and period, unless a change of the budget withdrew it: then it is kept, marked, and the level
    can be reached again. ``owed`` and ``limit`` are what they were at that moment, in nano-dollars.
    """

    id = models.BigAutoField(primary_key=True)
    period = models.ForeignKey(BudgetPeriod, on_delete=models.CASCADE, related_name="alerts")
    level = models.PositiveSmallIntegerField(help_text="Percent of the limit.")
    cause = models.CharField(max_length=8, choices=Cause, default=Cause.SPENT)
    at = models.DateTimeField(default=timezone.now)
    owed = NanoDollarField()
    limit = NanoDollarField()
    withdrawn_at = models.DateTimeField(
        null=True, blank=True, help_text="When a change of the budget made it untrue; it can be raised again since."
    )

    objects = BudgetAlertQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["period", "level"], condition=Q(withdrawn_at=None), name="one_standing_alert_per_level"
            ),
            models.CheckConstraint(condition=Q(level__gte=1, level__lte=HIGHEST_LEVEL), name="alert_level_in_range"),
            models.CheckConstraint(condition=Q(owed__gte=0, limit__gte=0), name="alert_amounts_not_negative"),
        ]

    def __str__(self) -> str:
        return f"{self.level} %"
