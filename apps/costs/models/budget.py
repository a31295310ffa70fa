"""Budgets, and what was spent of them in each period."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Greatest
from django.utils import timezone

from apps.tenants.access import Principal
from apps.tenants.models import Tenant
from apps.tenants.roles import Permission
from portal.ids import uuid7
from portal.money import NanoDollarField

HIGHEST_LEVEL = 1000
"""Percent: ten times the limit, for soft budgets that may be passed by far."""

MOST_LEVELS = 10


def default_alert_levels() -> list[int]:
    return [80, 90, 100]


def validate_alert_levels(levels: Sequence[int]) -> None:
    """Raises ValidationError unless these are different whole percents from 1 to HIGHEST_LEVEL, lowest first."""
    problems = []
    if wrong := [level for level in levels if not 1 <= level <= HIGHEST_LEVEL]:
        problems.append(f"An alert level is from 1 to {HIGHEST_LEVEL} %, not {', '.join(map(str, wrong))}.")
    if twice := sorted({level for level in levels if list(levels).count(level) > 1}):
        problems.append(f"Each alert level once: {', '.join(map(str, twice))} is given more than once.")
    elif list(levels) != sorted(levels):
        problems.append("Alert levels go from the lowest to the highest.")
    if len(levels) > MOST_LEVELS:
        problems.append(f"At most {MOST_LEVELS} alert levels.")
    if problems:
        raise ValidationError(problems)


class Scope(models.TextChoices):
    TENANT = "tenant", "The whole tenant"
    END_USER = "end_user", "An end user"
    SWARM = "swarm", "A swarm"
    AGENT = "agent", "An agent"


class Period(models.TextChoices):
    MONTHLY = "monthly"
    DAILY = "daily"
    RUN = "run", "Per run"


class Enforcement(models.TextChoices):
    HARD = "hard", "Hard: calls that do not fit are refused"
    SOFT = "soft", "Soft: going over is logged and alerted"


class BudgetQuerySet(models.QuerySet["Budget"]):
    def visible_to(self, principal: Principal) -> BudgetQuerySet:
        """The budgets of tenants whose budgets the principal may read."""
        rows: BudgetQuerySet = principal.limit(self, Permission.BUDGET_READ)
        return rows

    def active(self) -> BudgetQuerySet:
        return self.filter(is_active=True)

    def lasting(self) -> BudgetQuerySet:
        """Without the budgets that a spec sets for its own run."""
        return self.exclude(Q(scope=Scope.SWARM, period=Period.RUN) & ~Q(target=""))


class Budget(models.Model):
    """A limit on spending: of a scope, over a period, hard or soft.

    ``target`` names what is watched inside the scope: a data subject's id (end_user), a swarm's id (swarm), an agent's
    name (agent). Empty means each one separately: "every end user, 5 USD a day". A tenant budget has no target.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="budgets")
    name = models.CharField(max_length=100)
    scope = models.CharField(max_length=10, choices=Scope, default=Scope.TENANT)
    target = models.CharField(max_length=100, blank=True)
    period = models.CharField(max_length=10, choices=Period, default=Period.MONTHLY)
    enforcement = models.CharField(max_length=4, choices=Enforcement, default=Enforcement.HARD)
    limit = NanoDollarField(validators=[MinValueValidator(0)])
    is_active = models.BooleanField(default=True)
    alert_levels = ArrayField(
        models.PositiveSmallIntegerField(),
        default=default_alert_levels,
        blank=True,
        validators=[validate_alert_levels],
        help_text="Percents of the limit, lowest first; an alert for each, once per period. Empty: no alerts.",
    )
    note = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = BudgetQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["tenant", "name"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["tenant", "name"], name="one_budget_per_name"),
            models.CheckConstraint(condition=Q(limit__gte=0), name="budget_limit_not_negative"),
            models.CheckConstraint(condition=~Q(scope="tenant") | Q(target=""), name="tenant_budget_has_no_target"),
        ]
        indexes: ClassVar = [models.Index(fields=["tenant", "scope", "target"], name="budgets_watching")]

    def __str__(self) -> str:
        return self.name

    @property
    def is_hard(self) -> bool:
        return self.enforcement == Enforcement.HARD


