"""Requests made up from the published schema, against the real API: no 5xx, and no answer that breaks the schema.

Every operation is asked as an admin and as a viewer of a tenant with swarms, budgets and costs. The suite sends few
requests, ``python -m tests.fuzz_api`` thousands.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import hypothesis
import schemathesis
from django.db import transaction
from django.test import Client
from django.urls import Resolver404
from hypothesis import HealthCheck, Phase, errors
from jsonschema import Draft202012Validator

from tests.api_client import openapi


@dataclass
class Found:
    """What came of it: answers by status, and one line for each operation and fault."""

    answers: Counter[int] = field(default_factory=Counter)
    faults: dict[str, str] = field(default_factory=dict)

    @property
    def asked(self) -> int:
        return self.answers.total()


class Fuzzer:
    """Asks operations as several callers in turn; ``known`` are ids that exist, by the path they are of."""

    def __init__(self, callers: list[dict[str, str]], known: dict[str, list[str]]) -> None:
        self.callers = itertools.cycle(callers)
        self.known = known
        self.found = Found()
        self.client = Client(raise_request_exception=False)
        self.validators: dict[str, Draft202012Validator] = {}

    def run(self, *, examples: int, only: str = "", seed: int | None = None) -> Found:
        """Asks every operation of the schema ``examples`` times. What an answer changed is rolled back."""
        schema = schemathesis.openapi.from_dict(openapi())
        for result in schema.get_all_operations():
            operation: Any = result.ok()  # type: ignore[union-attr]
            if only not in f"{operation.method.upper()} {operation.path}":
                continue
            for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
                self._ask_often(operation, mode, examples, seed)
        return self.found

    def _ask_often(self, operation: Any, mode: Any, examples: int, seed: int | None) -> None:
        try:
            cases = operation.as_strategy(generation_mode=mode)
        except Exception as unable:  # there is nothing wrong that can be sent to an operation without parameters
            if mode == schemathesis.GenerationMode.NEGATIVE:
                return
            raise RuntimeError(f"{operation.method} {operation.path}") from unable

        @hypothesis.given(case=cases)
        @hypothesis.settings(
            max_examples=max(examples // 2, 1),
            database=None,
            deadline=None,
            derandomize=seed is None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def ask(case: Any) -> None:
            self._ask(case)

        if seed is not None:
            ask = hypothesis.seed(seed)(ask)
        with suppress(errors.Unsatisfiable):
            ask()

    def _ask(self, case: Any) -> None:
        path, method = case.operation.path, case.operation.method.upper()
        url = path
        ids = next((ids for start, ids in self.known.items() if path.startswith(start)), [])
        for name, value in (case.path_parameters or {}).items():
            # Half of the ids are of things that exist, so that there is more to read than 404.
            known = ids and self.found.asked % 4 < 3
            url = url.replace(f"{{{name}}}", str(ids[self.found.asked % len(ids)] if known else value))
        request: dict[str, Any] = {}
        if method not in ("GET", "DELETE"):
            body = case.body
            if not isinstance(body, str | bytes | int | float | bool | dict | list | type(None)):
                body = None
            raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body, default=str).encode()
            request = {"data": raw, "content_type": "application/json"}
        headers = {
            name: str(value)
            for name, value in (case.headers or {}).items()
            if str(value).isprintable() and str(value).isascii()
        }
        query = _query(case.query)
        with transaction.atomic():
            started = time.perf_counter()
            response = self.client.generic(
                method, url, **request, QUERY_STRING=query, headers={**headers, **next(self.callers)}
            )
            took = time.perf_counter() - started
            transaction.set_rollback(True)
        self.found.answers[response.status_code] += 1
        if fault := self._fault(f"{method} {path}", case.operation, response):
            sent = f"{method} {url}?{query} {str(request.get('data', ''))[:300]} {headers}"
            self.found.faults.setdefault(f"{method} {path}: {fault[:200]}", f"{sent} ({took:.2f} s)")

    def _fault(self, name: str, operation: Any, response: Any) -> str:
        """What is wrong with an answer; empty when nothing is."""
        status = response.status_code
        if status >= 500:
            return f"{status}: {getattr(response, 'exc_info', None) and response.exc_info[1]!r}"
        if not _is_of(_route(response), operation.path):
            return "" if status == 404 else f"{status} from elsewhere"
        promised = openapi()["paths"][operation.path][operation.method.lower()]["responses"].get(str(status))
        if promised is None:
            return f"{status} is not in the schema: {response.content[:200]!r}"
        media = response.headers.get("Content-Type", "").split(";")[0]
        content = promised.get("content", {})
        if not response.streaming and not response.content and not content:
            return ""
        if "*/*" in content:  # a file
            return ""
        if media not in content:
            return f"{status} with {media or 'no'} content is not in the schema"
        if media != "application/json":
            return ""
        key = f"{name} {status}"
        if key not in self.validators:
            schema = {**content[media]["schema"], "components": openapi()["components"]}
            self.validators[key] = Draft202012Validator(schema)
        error = next(self.validators[key].iter_errors(response.json()), None)
        return f"{status} breaks the schema at {list(error.absolute_path)}: {error.message}" if error else ""


def _route(response: Any) -> str:
    """The pattern of the address that was answered; empty where none matched."""
    try:
        return response.resolver_match.route if response.resolver_match else ""
    except Resolver404:
        return ""


def _query(given: Any) -> str:
    from urllib.parse import urlencode

    pairs = {str(name): value for name, value in (given or {}).items()}
    return urlencode(pairs, doseq=True, errors="replace")


def _is_of(route: str, path: str) -> bool:
    return len(route.strip("/").split("/")) == len(path.strip("/").split("/"))


def world() -> Fuzzer:
    """A tenant with something of everything, and its callers."""
    from apps.audit.trail import Actor
    from apps.swarms.models import Task
    from apps.tenants.actions import create_token
    from apps.tenants.models import ApiToken, Membership, Tenant, User
    from apps.tenants.roles import Role
    from tests.admin_rows import make_rows

    tenant, _ = Tenant.objects.get_or_create(slug="fuzzed", defaults={"name": "Fuzzed"})
    make_rows(tenant, 3)
    callers = []
    for role in (Role.ADMIN, Role.ADMIN, Role.VIEWER):
        user, _ = User.objects.get_or_create(username=f"fuzz-{role}")
        Membership.objects.get_or_create(user=user, tenant=tenant, role=role)
        _, text = create_token(user, tenant, life=dt.timedelta(days=1), by=Actor("system", "fuzz"))
        callers.append({"Authorization": f"Bearer {text}"})
    return Fuzzer(callers, _ids(tenant.pk, Task, ApiToken))


def _ids(tenant_id: Any, task: Any, token: Any) -> dict[str, list[str]]:
    from apps.costs.models import Budget
    from apps.costs.models import ExternalReservation as Held
    from apps.execution.models import Artifact
    from apps.swarms.models import Agent, Swarm
    from apps.webhooks.models import Delivery, Webhook

    def texts(rows: Any) -> list[str]:
        return [str(pk) for pk in rows[:10]]

    return {
        "/api/v1/swarms/": texts(Swarm.objects.filter(tenant_id=tenant_id).values_list("pk", flat=True)),
        "/api/v1/tasks/": texts(task.objects.filter(swarm__tenant_id=tenant_id).values_list("pk", flat=True)),
        "/api/v1/artifacts/": texts(Artifact.objects.filter(tenant_id=tenant_id).values_list("pk", flat=True)),
        "/api/v1/agents/": texts(Agent.objects.filter(swarm__tenant_id=tenant_id).values_list("pk", flat=True)),
        "/api/v1/budgets/": texts(Budget.objects.filter(tenant_id=tenant_id).values_list("pk", flat=True)),
        "/api/v1/webhooks/": texts(Webhook.objects.filter(tenant_id=tenant_id).values_list("pk", flat=True)),
        "/api/v1/deliveries/": texts(Delivery.objects.filter(tenant_id=tenant_id).values_list("pk", flat=True)),
        "/api/v1/tokens/": texts(token.objects.filter(tenant_id=tenant_id).values_list("uid", flat=True)),
        "/api/v1/costs/reservations/": texts(Held.objects.filter(tenant_id=tenant_id).values_list("pk", flat=True)),
    }
