"""Writing down what came of an attempt: the attempt, its delivery and the health of its webhook, in one transaction."""

from __future__ import annotations

import datetime as dt
import uuid

import structlog
from django.db import transaction

from apps.audit import trail
from apps.events.log import NewEvent, emit
from apps.tenants.roles import Permission
from apps.webhooks.models import Delivery, DeliveryAttempt, Webhook
from apps.webhooks.policies import Answer

log = structlog.get_logger(__name__)

SENDER = trail.Actor("system", "webhooks")


def record(
    delivery_id: uuid.UUID, token: uuid.UUID, number: int, answer: Answer, *, now: dt.datetime, roll: float
) -> bool:
    """Whether it was written: not when the lease ended meanwhile, or the delivery or its webhook is gone.

    ``number`` is the attempt's, ``roll`` in 0..1 spreads retries. A webhook that this disables has an audit entry and
    an event.
    """
    with transaction.atomic():
        # The webhook before its deliveries, as whoever deletes one does.
        hook = Webhook.objects.select_for_update(no_key=True, of=("self",)).filter(deliveries=delivery_id).first()
        held = Delivery.objects.select_for_update(no_key=True).filter(pk=delivery_id, lease_token=token)
        delivery = held.first() if hook else None
        if hook is None or delivery is None:
            log.info("webhook_lease_lost", delivery_id=str(delivery_id))
            return False
        DeliveryAttempt.of(delivery.pk, number, answer, now=now).save(force_insert=True)
        before = (hook.failures, hook.is_enabled)
        disabled = hook.take_note(answer, now=now)
        delivery.conclude(answer, now=now, roll=roll)
        delivery.save(update_fields=["status", "next_at", "lease_token", "finished_at"])
        if before != (hook.failures, hook.is_enabled):
            hook.save(
                update_fields=[
                    "failures", "failing_since", "is_enabled", "disabled_at", "disabled_cause", "disabled_reason",
                ]
            )  # fmt: skip
        if disabled:
            _announce_disabled(hook, now=now)
    return True


def _announce_disabled(hook: Webhook, *, now: dt.datetime) -> None:
    trail.record(
        SENDER,
        Permission.WEBHOOK_MANAGE,
        hook,
        tenant_id=hook.tenant_id,
        reason=hook.disabled_reason,
        details={"act": "disable", "cause": hook.disabled_cause, "failures": hook.failures},
    )
    data = {"webhook_id": str(hook.pk), "cause": hook.disabled_cause}
    emit([NewEvent("webhook.disabled", hook.tenant_id, data=data)], now=now)
    log.warning("webhook_disabled", webhook_id=str(hook.pk), tenant_id=str(hook.tenant_id), cause=hook.disabled_cause)
