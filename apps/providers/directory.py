"""Which providers and regions there are, and which region a call goes to."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from django.db.models import Prefetch

from apps.providers.errors import ProviderUnavailable
from apps.providers.models import Provider, Region


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A region as a call needs it; holds no key."""

    provider: str
    kind: str
    region: str
    base_url: str
    order: int
    secret_name: str


class Directory:
    """The enabled providers and their enabled regions, as read from the database at one moment."""

    def __init__(self, providers: dict[str, tuple[Endpoint, ...]]) -> None:
        self._providers = providers

    @classmethod
    def load(cls) -> Directory:
        """Reads the directory: two queries."""
        regions = Prefetch("regions", Region.objects.filter(is_enabled=True).order_by("order", "name"))
        return cls(
            {
                provider.name: tuple(
                    Endpoint(
                        provider.name,
                        provider.kind,
                        region.name,
                        region.base_url,
                        region.order,
                        provider.secret_name,
                    )
                    for region in provider.regions.all()
                )
                for provider in Provider.objects.filter(is_enabled=True).prefetch_related(regions)
            }
        )

    def choose(self, provider: str, *, call: uuid.UUID, attempt: int) -> Endpoint:
        """The region for a call. Raises ProviderUnavailable, which says what to do, when there is none."""
        if provider not in self._providers:
            raise ProviderUnavailable(f"There is no enabled provider {provider!r}: add it under Model providers.")
        if not self._providers[provider]:
            raise ProviderUnavailable(f"The provider {provider!r} has no enabled region: add or enable one.")
        return choose_region(self._providers[provider], call=call, attempt=attempt)


def choose_region(regions: Sequence[Endpoint], *, call: uuid.UUID, attempt: int) -> Endpoint:
    """Spreads first attempts over the regions of the lowest order; each retry moves on to the next region."""
    preferred = [region for region in regions if region.order == regions[0].order]
    if attempt <= 1:
        return preferred[call.int % len(preferred)]
    first = regions.index(preferred[call.int % len(preferred)])
    return regions[(first + attempt - 1) % len(regions)]
