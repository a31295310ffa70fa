"""What the REST API remembers of its own: answers to requests with an Idempotency-Key, and requests of this minute."""

from __future__ import annotations

import datetime as dt
from typing import ClassVar

from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection, models, transaction
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


class RateAllotmentQuerySet(models.QuerySet["RateAllotment"]):
    def take(self, policy: str, who: str, *, window: int, count: int) -> int:
        """Adds to what a caller's processes took in a minute, the later one where clocks differ; the sum. One query."""
        with connection.cursor() as cursor:
            cursor.execute(
                f"""
                INSERT INTO {self.model._meta.db_table} AS known (id, policy, who, "window", taken)
                VALUES (%(id)s, %(policy)s, %(who)s, %(window)s, %(count)s)
                ON CONFLICT (policy, who) DO UPDATE SET
                    taken = excluded.taken + CASE WHEN known."window" < excluded."window" THEN 0 ELSE known.taken END,
                    "window" = greatest(known."window", excluded."window")
                RETURNING taken
                """,
                {"id": uuid7(), "policy": policy, "who": who, "window": window, "count": count},
            )
            return int(cursor.fetchone()[0])

    def sweep(self, *, window: int, limit: int = 10 * SWEEP) -> int:
        """Deletes rows of minutes long gone, at most ``limit``, passing by those that others hold; how many it were."""
        doomed = self.filter(window__lt=window - 5).select_for_update(skip_locked=True).order_by("window")
        with transaction.atomic():
            return self.filter(pk__in=list(doomed.values_list("pk", flat=True)[:limit])).delete()[0]


class RateAllotment(models.Model):
    """How many requests web processes took for themselves out of a caller's limit, in its latest minute.

    The table is unlogged: nothing is written ahead for it, and after a crash of the database all begin anew.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    policy = models.CharField(max_length=20)
    who = models.CharField(max_length=60)
    window = models.BigIntegerField(help_text="Minutes since the epoch.")
    taken = models.BigIntegerField()

    objects = RateAllotmentQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["policy", "who"], name="one_allotment_per_caller")]
        indexes: ClassVar = [models.Index(fields=["window"], name="allotments_by_minute")]

    def __str__(self) -> str:
        return f"{self.policy} {self.who}"
