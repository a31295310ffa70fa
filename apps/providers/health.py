"""How a provider stands: healthy, failed over to another region, or critical because no region is left.

The verdict follows from its regions. It is announced once, by an event, in the transaction of the change behind it.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from apps.events.log import NewEvent, emit
from apps.providers.breaker import State
from apps.providers.models import HealthStatus, Provider, Region

NO_HEALTHY_REGIONS = "no_healthy_regions"
_KINDS = {
    HealthStatus.HEALTHY: "provider.recovered",
    HealthStatus.FAILED_OVER: "provider.failed_over",
    HealthStatus.CRITICAL: "provider.critical",
}


@dataclass(frozen=True, slots=True)
class Health:
    """``serving`` is the region that calls go to in the primary's stead; ``reason`` is for programs."""

    status: HealthStatus
    primary: str = ""
    serving: str = ""
    reason: str = ""


def judge(regions: Sequence[Region]) -> Health:
    """The verdict on a provider from its enabled regions. Regions of the lowest order are primaries alike.

    Those that are being drained count as gone: who drains the primary makes another region the primary.
    """
    taking = sorted((r for r in regions if r.is_enabled and not r.is_draining), key=lambda r: (r.order, r.name))
    if not taking:
        return Health(HealthStatus.CRITICAL, reason=NO_HEALTHY_REGIONS)
    primary = taking[0]
    live = [region for region in taking if region.circuit.state is State.CLOSED]
    if not live:
        return Health(HealthStatus.CRITICAL, primary.name, reason=NO_HEALTHY_REGIONS)
    if live[0].order == primary.order:
        return Health(HealthStatus.HEALTHY, primary.name)
    return Health(HealthStatus.FAILED_OVER, primary.name, live[0].name)


def review(provider_id: uuid.UUID, *, now: dt.datetime) -> Health:
    """Judges a provider anew and announces a verdict that changed; in the caller's transaction, last of its writes.

    Nothing is announced of a disabled provider. The provider's row is locked first: of changes to two regions at once,
    the second to come sees both.
    """
    provider = Provider.objects.select_for_update(no_key=True).get(pk=provider_id)
    health = judge(list(Region.objects.filter(provider=provider).select_related("breaker")))
    if not provider.is_enabled or (health.status, health.serving) == (provider.health, provider.serving):
        return health
    data = {
        "provider": provider.name,
        "before": provider.health,
        "primary": health.primary,
        **({"to": health.serving} if health.serving else {}),
        **({"reason": health.reason} if health.reason else {}),
    }
    provider.note_health(health.status, serving=health.serving, now=now)
    emit([NewEvent(_KINDS[health.status], data=data)], now=now)
    return health
