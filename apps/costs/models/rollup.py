"""Roll-ups: sums of ledger entries, kept by :mod:`apps.costs.rollups` and read by :mod:`apps.costs.reports`.

They are derived: the ledger can make each of them anew. Days and months are those of the tenant's own calendar (its
time zone as noted in :class:`RolledTenant`), hours are UTC. ``entries`` counts, so that nobody counts the ledger.
"""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.utils import timezone

from apps.costs.models.ledger import Kind
from portal.money import NanoDollarField


class Grain(models.TextChoices):
    DAY = "day"
    MONTH = "month"


class RollupPosition(models.Model):
    """How far the ledger is rolled up: exactly the entries up to ``entry_id`` are in the roll-ups. There is one row."""

    name = models.CharField(max_length=20, primary_key=True, default="ledger")
    entry_id = models.BigIntegerField(default=0)
    updated_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints: ClassVar = [models.CheckConstraint(condition=models.Q(name="ledger"), name="one_rollup_position")]

    def __str__(self) -> str:
        return f"rolled up to entry {self.entry_id}"


class RolledTenant(models.Model):
    """The time zone in which the roll-ups of a tenant count days."""

    tenant_id = models.UUIDField(primary_key=True)
    time_zone = models.CharField(max_length=60)
    rebuild_asked_at = models.DateTimeField(
        null=True, blank=True, help_text="When a job was asked to count its days in another time zone."
    )

    def __str__(self) -> str:
        return f"days of {self.time_zone}"


class DayTotal(models.Model):
    """What a tenant owes for a day, nano-dollars by kind.

    ``llm`` is net: corrections of model calls are in it, not in ``adjustment``. ``active_swarms`` is the number of
    swarms with an entry that day. ``no_swarm_...`` and ``no_user_...`` are sums of what belongs to no swarm, and to no
    end user: the tables of swarms and users only know those that there are.
    """

    pk = models.CompositePrimaryKey("tenant_id", "day")
    tenant_id = models.UUIDField()
    day = models.DateField()
    llm = NanoDollarField(default=0)
    infrastructure = NanoDollarField(default=0)
    storage = NanoDollarField(default=0)
    adjustment = NanoDollarField(default=0)
    active_swarms = models.IntegerField(default=0)
    entries = models.BigIntegerField(default=0)
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    no_swarm_amount = NanoDollarField(default=0)
    no_swarm_entries = models.BigIntegerField(default=0)
    no_swarm_input_tokens = models.BigIntegerField(default=0)
    no_swarm_output_tokens = models.BigIntegerField(default=0)
    no_user_amount = NanoDollarField(default=0)
    no_user_entries = models.BigIntegerField(default=0)
    no_user_input_tokens = models.BigIntegerField(default=0)
    no_user_output_tokens = models.BigIntegerField(default=0)

    class Meta:
        indexes: ClassVar = [models.Index(fields=["day"], name="day_totals_by_day")]


class HourTotal(models.Model):
    """What a tenant owes for an hour (UTC), by kind; ``kind`` is net, as in :class:`DayTotal`."""

    pk = models.CompositePrimaryKey("tenant_id", "hour", "kind")
    tenant_id = models.UUIDField()
    hour = models.DateTimeField()
    kind = models.CharField(max_length=14, choices=Kind)
    amount = NanoDollarField(default=0)
    entries = models.BigIntegerField(default=0)

    class Meta:
        indexes: ClassVar = [models.Index(fields=["hour"], name="hour_totals_by_hour")]


class UsageTotal(models.Model):
    """What a tenant owes for a day or month (``start`` is its first day), by kind, model and agent.

    ``kind`` is that of the entries; ``counts_as`` is net, as in :class:`DayTotal`.
    """

    pk = models.CompositePrimaryKey("tenant_id", "grain", "start", "kind", "counts_as", "model", "agent")
    tenant_id = models.UUIDField()
    grain = models.CharField(max_length=5, choices=Grain)
    start = models.DateField()
    kind = models.CharField(max_length=14, choices=Kind)
    counts_as = models.CharField(max_length=14, choices=Kind)
    model = models.CharField(max_length=200, blank=True)
    agent = models.CharField(max_length=100, blank=True)
    amount = NanoDollarField(default=0)
    entries = models.BigIntegerField(default=0)
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)

    class Meta:
        indexes: ClassVar = [models.Index(fields=["grain", "start"], name="usage_totals_by_start")]


class SwarmTotal(models.Model):
    """What a swarm cost its tenant on a day.

    Of the rows of a swarm, all but at most one are ``further``: those made when another one was there. Most swarms have
    a single row, so their dearest are found without adding anything up.
    """

    pk = models.CompositePrimaryKey("tenant_id", "start", "swarm_id")
    tenant_id = models.UUIDField()
    start = models.DateField()
    swarm_id = models.UUIDField()
    amount = NanoDollarField(default=0)
    entries = models.BigIntegerField(default=0)
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    further = models.BooleanField(default=False)

    class Meta:
        indexes: ClassVar = [
            models.Index(fields=["swarm_id"], name="swarm_totals_of_swarm"),
            models.Index(fields=["start"], name="swarm_totals_by_start"),
            models.Index(fields=["start"], name="swarm_totals_further", condition=models.Q(further=True)),
            # The dearest of a span of days, read from its end without a sort.
            models.Index(
                fields=["-amount", "swarm_id"],
                include=["tenant_id", "start"],
                name="swarm_totals_dearest",
                condition=models.Q(further=False),
            ),
        ]


class SubjectTotal(models.Model):
    """What was spent for an end user in a day or month; people are there by their pseudonym only."""

    pk = models.CompositePrimaryKey("tenant_id", "grain", "start", "subject_id")
    tenant_id = models.UUIDField()
    grain = models.CharField(max_length=5, choices=Grain)
    start = models.DateField()
    subject_id = models.UUIDField()
    amount = NanoDollarField(default=0)
    entries = models.BigIntegerField(default=0)
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)

    class Meta:
        indexes: ClassVar = [
            models.Index(fields=["subject_id"], name="subject_totals_of_subject"),
            # With all that ranking them needs, so that it need not visit their rows.
            models.Index(fields=["grain", "start"], include=["subject_id", "amount"], name="subject_totals_by_start"),
        ]
