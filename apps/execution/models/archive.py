"""The archives of swarms."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import ClassVar

from django.db import models
from django.utils import timezone

from apps.swarms.models import Swarm
from apps.tenants.models import Tenant
from portal.ids import uuid7


class ArchiveReason(models.TextChoices):
    TERMINATED = "terminated", "Swarm terminated"


class ArchiveQuerySet(models.QuerySet["Archive"]):
    def stored(self) -> ArchiveQuerySet:
        """The archives whose document is in object storage."""
        return self.filter(stored_at__isnull=False)

    def due(self, now: dt.datetime) -> ArchiveQuerySet:
        """The archives that are to be written, or tried again, now; the longest due first."""
        return self.filter(stored_at=None, due_at__lte=now).order_by("due_at", "pk")

    def bytes_by_tenant(self) -> dict[uuid.UUID, int]:
        """How many bytes each tenant's archives take in object storage; tenants without any are left out."""
        rows = self.stored().order_by().values_list("tenant_id").annotate(total=models.Sum("size"))
        return {tenant_id: int(total) for tenant_id, total in rows}


class Archive(models.Model):
    """A swarm's state and transcript as one compressed document in object storage, or the work of writing it.

    Until it is stored, ``due_at`` says when it is tried next, ``tries`` how often it was handed to a worker, and
    ``error`` what went wrong last. ``size`` (bytes) and ``sha256`` are of the object as it lies under ``key``.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    swarm = models.OneToOneField(Swarm, on_delete=models.PROTECT, related_name="archive")
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="+")
    reason = models.CharField(max_length=10, choices=ArchiveReason, default=ArchiveReason.TERMINATED)
    format = models.PositiveSmallIntegerField(default=1, help_text="Version of the document's layout.")
    key = models.CharField(max_length=200, blank=True)
    size = models.BigIntegerField(null=True, blank=True)
    sha256 = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    stored_at = models.DateTimeField(null=True, blank=True)
    due_at = models.DateTimeField(default=timezone.now)
    tries = models.PositiveIntegerField(default=0)
    error = models.TextField(blank=True)

    objects = ArchiveQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-created_at", "-id"]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=models.Q(stored_at__isnull=True, key="", size__isnull=True, sha256="")
                | (models.Q(stored_at__isnull=False, size__gt=0) & ~models.Q(key="") & ~models.Q(sha256="")),
                name="stored_means_there_is_an_object",
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["due_at"], name="archives_due", condition=models.Q(stored_at__isnull=True)),
        ]

    def __str__(self) -> str:
        return f"archive of {self.swarm_id}"

    @property
    def is_stored(self) -> bool:
        return self.stored_at is not None
