"""A caller of the REST API, as the tests see one."""

from __future__ import annotations

import datetime as dt
import functools
import json
import re
from typing import Any

from django.test import Client
from drf_spectacular.generators import SchemaGenerator
from jsonschema import Draft202012Validator

from apps.audit.trail import Actor
from apps.tenants.actions import create_token
from apps.tenants.models import Tenant, User

V1 = "/api/v1"


@functools.cache
def openapi() -> dict[str, Any]:
    """The schema of the API."""
    schema: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)
    # As it is published: enums and the like are plain data there.
    published: dict[str, Any] = json.loads(json.dumps(schema, default=str))
    return published


def verify_promise(response: Any) -> None:
    """Fails unless a response is what the schema says of its operation and status."""
    template = "/" + re.sub(r"<\w+:(\w+)>", r"{\1}", response.resolver_match.route)
    operation = openapi()["paths"].get(template, {}).get(response.request["REQUEST_METHOD"].lower())
    if operation is None or response.status_code in (405, 413, 415):
        return  # what holds for any path is not repeated for each
    promised = operation["responses"][str(response.status_code)]
    if "content" not in promised:
        assert not response.content
        return
    if "*/*" in promised["content"]:  # a file
        return
    schema = {**promised["content"]["application/json"]["schema"], "components": openapi()["components"]}
    Draft202012Validator(schema).validate(response.json())


class Caller:
    """Calls the API with a token; without a user, with none."""

    def __init__(self, user: User | None, tenant: Tenant | None = None, role: str = "") -> None:
        self.headers: dict[str, str] = {}
        self.client = Client()
        if user:
            membership = user.memberships.select_related("tenant").first()
            tenant = tenant or (membership.tenant if membership else None)
            assert tenant is not None
            _, text = create_token(user, tenant, role=role, life=dt.timedelta(days=1), by=Actor("system", "test"))
            self.headers["Authorization"] = f"Bearer {text}"

    def __call__(self, method: str, path: str, body: Any = None, /, **headers: str) -> Any:
        """The response. ``body`` is sent as JSON; header names are written with underscores."""
        extra = {name.replace("_", "-"): value for name, value in headers.items()}
        given = {} if method == "GET" else {"data": b"" if body is None else body, "content_type": "application/json"}
        url = path if path.startswith(("/api/", "http")) else f"{V1}{path}"
        response = getattr(self.client, method.lower())(url, headers={**self.headers, **extra}, **given)
        verify_promise(response)
        return response

    def get(self, path: str, **headers: str) -> Any:
        return self("GET", path, **headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        return self("POST", path, body, **headers)


def attrs(response: Any) -> set[str | None]:
    """What a refusal blames."""
    return {error["attr"] for error in response.json()["errors"]}


def is_refusal(response: Any, status: int) -> bool:
    """Whether it is an error of this status in the one shape of errors."""
    body = response.json()
    return (
        response.status_code == status
        and set(body) == {"type", "errors"}
        and bool(body["errors"])
        and all(set(error) == {"code", "detail", "attr"} for error in body["errors"])
    )
