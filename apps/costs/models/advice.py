"""Advice: what could be saved, the ledger rows it rests on, and what people decided about it."""

from __future__ import annotations

import datetime as dt
from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.utils import timezone

from apps.tenants.access import Principal
from apps.tenants.models import Tenant
from apps.tenants.roles import Permission
from portal.ids import uuid7
from portal.money import NanoDollarField


class AdviceKind(models.TextChoices):
    IDLE_AGENTS = "idle_agents", "Idle agents"
    DEAR_MODEL = "dear_model", "Simple work on a dear model"
    REPEATED_CALLS = "repeated_calls", "Repeated identical calls"
    LARGE_POOL = "large_pool", "Pool larger than needed"


class AdviceStatus(models.TextChoices):
    OPEN = "open"
    ACTED = "acted"
    DISMISSED = "dismissed"


class AdviceQuerySet(models.QuerySet["Advice"]):
    def visible_to(self, principal: Principal) -> AdviceQuerySet:
        """The advice to tenants whose costs the principal may read; that of the platform for platform admins alone."""
        rows: AdviceQuerySet = principal.limit(self, Permission.COST_READ)
        return rows

    def open(self) -> AdviceQuerySet:
        """What nobody has decided about yet, the largest saving first."""
        return self.filter(status=AdviceStatus.OPEN).order_by("-saving", "id")


class Advice(models.Model):
    """One thing to do, and the nano-dollars it would save in a month of 30 days.

    ``key`` tells apart advice of a kind to a tenant (none: the platform). ``facts`` is what acting on it needs;
    ``query`` finds the ledger rows it rests on, of which there are ``entries``; ``sample_ids`` are some of them.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey(Tenant, null=True, blank=True, on_delete=models.CASCADE, related_name="+")
    kind = models.CharField(max_length=20, choices=AdviceKind)
    key = models.CharField(max_length=400)
    text = models.CharField(max_length=500)
    facts = models.JSONField(default=dict)
    saving = NanoDollarField()
    window_start = models.DateTimeField()
    window_end = models.DateTimeField()
    query = models.JSONField(default=dict)
    entries = models.PositiveBigIntegerField(default=0)
    sample_ids = models.JSONField(default=list)
    status = models.CharField(max_length=10, choices=AdviceStatus, default=AdviceStatus.OPEN)
    found_at = models.DateTimeField(default=timezone.now)
    decided_at = models.DateTimeField(null=True, blank=True)
    reason = models.CharField(max_length=500, blank=True)
    dismissed_saving = NanoDollarField(null=True, blank=True)

    objects = AdviceQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "advice"
        ordering: ClassVar = ["-saving", "id"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["tenant", "kind", "key"], name="advice_given_once", nulls_distinct=False),
            models.CheckConstraint(condition=Q(status__in=AdviceStatus.values), name="advice_status_known"),
            models.CheckConstraint(
                condition=~Q(status="dismissed") | (~Q(reason="") & Q(dismissed_saving__isnull=False)),
                name="dismissed_with_a_reason",
            ),
        ]

    def __str__(self) -> str:
        return self.text

    def comes_back(self, saving: int, *, now: dt.datetime, after: dt.timedelta) -> bool:
        """Whether it is open again now that it was found with this saving.

        Dismissed advice when the saving has doubled; what was acted on when it is still found ``after`` some time.
        """
        if self.status == AdviceStatus.DISMISSED:
            return saving >= 2 * (self.dismissed_saving or 0)
        return self.status == AdviceStatus.ACTED and self.decided_at is not None and self.decided_at + after <= now
