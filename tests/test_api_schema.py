"""The published schema: valid, complete, and served with its pages from here."""

from __future__ import annotations

import copy
import datetime as dt
import io
import json
import re
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import get_resolver

from tests.api_client import openapi
from tests.api_schema import CHANGELOG, SNAPSHOT, broken, shortened, untold

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


def test_no_change_breaks_programs_without_a_word_in_the_changelog() -> None:
    known = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    missing = untold(broken(known, shortened(openapi())), CHANGELOG.read_text(encoding="utf-8"))
    assert not missing, "Tell these in docs/reference/api-changelog.md, then run python -m tests.api_schema"


def test_every_entry_of_the_changelog_has_its_day_the_latest_first() -> None:
    days = re.findall(r"(?m)^## (.+)$", CHANGELOG.read_text(encoding="utf-8"))
    assert days == sorted((dt.date.fromisoformat(day).isoformat() for day in days), reverse=True)


def _without(schema: dict[str, Any], *keys: str) -> None:
    *path, last = keys
    for key in path:
        schema = schema[key]
    del schema[last]


def _set(schema: dict[str, Any], value: Any, *keys: str) -> None:
    *path, last = keys
    for key in path:
        schema = schema[key]
    schema[last] = value


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: _without(s, "paths", "/api/v1/pool/"), "GET /api/v1/pool/ is gone"),
        (lambda s: _without(s, "schemas", "Swarm", "properties", "progress"), "Swarm.progress is gone"),
        (
            lambda s: _set(s, {"type": "integer"}, "schemas", "Token", "properties", "name"),
            "Token.name is another kind of value",
        ),
        (lambda s: s["schemas"]["NewBudget"]["required"].append("note"), "NewBudget.note is required now"),
        (lambda s: s["schemas"]["Budget"]["required"].remove("note"), "Budget.note may be missing now"),
        (lambda s: s["schemas"]["SwarmStatus"]["enum"].remove("paused"), "SwarmStatus has no paused any more"),
        (
            lambda s: s["paths"]["/api/v1/swarms/"]["get"]["parameters"].clear(),
            "GET /api/v1/swarms/: parameter status is gone",
        ),
        (
            lambda s: _without(s, "paths", "/api/v1/swarms/", "post", "responses", "201"),
            "POST /api/v1/swarms/: no answer 201 any more",
        ),
        (lambda s: _set(s, {"type": "string"}, "schemas", "Budget", "properties", "colour"), None),
        (lambda s: _set(s, {"type": "string"}, "schemas", "NewBudget", "properties", "colour"), None),
    ],
)
def test_what_breaks_programs_is_told_from_what_does_not(change: Any, says: str | None) -> None:
    before, after = shortened(openapi()), copy.deepcopy(shortened(openapi()))
    change(after)
    found = broken(before, after)
    assert (says in found) if says else not found
    assert untold(found, "".join(f"- {line}\n" for line in found)) == []
