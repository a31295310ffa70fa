"""The event log: every change of status is a row, written in the transaction that makes the change."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.utils import timezone


class Event(models.Model):
    """One thing that happened. Rows are only ever added; partitioned by the month of ``at``.

    Read it through :mod:`apps.events.log`: ids commit out of order, so a reader that remembers the last id it saw and
    asks for higher ones skips rows.
    """

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField(default=timezone.now)
    kind = models.CharField(max_length=60, help_text='What happened: noun, dot, verb ("task.succeeded").')
    tenant_id = models.UUIDField(null=True, blank=True)
    swarm_id = models.UUIDField(null=True, blank=True)
    task_id = models.UUIDField(null=True, blank=True)
    data = models.JSONField(default=dict, blank=True)

    class Meta:
        ordering: ClassVar = ["-id"]
        indexes: ClassVar = [
            models.Index(fields=["swarm_id", "id"], name="events_of_swarm", condition=models.Q(swarm_id__isnull=False)),
            models.Index(
                fields=["id"],
                name="events_of_providers",
                condition=models.Q(tenant_id__isnull=True, data__has_key="provider"),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} #{self.pk}"


class Horizon(models.Model):
    """How far a log can be read (see :mod:`apps.events.horizon`): one row for each log, named for its table."""

    log = models.CharField(max_length=63, primary_key=True)
    safe_id = models.BigIntegerField(default=0, help_text="Everything up to this id is decided.")
    mark_id = models.BigIntegerField(default=0, help_text="The last id drawn when the mark was set.")
    mark_xact = models.BigIntegerField(default=0, help_text="The mark is safe when all transactions below are decided.")

    def __str__(self) -> str:
        return f"{self.log}, readable to {self.safe_id}"


class Consumer(models.Model):
    """How far a durable reader of the event log has come: everything up to this event is done."""

    name = models.CharField(max_length=60, primary_key=True)
    event_id = models.BigIntegerField(default=0)
    updated_at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return self.name
