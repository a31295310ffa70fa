"""Providers and regions for tests."""

from __future__ import annotations

from typing import Any

from apps.providers.models import Provider, Region


def make_provider(*regions: str, name: str = "simulated", **fields: Any) -> Provider:
    """A provider with regions in this order of preference, which nobody can reach."""
    provider = Provider.objects.create(name=name, **fields)
    for order, region in enumerate(regions, 1):
        Region.objects.create(provider=provider, name=region, order=order, base_url="http://127.0.0.1:9/v1")
    return provider


def region_of(provider: Provider, name: str) -> Region:
    return Region.objects.select_related("provider", "breaker").get(provider=provider, name=name)
