"""Webhooks of tenants, what is delivered to them, and each attempt at that."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any, ClassVar

from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.db import connection, models
from django.db.models import Q
from django.utils import timezone

from apps.swarms.models.swarm import CannotAct
from apps.tenants.models import Tenant
from apps.webhooks import signing
from apps.webhooks.kinds import KINDS, PING
from apps.webhooks.policies import BACKOFF, ENDURANCE, Answer, Backoff, Endurance, Lanes
from portal.encryption import EncryptedTextField, Secret
from portal.ids import uuid7

OVERLAP = dt.timedelta(days=1)
"""How long after a rotation the secret before it signs as well."""
TURNS = 0x57454248
"""The advisory lock under which senders claim, one at a time: what is in flight is counted before more is taken."""


class CannotSend(CannotAct):
    """Why a webhook or a delivery does not do this now, for a person."""


class WebhookStatus(models.TextChoices):
    """How a webhook fares. ``failing``: its last attempt failed, and others follow."""

    ENABLED = "enabled"
    FAILING = "failing"
    DISABLED = "disabled"


class WebhookQuerySet(models.QuerySet["Webhook"]):
    def listening(self) -> WebhookQuerySet:
        """Those that get events: enabled, of active tenants."""
        return self.filter(is_enabled=True, tenant__is_active=True)

    def with_counts(self) -> WebhookQuerySet:
        """With ``waiting`` and ``gave_up``: how many of their deliveries are still to be made, or were given up."""
        return self.annotate(
            waiting=_count(DeliveryStatus.PENDING),
            gave_up=_count(DeliveryStatus.FAILED),
        )


def _count(status: str) -> models.Subquery:
    rows = Delivery.objects.filter(webhook=models.OuterRef("pk"), status=status).order_by().values("webhook")
    return models.Subquery(rows.annotate(n=models.Count("pk")).values("n"), output_field=models.IntegerField())


class Webhook(models.Model):
    """An address of a tenant's that is told of events, signed with a secret that only both sides have.

    ``kinds`` empty means all. ``failures`` counts attempts since the last success, the first of them at
    ``failing_since``; a long run of them disables it, with a cause: "failing", "gone" (410), or "person".
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="webhooks")
    name = models.CharField(max_length=100)
    url = models.CharField("URL", max_length=500)
    kinds = ArrayField(models.CharField(max_length=60), default=list, blank=True)
    signing_secret = EncryptedTextField(editable=False)
    previous_secret = EncryptedTextField(null=True, blank=True, editable=False)
    previous_until = models.DateTimeField(null=True, blank=True, editable=False)
    is_enabled = models.BooleanField(default=True, editable=False)
    disabled_at = models.DateTimeField(null=True, blank=True, editable=False)
    disabled_cause = models.CharField(max_length=10, blank=True, editable=False)
    disabled_reason = models.CharField(max_length=500, blank=True, editable=False)
    failures = models.PositiveIntegerField(default=0, editable=False)
    failing_since = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = WebhookQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["tenant", "name"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["tenant", "name"], name="one_webhook_per_name"),
            models.CheckConstraint(
                condition=Q(is_enabled=True, disabled_at=None, disabled_cause="", disabled_reason="")
                | Q(is_enabled=False, disabled_at__isnull=False) & ~Q(disabled_cause=""),
                name="disabled_webhook_says_why",
            ),
            models.CheckConstraint(
                condition=Q(failures=0, failing_since=None) | Q(failures__gt=0, failing_since__isnull=False),
                name="failing_webhook_says_since_when",
            ),
            models.CheckConstraint(
                condition=Q(previous_secret__isnull=True, previous_until=None)
                | Q(previous_secret__isnull=False, previous_until__isnull=False),
                name="previous_secret_has_its_end",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Raises ValidationError for kinds that there are none of."""
        self.kinds = sorted(set(self.kinds))
        if unknown := [kind for kind in self.kinds if kind not in KINDS]:
            raise ValidationError({"kinds": f"There are no such events: {', '.join(unknown)}."})

    @property
    def status(self) -> WebhookStatus:
        """How it fares."""
        if not self.is_enabled:
            return WebhookStatus.DISABLED
        return WebhookStatus.FAILING if self.failures else WebhookStatus.ENABLED

    def wants(self, kind: str) -> bool:
        """Whether it is told of events of this kind."""
        return kind in KINDS and (not self.kinds or kind in self.kinds)

    # -- secrets -----------------------------------------------------------------------------------------------------

    def secrets(self, *, now: dt.datetime) -> list[str]:
        """What messages are signed with now: the secret, and for a day after a rotation the one before. CannotOpen."""
        held: list[Secret] = [self.signing_secret]
        if self.previous_secret is not None and self.previous_until is not None and now < self.previous_until:
            held.append(self.previous_secret)
        return [secret.reveal() for secret in held]

    def rotate(self, *, now: dt.datetime) -> str:
        """Gives it a new secret; its text. The one before goes on signing for a day. The caller saves."""
        self.previous_secret, self.previous_until = Secret(self.signing_secret.reveal()), now + OVERLAP
        text = signing.new_secret()
        self.signing_secret = Secret(text)
        return text

    # -- on and off --------------------------------------------------------------------------------------------------

    def verify_enabled(self) -> None:
        """Raises CannotSend unless it is enabled."""
        if not self.is_enabled:
            raise CannotSend("It is disabled: enable it first.")

    def verify_enable(self) -> None:
        """Raises CannotSend when it is enabled already."""
        if self.is_enabled:
            raise CannotSend("It is enabled already.")

    def verify_disable(self) -> None:
        """Raises CannotSend when it is disabled already."""
        if not self.is_enabled:
            raise CannotSend("It is disabled already.")

    def enable(self) -> None:
        """Sends again, what waited first. The caller saves."""
        self.verify_enable()
        self.is_enabled, self.disabled_at, self.disabled_cause, self.disabled_reason = True, None, "", ""
        self.failures, self.failing_since = 0, None

    def disable(self, *, cause: str, reason: str, now: dt.datetime) -> None:
        """Sends nothing more, and is told of nothing that happens meanwhile. The caller saves."""
        self.verify_disable()
        self.is_enabled, self.disabled_at, self.disabled_cause = False, now, cause
        self.disabled_reason = reason[:500]

    def take_note(self, answer: Answer, *, now: dt.datetime, endurance: Endurance = ENDURANCE) -> bool:
        """Counts an attempt; whether that disabled it. The caller holds the row's lock and saves."""
        if answer.is_good:
            self.failures, self.failing_since = 0, None
            return False
        self.failures, self.failing_since = self.failures + 1, self.failing_since or now
        if not self.is_enabled:
            return False
        if answer.is_gone:
            self.disable(cause="gone", reason="The receiver answered 410 Gone: it wants no more.", now=now)
        elif endurance.is_over(self.failures, self.failing_since, now=now):
            reason = (
                f"{self.failures} attempts failed since {self.failing_since:%Y-%m-%d %H:%M} UTC, and none succeeded."
            )
            self.disable(cause="failing", reason=reason, now=now)
        return not self.is_enabled


class DeliveryStatus(models.TextChoices):
    PENDING = "pending", "Pending"
    DELIVERED = "delivered", "Delivered"
    FAILED = "failed", "Failed: given up"


class DeliveryQuerySet(models.QuerySet["Delivery"]):
    def over_before(self, moment: dt.datetime) -> DeliveryQuerySet:
        """Those older than that which nobody is sending now."""
        return self.filter(created_at__lt=moment, lease_token=None)

    def oldest_claimable(self, *, now: dt.datetime, lanes: Lanes) -> dt.datetime | None:
        """Since when the longest waiting of those that ``claim`` would take is due; None when it would take none."""
        with connection.cursor() as cursor:
            cursor.execute(
                f"{_CLAIMABLE} SELECT min(next_at) FROM picked", _terms(now, lanes, lanes.most, lanes.failing)
            )
            (oldest,) = cursor.fetchone() or (None,)
        found: dt.datetime | None = oldest
        return found

    def claim(
        self, *, now: dt.datetime, until: dt.datetime, lanes: Lanes, room: int, failing_room: int
    ) -> list[Delivery]:
        """Takes due deliveries until ``until``, with their webhooks: at most ``room``, and the bounds of ``lanes``.

        Of those whose webhook fails at most ``failing_room``. Each gets a lease token; what is recorded without the
        current one changes nothing. Whoever dies with one leaves it to others after ``until``, and its attempt is
        written down here. In a transaction.
        """
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [TURNS])
            cursor.execute(
                f"""
                {_CLAIMABLE}
                UPDATE webhooks_delivery d
                SET lease_token = gen_random_uuid(), next_at = %(until)s, tries = d.tries + 1, attempts = d.attempts + 1
                FROM picked WHERE d.id = picked.id AND d.status = 'pending' AND d.next_at <= %(now)s
                RETURNING d.id, d.attempts, picked.lease_token
                """,
                {**_terms(now, lanes, room, failing_room), "until": until},
            )
            rows = cursor.fetchall()
        lost = Answer(None, 0.0, error="The sender stopped before the answer was known.")
        DeliveryAttempt.objects.bulk_create(
            [DeliveryAttempt.of(pk, attempts - 1, lost, now=now) for pk, attempts, token in rows if token],
            ignore_conflicts=True,
        )
        return list(self.filter(pk__in=[row[0] for row in rows]).select_related("webhook")) if rows else []


