"""What was exported of closed months."""

from __future__ import annotations

import hashlib
from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.utils import timezone

from apps.tenants.access import Principal
from apps.tenants.roles import Permission


class StatementExportQuerySet(models.QuerySet["StatementExport"]):
    def visible_to(self, principal: Principal) -> StatementExportQuerySet:
        """The exports of tenants whose costs the principal may read."""
        rows: StatementExportQuerySet = principal.limit(self, Permission.COST_READ)
        return rows


class StatementExport(models.Model):
    """The first export of a closed month in one format: every later one is the same file.

    Rows are only ever added; the database refuses UPDATE and DELETE. ``content`` is the file itself where it is small
    and its bytes depend on more than this program; null where it is made anew from the ledger. ``version`` is that of
    the code that wrote it.
    """

    id = models.BigAutoField(primary_key=True)
    tenant_id = models.UUIDField()
    period = models.CharField(max_length=7, help_text='The month, "2026-10".')
    format = models.CharField(max_length=10)
    sha256 = models.CharField("SHA-256", max_length=64)
    size = models.BigIntegerField(help_text="Bytes.")
    version = models.CharField(max_length=40)
    content = models.BinaryField(null=True, editable=False)
    made_at = models.DateTimeField(default=timezone.now)

    objects = StatementExportQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["tenant_id", "period", "format"], name="one_export_per_format"),
            models.CheckConstraint(condition=Q(sha256__regex=r"^[0-9a-f]{64}$"), name="export_has_a_hash"),
        ]

    def __str__(self) -> str:
        return f"{self.period}, {self.format}"

    @property
    def is_intact(self) -> bool:
        """Whether the file that is kept is the one that was made; also when none is kept."""
        return self.content is None or hashlib.sha256(self.content).hexdigest() == self.sha256
