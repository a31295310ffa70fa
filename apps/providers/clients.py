"""Model clients of one process: the pydantic-ai models that speak to regions."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import httpx2

from apps.providers.directory import Endpoint
from apps.providers.errors import ProviderUnavailable
from apps.providers.models import Provider, ProviderKind
from apps.providers.transport import AiohttpTransport
from portal import env, redaction

if TYPE_CHECKING:
    from pydantic_ai.models import Model


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
        api_key = env.text(endpoint.secret_name) if endpoint.secret_name else "none"
        redaction.know(api_key)  # whatever its variable is called
        if not api_key:
            raise ProviderUnavailable(
                f"The key of provider {endpoint.provider!r} is missing: set {endpoint.secret_name} for workers."
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

    async def ask(self, endpoint: Endpoint) -> None:
        """Asks a region whether it answers; raises what it met. No key goes along: "unauthorised" is an answer."""
        response = await self._http.get(f"{endpoint.base_url.rstrip('/')}/models")
        if response.status_code >= 500:
            raise ProviderUnavailable(f"answered {response.status_code}")

    async def aclose(self) -> None:
        await self._http.aclose()


def has_valid_key(provider: Provider) -> bool:
    """Whether the provider's key is in this process's environment, or it needs none."""
    variable = provider.secret_name
    return not variable or bool(os.environ.get(variable) or os.environ.get(f"{variable}_FILE"))
