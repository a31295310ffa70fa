"""The resource pool that swarms are admitted to."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.db.models import F, Q


class ResourcePool(models.Model):
    """What there is and what is taken: agents, memory in GB, CPU in cores, and swarms at once. There is one row.

    Whoever takes or gives back locks the row first; the CHECKs make over-allocation impossible even for a bug.
    """

    id = models.SmallAutoField(primary_key=True)
    agents_total = models.PositiveIntegerField(default=500)
    memory_gb_total = models.DecimalField(max_digits=12, decimal_places=3, default=1024)
    cpu_total = models.DecimalField(max_digits=12, decimal_places=3, default=256)
    swarms_total = models.PositiveIntegerField(default=50)
    agents_used = models.PositiveIntegerField(default=0)
    memory_gb_used = models.DecimalField(max_digits=12, decimal_places=3, default=0)
    cpu_used = models.DecimalField(max_digits=12, decimal_places=3, default=0)
    swarms_used = models.PositiveIntegerField(default=0)

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(id=1), name="one_pool"),
            models.CheckConstraint(condition=Q(agents_used__lte=F("agents_total")), name="agents_not_over_allocated"),
            models.CheckConstraint(
                condition=Q(memory_gb_used__gte=0, memory_gb_used__lte=F("memory_gb_total")),
                name="memory_not_over_allocated",
            ),
            models.CheckConstraint(
                condition=Q(cpu_used__gte=0, cpu_used__lte=F("cpu_total")), name="cpu_not_over_allocated"
            ),
            models.CheckConstraint(condition=Q(swarms_used__lte=F("swarms_total")), name="swarms_not_over_allocated"),
        ]

    def __str__(self) -> str:
        return "Resource pool"
