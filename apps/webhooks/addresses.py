"""Where webhooks may be sent to: public addresses, and networks that the operator allows; never anything else.

The check is made twice: when a webhook is registered, for a clear error; and on the address that a connection is about
to be made to, whatever the name resolved to before. So there is no moment between check and use.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

LONGEST_URL = 500
LOOKED_UP_WITHIN_S = 3.0
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
NEVER_PUBLIC: tuple[Network, ...] = (
    # What older versions of Python take for public.
    IPv4Network("192.0.0.0/24"),  # protocol assignments
    IPv4Network("192.88.99.0/24"),  # relays of 6to4
    IPv6Network("2001::/23"),  # Teredo, benchmarks, ORCHID
    IPv6Network("3fff::/20"),  # documentation
)


REFUSED = "address refused"


class UrlRefused(ValueError):
    """Why nothing is sent to this URL, for a person. It tells no addresses: they may be those of an inner network."""


class AddressRefused(OSError):
    """A connection was about to be made to an address that may not be reached."""


def is_allowed(address: str, *, encrypted: bool) -> bool:
    """Whether a connection to this address may be made. Unencrypted ones only within allowed networks."""
    ip = _read(address)
    if ip is None:
        return False
    allowed: Sequence[Network] = settings.WEBHOOK_ALLOWED_NETWORKS
    if any(ip.version == network.version and ip in network for network in allowed):
        return True
    return encrypted and is_public(ip)


def is_public(ip: Address) -> bool:
    """Whether an address is of a host on the internet, and of nothing nearer."""
    return (
        ip.is_global
        and not (ip.is_multicast or ip.is_reserved or ip.is_private or ip.is_loopback or ip.is_link_local)
        and (isinstance(ip, IPv4Address) or ip in GLOBAL_UNICAST)
        and not any(ip.version == network.version and ip in network for network in NEVER_PUBLIC)
    )


def _read(text: str) -> Address | None:
    """The address that packets go to in the end: what IPv6 addresses carry inside (mapped, 6to4, NAT64) comes out."""
    try:
        ip = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped:
            return ip.ipv4_mapped
        if ip.sixtofour:
            return ip.sixtofour
        if ip in NAT64:
            return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip


Resolve = Callable[[str, int], Iterable[str]]


def verify_url(url: str, *, resolve: Resolve | None = None) -> None:
    """Raises UrlRefused unless the URL is one that webhooks may be sent to now."""
    if len(url) > LONGEST_URL or not url.isprintable() or " " in url:
        raise UrlRefused(f"A URL has at most {LONGEST_URL} characters, and no spaces.")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise UrlRefused("This cannot be read as a URL.") from None
    if parts.scheme not in ("http", "https") or not host:
        raise UrlRefused("A URL starts with https:// and names a host.")
    if parts.username is not None or parts.password is not None:
        raise UrlRefused("Leave name and password out of the URL: the signature shows who sends.")
    if parts.fragment:
        raise UrlRefused("Leave the part after # out of the URL: it would not be sent.")
    encrypted = parts.scheme == "https"
    found = list((resolve or _look_up)(host, port or (443 if encrypted else 80)))
    if any(is_allowed(each, encrypted=encrypted) for each in found):
        return
    if not encrypted and any(is_allowed(each, encrypted=True) for each in found):
        raise UrlRefused("Use https://: plain http:// is for networks in WEBHOOK_ALLOWED_NETWORKS.")
    raise UrlRefused(
        f"{host} cannot be reached from here: it must have a public address, or one that the operator allows with "
        "WEBHOOK_ALLOWED_NETWORKS."
    )


def _look_up(host: str, port: int) -> list[str]:
    """The addresses of a host, none when it has none; nobody waits longer than a few seconds for them."""
    found: Future[list[str]] = Future()

    def ask() -> None:
        try:
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found.set_result([str(info[4][0]) for info in infos])
        except (OSError, UnicodeError):
            found.set_result([])

    Thread(target=ask, name="look-up", daemon=True).start()
    try:
        return found.result(LOOKED_UP_WITHIN_S)
    except TimeoutError:
        raise UrlRefused(f"The address of {host} could not be looked up in time. Try again.") from None


def guarded_socket(*, encrypted: bool) -> Callable[[Any], socket.socket]:
    """What makes the sockets of a connection pool: none for an address that may not be reached."""

    def make(info: Any) -> socket.socket:
        family, kind, protocol, _, address = info
        if not is_allowed(str(address[0]), encrypted=encrypted):
            raise AddressRefused(errno.EACCES, REFUSED)
        return socket.socket(family, kind, protocol)

    return make