def _terms(now: dt.datetime, lanes: Lanes, room: int, failing_room: int) -> dict[str, Any]:
    return {"now": now, "each": lanes.each, "room": max(room, 0), "failing": max(failing_room, 0)}


_CLAIMABLE = """
    WITH hook AS MATERIALIZED (
        SELECT w.id, w.failures > 0 AS fails,
            CASE WHEN w.failures > 0 THEN 1 ELSE %(each)s END - coalesce(f.n, 0) AS free
        FROM webhooks_webhook w
        JOIN tenants_tenant t ON t.id = w.tenant_id AND t.is_active
        LEFT JOIN (
            SELECT webhook_id, count(*) AS n FROM webhooks_delivery
            WHERE lease_token IS NOT NULL AND next_at > %(now)s GROUP BY webhook_id
        ) f ON f.webhook_id = w.id
        WHERE w.is_enabled
    ), due AS (
        -- The first of each webhook before the second of any: a long list of one is not in the way of others.
        SELECT d.id, d.next_at, d.lease_token, h.fails,
            row_number() OVER (PARTITION BY h.fails ORDER BY d.place, random()) AS place
        FROM hook h CROSS JOIN LATERAL (
            SELECT id, next_at, lease_token, row_number() OVER (ORDER BY next_at) AS place FROM webhooks_delivery
            WHERE webhook_id = h.id AND status = 'pending' AND next_at <= %(now)s
            ORDER BY next_at LIMIT greatest(h.free, 0)
        ) d
        WHERE h.free > 0
    ), picked AS (
        SELECT id, next_at, lease_token FROM due
        WHERE NOT fails OR place <= %(failing)s ORDER BY fails, place LIMIT %(room)s
    )
"""