class BudgetPeriodQuerySet(models.QuerySet["BudgetPeriod"]):
    def visible_to(self, principal: Principal) -> BudgetPeriodQuerySet:
        """The periods of budgets that the principal may read."""
        rows: BudgetPeriodQuerySet = principal.limit(self, Permission.BUDGET_READ, "budget__tenant_id")
        return rows

    def open_at(self, now: dt.datetime) -> BudgetPeriodQuerySet:
        """Periods that calls can still be charged to; those of runs have no end."""
        return self.filter(Q(ends_at=None) | Q(ends_at__gt=now), starts_at__lte=now)

    def fullest_first(self) -> BudgetPeriodQuerySet:
        """Annotated with ``used``, the part of the limit that is committed (1.0 is all); the fullest first."""
        committed = models.ExpressionWrapper(
            F("spent") + F("reserved") + F("overage"), output_field=models.FloatField()
        )
        limit = Greatest(F("limit"), 1, output_field=models.FloatField())
        return self.annotate(used=committed / limit).order_by("-used", "id")


class BudgetPeriod(models.Model):
    """What was spent and is reserved of one budget in one period (and for one holder, when it watches each separately).

    ``ceiling`` is what the database enforces: the limit, or what was already committed when the limit was lowered
    below it. It is null for a soft budget. ``overage`` is what a provider billed beyond its reservation.

    No index names a column that changes, so that the updates of a hot row stay inside its page.
    """

    id = models.BigAutoField(primary_key=True)
    budget = models.ForeignKey(Budget, on_delete=models.CASCADE, related_name="periods")
    key = models.CharField(
        max_length=40, help_text='"2026-11", "2026-11-21" in the tenant\'s time zone, or a run\'s id'
    )
    holder = models.CharField(max_length=100, blank=True)
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField(null=True, blank=True)
    limit = NanoDollarField()
    ceiling = NanoDollarField(null=True, blank=True)
    spent = NanoDollarField(default=0)
    reserved = NanoDollarField(default=0)
    overage = NanoDollarField(default=0)
    exhausted_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="When a call was first refused for good: announced once."
    )
    next_alert = NanoDollarField(
        null=True,
        blank=True,
        default=0,
        editable=False,
        help_text="What is owed when the next alert is due. Empty: all are raised. 0: the next charge looks it up.",
    )
    updated_at = models.DateTimeField(default=timezone.now)

    objects = BudgetPeriodQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-starts_at"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["budget", "key", "holder"], name="one_row_per_period"),
            models.CheckConstraint(
                condition=Q(ceiling__isnull=True) | Q(ceiling__gte=F("spent") + F("reserved")),
                name="hard_budget_never_exceeded",
            ),
            models.CheckConstraint(
                condition=Q(spent__gte=0, reserved__gte=0, overage__gte=0), name="period_amounts_not_negative"
            ),
        ]
        indexes: ClassVar = [models.Index(fields=["budget", "starts_at"], name="periods_of_budget")]

    def __str__(self) -> str:
        return f"{self.budget}, {self.key}" if len(self.key) <= 12 else f"{self.budget}, run …{self.key[-8:]}"

    @property
    def committed(self) -> int:
        """Nano-dollars that are spent or spoken for."""
        return self.spent + self.reserved + self.overage

    @property
    def remaining(self) -> int:
        """Nano-dollars that can still be reserved; never negative."""
        return max(self.limit - self.committed, 0)

    @property
    def percent(self) -> float:
        """The part of the limit that is committed: 0 to 100, and more where a soft budget went over."""
        if not self.limit:
            return 100.0
        return 100.0 * self.committed / self.limit
