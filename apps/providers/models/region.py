"""Where a provider's models are reached."""

from __future__ import annotations

from typing import ClassVar

from django.db import models

from apps.providers.models.provider import Provider
from portal.ids import uuid7


class Region(models.Model):
    """One endpoint of a provider."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    provider = models.ForeignKey(Provider, on_delete=models.CASCADE, related_name="regions")
    name = models.SlugField(max_length=60)
    base_url = models.URLField(help_text="Up to and with the version: https://api.openai.com/v1")
    order = models.PositiveSmallIntegerField(default=1, help_text="Lower is preferred; equals share the calls.")
    is_enabled = models.BooleanField(default=True)

    class Meta:
        ordering: ClassVar = ["provider", "order", "name"]
        constraints: ClassVar = [models.UniqueConstraint(fields=["provider", "name"], name="one_region_per_name")]

    def __str__(self) -> str:
        return f"{self.provider}/{self.name}"
