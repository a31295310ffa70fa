"""Rates of what accrues by the hour, and the hours that have been accrued."""

from __future__ import annotations

import datetime as dt
from typing import ClassVar

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django.utils import timezone

from apps.costs.models.ledger import Kind
from apps.tenants.models import Tenant
from portal.ids import uuid7
from portal.money import NanoDollarField

HOUR = dt.timedelta(hours=1)


class Accruing(models.TextChoices):
    """The kinds of cost that accrue with time, and what a rate is the price of."""

    INFRASTRUCTURE = Kind.INFRASTRUCTURE.value, "Infrastructure: an agent-hour"
    STORAGE = Kind.STORAGE.value, "Storage: a GB-month"


class RateQuerySet(models.QuerySet["Rate"]):
    def in_force(self, *, at: dt.datetime) -> RateQuerySet:
        """Of each kind the latest rate that has begun, for everybody and for each tenant that has one of its own."""
        return (
            self.filter(effective_from__lte=at)
            .order_by("kind", "tenant_id", "-effective_from")
            .distinct("kind", "tenant_id")
        )


class Rate(models.Model):
    """What an agent-hour or a GB-month costs from a date on, for one tenant or for everybody.

    A tenant's own rate goes before everybody's. Where no rate is in force, nothing accrues. A rate that is in force is
    never changed: a new one follows, so what an hour was charged at can always be read here.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey(
        Tenant, null=True, blank=True, on_delete=models.CASCADE, help_text="Empty: for every tenant."
    )
    kind = models.CharField(max_length=14, choices=Accruing)
    price = NanoDollarField(help_text="Nano-dollars for an agent-hour or a GB-month.")
    effective_from = models.DateTimeField(default=timezone.now)
    note = models.CharField(max_length=200, blank=True)

    objects = RateQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["kind", "-effective_from"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["tenant", "kind", "effective_from"], name="one_rate_per_date", nulls_distinct=False
            ),
            models.CheckConstraint(condition=Q(price__gte=0), name="rate_not_negative"),
            models.CheckConstraint(condition=Q(kind__in=Accruing.values), name="rate_kind_known"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} rate"

    def clean(self) -> None:
        """Raises ValidationError for a rate that would begin in hours that are accrued already."""
        if not self.kind or self.effective_from is None:
            return
        accrued = AccruedHour.objects.accrued_until(self.kind)
        if accrued is not None and self.effective_from < accrued:
            raise ValidationError(
                {
                    "effective_from": f"Hours until {accrued:%Y-%m-%d %H:%M} UTC are accrued already. Choose that time "
                    "or a later one, and correct what is past with an adjustment."
                }
            )

    def is_in_force(self, *, now: dt.datetime) -> bool:
        """Whether it has begun: from then on it is history."""
        return self.effective_from <= now


class AccruedHourQuerySet(models.QuerySet["AccruedHour"]):
    def accrued_until(self, kind: str) -> dt.datetime | None:
        """The end of the last hour of a kind that was accrued."""
        last = self.filter(kind=kind).order_by("-hour").values_list("hour", flat=True).first()
        return None if last is None else last + HOUR


class AccruedHour(models.Model):
    """One hour (its start, UTC) of one kind that was accrued, written with its ledger entries: charged once."""

    id = models.BigAutoField(primary_key=True)
    kind = models.CharField(max_length=14, choices=Accruing)
    hour = models.DateTimeField()
    accrued_at = models.DateTimeField()
    entries = models.PositiveIntegerField(default=0)
    amount = NanoDollarField(default=0)

    objects = AccruedHourQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-hour", "kind"]
        constraints: ClassVar = [models.UniqueConstraint(fields=["kind", "hour"], name="an_hour_accrues_once")]

    def __str__(self) -> str:
        return f"{self.kind} of {self.hour:%Y-%m-%d %H:%M}"
