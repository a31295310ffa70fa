"""Model clients of one process: which region a call goes to, and the pydantic-ai model that speaks to it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2
from django.db.models import Prefetch

from apps.providers.errors import ProviderUnavailable
from apps.providers.models import Provider, ProviderKind, Region
from apps.providers.transport import AiohttpTransport
from portal import env, redaction

if TYPE_CHECKING:
    from pydantic_ai.models import Model


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A region as a call needs it; holds no key."""

    provider: str
    kind: str
    region: str
    base_url: str
    order: int
    api_key_variable: str


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
                        provider.api_key_variable,
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


class ModelClients:
    """pydantic-ai models by endpoint and model name, over one shared HTTP client. For one event loop."""

    def __init__(self, *, connections: int = 256) -> None:
        self._http = httpx2.AsyncClient(
            transport=AiohttpTransport(connections=connections),
            timeout=httpx2.Timeout(None, connect=10),  # how long a call may take is its task's timeout
        )
        self._models: dict[tuple[Endpoint, str], Model] = {}

    def model(self, endpoint: Endpoint, name: str) -> Model:
        """The model called ``name`` at an endpoint. Raises ProviderUnavailable when its key is missing."""
        key = (endpoint, name)
        if key not in self._models:
            self._models[key] = self._make(endpoint, name)
        return self._models[key]

    def _make(self, endpoint: Endpoint, name: str) -> Model:
        api_key = env.text(endpoint.api_key_variable) if endpoint.api_key_variable else "none"
        redaction.know(api_key)  # whatever its variable is called
        if not api_key:
            raise ProviderUnavailable(
                f"The key of provider {endpoint.provider!r} is missing: set {endpoint.api_key_variable} for workers."
            )
        # The SDKs would retry by themselves, outside the reservation: each attempt here is one call.
        if endpoint.kind == ProviderKind.ANTHROPIC:
            from anthropic import AsyncAnthropic
            from pydantic_ai.models.anthropic import AnthropicModel
            from pydantic_ai.providers.anthropic import AnthropicProvider

            # The SDK appends the version itself.
            root = endpoint.base_url.removesuffix("/").removesuffix("/v1")
            anthropic = AsyncAnthropic(api_key=api_key, base_url=root, max_retries=0, http_client=self._http)
            return AnthropicModel(name, provider=AnthropicProvider(anthropic_client=anthropic))
        from openai import AsyncOpenAI
        from pydantic_ai.models.openai import OpenAIChatModel
        from pydantic_ai.providers.openai import OpenAIProvider

        openai = AsyncOpenAI(api_key=api_key, base_url=endpoint.base_url, max_retries=0, http_client=self._http)
        return OpenAIChatModel(name, provider=OpenAIProvider(openai_client=openai))

    async def aclose(self) -> None:
        await self._http.aclose()


def has_valid_key(provider: Provider) -> bool:
    """Whether the provider's key is in this process's environment, or it needs none."""
    variable = provider.api_key_variable
    return not variable or bool(os.environ.get(variable) or os.environ.get(f"{variable}_FILE"))
