"""What a tenant has decided about its agents, whatever the specs of its swarms say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from apps.costs.prices import UnknownModel, price_of
from apps.providers.models import Provider
from apps.tenants.access import Principal
from apps.tenants.models import Tenant
from apps.tenants.roles import Permission
from portal.ids import uuid7


class AgentOverrideQuerySet(models.QuerySet["AgentOverride"]):
    def visible_to(self, principal: Principal) -> AgentOverrideQuerySet:
        """The overrides of tenants whose costs the principal may read."""
        rows: AgentOverrideQuerySet = principal.limit(self, Permission.COST_READ)
        return rows

    def of(self, tenant: Tenant, agents: Iterable[str]) -> dict[str, AgentOverride]:
        """The overrides for agents of these names, by name. One query."""
        return {each.agent: each for each in self.filter(tenant=tenant, agent__in=list(agents))}


class AgentOverride(models.Model):
    """Another model, or fewer replicas at most, for the agents of a name in all swarms that a tenant submits later.

    Swarms that are submitted already keep what they have. What was overridden is kept with the swarm.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="agent_overrides")
    agent = models.CharField(max_length=100, help_text="Name of the agent in specs.")
    model = models.CharField(max_length=200, blank=True, help_text="provider:model. Empty: as the spec says.")
    max_replicas = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1)], help_text="Empty: as many as the spec says."
    )
    note = models.CharField(max_length=200, blank=True)
    advice_id = models.UUIDField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = AgentOverrideQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["agent"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["tenant", "agent"], name="one_override_per_agent"),
            models.CheckConstraint(condition=~Q(model="") | Q(max_replicas__gte=1), name="override_changes_something"),
        ]

    def __str__(self) -> str:
        return self.agent

    def clean(self) -> None:
        """Raises ValidationError for one that changes nothing, and for a model that could not be run or priced."""
        if not self.model and not self.max_replicas:
            raise ValidationError("Say which model, or how many replicas at most: this changes nothing.")
        if self.model and self.tenant_id:
            provider = self.model.partition(":")[0]
            if not Provider.objects.filter(name=provider, is_enabled=True).exists():
                raise ValidationError({"model": f"There is no provider {provider!r}, or it is switched off."})
            try:
                price_of(self.model, tenant_id=self.tenant_id, at=timezone.now())
            except UnknownModel as unknown:
                raise ValidationError({"model": str(unknown)}) from unknown
