"""The audit trail: who did what to which resource, when, from where, and whether it was allowed."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.utils import timezone


class AuditEntry(models.Model):
    """One act or access. Rows are only ever added (triggers refuse the rest); partitioned by the month of ``at``.

    No foreign keys and no names: people appear by id, so the trail outlives what it speaks of and never needs editing.
    """

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField(default=timezone.now)
    actor_kind = models.CharField(max_length=20, help_text="user, token, command or system")
    actor = models.CharField(max_length=100, help_text="Id of the user, or name of the process")
    address = models.GenericIPAddressField(null=True, blank=True)
    action = models.CharField(max_length=60, help_text='Permission-like string: "swarm:terminate"')
    resource_kind = models.CharField(max_length=40)
    resource_id = models.CharField(max_length=64)
    tenant_id = models.UUIDField(null=True, blank=True)
    success = models.BooleanField(default=True)
    reason = models.TextField(blank=True)
    details = models.JSONField(default=dict, blank=True)

    class Meta:
        ordering: ClassVar = ["-id"]
        verbose_name_plural = "audit entries"
        indexes: ClassVar = [
            models.Index(fields=["tenant_id", "at"], name="audit_of_tenant"),
            models.Index(fields=["resource_kind", "resource_id"], name="audit_of_resource"),
        ]

    def __str__(self) -> str:
        return f"{self.action} by {self.actor_kind} {self.actor}"
