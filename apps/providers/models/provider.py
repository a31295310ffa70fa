"""Who serves models."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.utils import timezone

from apps.providers.breaker import BreakerPolicy
from portal.ids import uuid7
from portal.redaction import redacted

AGENTS = "agents"
"""The class of the workers that run agents, unless they are started as another one."""

validate_worker_class = RegexValidator(
    r"^[a-z][a-z0-9-]*\Z", "A class of processes: small letters, digits and hyphens, such as agents or agents-eu."
)
_is_name = RegexValidator(
    r"^[A-Za-z][A-Za-z0-9_.-]*\Z", "The name of a secret: letters, digits, _, - and ., such as OPENAI_API_KEY."
)


def validate_secret_name(value: str) -> None:
    """Raises ValidationError for what is no name, and for what looks like a key itself."""
    _is_name(value)
    if redacted(value) != value:
        raise ValidationError("This looks like the key itself. Put it into the secrets backend, and its name here.")


def agents_only() -> list[str]:
    return [AGENTS]


class ProviderKind(models.TextChoices):
    OPENAI = "openai", "OpenAI"
    ANTHROPIC = "anthropic", "Anthropic"
    COMPATIBLE = "openai_compatible", "OpenAI-compatible endpoint"


class HealthStatus(models.TextChoices):
    HEALTHY = "healthy", "Healthy"
    FAILED_OVER = "failed_over", "Failed over"
    CRITICAL = "critical", "Critical"


class ProviderQuerySet(models.QuerySet["Provider"]):
    def enabled(self) -> ProviderQuerySet:
        return self.filter(is_enabled=True)

    def with_keys(self) -> ProviderQuerySet:
        """The enabled ones that need a key."""
        return self.enabled().exclude(secret_name="")

    def served_by_few(self, names: Collection[str]) -> dict[str, list[str]]:
        """Of these names, the providers that not every runner may call: the classes of processes that may."""
        keyed = self.with_keys().filter(name__in=names).exclude(worker_classes=agents_only())
        return dict(keyed.values_list("name", "worker_classes"))


class Provider(models.Model):
    """Who serves models. Agents name them as ``provider:model``.

    ``health`` is as it was last announced; :mod:`apps.providers.health` judges it anew with each change of a region.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.SlugField(unique=True, help_text='The part before the colon in "openai:gpt-4o".')
    kind = models.CharField(max_length=20, choices=ProviderKind, default=ProviderKind.COMPATIBLE)
    secret_name = models.CharField(
        max_length=100,
        blank=True,
        validators=[validate_secret_name],
        help_text="What its key is called in the secrets backend, such as OPENAI_API_KEY. The key is never here.",
    )
    worker_classes = ArrayField(
        models.CharField(max_length=40, validators=[validate_worker_class]),
        default=agents_only,
        help_text="Classes of processes that may read the key, by commas. No other loads it, or runs its agents.",
    )
    is_enabled = models.BooleanField(default=True)
    patience_s = models.PositiveIntegerField(
        default=30,
        validators=[MinValueValidator(1), MaxValueValidator(3600)],
        help_text="Seconds that a region may stay silent before the next one is tried. Half of what is left of a "
        "task's time is always kept for the others.",
    )
    breaker_failures = models.PositiveSmallIntegerField(
        default=5,
        validators=[MinValueValidator(1), MaxValueValidator(100)],
        help_text="So many failed calls within the window open a region's breaker, where half of its calls fail.",
    )
    breaker_window_s = models.PositiveIntegerField(
        default=30, validators=[MinValueValidator(1), MaxValueValidator(3600)], help_text="The window, in seconds."
    )
    probe_every_s = models.PositiveIntegerField(
        default=15,
        validators=[MinValueValidator(1), MaxValueValidator(3600)],
        help_text="Seconds between two probes of a region whose breaker is open.",
    )
    health = models.CharField(max_length=12, choices=HealthStatus, default=HealthStatus.HEALTHY, editable=False)
    health_since = models.DateTimeField(default=timezone.now, editable=False)
    serving = models.CharField(max_length=60, blank=True, editable=False, help_text="What it failed over to.")

    objects = ProviderQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def breaker_policy(self) -> BreakerPolicy:
        return BreakerPolicy(self.breaker_failures, self.breaker_window_s, probe_every_s=self.probe_every_s)

    def note_health(self, status: HealthStatus, *, serving: str, now: dt.datetime) -> None:
        """Writes down a verdict that is being announced."""
        if status != self.health:
            self.health_since = now
        self.health, self.serving = status, serving
        self.save(update_fields=["health", "health_since", "serving"])
