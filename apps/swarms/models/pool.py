"""The resource pool that swarms are admitted to."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

from django.core.exceptions import ValidationError
from django.db import connection, models
from django.db.models import F, Q
from django.utils import timezone

from apps.swarms.resources import Resources
from portal.notify import Channel, notify

if TYPE_CHECKING:
    from apps.swarms.models.swarm import Swarm

COUNTED = ("agents", "memory_gb", "cpu", "swarms")
"""What the pool counts: agents, memory in GB, CPU in cores, swarms at once."""


class PoolExhausted(Exception):
    """Swarms ask more than is free; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class Usage:
    """How much of one resource is taken. ``percent`` is 0 to 100, and 0 where there is none at all."""

    used: int | Decimal
    total: int | Decimal

    @property
    def percent(self) -> float:
        return round(float(self.used) / float(self.total) * 100, 1) if self.total else 0.0

    @property
    def free(self) -> int | Decimal:
        return self.total - self.used


class ResourcePoolQuerySet(models.QuerySet["ResourcePool"]):
    def current(self) -> ResourcePool:
        """The pool as it is now, not locked."""
        return self.get(pk=1)

    def locked(self) -> ResourcePool:
        """The pool, its row locked until the transaction ends."""
        return self.select_for_update().get(pk=1)

    def give_back(self, swarms: Sequence[Swarm], *, now: dt.datetime | None = None) -> int:
        """Frees what swarms hold, marks that they hold nothing, and ends their holdings; how many held something.

        Inside a transaction that has locked the swarms. The table decides who holds something, so calling it twice
        gives nothing back twice. Call it before a swarm gets a final status: the database does not let a finished
        swarm hold resources. The orchestrator hears of it when the transaction commits.
        """
        if not swarms:
            return 0
        pool = self.locked()
        with connection.cursor() as cursor:
            cursor.execute(
                """
                WITH freed AS (
                    UPDATE swarms_swarm SET holds_resources = false WHERE id = ANY(%s) AND holds_resources
                    RETURNING id, agents_asked, memory_gb_asked, cpu_asked
                ), ended AS (
                    UPDATE swarms_holding SET until = greatest(since, %s::timestamptz)
                    FROM freed WHERE swarm_id = freed.id AND until IS NULL
                )
                SELECT coalesce(sum(agents_asked), 0), coalesce(sum(memory_gb_asked), 0),
                    coalesce(sum(cpu_asked), 0), count(*) FROM freed
                """,
                [[swarm.pk for swarm in swarms], now or timezone.now()],
            )
            freed = Resources(*cursor.fetchone())
        pool._add(Resources() - freed)
        for swarm in swarms:
            swarm.holds_resources = False
        notify(Channel.ADMIT)
        return freed.swarms


class ResourcePool(models.Model):
    """What there is and what is taken: agents, memory in GB, CPU in cores, and swarms at once. There is one row.

    Whoever takes or gives back locks the row first; the CHECKs make over-allocation impossible even for a bug.
    """

    id = models.SmallAutoField(primary_key=True)
    agents_total = models.PositiveIntegerField(default=500)
    memory_gb_total = models.DecimalField(max_digits=12, decimal_places=3, default=1024)
    cpu_total = models.DecimalField(max_digits=12, decimal_places=3, default=256)
    swarms_total = models.PositiveIntegerField(default=50)
    agents_used = models.PositiveIntegerField(default=0, editable=False)
    memory_gb_used = models.DecimalField(max_digits=12, decimal_places=3, default=0, editable=False)
    cpu_used = models.DecimalField(max_digits=12, decimal_places=3, default=0, editable=False)
    swarms_used = models.PositiveIntegerField(default=0, editable=False)

    objects = ResourcePoolQuerySet.as_manager()

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

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Saves. A change of the totals leaves what is taken alone: swarms may have started since it was read."""
        if not self._state.adding and kwargs.get("update_fields") is None:
            kwargs["update_fields"] = [f"{name}_total" for name in COUNTED]
        super().save(*args, **kwargs)
        notify(Channel.ADMIT)

    def clean(self) -> None:
        """Raises ValidationError, by field, for a total below what is taken now."""
        now = ResourcePool.objects.filter(pk=self.pk).first() or self
        problems = {
            f"{name}_total": f"{getattr(now, f'{name}_used')} are in use now: the total cannot be below that. "
            "Wait for swarms to end, or terminate some."
            for name in COUNTED
            if (total := getattr(self, f"{name}_total")) is not None and total < getattr(now, f"{name}_used")
        }
        if problems:
            raise ValidationError(problems)

    @property
    def total(self) -> Resources:
        return Resources(self.agents_total, self.memory_gb_total, self.cpu_total, self.swarms_total)

    @property
    def used(self) -> Resources:
        return Resources(self.agents_used, self.memory_gb_used, self.cpu_used, self.swarms_used)

    def utilisation(self) -> dict[str, Usage]:
        """Used, total and percent of each resource: agents, memory_gb (GB), cpu (cores), swarms."""
        return {name: Usage(getattr(self, f"{name}_used"), getattr(self, f"{name}_total")) for name in COUNTED}

    def take(self, swarms: Sequence[Swarm], *, now: dt.datetime | None = None) -> None:
        """Gives swarms what they ask and writes that they hold it now. The pool's row and theirs must be locked.

        Raises PoolExhausted, and changes nothing, when it does not fit.
        """
        if not swarms:
            return
        taken = sum((_asks(swarm) for swarm in swarms), Resources())
        if not taken.fits(room := self.total - self.used):
            raise PoolExhausted(f"The pool lacks {(taken - room).up_to(taken)}.")
        for swarm in swarms:
            swarm.holds_resources = True
        with connection.cursor() as cursor:
            cursor.execute(
                """
                WITH holders AS (
                    UPDATE swarms_swarm SET holds_resources = true WHERE id = ANY(%s)
                    RETURNING id, tenant_id, agents_asked, memory_gb_asked, cpu_asked
                )
                INSERT INTO swarms_holding (swarm_id, tenant_id, agents, memory_gb, cpu, since)
                SELECT *, %s::timestamptz FROM holders
                """,
                [[swarm.pk for swarm in swarms], now or timezone.now()],
            )
        self._add(taken)

    def _add(self, amount: Resources) -> None:
        """Changes what is taken, here and in the row. The row must be locked."""
        used = self.used + amount
        for name in COUNTED:
            setattr(self, f"{name}_used", getattr(used, name))
        super().save(update_fields=[f"{name}_used" for name in COUNTED])


def _asks(swarm: Swarm) -> Resources:
    return Resources(swarm.agents_asked, swarm.memory_gb_asked, swarm.cpu_asked, 1)
