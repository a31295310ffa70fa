"""Attempts at tasks, the runners that make them, the orchestrator's ticks, and the archives of swarms."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import ClassVar

from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.utils import timezone

from apps.swarms.models import FailureCode, Swarm, Task
from apps.tenants.models import Tenant
from portal.ids import uuid7
from portal.money import NanoDollarField


class Outcome(models.TextChoices):
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    HANDED_BACK = "handed_back", "Handed back"


class Attempt(models.Model):
    """One finished try at a task. Its id was the lease token under which it ran; running ones are the leased tasks."""

    id = models.UUIDField(primary_key=True)
    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="attempts")
    number = models.PositiveIntegerField()
    runner_id = models.UUIDField(null=True, blank=True)
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(default=timezone.now)
    outcome = models.CharField(max_length=12, choices=Outcome)
    failure_code = models.CharField(max_length=20, choices=FailureCode, blank=True)
    error = models.TextField(blank=True)
    context = models.JSONField(default=dict, blank=True, help_text="What it ran with: model, region, prompt, limits.")
    requests = models.PositiveIntegerField(default=0)
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    estimated = NanoDollarField("estimated cost", default=0, help_text="Sum of what was reserved for its calls.")
    cost = NanoDollarField("actual cost", default=0)

    class Meta:
        ordering: ClassVar = ["started_at"]
        # Rows are added in the order of time, so a few bytes per block find the latest ones.
        indexes: ClassVar = [BrinIndex(fields=["finished_at"], name="attempts_by_time", autosummarize=True)]

    def __str__(self) -> str:
        return f"attempt {self.number}"

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.finished_at - self.started_at).total_seconds()


class Runner(models.Model):
    """A process that runs agents: one asyncio loop inside a worker."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    node = models.CharField(max_length=100)
    pid = models.PositiveIntegerField()
    concurrency = models.PositiveIntegerField()
    in_flight = models.PositiveIntegerField(default=0)
    started_at = models.DateTimeField(default=timezone.now)
    heartbeat_at = models.DateTimeField(default=timezone.now)
    draining = models.BooleanField(default=False)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering: ClassVar = ["-started_at"]
        indexes: ClassVar = [
            models.Index(fields=["heartbeat_at"], name="runners_alive", condition=models.Q(finished_at__isnull=True))
        ]

    def __str__(self) -> str:
        return f"{self.node}/{self.pid}"


class Tick(models.Model):
    """One round of the orchestrator, kept for a day: proof that it is alive, and what it did."""

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField(default=timezone.now)
    leader = models.CharField(max_length=120)
    seconds = models.FloatField(default=0)
    ok = models.BooleanField(default=True)
    error = models.TextField(blank=True)
    did = models.JSONField(default=dict, blank=True, help_text="Counts by duty: admitted, expired, released.")

    class Meta:
        ordering: ClassVar = ["-id"]
        indexes: ClassVar = [models.Index(fields=["at"], name="ticks_by_time")]

    def __str__(self) -> str:
        return f"tick {self.pk}"


class ArchiveReason(models.TextChoices):
    TERMINATED = "terminated", "Swarm terminated"


class ArchiveQuerySet(models.QuerySet["Archive"]):
    def stored(self) -> ArchiveQuerySet:
        """The archives whose document is in object storage."""
        return self.filter(stored_at__isnull=False)

    def due(self, now: dt.datetime) -> ArchiveQuerySet:
        """The archives that are to be written, or tried again, now; the longest due first."""
        return self.filter(stored_at=None, due_at__lte=now).order_by("due_at", "pk")

    def bytes_by_tenant(self) -> dict[uuid.UUID, int]:
        """How many bytes each tenant's archives take in object storage; tenants without any are left out."""
        rows = self.stored().order_by().values_list("tenant_id").annotate(total=models.Sum("size"))
        return {tenant_id: int(total) for tenant_id, total in rows}


class Archive(models.Model):
    """A swarm's state and transcript as one compressed document in object storage, or the work of writing it.

    Until it is stored, ``due_at`` says when it is tried next, ``tries`` how often it was handed to a worker, and
    ``error`` what went wrong last. ``size`` (bytes) and ``sha256`` are of the object as it lies under ``key``.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    swarm = models.OneToOneField(Swarm, on_delete=models.PROTECT, related_name="archive")
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="+")
    reason = models.CharField(max_length=10, choices=ArchiveReason, default=ArchiveReason.TERMINATED)
    format = models.PositiveSmallIntegerField(default=1, help_text="Version of the document's layout.")
    key = models.CharField(max_length=200, blank=True)
    size = models.BigIntegerField(null=True, blank=True)
    sha256 = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    stored_at = models.DateTimeField(null=True, blank=True)
    due_at = models.DateTimeField(default=timezone.now)
    tries = models.PositiveIntegerField(default=0)
    error = models.TextField(blank=True)

    objects = ArchiveQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-created_at", "-id"]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=models.Q(stored_at__isnull=True, key="", size__isnull=True, sha256="")
                | (models.Q(stored_at__isnull=False, size__gt=0) & ~models.Q(key="") & ~models.Q(sha256="")),
                name="stored_means_there_is_an_object",
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["due_at"], name="archives_due", condition=models.Q(stored_at__isnull=True)),
        ]

    def __str__(self) -> str:
        return f"archive of {self.swarm_id}"

    @property
    def is_stored(self) -> bool:
        return self.stored_at is not None
