"""Statements: what a tenant owes for a month, in lines; closed for good or not there yet."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import models
from django.db.models import F, Q

from apps.costs.models.ledger import Kind
from apps.tenants.access import Principal
from apps.tenants.models import Tenant
from apps.tenants.roles import Permission
from portal.ids import uuid7
from portal.money import NanoDollarField


class StatementStatus(models.TextChoices):
    CLOSING = "closing"
    CLOSED = "closed"


class StatementQuerySet(models.QuerySet["Statement"]):
    def visible_to(self, principal: Principal) -> StatementQuerySet:
        """The statements of tenants whose costs the principal may read."""
        rows: StatementQuerySet = principal.limit(self, Permission.COST_READ)
        return rows

    def closed(self) -> StatementQuerySet:
        return self.filter(status=StatementStatus.CLOSED)


class Statement(models.Model):
    """A tenant's month that takes no further ledger entry. A month without a row is a draft, computed when asked for.

    From the moment the row is there, the database refuses ledger entries of the tenant before ``ends_at``. While it is
    ``closing``, its lines are being added up; ``closed`` it never changes, and neither do its lines. What tenant, time
    zone and cost centres were then is kept in it: the names, ``time_zone`` and ``terms``
    (see :class:`apps.costs.centres.Terms`).
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="statements")
    period = models.CharField(max_length=7, help_text='The month, "2026-10".')
    status = models.CharField(max_length=7, choices=StatementStatus, default=StatementStatus.CLOSING)
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    time_zone = models.CharField(max_length=60)
    tenant_slug = models.CharField(max_length=50)
    tenant_name = models.CharField(max_length=100)
    terms = models.JSONField(default=dict)
    total = NanoDollarField(default=0)
    entries = models.BigIntegerField(default=0)
    closed_by_kind = models.CharField(max_length=20)
    closed_by = models.CharField(max_length=200)
    closing_since = models.DateTimeField()
    closed_at = models.DateTimeField(null=True, blank=True)

    objects = StatementQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-period", "tenant_slug"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["tenant", "period"], name="one_statement_a_month"),
            models.CheckConstraint(condition=Q(ends_at__gt=F("starts_at")), name="statement_ends_after_its_start"),
            models.CheckConstraint(condition=Q(period__regex=r"^\d{4}-(0[1-9]|1[0-2])$"), name="statement_of_a_month"),
            models.CheckConstraint(
                condition=Q(status="closing", closed_at=None) | Q(status="closed", closed_at__isnull=False),
                name="closed_statement_has_its_time",
            ),
        ]
        indexes: ClassVar = [models.Index(fields=["tenant", "-ends_at"], name="statements_by_end")]

    def __str__(self) -> str:
        return f"{self.tenant_name}, {self.period}"

    @property
    def is_closed(self) -> bool:
        return self.status == StatementStatus.CLOSED

    def finish(self, *, total: int, entries: int, at: Any) -> None:
        """Closed, with what its lines add up to. Saves. The database refuses any later change."""
        self.status, self.total, self.entries, self.closed_at = StatementStatus.CLOSED, total, entries, at
        self.save(update_fields=["status", "total", "entries", "closed_at"])


class StatementLine(models.Model):
    """What a month's ledger entries of one cost centre, kind, model and agent add up to.

    ``cost_centre`` is its code, empty where none applied. ``quantity`` is in ``unit`` and null where nothing was
    counted but tokens. Rows are only ever added, while their statement is closing.
    """

    id = models.BigAutoField(primary_key=True)
    statement = models.ForeignKey(Statement, on_delete=models.PROTECT, related_name="lines")
    cost_centre = models.CharField(max_length=40, blank=True)
    kind = models.CharField(max_length=14, choices=Kind)
    model = models.CharField(max_length=200, blank=True)
    agent = models.CharField(max_length=100, blank=True)
    entries = models.BigIntegerField()
    input_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    quantity = models.DecimalField(max_digits=30, decimal_places=9, null=True, blank=True)
    amount = NanoDollarField()

    class Meta:
        ordering: ClassVar = ["cost_centre", "kind", "model", "agent"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["statement", "cost_centre", "kind", "model", "agent"], name="one_line_of_each"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.model} {self.agent}".strip()
