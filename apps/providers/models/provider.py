"""Who serves models."""

from __future__ import annotations

from typing import ClassVar

from django.core.validators import RegexValidator
from django.db import models

from portal.ids import uuid7


class ProviderKind(models.TextChoices):
    OPENAI = "openai", "OpenAI"
    ANTHROPIC = "anthropic", "Anthropic"
    COMPATIBLE = "openai_compatible", "OpenAI-compatible endpoint"


class Provider(models.Model):
    """Who serves models. Agents name them as ``provider:model``."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.SlugField(unique=True, help_text='The part before the colon in "openai:gpt-4o".')
    kind = models.CharField(max_length=20, choices=ProviderKind, default=ProviderKind.COMPATIBLE)
    api_key_variable = models.CharField(
        max_length=100,
        blank=True,
        validators=[RegexValidator(r"^[A-Z][A-Z0-9_]*$", "An environment variable's name, such as OPENAI_API_KEY.")],
        help_text="Environment variable (or NAME_FILE) that holds the key; the key itself is never stored here.",
    )
    is_enabled = models.BooleanField(default=True)

    class Meta:
        ordering: ClassVar = ["name"]

    def __str__(self) -> str:
        return self.name