class Delivery(models.Model):
    """One event on its way to one webhook. Its id is the ``webhook-id``, the same in every attempt and repeat.

    While pending, ``next_at`` says when it may be taken: when it is due or, while a sender has it (``lease_token``),
    when that sender is taken for dead. ``tries`` counts since it was made or last repeated, ``attempts`` in all.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    webhook = models.ForeignKey(Webhook, on_delete=models.CASCADE, related_name="deliveries", db_index=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+", db_index=False)
    event_id = models.BigIntegerField(null=True, blank=True)
    kind = models.CharField(max_length=60)
    swarm_id = models.UUIDField(null=True, blank=True)
    body = models.TextField()
    status = models.CharField(max_length=10, choices=DeliveryStatus, default=DeliveryStatus.PENDING)
    next_at = models.DateTimeField(null=True, blank=True, default=timezone.now)
    lease_token = models.UUIDField(null=True, blank=True, editable=False)
    tries = models.PositiveIntegerField(default=0)
    attempts = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(default=timezone.now)
    finished_at = models.DateTimeField(null=True, blank=True)

    objects = DeliveryQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-id"]
        verbose_name_plural = "deliveries"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["webhook", "event_id"], name="one_delivery_per_event"),
            models.CheckConstraint(condition=Q(status__in=DeliveryStatus.values), name="delivery_status_known"),
            models.CheckConstraint(
                condition=Q(status="pending", next_at__isnull=False, finished_at=None)
                | ~Q(status="pending") & Q(next_at=None, lease_token=None, finished_at__isnull=False),
                name="pending_delivery_is_due_sometime",
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["webhook", "next_at"], name="deliveries_due", condition=Q(status="pending")),
            models.Index(fields=["webhook"], name="deliveries_in_flight", condition=Q(lease_token__isnull=False)),
            models.Index(fields=["webhook", "-id"], name="deliveries_of_webhook"),
            models.Index(fields=["webhook"], name="deliveries_given_up", condition=Q(status="failed")),
            models.Index(fields=["tenant", "-id"], name="deliveries_of_tenant"),
            models.Index(fields=["created_at"], name="deliveries_by_age"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} #{self.event_id}" if self.event_id else f"{self.kind} …{str(self.pk)[-8:]}"

    @property
    def is_ping(self) -> bool:
        return self.kind == PING

    @property
    def is_in_flight(self) -> bool:
        """Whether a sender has it, or had it when it died."""
        return self.lease_token is not None

    def verify_repeat(self) -> None:
        """Raises CannotSend unless it can be sent again now."""
        if self.status == DeliveryStatus.PENDING:
            raise CannotSend("It is on its way already.")
        self.webhook.verify_enabled()

    def repeat(self, *, now: dt.datetime) -> None:
        """Sends it again, with the same id and body and all tries anew. The caller holds the row's lock and saves."""
        self.verify_repeat()
        self.status, self.next_at, self.finished_at, self.tries = DeliveryStatus.PENDING, now, None, 0

    def conclude(self, answer: Answer, *, now: dt.datetime, roll: float, backoff: Backoff = BACKOFF) -> None:
        """Delivered, to be tried again, or given up. The caller holds the row's lock and saves.

        A ping is tried once: whoever sent it waits for the answer.
        """
        self.lease_token = None
        wait = backoff.wait_s(self.tries, roll=roll, asked_s=answer.retry_after_s)
        if answer.is_good or answer.is_gone or self.is_ping or wait is None:
            self.status = DeliveryStatus.DELIVERED if answer.is_good else DeliveryStatus.FAILED
            self.next_at, self.finished_at = None, now
        else:
            self.next_at = now + dt.timedelta(seconds=wait)


class DeliveryAttempt(models.Model):
    """One try at a delivery, and what came of it. ``text`` is the beginning of the answer, without secrets."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    delivery = models.ForeignKey(Delivery, on_delete=models.CASCADE, related_name="tried", db_index=False)
    number = models.PositiveIntegerField()
    at = models.DateTimeField(default=timezone.now)
    status_code = models.PositiveSmallIntegerField(null=True, blank=True)
    seconds = models.FloatField(default=0)
    text = models.TextField(blank=True)
    error = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering: ClassVar = ["number", "id"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["delivery", "number"], name="one_row_per_attempt"),
        ]

    def __str__(self) -> str:
        return f"attempt {self.number}"

    @classmethod
    def of(cls, delivery_id: uuid.UUID, number: int, answer: Answer, *, now: dt.datetime) -> DeliveryAttempt:
        """The row for an answer that came at ``now``."""
        return cls(
            delivery_id=delivery_id,
            number=number,
            at=now - dt.timedelta(seconds=answer.seconds),
            status_code=answer.status_code,
            seconds=round(answer.seconds, 4),
            text=answer.text,
            error=answer.error[:500],
        )
