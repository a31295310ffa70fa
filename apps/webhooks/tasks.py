"""Doors for the jobs of webhooks."""

from __future__ import annotations

import structlog
from asgiref.sync import async_to_sync
from django.utils import timezone

from apps.webhooks import handing_out, pruning
from apps.webhooks.models import Delivery
from apps.webhooks.policies import LANES
from apps.webhooks.sending import Sender
from portal.queue import enqueue

log = structlog.get_logger(__name__)


def send_webhooks() -> int:
    """How many attempts were made. What is due when its time is over, the next one sends."""
    made = async_to_sync(Sender().run)()
    if Delivery.objects.oldest_claimable(now=timezone.now(), lanes=LANES):
        enqueue(handing_out.SEND)
    return made


def prune_deliveries() -> dict[str, int]:
    """How many deliveries, and secrets that no longer sign, were removed."""
    removed = pruning.prune(now=timezone.now())
    log.info("deliveries_removed", **removed)
    return removed
