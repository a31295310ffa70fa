"""Attempts at tasks, the runners that make them, and the orchestrator's ticks."""

from __future__ import annotations

from typing import ClassVar

from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.utils import timezone

from apps.swarms.models import FailureCode, Task
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
    # Not checked by the database for each row: an attempt is written in the transaction that looks its task up by the
    # lease, with the swarm locked.
    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="attempts", db_constraint=False)
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
    files_created = models.PositiveIntegerField(
        default=0, db_default=0, help_text="Files it saved; they are kept when it succeeds."
    )
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
    worker_class = models.CharField(
        max_length=40, blank=True, db_default="", help_text="Which keys of providers it may hold."
    )
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
