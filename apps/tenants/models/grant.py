"""Permissions on one swarm, for one person."""

from __future__ import annotations

import datetime as dt
from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.utils import timezone

from apps.tenants.models.tenant import Tenant
from apps.tenants.models.user import User
from portal.ids import uuid7


class SwarmGrantQuerySet(models.QuerySet["SwarmGrant"]):
    def in_force(self, *, now: dt.datetime) -> SwarmGrantQuerySet:
        """The grants that have not expired."""
        return self.filter(Q(expires_at=None) | Q(expires_at__gt=now))


class SwarmGrant(models.Model):
    """Gives a person, a member of the tenant or not, a permission or a role on one swarm and nothing else.

    The swarm is known by its id: swarms are built on tenants. A grant ends by itself when it expires.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="swarm_grants")
    swarm_id = models.UUIDField(verbose_name="swarm")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="swarm_grants")
    gives = models.CharField(max_length=30, help_text="A permission, or the name of a role.")
    reason = models.CharField(max_length=500)
    granted_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True, help_text="It ends by itself then. Empty: when withdrawn.")

    objects = SwarmGrantQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["swarm_id", "user", "gives"], name="one_grant_of_a_kind"),
            models.CheckConstraint(condition=~Q(reason=""), name="grants_have_reasons"),
        ]
        indexes: ClassVar = [models.Index(fields=["user"], name="grants_of_user")]

    def __str__(self) -> str:
        return f"{self.gives} for {self.user} on one swarm"

    def has_expired(self, *, now: dt.datetime) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and self.expires_at <= now
