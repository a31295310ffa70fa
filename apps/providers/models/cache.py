"""What is kept of answers, how caches are used, and what was ordered to be forgotten."""

from __future__ import annotations

import datetime as dt
from typing import ClassVar

from django.db import models
from django.utils import timezone

from apps.tenants.access import Principal
from apps.tenants.models import Tenant
from apps.tenants.roles import Permission
from portal.encryption import EncryptedTextField
from portal.ids import uuid7
from portal.money import NanoDollarField


class Cache(models.TextChoices):
    """What the portal keeps so as not to ask again."""

    RESPONSES = "responses"
    CONFIGURATION = "configuration"
    CATALOGUE = "catalogue", "Model catalogue"


class CachedAnswerQuerySet(models.QuerySet["CachedAnswer"]):
    def visible_to(self, principal: Principal) -> CachedAnswerQuerySet:
        """The rows of tenants whose costs the principal may read."""
        rows: CachedAnswerQuerySet = principal.limit(self, Permission.COST_READ)
        return rows


class CachedAnswer(models.Model):
    """An answer of a model that agents of the same tenant may be given again.

    ``key`` is the SHA-256 of all that makes the answer (:mod:`apps.execution.request_keys`), the tenant included.

    The answer may hold personal data, so it is sealed at rest, belongs to one tenant, goes with it, and is kept for a
    day at most. Whom it is about nobody knows: whoever erases a data subject clears all answers of its tenant
    (:func:`apps.providers.invalidating.forget_tenant`), which costs no more than calls made again.
    """

    key = models.CharField(max_length=64, primary_key=True)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+")
    agent = models.CharField(max_length=100)
    model = models.CharField(max_length=200)
    answer = EncryptedTextField()
    size = models.PositiveIntegerField(help_text="Bytes that the sealed answer takes.")
    hits = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(default=timezone.now)
    used_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()

    objects = CachedAnswerQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-used_at"]
        indexes: ClassVar = [
            models.Index(fields=["tenant", "used_at"], name="answers_of_tenant"),
            models.Index(fields=["expires_at"], name="answers_that_expire"),
        ]

    def __str__(self) -> str:
        return f"{self.agent}, {self.model}, {self.key[:8]}"

    def age(self, *, now: dt.datetime) -> dt.timedelta:
        """How long ago the model gave it."""
        return now - self.created_at


class CacheUsage(models.Model):
    """How a cache was used in five minutes. ``tenant`` is null for caches that all share.

    ``saved`` are nano-dollars that the hits would have cost. Processes add what they counted every few seconds: one
    that is killed takes its last seconds with it. The ledger has every hit.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    cache = models.CharField(max_length=20, choices=Cache)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, null=True, related_name="+")
    starts_at = models.DateTimeField()
    hits = models.BigIntegerField(default=0)
    misses = models.BigIntegerField(default=0)
    degraded = models.BigIntegerField(default=0, help_text="Older answers that were used as no region answered.")
    stored = models.BigIntegerField(default=0)
    evicted = models.BigIntegerField(default=0, help_text="Taken out for others, before their time.")
    failures = models.BigIntegerField(default=0, help_text="Look-ups that got no answer in time: misses too.")
    saved = NanoDollarField(default=0)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["cache", "tenant", "starts_at"], name="one_row_per_cache_and_time", nulls_distinct=False
            )
        ]
        indexes: ClassVar = [models.Index(fields=["starts_at"], name="cache_usage_by_time")]


class Invalidation(models.Model):
    """An order to forget answers. What a call that began before it answers is not kept either.

    ``agent`` and ``model`` are patterns as :mod:`apps.providers.invalidating` reads them; without a tenant, all.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, null=True, related_name="+")
    agent = models.CharField(max_length=100)
    model = models.CharField(max_length=200)
    at = models.DateTimeField(default=timezone.now, db_index=True)

    def __str__(self) -> str:
        return f"{self.agent} {self.model}"
