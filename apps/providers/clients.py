"""Model clients of one process: the pydantic-ai models that speak to regions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import httpx2

from apps.providers.directory import Endpoint
from apps.providers.errors import ProviderUnavailable
from apps.providers.models import ProviderKind
from apps.providers.secrets.auth import KeyAuth, bearer, x_api_key
from apps.providers.secrets.keeper import Keeper
from apps.providers.transport import AiohttpTransport

if TYPE_CHECKING:
    from pydantic_ai.models import Model


MOST_PAGES = 20
LARGEST_LIST = 8 * 1024 * 1024
"""Bytes of one page of a list of models."""
ANTHROPIC_VERSION = "2023-06-01"
NO_KEY = "none"
"""What the SDKs are given, as they insist on a key: the real one is put on each request when it leaves."""


class ModelClients:
    """pydantic-ai models by endpoint and model name, over one shared transport. For one event loop.

    Keys are those that ``keeper`` holds at the moment of a call; without one, regions that need a key cannot be called.
    """

    def __init__(self, keeper: Keeper | None = None, *, connections: int = 256) -> None:
        self._keeper = keeper
        self._transport = AiohttpTransport(connections=connections)
        self._clients: dict[tuple[str, str], httpx2.AsyncClient] = {}
        self._models: dict[tuple[Endpoint, str], Model] = {}

    def model(self, endpoint: Endpoint, name: str) -> Model:
        """The model called ``name`` at an endpoint. Raises ProviderUnavailable when its key is missing."""
        if endpoint.secret_name:
            try:
                self._keys().key(endpoint.secret_name)
            except ProviderUnavailable as missing:
                raise ProviderUnavailable(f"Provider {endpoint.provider!r}: {missing}") from None
        key = (endpoint, name)
        if key not in self._models:
            self._models[key] = self._make(endpoint, name)
        return self._models[key]

    def _keys(self) -> Keeper:
        if self._keeper is None:
            raise ProviderUnavailable("This process holds no keys.")
        return self._keeper

    def _client(self, kind: str = "", secret_name: str = "") -> httpx2.AsyncClient:
        """The HTTP client that puts that key on requests; all of them share the transport."""
        wanted = (kind, secret_name)
        if wanted not in self._clients:
            header = x_api_key if kind == ProviderKind.ANTHROPIC else bearer
            self._clients[wanted] = httpx2.AsyncClient(
                transport=self._transport,
                timeout=httpx2.Timeout(None, connect=10),  # how long a call may take is its task's timeout
                auth=KeyAuth(self._keys(), secret_name, header) if secret_name else None,
            )
        return self._clients[wanted]

    def _make(self, endpoint: Endpoint, name: str) -> Model:
        http = self._client(endpoint.kind, endpoint.secret_name)
        # The SDKs would retry by themselves, outside the reservation: each attempt here is one call.
        if endpoint.kind == ProviderKind.ANTHROPIC:
            from anthropic import AsyncAnthropic
            from pydantic_ai.models.anthropic import AnthropicModel
            from pydantic_ai.providers.anthropic import AnthropicProvider

            # The SDK appends the version itself.
            root = _anthropic(endpoint.base_url)
            anthropic = AsyncAnthropic(api_key=NO_KEY, base_url=root, max_retries=0, http_client=http)
            return AnthropicModel(name, provider=AnthropicProvider(anthropic_client=anthropic))
        from openai import AsyncOpenAI
        from pydantic_ai.models.openai import OpenAIChatModel
        from pydantic_ai.providers.openai import OpenAIProvider

        openai = AsyncOpenAI(api_key=NO_KEY, base_url=endpoint.base_url, max_retries=0, http_client=http)
        return OpenAIChatModel(name, provider=OpenAIProvider(openai_client=openai))

    async def ask(self, endpoint: Endpoint) -> None:
        """Asks a region whether it answers; raises what it met. No key goes along: "unauthorised" is an answer."""
        response = await self._client().get(f"{endpoint.base_url.rstrip('/')}/models")
        if response.status_code >= 500:
            raise ProviderUnavailable(f"answered {response.status_code}")

    async def names(self, endpoint: Endpoint) -> list[str]:
        """The names of the models that a provider lists. Raises ProviderUnavailable, which says why there are none."""
        if endpoint.secret_name:
            self._keys().key(endpoint.secret_name)
        client = self._client(endpoint.kind, endpoint.secret_name)
        if endpoint.kind != ProviderKind.ANTHROPIC:
            return names_in(await _document(client, f"{endpoint.base_url.rstrip('/')}/models"))
        found: list[str] = []
        url, query = f"{_anthropic(endpoint.base_url)}/v1/models", {"limit": "1000"}
        for _ in range(MOST_PAGES):
            document = await _document(client, url, query, {"anthropic-version": ANTHROPIC_VERSION})
            found += names_in(document)
            last = document.get("last_id")
            if not document.get("has_more") or not isinstance(last, str):
                break
            query["after_id"] = last
        return found

    async def aclose(self) -> None:
        for client in self._clients.values():
            await client.aclose()
        await self._transport.aclose()


def names_in(document: Mapping[str, Any]) -> list[str]:
    """The names in a provider's list of models. Raises ProviderUnavailable for another document."""
    data = document.get("data")
    if not isinstance(data, list):
        raise ProviderUnavailable("It answered with something other than a list of models.")
    return [each["id"] for each in data if isinstance(each, dict) and isinstance(each.get("id"), str)]


def _anthropic(base_url: str) -> str:
    """The address that Anthropic's paths with their version are below."""
    return base_url.removesuffix("/").removesuffix("/v1")


async def _document(
    client: httpx2.AsyncClient, url: str, query: Mapping[str, str] | None = None, more: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The JSON object at an address, of bounded size. Raises ProviderUnavailable, which says why there is none."""
    headers = {"Accept": "application/json", **(more or {})}
    body = bytearray()
    try:
        async with client.stream("GET", url, params=query, headers=headers) as response:
            if response.status_code != 200:
                raise ProviderUnavailable(f"It answered {response.status_code} when it was asked for its models.")
            async for part in response.aiter_bytes():
                body += part
                if len(body) > LARGEST_LIST:
                    raise ProviderUnavailable(f"Its list of models is larger than {LARGEST_LIST // 1024**2} MB.")
    except httpx2.HTTPError as error:
        raise ProviderUnavailable(f"It could not be asked for its models: {error or type(error).__name__}") from error
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise ProviderUnavailable("It answered with something other than a list of models.")
    return document
