"""Where the calls of a tenant may go."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.utils import timezone

from apps.providers.models.provider import Provider
from apps.providers.models.region import Region
from apps.tenants.models import Tenant
from portal.ids import uuid7


class ResidencyRule(models.Model):
    """A tenant's calls to a provider go to these regions and nowhere else, even when all of them are down."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="residency_rules")
    provider = models.ForeignKey(Provider, on_delete=models.CASCADE, related_name="residency_rules")
    regions = models.ManyToManyField(
        Region, related_name="residency_rules", help_text="Regions of the provider. None: it may not be called at all."
    )
    note = models.CharField(max_length=200, blank=True, help_text="Why: a contract, a law, a promise.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering: ClassVar = ["tenant", "provider"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["tenant", "provider"], name="one_residency_rule_per_provider")
        ]

    def __str__(self) -> str:
        return f"{self.tenant} at {self.provider}"
