"""What agents that run elsewhere have reported and reserved."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.db import models
from django.utils import timezone

from apps.tenants.access import Principal
from apps.tenants.roles import Permission
from portal.ids import uuid7
from portal.money import NanoDollarField


def run_id(tenant_id: uuid.UUID, run: str) -> uuid.UUID | None:
    """What stands for a run elsewhere where a swarm's id stands for one here: the same name is the same run."""
    return uuid.uuid5(tenant_id, run) if run else None


class ExternalEventQuerySet(models.QuerySet["ExternalEvent"]):
    def visible_to(self, principal: Principal) -> ExternalEventQuerySet:
        """The events of tenants whose costs the principal may read."""
        rows: ExternalEventQuerySet = principal.limit(self, Permission.COST_READ)
        return rows


class ExternalEvent(models.Model):
    """A cost that an agent elsewhere has reported: its row makes sure that it is charged once.

    ``content`` is a digest of what was reported, without the person it is for; ``entry_id`` the ledger entry that
    charges it, at ``booked_at``. That is later than ``at``, the event's own time, where its period was closed.
    ``overage`` is the most that it took one of its budget periods beyond what that had left.
    """

    id = models.BigAutoField(primary_key=True)
    tenant_id = models.UUIDField()
    event_id = models.CharField(max_length=200)
    content = models.UUIDField()
    at = models.DateTimeField()
    booked_at = models.DateTimeField()
    received_at = models.DateTimeField(default=timezone.now)
    amount = NanoDollarField()
    overage = NanoDollarField(default=0)
    entry_id = models.BigIntegerField(default=0)

    objects = ExternalEventQuerySet.as_manager()

    class Meta:
        verbose_name = "cost from elsewhere"
        verbose_name_plural = "costs from elsewhere"
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["tenant_id", "event_id"], name="external_event_charged_once"),
            models.CheckConstraint(
                condition=models.Q(amount__gte=0, overage__gte=0), name="external_event_not_negative"
            ),
        ]

    def __str__(self) -> str:
        return self.event_id


class ExternalReservationQuerySet(models.QuerySet["ExternalReservation"]):
    def visible_to(
        self, principal: Principal, permission: Permission = Permission.COST_READ
    ) -> ExternalReservationQuerySet:
        """The reservations of tenants in which the principal has the permission."""
        rows: ExternalReservationQuerySet = principal.limit(self, permission)
        return rows


class ExternalReservation(models.Model):
    """A reservation that an agent elsewhere has made, under the same id: what is known of it when it is over.

    Only these may be settled, extended or released from outside. Nothing here changes: whether the money is still held
    and what was charged is in the reservation itself and in the ledger.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant_id = models.UUIDField()
    agent = models.CharField(max_length=100, blank=True)
    model = models.CharField(max_length=200, blank=True)
    run = models.CharField(max_length=100, blank=True)
    amount = NanoDollarField()
    created_at = models.DateTimeField(default=timezone.now)

    objects = ExternalReservationQuerySet.as_manager()

    class Meta:
        verbose_name = "reservation"
        verbose_name_plural = "calls elsewhere"
        ordering: ClassVar = ["-id"]

    def __str__(self) -> str:
        return f"reservation {self.pk}"
