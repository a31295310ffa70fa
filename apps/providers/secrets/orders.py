"""Orders to read the secrets anew: a row that every process sees, and a hint that lets it see the row at once."""

from __future__ import annotations

from django.db import transaction

from apps.audit import trail
from apps.audit.trail import Actor
from apps.providers.models import RefreshOrder
from portal.notify import Channel, notify


@transaction.atomic
def order_refresh(*, by: Actor, reason: str = "") -> RefreshOrder:
    """Orders every process that holds secrets to read them anew; they do within seconds."""
    order = RefreshOrder.objects.create()
    trail.record(by, "secret:refresh_all", order, tenant_id=None, reason=reason)
    notify(Channel.CONTROL, {"refresh_secrets": order.pk})
    return order


def latest_order() -> int:
    """The id of the last order; 0 before the first. One query."""
    return RefreshOrder.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
