"""Whose request it is: what a visitor says of their own address is never believed, what trusted proxies say is."""

from __future__ import annotations

import asyncio
import http.client
import ipaddress
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator

from apps.audit.models import AuditEntry
from apps.tenants.models import User
from portal.addresses import ClientAddress, parse
from tests.api_client import Caller
from tests.browser import Daphne
from tests.processes import free_port, run_python

PROXIES = [ipaddress.ip_network(text) for text in ("10.0.0.0/24", "127.0.0.1/32", "2001:db8:1::/64")]
VISITOR, OTHER = "192.0.2.7", "203.0.113.9"


def seen(peer: str | None, *said: str, proxies: Any = PROXIES, kind: str = "http") -> dict[str, Any]:
    """The scope that the application sees of a request from ``peer`` with ``X-Forwarded-For`` fields."""
    found: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.append(scope)

    headers = [(b"x-forwarded-for", value.encode()) for value in said] + [(b"x-forwarded-proto", b"https")]
    scope = {"type": kind, "client": [peer, 4711] if peer else None, "headers": headers}
    asyncio.run(ApplicationCommunicator(ClientAddress(app, proxies), scope).wait())
    return found[0]


TABLE: list[tuple[str, tuple[str, ...], str, str]] = [
    # who is connected, what X-Forwarded-For says, whose request it is, why the row is here
    (VISITOR, (), VISITOR, "nobody in between"),
    (VISITOR, (OTHER,), VISITOR, "a visitor who says that they are somebody else"),
    (VISITOR, ("10.0.0.1",), VISITOR, "or a proxy"),
    ("10.0.0.1", (VISITOR,), VISITOR, "a trusted proxy says who"),
    ("10.0.0.1", (f"{OTHER}, {VISITOR}",), VISITOR, "the visitor had written an address before it"),
    ("10.0.0.1", (OTHER, VISITOR), VISITOR, "in a field of its own, too"),
    ("10.0.0.1", (f"{OTHER},{VISITOR},10.0.0.2",), VISITOR, "two trusted proxies in a row"),
    ("10.0.0.1", (f"10.0.0.9,{VISITOR}",), VISITOR, "a visitor who writes a proxy before themselves"),
    ("10.0.0.1", ("10.0.0.2",), "10.0.0.2", "a request of a proxy's own, such as a probe"),
    ("10.0.0.1", (), "10.0.0.1", "a proxy that says nothing"),
    ("10.0.0.1", ("unknown",), "10.0.0.1", "or that it does not know"),
    ("10.0.0.1", (f"{OTHER}, <script>",), "10.0.0.1", "or nonsense: nothing before it counts"),
    ("10.0.0.1", (f"{VISITOR}:5060",), VISITOR, "with a port"),
    ("10.0.0.1", ("[2001:db8::7]:443",), "2001:db8::7", "IPv6 with a port"),
    ("2001:db8:1::5", ("2001:db8::7",), "2001:db8::7", "a proxy by IPv6"),
    ("::ffff:10.0.0.1", (f"::ffff:{VISITOR}",), VISITOR, "IPv4 that is written as IPv6"),
]


@pytest.mark.parametrize(("peer", "said", "expected", "why"), TABLE, ids=[row[-1] for row in TABLE])
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_whose_request_it_is(peer: str, said: tuple[str, ...], expected: str, why: str, kind: str) -> None:  # A6
    assert parse(seen(peer, *said, kind=kind)["client"][0]) == parse(expected)


def test_what_others_than_proxies_forward_does_not_reach_the_desk() -> None:
    assert seen(VISITOR, OTHER)["headers"] == []
    assert (b"x-forwarded-proto", b"https") in seen("10.0.0.1", VISITOR)["headers"]


def test_without_a_list_of_proxies_nothing_changes() -> None:
    assert seen("10.0.0.1", VISITOR, proxies=[])["client"] == ["10.0.0.1", 4711]
    assert (b"x-forwarded-proto", b"https") in seen("10.0.0.1", VISITOR, proxies=[])["headers"]
    assert seen(None, VISITOR)["client"] is None, "a socket of the file system has no address"


@pytest.mark.processes
def test_daphne_is_not_told_to_believe_everybody() -> None:
    done = run_python("-m", "daphne", "--proxy-headers", "-p", str(free_port()), "portal.asgi:application")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "web: --proxy-headers believes everybody's X-Forwarded-For. "
        "Set TRUSTED_PROXIES to the proxies' addresses instead."
    ]


@pytest.mark.processes
def test_the_audit_trail_knows_the_visitor_behind_the_proxy(
    own_database: str, owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUSTED_PROXIES", "127.0.0.1")
    headers, web = Caller(owner).headers, Daphne(own_database)
    web.start()
    try:
        asked = http.client.HTTPConnection("127.0.0.1", web.port, timeout=30)
        asked.request("GET", "/api/v1/audit/", headers={**headers, "X-Forwarded-For": f"{OTHER}, {VISITOR}"})
        assert asked.getresponse().status == 200
    finally:
        web.kill()
    assert AuditEntry.objects.get(action="audit:read").address == VISITOR
