"""The event log: every change of status is a row, written in the transaction that makes the change."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.db.models.expressions import RawSQL
from django.utils import timezone

CURRENT_XACT = RawSQL("(pg_current_xact_id()::text::bigint)", [], models.BigIntegerField())


class Event(models.Model):
    """One thing that happened. Rows are only ever added; partitioned by the month of ``at``.

    Read it through :mod:`apps.events.log`: ids commit out of order, so a reader that remembers the last id skips rows.
    """

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField(default=timezone.now)
    xact_id = models.BigIntegerField(db_default=CURRENT_XACT, editable=False)
    kind = models.CharField(max_length=60, help_text='What happened: noun, dot, verb ("task.succeeded").')
    tenant_id = models.UUIDField(null=True, blank=True)
    swarm_id = models.UUIDField(null=True, blank=True)
    task_id = models.UUIDField(null=True, blank=True)
    data = models.JSONField(default=dict, blank=True)

    class Meta:
        ordering: ClassVar = ["-id"]
        indexes: ClassVar = [
            models.Index(fields=["xact_id", "id"], name="events_reading_order"),
            models.Index(fields=["swarm_id", "id"], name="events_of_swarm", condition=models.Q(swarm_id__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"{self.kind} #{self.pk}"


class Consumer(models.Model):
    """How far a durable reader of the event log has come: everything up to this position is done."""

    name = models.CharField(max_length=60, primary_key=True)
    xact_id = models.BigIntegerField(default=0)
    event_id = models.BigIntegerField(default=0)
    updated_at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return self.name
