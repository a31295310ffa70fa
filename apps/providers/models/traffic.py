"""What calls to regions were like: the last hundred, and an hour of minutes."""

from __future__ import annotations

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models

from apps.providers.models.region import Region


class RegionWindow(models.Model):
    """The latencies of a region's last calls, oldest first, in seconds, and when they ended, in seconds since 1970."""

    region = models.OneToOneField(Region, on_delete=models.CASCADE, primary_key=True, related_name="window")
    latencies = ArrayField(models.FloatField(), default=list)
    ended = ArrayField(models.FloatField(), default=list)


class RegionMinute(models.Model):
    """The calls to a region that ended in one minute. ``latencies`` is a histogram over the calls that were answered.

    Its buckets are those of :mod:`apps.providers.latency`.
    """

    region = models.ForeignKey(Region, on_delete=models.CASCADE, related_name="minutes")
    minute = models.DateTimeField()
    calls = models.PositiveIntegerField(default=0)
    errors = models.PositiveIntegerField(default=0, help_text="Failed: 5xx, silence, no connection.")
    limited = models.PositiveIntegerField(default=0, help_text="Answered 429.")
    latencies = ArrayField(models.PositiveIntegerField(), default=list)

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["region", "minute"], name="one_row_per_region_minute")]
        indexes: ClassVar = [models.Index(fields=["minute"])]


class RegionQuota(models.Model):
    """What a region's limits have granted; see :mod:`apps.providers.quota`. Only limited regions have a row."""

    region = models.OneToOneField(Region, on_delete=models.CASCADE, primary_key=True, related_name="quota")
    quota = models.JSONField(default=dict)
