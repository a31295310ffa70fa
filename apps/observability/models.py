"""What the watchdog found."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.utils import timezone


class WatchdogRun(models.Model):
    """One look at whether the system is whole, kept for a week. ``findings``: what is wrong, by the check's name."""

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField(default=timezone.now)
    ok = models.BooleanField()
    findings = models.JSONField(
        default=dict, blank=True, help_text='By check: {"about": …, "faults": [one line each]}.'
    )
    seconds = models.FloatField(default=0)

    class Meta:
        ordering: ClassVar = ["-id"]
        indexes: ClassVar = [models.Index(fields=["at"], name="watchdog_runs_by_time")]

    def __str__(self) -> str:
        return f"{'whole' if self.ok else 'not whole'} at {self.at:%Y-%m-%d %H:%M:%S} UTC"
