"""Retries that come all at once, over HTTP, at a real web server."""

from __future__ import annotations

import datetime as dt
import http.client
import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import pytest

from apps.audit.models import AuditEntry
from apps.audit.trail import Actor
from apps.swarms.models import Swarm
from apps.tenants.actions import create_token
from apps.tenants.models import Tenant, User
from tests.browser import Daphne, db, web, web_of_module
from tests.specs import BRIEF, simulated

__all__ = ["db", "web", "web_of_module"]

AT_ONCE = 200


def connect(web: Daphne) -> http.client.HTTPConnection:
    place = urlsplit(web.url)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=120)
    connection.connect()
    return connection


def post(connection: http.client.HTTPConnection, token: str, body: Any) -> tuple[int, dict[str, str], Any]:
    """Status, header fields and document of a submission."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Idempotency-Key": "nightly"}
    with closing(connection):
        connection.request("POST", "/api/v1/swarms/", json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), json.loads(answer.read())


@pytest.mark.processes
def test_two_hundred_at_once_with_one_key_make_one_swarm(web: Daphne, acme: Tenant, developer: User) -> None:
    simulated()
    _, token = create_token(developer, acme, life=dt.timedelta(days=1), by=Actor("system", "test"))
    body = {"tenant": "acme", "spec": BRIEF}
    # One after the other, as a server has fewer places for callers at its door; what they ask, they ask at once.
    connections = [connect(web) for _ in range(AT_ONCE)]
    gate = threading.Barrier(AT_ONCE)

    def send(connection: http.client.HTTPConnection) -> tuple[int, dict[str, str], Any]:
        gate.wait(timeout=60)
        return post(connection, token, body)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(send, connections))
    assert Swarm.objects.count() == 1
    assert AuditEntry.objects.filter(action="swarm:create", tenant_id=acme.pk).count() == 1
    done = [(headers, document) for status, headers, document in answers if status == 201]
    assert len({json.dumps(document, sort_keys=True) for _, document in done}) == 1
    assert Counter(headers.get("Idempotency-Replayed") for headers, _ in done)[None] == 1
    # On a busy machine some wait longer than a twin is waited for: told so, and when to ask again.
    for status, headers, document in answers:
        if status != 201:
            assert (status, document["errors"][0]["code"]) in ((409, "in_progress"), (503, "busy")), document
            assert headers["Retry-After"]
    assert post(connect(web), token, {**body, "spec": BRIEF + "\n"})[0] == 422
    assert post(connect(web), token, body)[2] == done[0][1]
    assert Swarm.objects.count() == 1
