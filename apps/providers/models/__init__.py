"""Model providers and the regions they are reached in."""

from apps.providers.models.provider import Provider, ProviderKind
from apps.providers.models.region import Region

__all__ = ["Provider", "ProviderKind", "Region"]
