"""Model providers, the regions they are reached in, and what all workers know of those and of their secrets."""

from apps.providers.models.breaker import Breaker, BreakerState
from apps.providers.models.cache import Cache, CachedAnswer, CacheUsage, Invalidation
from apps.providers.models.catalogue import Catalogue
from apps.providers.models.provider import HealthStatus, Provider, ProviderKind
from apps.providers.models.region import Region
from apps.providers.models.residency import ResidencyRule
from apps.providers.models.secret import BackendState, RefreshOrder, SecretStanding, SecretState
from apps.providers.models.traffic import RegionMinute, RegionQuota, RegionWindow

__all__ = [
    "BackendState",
    "Breaker",
    "BreakerState",
    "Cache",
    "CacheUsage",
    "CachedAnswer",
    "Catalogue",
    "HealthStatus",
    "Invalidation",
    "Provider",
    "ProviderKind",
    "RefreshOrder",
    "Region",
    "RegionMinute",
    "RegionQuota",
    "RegionWindow",
    "ResidencyRule",
    "SecretStanding",
    "SecretState",
]
