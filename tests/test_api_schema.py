"""The published schema: valid, complete, and served with its pages from here."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import get_resolver

from tests.api_client import openapi

pytestmark = pytest.mark.django_db


def test_the_schema_is_generated_without_a_warning() -> None:
    out = io.StringIO()
    call_command("spectacular", "--validate", "--fail-on-warn", stdout=out)
    assert out.getvalue().startswith("openapi: 3.1")


def test_every_operation_has_a_summary_a_tag_and_its_errors() -> None:
    for path, operations in openapi()["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            assert operation["tags"], (method, path)
            assert "401" in operation["responses"], (method, path)
            assert "404" in operation["responses"] or "{" not in path, (method, path)


def test_every_path_of_version_1_is_in_the_schema() -> None:
    entries: list[Any] = get_resolver().url_patterns
    (api,) = [entry for entry in entries if str(entry.pattern) == "api/"]
    (v1,) = [entry for entry in api.url_patterns if str(entry.pattern) == "v1/"]
    paths = {"/api/v1/" + re.sub(r"<\w+:(\w+)>", r"{\1}", str(entry.pattern)) for entry in v1.url_patterns}
    assert paths == set(openapi()["paths"])


def test_creating_requests_tell_of_the_idempotency_key() -> None:
    creating = (
        "/api/v1/swarms/",
        "/api/v1/budgets/",
        "/api/v1/tokens/",
        "/api/v1/costs/events/",
        "/api/v1/costs/reservations/",
    )
    for path in creating:
        parameters = openapi()["paths"][path]["post"]["parameters"]
        assert "Idempotency-Key" in {parameter["name"] for parameter in parameters}


def test_schema_and_pages_are_served_without_login_and_without_a_cdn() -> None:
    schema = Client().get("/api/schema/?format=json")
    assert json.loads(schema.content)["info"]["title"] == "Swarmdesk API"
    page = Client().get("/api/docs/")
    assert page.status_code == 200
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page.content.decode())
    assert addresses
    assert not [address for address in addresses if "//" in address]
    script = Client().get("/api/docs/?script=")
    assert script.headers["Content-Type"].startswith("application/javascript")
    assert "/api/schema/" in script.content.decode()


def test_the_bare_address_leads_to_the_pages() -> None:
    assert Client().get("/api/").headers["Location"] == "/api/docs/"
