"""Calls that people ask for to see whether a region works."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import ClassVar

from django.db import models
from django.utils import timezone

from apps.execution.models.running import Runner
from apps.providers.models import Region
from apps.tenants.models import Tenant, User
from portal.ids import uuid7
from portal.money import NanoDollarField


class TryStatus(models.TextChoices):
    """A try waits until a runner takes it, or nobody did; it then runs until the runner tells what came of it."""

    WAITING = "waiting", "Waiting for a worker"
    RUNNING = "running", "Calling"
    WORKS = "works", "It works"
    FAILED = "failed", "It failed"
    REFUSED = "refused", "Not called"
    UNANSWERED = "unanswered", "No worker took it"
    LOST = "lost", "Lost"


UNDER_WAY = (TryStatus.WAITING, TryStatus.RUNNING)


class RegionTryQuerySet(models.QuerySet["RegionTry"]):
    def under_way(self) -> RegionTryQuerySet:
        return self.filter(status__in=UNDER_WAY)

    def overdue(self, *, now: dt.datetime) -> RegionTryQuerySet:
        """Those under way that nothing will come of: nobody took it in time, or its runner ended or fell silent."""
        ended = models.Exists(Runner.objects.filter(pk=models.OuterRef("runner_id"), finished_at__isnull=False))
        is_over = models.Q(expires_at__lte=now) | models.Q(ended, status=TryStatus.RUNNING)
        return self.under_way().filter(is_over)


class RegionTry(models.Model):
    """One small real call that a person asked for, to see whether a region works. A runner makes it.

    While it waits, ``expires_at`` is until when a runner may take it; while it runs, until when that must have told the
    outcome. ``cost`` is in nano-dollars: the whole reservation where nobody knows what the call cost.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    region = models.ForeignKey(Region, on_delete=models.CASCADE, related_name="+")
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+")
    asked_by = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+")
    model = models.CharField(max_length=200, help_text="Its name at the provider.")
    status = models.CharField(max_length=10, choices=TryStatus, default=TryStatus.WAITING)
    asked_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    runner_id = models.UUIDField(null=True, blank=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    text = models.TextField(blank=True, help_text="What the model answered, or what went wrong.")
    seconds = models.FloatField(default=0)
    input_tokens = models.PositiveIntegerField(default=0)
    output_tokens = models.PositiveIntegerField(default=0)
    cost = NanoDollarField(default=0)

    objects = RegionTryQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-asked_at", "-id"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["asked_by", "region"],
                condition=models.Q(status__in=UNDER_WAY),
                name="one_try_at_a_time_per_person_and_region",
            )
        ]
        indexes: ClassVar = [
            models.Index(fields=["asked_at"], name="tries_under_way", condition=models.Q(status__in=UNDER_WAY))
        ]

    def __str__(self) -> str:
        return f"try of {self.region_id}"

    @property
    def is_under_way(self) -> bool:
        return self.status in UNDER_WAY

    def begin(self, runner_id: uuid.UUID, *, now: dt.datetime, expires_at: dt.datetime) -> None:
        """A runner has taken it. The caller has locked the row, and knows that it waits."""
        self.status, self.runner_id, self.started_at, self.expires_at = TryStatus.RUNNING, runner_id, now, expires_at
        self.save(update_fields=["status", "runner_id", "started_at", "expires_at"])

    def end(self, status: TryStatus, text: str, *, now: dt.datetime) -> None:
        """It is over for good. The caller has locked the row, and knows that it is under way."""
        self.status, self.text, self.finished_at = status, text, now
        self.save()
