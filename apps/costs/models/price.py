"""Overrides of the price book."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterable
from typing import ClassVar

from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from apps.tenants.models import Tenant
from portal.ids import uuid7
from portal.money import NanoDollarField


class PriceQuerySet(models.QuerySet["Price"]):
    def in_force(
        self, models_of_providers: Iterable[tuple[str, str]], *, tenant_id: uuid.UUID | None, at: dt.datetime
    ) -> PriceQuerySet:
        """The override in force for each (provider, model) that has one: the tenant's own before everybody's."""
        wanted = Q(pk__in=[])
        for provider, model in models_of_providers:
            wanted |= Q(provider=provider, model=model)
        return (
            self.filter(wanted, Q(tenant=None) | Q(tenant_id=tenant_id), effective_from__lte=at)
            .order_by("provider", "model", F("tenant_id").asc(nulls_last=True), "-effective_from")
            .distinct("provider", "model")
        )


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

    objects = PriceQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["tenant", "provider", "model", "effective_from"],
                name="one_price_per_date",
                nulls_distinct=False,
            ),
            models.CheckConstraint(
                condition=Q(input_per_mtok__gte=0, output_per_mtok__gte=0), name="price_not_negative"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.provider}:{self.model}"
