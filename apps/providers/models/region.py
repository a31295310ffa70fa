"""Where a provider's models are reached."""

from __future__ import annotations

from typing import ClassVar

from django.core.validators import MinValueValidator
from django.db import models

from apps.providers.breaker import Circuit
from apps.providers.models.provider import Provider
from apps.providers.quota import Limits
from portal.ids import uuid7


class Region(models.Model):
    """One endpoint of a provider."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    provider = models.ForeignKey(Provider, on_delete=models.CASCADE, related_name="regions")
    name = models.SlugField(max_length=60)
    base_url = models.URLField(help_text="Up to and with the version: https://api.openai.com/v1")
    order = models.PositiveSmallIntegerField(default=1, help_text="Lower is preferred; equals share the calls.")
    is_enabled = models.BooleanField(default=True)
    is_draining = models.BooleanField(default=False, help_text="Gets no new calls; those under way go on.")
    requests_per_minute = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1)], help_text="Over all workers. Empty: no limit."
    )
    tokens_per_minute = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Over all workers, counted as the most that calls can take until they end. Empty: no limit.",
    )
    concurrency = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1)], help_text="Calls at once. Empty: no limit."
    )

    class Meta:
        ordering: ClassVar = ["provider", "order", "name"]
        constraints: ClassVar = [models.UniqueConstraint(fields=["provider", "name"], name="one_region_per_name")]

    def __str__(self) -> str:
        return f"{self.provider}/{self.name}"

    @property
    def limits(self) -> Limits:
        return Limits(self.requests_per_minute, self.tokens_per_minute, self.concurrency)

    @property
    def circuit(self) -> Circuit:
        """The state of its breaker; one that never failed has no row."""
        breaker = getattr(self, "breaker", None)
        return breaker.circuit if breaker else Circuit()
