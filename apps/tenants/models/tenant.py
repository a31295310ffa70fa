"""Tenants: the customers or departments that own everything."""

from __future__ import annotations

import zoneinfo
from typing import ClassVar

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q

from portal.ids import uuid7


def validate_time_zone(name: str) -> None:
    """Raises ValidationError unless ``name`` is an IANA time zone ("Europe/Berlin")."""
    # "localtime" is a link to the time zone of this machine, where there is one: the database does not know it.
    if name not in zoneinfo.available_timezones() or name == "localtime":
        raise ValidationError(f"{name!r} is not an IANA time zone, such as Europe/Berlin.")


class CallsInFlight(models.TextChoices):
    """What becomes of the calls in flight of a swarm that a used-up hard budget stops."""

    FINISH = "finish", "Finish: they are settled at what they cost"
    CANCEL = "cancel", "Cancel: within a second, charged as reserved"


class Tenant(models.Model):  # type: ignore[django-manager-missing]
    """A customer or department: owns swarms, budgets and costs, and is seen by nobody else."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    slug = models.SlugField(unique=True)
    name = models.CharField(max_length=100)
    time_zone = models.CharField(max_length=60, default="UTC", validators=[validate_time_zone])
    weight = models.PositiveIntegerField(
        default=1, validators=[MinValueValidator(1)], help_text="Share of the pool when tenants compete."
    )
    max_agents = models.PositiveIntegerField(
        null=True, blank=True, help_text="Most agents at once, over all its swarms. Empty: only the pool limits."
    )
    calls_at_limit = models.CharField(
        "calls in flight at the limit",
        max_length=6,
        choices=CallsInFlight,
        default=CallsInFlight.FINISH,
        help_text="What becomes of them when a hard budget is used up and stops their swarm.",
    )
    attributes = models.JSONField(
        default=dict, blank=True, help_text='What access policies can ask for, such as {"tier": "trial"}.'
    )
    is_active = models.BooleanField(default=True, help_text="An inactive tenant submits nothing new.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["slug"]
        constraints: ClassVar = [models.CheckConstraint(condition=Q(weight__gte=1), name="tenant_weight_positive")]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Raises ValidationError unless its attributes are a JSON object."""
        self.attributes = self.attributes or {}
        if not isinstance(self.attributes, dict):
            raise ValidationError({"attributes": 'Give a JSON object, such as {"tier": "trial"}.'})

    @property
    def zone(self) -> zoneinfo.ZoneInfo:
        return zoneinfo.ZoneInfo(self.time_zone)
