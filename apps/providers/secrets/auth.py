"""Puts a key on each request just before it leaves, and another one when the provider refuses it.

So no client object holds a key, a rotation reaches the next request, and a call that is repeated with another key is
still the same call to all above: a provider bills nothing that it answers with 401.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

import httpx2

from apps.providers.secrets.keeper import Keeper
from apps.providers.secrets.ring import Key

UNAUTHORISED = 401


class KeyAuth(httpx2.Auth):
    """Authorises the requests of one provider with the key of a name. ``header`` makes a header of a key's text."""

    def __init__(self, keeper: Keeper, name: str, header: Callable[[str], tuple[str, str]]) -> None:
        self._keeper = keeper
        self._name = name
        self._header = header

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        key = self._keeper.key(self._name)
        tried: set[str] = set()
        asked = False
        while True:
            tried.add(key.fingerprint)
            self._put(request, key)
            response = yield request
            if response.status_code != UNAUTHORISED:
                self._keeper.note_accepted(self._name)
                return
            another = self._keeper.untried(self._name, tried)
            if another is None and not asked:
                asked = True
                await self._keeper.renewed(self._name)
                another = self._keeper.untried(self._name, tried)
            if another is None:
                self._keeper.note_refused(self._name, self._keeper.key(self._name))
                return
            key = another

    def _put(self, request: httpx2.Request, key: Key) -> None:
        name, value = self._header(key.secret.reveal())
        request.headers[name] = value

    def __repr__(self) -> str:
        return f"<KeyAuth {self._name}>"


def bearer(key: str) -> tuple[str, str]:
    """As OpenAI and those that speak like it want it."""
    return "Authorization", f"Bearer {key}"


def x_api_key(key: str) -> tuple[str, str]:
    """As Anthropic wants it."""
    return "X-Api-Key", key
