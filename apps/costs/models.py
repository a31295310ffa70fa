"""Prices, budgets with their periods, reservations, and the ledger."""

from __future__ import annotations

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from apps.tenants.models import Tenant
from portal.ids import uuid7
from portal.money import NanoDollarField


class Price(models.Model):
    """What a model costs from a date on: an override of the price book, for everybody or for one tenant."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey(
        Tenant, null=True, blank=True, on_delete=models.CASCADE, help_text="Empty: for every tenant."
    )
    provider = models.CharField(max_length=60)
    model = models.CharField(max_length=120)
    input_per_mtok = NanoDollarField("input price", help_text="Nano-dollars for a million input tokens.")
    output_per_mtok = NanoDollarField("output price", help_text="Nano-dollars for a million output tokens.")
    effective_from = models.DateTimeField(default=timezone.now)
    note = models.CharField(max_length=200, blank=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["tenant", "provider", "model", "effective_from"],
                name="one_price_per_date",
                nulls_distinct=False,
            ),
            models.CheckConstraint(condition=Q(input_per_mtok__gte=0, output_per_mtok__gte=0), name="price_not_negative"),
        ]

    def __str__(self) -> str:
        return f"{self.provider}:{self.model}"


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
    note = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

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


class BudgetPeriod(models.Model):
    """What was spent and is reserved of one budget in one period (and for one holder, when it watches each separately).

    ``ceiling`` is what the database enforces: the limit, or what was already committed when the limit was lowered
    below it. It is null for a soft budget. ``overage`` is what a provider billed beyond its reservation.
    """

    id = models.BigAutoField(primary_key=True)
    budget = models.ForeignKey(Budget, on_delete=models.CASCADE, related_name="periods")
    key = models.CharField(max_length=40, help_text='"2026-11", "2026-11-21" in the tenant\'s time zone, or a run\'s id')
    holder = models.CharField(max_length=100, blank=True)
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField(null=True, blank=True)
    limit = NanoDollarField()
    ceiling = NanoDollarField(null=True, blank=True)
    spent = NanoDollarField(default=0)
    reserved = NanoDollarField(default=0)
    overage = NanoDollarField(default=0)
    updated_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering: ClassVar = ["-starts_at"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["budget", "key", "holder"], name="one_row_per_period"),
            models.CheckConstraint(
                condition=Q(ceiling__isnull=True) | Q(ceiling__gte=F("spent") + F("reserved")),
                name="hard_budget_never_exceeded",
            ),
            models.CheckConstraint(condition=Q(reserved__gte=0, overage__gte=0), name="period_amounts_not_negative"),
        ]

    def __str__(self) -> str:
        return f"{self.budget}, {self.key}"

    @property
    def committed(self) -> int:
        """Nano-dollars that are spent or spoken for."""
        return self.spent + self.reserved + self.overage

    @property
    def remaining(self) -> int:
        """Nano-dollars that can still be reserved; never negative."""
        return max(self.limit - self.committed, 0)


class Reservation(models.Model):
    """The highest possible cost of a call in flight, held in every budget period that watches it.

    It exists from the moment before the call until it is settled, released or charged; never longer than its lease.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant_id = models.UUIDField()
    subject_id = models.UUIDField(null=True, blank=True)
    swarm_id = models.UUIDField(null=True, blank=True)
    task_id = models.UUIDField(null=True, blank=True)
    attempt_id = models.UUIDField(null=True, blank=True)
    agent = models.CharField(max_length=100, blank=True)
    model = models.CharField(max_length=200)
    amount = NanoDollarField()
    period_ids = ArrayField(models.BigIntegerField())
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()

    class Meta:
        constraints: ClassVar = [models.CheckConstraint(condition=Q(amount__gte=0), name="reservation_not_negative")]
        indexes: ClassVar = [
            models.Index(fields=["expires_at"], name="reservations_by_expiry"),
            models.Index(fields=["attempt_id"], name="reservations_of_attempt"),
        ]


class Kind(models.TextChoices):
    LLM = "llm", "Model calls"
    INFRASTRUCTURE = "infrastructure"
    STORAGE = "storage"
    ADJUSTMENT = "adjustment"


class LedgerEntry(models.Model):
    """One amount owed. Rows are only ever added: triggers refuse UPDATE and DELETE; partitioned by the month of ``at``.

    ``period_ids`` are the budget periods that it was charged to. ``unsettled`` marks a charge of the whole reservation
    because what the call cost is not known; an adjustment (``corrects`` is the entry's id) puts it right later.
    """

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField(default=timezone.now)
    tenant_id = models.UUIDField()
    subject_id = models.UUIDField(null=True, blank=True)
    swarm_id = models.UUIDField(null=True, blank=True)
    task_id = models.UUIDField(null=True, blank=True)
    attempt_id = models.UUIDField(null=True, blank=True)
    reservation_id = models.UUIDField(null=True, blank=True)
    agent = models.CharField(max_length=100, blank=True)
    kind = models.CharField(max_length=14, choices=Kind)
    model = models.CharField(max_length=200, blank=True)
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    amount = NanoDollarField()
    unsettled = models.BooleanField(default=False)
    corrects = models.BigIntegerField(null=True, blank=True)
    period_ids = ArrayField(models.BigIntegerField(), default=list)
    note = models.CharField(max_length=200, blank=True)

    class Meta:
        ordering: ClassVar = ["-id"]
        verbose_name_plural = "ledger entries"
        indexes: ClassVar = [
            models.Index(fields=["tenant_id", "at"], name="ledger_of_tenant"),
            models.Index(fields=["swarm_id"], name="ledger_of_swarm", condition=Q(swarm_id__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"{self.kind} #{self.pk}"
