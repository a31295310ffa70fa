"""What is no longer needed of webhooks goes: old deliveries with their attempts, secrets after their overlap."""

from __future__ import annotations

import datetime as dt
import uuid

from django.conf import settings
from django.db import transaction

from apps.webhooks.models import Delivery, DeliveryAttempt, Webhook

BATCH = 5_000


def prune(*, now: dt.datetime) -> dict[str, int]:
    """Removes deliveries older than WEBHOOK_DAYS_KEPT, whatever became of them, and spent secrets; how many of each."""
    removed = 0
    old = Delivery.objects.over_before(now - dt.timedelta(days=settings.WEBHOOK_DAYS_KEPT)).order_by("created_at")
    while ids := list(old.values_list("pk", flat=True)[:BATCH]):
        removed += _remove(ids)
    spent = Webhook.objects.filter(previous_until__lte=now).update(previous_secret=None, previous_until=None)
    return {"deliveries": removed, "secrets": spent}


def _remove(ids: list[uuid.UUID]) -> int:
    """One transaction a batch: killed in between, the next run goes on."""
    with transaction.atomic():
        DeliveryAttempt.objects.filter(delivery__in=ids).delete()
        rows = Delivery.objects.filter(pk__in=ids)
        return rows._raw_delete(rows.db)  # type: ignore[attr-defined, no-any-return]
