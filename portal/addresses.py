"""Whose request it is, behind proxies: only those that are trusted are believed what they say of it."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

FORWARDED = (b"x-forwarded-for", b"x-forwarded-proto")


class ClientAddress:
    """ASGI: the address of a request is that of its connection, or what trusted proxies say in ``X-Forwarded-For``.

    Each proxy adds the address that it was asked from at the end, so the list is read from there: the first address
    that is no trusted proxy's is the client's. What stands before it was written by the client, or by whom it will.
    From others than trusted proxies, neither that field nor ``X-Forwarded-Proto`` reaches the desk. Without a list of
    proxies the address is that of the connection.
    """

    def __init__(self, app: Any, proxies: Sequence[Network]) -> None:
        self.app = app
        self.proxies = proxies

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.proxies and scope.get("client"):
            scope = self._seen(scope)
        await self.app(scope, receive, send)

    def _seen(self, scope: dict[str, Any]) -> dict[str, Any]:
        peer = scope["client"][0]
        headers = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
        found = parse(peer)
        if found is None or not self._is_proxy(found):
            return {**scope, "headers": [(name, value) for name, value in headers if name not in FORWARDED]}
        said = b",".join(value for name, value in headers if name == FORWARDED[0]).decode("latin1")
        client = self._client(found, said)
        return scope if client == found else {**scope, "client": [str(client), 0]}

    def _client(self, peer: Address, said: str) -> Address:
        known = peer
        for text in reversed(said.split(",") if said.strip() else []):
            found = parse(text)
            if found is None:  # a trusted proxy does not know, or says it in its own way: what we know is the proxy
                return known
            known = found
            if not self._is_proxy(found):
                break
        return known

    def _is_proxy(self, address: Address) -> bool:
        return any(address.version == network.version and address in network for network in self.proxies)


def parse(text: str) -> Address | None:
    """An address, also as ``1.2.3.4:567``, ``[2001:db8::1]:443``, or IPv4 written as IPv6; None for anything else."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found
