"""The ledger: what is owed, for ever."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import ExpressionWrapper, Q, Sum
from django.utils import timezone

from apps.tenants.access import Principal
from apps.tenants.roles import Permission
from portal.money import NanoDollarField


class Kind(models.TextChoices):
    LLM = "llm", "Model calls"
    INFRASTRUCTURE = "infrastructure"
    STORAGE = "storage"
    ADJUSTMENT = "adjustment"


@dataclass(frozen=True, slots=True)
class Cost:
    """Nano-dollars by kind. ``llm`` is net: corrections of model calls are in it, not in ``adjustment``."""

    llm: int = 0
    infrastructure: int = 0
    storage: int = 0
    adjustment: int = 0

    @property
    def total(self) -> int:
        return self.llm + self.infrastructure + self.storage + self.adjustment


def cost_of(sums: Iterable[tuple[str, bool, int]]) -> Cost:
    """A cost from sums by kind and by whether the entries are of a call, which has a reservation."""
    by_kind: dict[str, int] = {}
    for kind, is_of_call, total in sums:
        name = Kind.LLM.value if kind == Kind.ADJUSTMENT and is_of_call else str(kind)
        by_kind[name] = by_kind.get(name, 0) + total
    return Cost(**by_kind)


class LedgerEntryQuerySet(models.QuerySet["LedgerEntry"]):
    def visible_to(self, principal: Principal) -> LedgerEntryQuerySet:
        """The entries of tenants whose costs the principal may read."""
        rows: LedgerEntryQuerySet = principal.limit(self, Permission.COST_READ)
        return rows

    def of_swarms(self, swarm_ids: Iterable[uuid.UUID]) -> dict[uuid.UUID, Cost]:
        """What each of these swarms has cost, zero where nothing is owed. One query."""
        ids = list(swarm_ids)
        found: dict[uuid.UUID, list[tuple[str, bool, int]]] = {swarm_id: [] for swarm_id in ids}
        rows = (
            self.filter(swarm_id__in=ids)
            .annotate(is_of_call=ExpressionWrapper(Q(reservation_id__isnull=False), models.BooleanField()))
            .values_list("swarm_id", "kind", "is_of_call")
            .annotate(total=Sum("amount"))
            .order_by()
        )
        for swarm_id, kind, is_of_call, total in rows:
            if swarm_id is not None:
                found[swarm_id].append((kind, is_of_call, total))
        return {swarm_id: cost_of(sums) for swarm_id, sums in found.items()}

    def spent_between(self, start: dt.datetime, end: dt.datetime) -> int:
        """Nano-dollars owed from ``start`` (included) to ``end`` (excluded)."""
        total: int | None = self.filter(at__gte=start, at__lt=end).aggregate(total=Sum("amount"))["total"]
        return int(total or 0)


class LedgerEntry(models.Model):
    """One amount owed. Rows are only ever added: triggers refuse UPDATE and DELETE; partitioned by the month of ``at``.

    ``period_ids`` are the budget periods that it was charged to. ``unsettled`` marks a charge of the whole reservation
    because what the call cost is not known; an adjustment (``corrects`` is the entry's id) puts it right later.

    An entry explains its amount: tokens at ``*_per_mtok`` (nano-dollars for a million; input tokens include those of
    the provider's prompt cache), or ``quantity`` (agent-hours, GB-months) at ``unit_price``. Where these are null, the
    amount was given as such. ``saved`` marks a call that was answered from the response cache: nothing is owed for it,
    and this is what it would have cost (0 where that is not known). ``external_id`` is an event of an agent that runs
    elsewhere, ``run`` its name for a run.
    """

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField(default=timezone.now)
    tenant_id = models.UUIDField()
    subject_id = models.UUIDField(null=True, blank=True)
    swarm_id = models.UUIDField(null=True, blank=True)
    task_id = models.UUIDField(null=True, blank=True)
    attempt_id = models.UUIDField(null=True, blank=True)
    reservation_id = models.UUIDField(null=True, blank=True)
    agent = models.CharField(max_length=100, blank=True)
    kind = models.CharField(max_length=14, choices=Kind)
    model = models.CharField(max_length=200, blank=True)
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    cache_read_tokens = models.BigIntegerField(default=0)
    cache_write_tokens = models.BigIntegerField(default=0)
    input_per_mtok = NanoDollarField(null=True, blank=True)
    output_per_mtok = NanoDollarField(null=True, blank=True)
    cache_read_per_mtok = NanoDollarField(null=True, blank=True)
    cache_write_per_mtok = NanoDollarField(null=True, blank=True)
    quantity = models.DecimalField(max_digits=24, decimal_places=9, null=True, blank=True)
    unit_price = NanoDollarField(null=True, blank=True)
    amount = NanoDollarField()
    unsettled = models.BooleanField(default=False)
    corrects = models.BigIntegerField(null=True, blank=True)
    period_ids = ArrayField(models.BigIntegerField(), default=list)
    external_id = models.CharField(max_length=200, blank=True)
    run = models.CharField(max_length=100, blank=True)
    note = models.CharField(max_length=200, blank=True)
    saved = NanoDollarField(null=True, blank=True)

    objects = LedgerEntryQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-id"]
        verbose_name_plural = "ledger entries"
        indexes: ClassVar = [
            models.Index(fields=["tenant_id", "at"], name="ledger_of_tenant"),
            # Few among very many: whoever looks for them does not read the model calls between them.
            models.Index(fields=["tenant_id", "kind", "at"], name="ledger_beside_calls", condition=~Q(kind="llm")),
            models.Index(fields=["swarm_id"], name="ledger_of_swarm", condition=Q(swarm_id__isnull=False)),
            models.Index(fields=["reservation_id"], name="ledger_of_call", condition=Q(reservation_id__isnull=False)),
            models.Index(fields=["subject_id", "at"], name="ledger_of_subject", condition=Q(subject_id__isnull=False)),
            models.Index(fields=["corrects"], name="ledger_corrections", condition=Q(corrects__isnull=False)),
            models.Index(fields=["at", "id"], name="ledger_by_time"),
            models.Index(fields=["at", "id"], name="ledger_unsettled", condition=Q(unsettled=True)),
        ]

    def __str__(self) -> str:
        return f"Entry {self.pk}"
