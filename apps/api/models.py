"""What the REST API remembers of its own: answers to requests that carried an Idempotency-Key."""

from __future__ import annotations

import datetime as dt
from typing import ClassVar

from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.db.models import Q
from django.utils import timezone

from portal.ids import uuid7

KEPT_FOR = dt.timedelta(hours=24)
SWEEP = 100


class IdempotencyKeyQuerySet(models.QuerySet["IdempotencyKey"]):
    def expired(self, *, now: dt.datetime) -> IdempotencyKeyQuerySet:
        """The keys whose time is over: the same key is a new request again."""
        return self.filter(created_at__lt=now - KEPT_FOR)

    def sweep(self, *, now: dt.datetime, limit: int = SWEEP) -> int:
        """Deletes expired keys, at most ``limit``, passing by those that others hold; how many it were.

        Whoever adds one key sweeps more than one, so the table stays bounded without a job of its own.
        """
        doomed = self.expired(now=now).select_for_update(skip_locked=True).order_by("created_at")
        return self.filter(pk__in=list(doomed.values_list("pk", flat=True)[:limit])).delete()[0]


class IdempotencyKey(models.Model):
    """A creating request that was done, and its answer. Written in the transaction of what it created.

    ``who`` is kind and ref of the principal, ``endpoint`` method and path: keys of different callers never meet.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    who = models.CharField(max_length=130)
    endpoint = models.CharField(max_length=200)
    key = models.CharField(max_length=200)
    request_hash = models.CharField(max_length=64, help_text="SHA-256 of the body, its keys sorted.")
    status = models.PositiveSmallIntegerField(null=True)
    body = models.JSONField(null=True, encoder=DjangoJSONEncoder)
    created_at = models.DateTimeField(default=timezone.now)

    objects = IdempotencyKeyQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["who", "endpoint", "key"], name="one_answer_per_key"),
            models.CheckConstraint(condition=~Q(key=""), name="idempotency_key_not_empty"),
        ]
        indexes: ClassVar = [models.Index(fields=["created_at"], name="idempotency_keys_by_age")]

    def __str__(self) -> str:
        return self.key
