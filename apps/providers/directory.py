"""The enabled providers and their regions, with all that workers share about them, as read at one moment."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from django.db.models import Prefetch

from apps.providers.breaker import Circuit, State
from apps.providers.latency import KEPT_S, quantile
from apps.providers.models import Provider, Region, ResidencyRule
from apps.providers.quota import Limits
from apps.providers.routing import RegionFacts


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A region as a client needs it; holds no key."""

    provider: str
    kind: str
    region: str
    base_url: str
    secret_name: str


@dataclass(slots=True)
class Standing:
    """A region as it stands: its own, and how it is doing. ``p99_s`` in seconds, of ``samples`` recent calls."""

    id: uuid.UUID
    endpoint: Endpoint
    order: int
    draining: bool
    limits: Limits
    patience_s: float
    probe_every_s: float
    checks: int
    circuit: Circuit
    slowed_until: dt.datetime | None
    checked_at: dt.datetime | None
    p99_s: float | None
    samples: int
    last_call: float

    def facts(self, *, held_up: bool) -> RegionFacts:
        state = State.OPEN if self.circuit.state is State.HALF_OPEN else self.circuit.state
        return RegionFacts(
            self.id, self.order, self.endpoint.region, state, self.draining, self.p99_s, self.samples, held_up
        )


@dataclass(frozen=True, slots=True)
class Directory:
    """Regions by provider, in the order of preference. ``pins``: by tenant and provider, the names that it may use."""

    providers: Mapping[str, tuple[Standing, ...]] = field(default_factory=dict)
    pins: Mapping[tuple[uuid.UUID, str], frozenset[str]] = field(default_factory=dict)

    @classmethod
    def load(cls, *, now: dt.datetime) -> Directory:
        """Reads the directory: three queries."""
        enabled = Region.objects.filter(is_enabled=True).select_related("breaker", "window").order_by("order", "name")
        providers = Provider.objects.filter(is_enabled=True).prefetch_related(Prefetch("regions", enabled))
        pins: dict[tuple[uuid.UUID, str], set[str]] = {}
        for tenant_id, provider, region in ResidencyRule.objects.order_by().values_list(
            "tenant_id", "provider__name", "regions__name"
        ):
            names = pins.setdefault((tenant_id, provider), set())
            if region is not None:
                names.add(region)
        return cls(
            {
                provider.name: tuple(_standing(provider, region, now) for region in provider.regions.all())
                for provider in providers
            },
            {key: frozenset(names) for key, names in pins.items()},
        )


def recent_latencies(region: Region, now: dt.datetime) -> list[float]:
    """What is known of the region as it is now, in seconds, sorted. What was before its breaker closed is not."""
    breaker, window = getattr(region, "breaker", None), getattr(region, "window", None)
    if window is None:
        return []
    oldest = max(now.timestamp() - KEPT_S, breaker.since.timestamp() if breaker else 0.0)
    return sorted(latency for ended, latency in zip(window.ended, window.latencies, strict=True) if ended >= oldest)


def _standing(provider: Provider, region: Region, now: dt.datetime) -> Standing:
    breaker, window = getattr(region, "breaker", None), getattr(region, "window", None)
    recent = recent_latencies(region, now)
    return Standing(
        id=region.pk,
        endpoint=Endpoint(provider.name, provider.kind, region.name, region.base_url, provider.secret_name),
        order=region.order,
        draining=region.is_draining,
        limits=region.limits,
        patience_s=provider.patience_s,
        probe_every_s=provider.probe_every_s,
        checks=provider.breaker_failures,
        circuit=region.circuit,
        slowed_until=breaker.slowed_until if breaker else None,
        checked_at=breaker.checked_at if breaker else None,
        p99_s=quantile(recent, 0.99),
        samples=len(recent),
        last_call=max(window.ended, default=0.0) if window else 0.0,
    )
