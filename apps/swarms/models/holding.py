"""What swarms hold of the pool, and since when: what agent-hours are charged by."""

from __future__ import annotations

import datetime as dt
from typing import ClassVar

from django.db import models
from django.db.models import F, Q

from apps.swarms.models.swarm import Swarm
from apps.tenants.access import Principal
from apps.tenants.models import Tenant
from apps.tenants.roles import Permission


class HoldingQuerySet(models.QuerySet["Holding"]):
    def visible_to(self, principal: Principal) -> HoldingQuerySet:
        """The holdings of tenants whose costs the principal may read."""
        rows: HoldingQuerySet = principal.limit(self, Permission.COST_READ)
        return rows

    def between(self, start: dt.datetime, end: dt.datetime) -> HoldingQuerySet:
        """Those that lasted at some time from ``start`` to ``end``."""
        return self.filter(Q(until=None) | Q(until__gt=start), since__lt=end)


class Holding(models.Model):
    """What one swarm held of the pool from ``since`` until ``until`` (null: it still does).

    Written by the statements that take from the pool and give back, so a row is there exactly while the swarm counts in
    the pool: through pauses, until it ends however it ends, and anew when it is retried.
    """

    id = models.BigAutoField(primary_key=True)
    swarm = models.ForeignKey(Swarm, on_delete=models.CASCADE, related_name="holdings")
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="+")
    agents = models.PositiveIntegerField()
    memory_gb = models.DecimalField(max_digits=12, decimal_places=3)
    cpu = models.DecimalField(max_digits=12, decimal_places=3)
    since = models.DateTimeField()
    until = models.DateTimeField(null=True, blank=True)

    objects = HoldingQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["swarm"], name="one_open_holding", condition=Q(until=None)),
            models.CheckConstraint(
                condition=Q(until=None) | Q(until__gte=F("since")), name="holding_does_not_end_before_it_begins"
            ),
        ]
        indexes: ClassVar = [models.Index(fields=["until"], name="holdings_by_end")]

    def __str__(self) -> str:
        return f"{self.agents} agents"
