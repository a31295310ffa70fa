"""What happened to providers and their regions, as the event log has it."""

from __future__ import annotations

from apps.events.models import Event

KINDS = (
    "breaker.opened",
    "breaker.half_opened",
    "breaker.closed",
    "region.slowed",
    "region.drained",
    "region.undrained",
    "provider.failed_over",
    "provider.critical",
    "provider.recovered",
)


def history(*, provider: str = "", before: int | None = None, limit: int) -> list[Event]:
    """The last events of all providers, or of one, newest first; those with ids below ``before``. One query."""
    events = Event.objects.filter(tenant_id=None, data__has_key="provider", kind__in=KINDS)
    if provider:
        events = events.filter(data__provider=provider)
    if before is not None:
        events = events.filter(pk__lt=before)
    return list(events.order_by("-pk")[:limit])
