"""Model providers, the regions they are reached in, and what is known of their secrets."""

from apps.providers.models.provider import Provider, ProviderKind
from apps.providers.models.region import Region
from apps.providers.models.secret import BackendState, RefreshOrder, SecretState

__all__ = ["BackendState", "Provider", "ProviderKind", "RefreshOrder", "Region", "SecretState"]
