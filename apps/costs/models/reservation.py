"""Money held for calls in flight."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q, Sum
from django.utils import timezone

from apps.tenants.access import Principal
from apps.tenants.roles import Permission
from portal.ids import uuid7
from portal.money import NanoDollarField, usd_label


class ReservationQuerySet(models.QuerySet["Reservation"]):
    def visible_to(self, principal: Principal) -> ReservationQuerySet:
        rows: ReservationQuerySet = principal.limit(self, Permission.COST_READ)
        return rows

    def of_swarms(self, swarm_ids: Iterable[uuid.UUID]) -> dict[uuid.UUID, int]:
        """Nano-dollars reserved by each of these swarms that has calls in flight. One query."""
        return {
            swarm_id: reserved
            for swarm_id, reserved in self.filter(swarm_id__in=list(swarm_ids))
            .values_list("swarm_id")
            .annotate(reserved=Sum("amount"))
            .order_by()
            if swarm_id is not None
        }


class Reservation(models.Model):
    """The highest possible cost of a call in flight, held in every budget period that watches it.

    It exists from the moment before the call until it is settled, released or charged; never longer than its lease.
    ``run`` is the name of a run elsewhere, ``swarm_id`` then what stands for it.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant_id = models.UUIDField()
    subject_id = models.UUIDField(null=True, blank=True)
    swarm_id = models.UUIDField(null=True, blank=True)
    task_id = models.UUIDField(null=True, blank=True)
    attempt_id = models.UUIDField(null=True, blank=True)
    agent = models.CharField(max_length=100, blank=True)
    model = models.CharField(max_length=200, blank=True)
    run = models.CharField(max_length=100, blank=True)
    amount = NanoDollarField()
    period_ids = ArrayField(models.BigIntegerField())
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()

    objects = ReservationQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [models.CheckConstraint(condition=Q(amount__gte=0), name="reservation_not_negative")]
        indexes: ClassVar = [
            models.Index(fields=["expires_at"], name="reservations_by_expiry"),
            models.Index(fields=["attempt_id"], name="reservations_of_attempt"),
        ]

    def __str__(self) -> str:
        return f"reservation of {usd_label(self.amount)}"
