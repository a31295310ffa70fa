"""The document that is kept of a swarm: all that it was told, all that it did, and what that cost. Format 1.

It is JSON in gzip, and the same rows make the same bytes::

    {"format": 1,
     "swarm": {...}, "spec": {...}, "cost": {"llm_usd": "0.12", ..., "total_usd": "0.12"},
     "agents": [{...}], "steps": [{...}],
     "tasks": [{..., "attempts": [{...}]}],
     "artifacts": [{"name": "brief.md", "size": 1423, "place": "database", "key": "", ...}],
     "events": [{...}]}

The spec is as it was submitted; the swarm's ``overrides`` are what the tenant's agent overrides changed in it, as
``{"writer": {"model": [before, after]}}``. Money is in USD as decimal text, times are RFC 3339 in UTC, ids are text.
Tasks are in the order of their steps, attempts, artifacts and events in the order in which they happened. Artifacts are
told of, not contained: their bytes stay where they lie, in the database or in object storage under their key.
"""

from __future__ import annotations

import datetime as dt
import gzip
import json
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import IO, Any

from apps.costs.models import LedgerEntry
from apps.events.models import Event
from apps.execution.models import Artifact, Attempt
from apps.swarms.models import Agent, Priority, Step, Swarm, Task
from portal.money import usd_text

FORMAT = 1
"""Of the layout. A change that a reader of the old layout would trip over is a new number."""
PAGE = 100
"""Tasks in memory at a time, with their results and attempts: each may carry a long prompt."""
EVENTS_PAGE = 1000
FILES_PAGE = 1000

SWARM = (
    "id", "tenant_id", "name", "status", "status_reason", "stop_code", "priority", "subject_id", "submitted_by_id",
    "overrides", "estimated_duration_s", "agents_asked", "memory_gb_asked", "cpu_asked",
    "tasks_total", "tasks_succeeded", "tasks_failed", "tasks_cancelled",
    "created_at", "queued_at", "started_at", "finished_at",
)  # fmt: skip
AGENT = (
    "id", "name", "runtime", "model", "instructions", "options", "replicas", "memory_gb", "cpu", "max_output_tokens",
    "timeout_s", "retry",
)  # fmt: skip
STEP = ("id", "name", "agent_id", "position", "prompt", "needs", "is_fan_out", "tasks_total")
TASK = (
    "id", "step_id", "agent_id", "index", "item", "status", "attempts_counted", "started_at", "finished_at", "result",
    "failure_code", "error", "degraded",
)  # fmt: skip
ATTEMPT = (
    "id", "number", "runner_id", "started_at", "finished_at", "outcome", "failure_code", "error", "context", "requests",
    "input_tokens", "output_tokens", "files_created",
)  # fmt: skip
ARTIFACT = ("id", "task_id", "attempt_id", "name", "media_type", "size", "sha256", "key", "created_at")
COST = ("llm", "infrastructure", "storage", "adjustment", "total")
EVENT = ("id", "at", "kind", "task_id", "data")


def write(swarm: Swarm, file: IO[bytes]) -> None:
    """Writes the document of a swarm, compressed, to a file.

    The caller's transaction sees one moment throughout (REPEATABLE READ). Memory does not grow with the tasks but for
    their ids: a page of them is read and written at a time.
    """
    with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=6, mtime=0) as compressed:
        for text in _texts(swarm):
            compressed.write(text.encode())


def _texts(swarm: Swarm) -> Iterator[str]:
    """The document in pieces, one row a line."""
    cost = LedgerEntry.objects.of_swarms([swarm.pk])[swarm.pk]
    amounts = {f"{kind}_usd": usd_text(getattr(cost, kind)) for kind in COST}
    facts = {name: getattr(swarm, name) for name in SWARM} | {"priority": Priority(swarm.priority).name.lower()}
    yield f'{{"format": {FORMAT},\n"swarm": {_text(facts)},\n"spec": {_text(swarm.spec)},\n"cost": {_text(amounts)}'
    yield from _list("agents", Agent.objects.filter(swarm=swarm).order_by("pk").values(*AGENT))
    yield from _list("steps", Step.objects.filter(swarm=swarm).order_by("position").values(*STEP))
    yield from _list("tasks", _tasks(swarm))
    yield from _list("artifacts", _artifacts(swarm))
    yield from _list("events", _events(swarm))
    yield "}\n"


def _list(name: str, rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    yield f',\n"{name}": ['
    between = "\n"
    for row in rows:
        yield f"{between}{_text(row)}"
        between = ",\n"
    yield "]"


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=_plain)


def _plain(value: Any) -> str:
    match value:
        case dt.datetime():
            return value.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
        case Decimal():
            return format(value, "f")
        case uuid.UUID():
            return str(value)
    raise TypeError(f"{type(value).__name__} has no place in an archive")


def _tasks(swarm: Swarm) -> Iterator[dict[str, Any]]:
    ids = list(Task.objects.filter(swarm=swarm).order_by("step__position", "index").values_list("pk", flat=True))
    for start in range(0, len(ids), PAGE):
        page = ids[start : start + PAGE]
        attempts: dict[uuid.UUID, list[dict[str, Any]]] = defaultdict(list)
        made = Attempt.objects.filter(task__in=page).order_by("started_at", "pk")
        for attempt in made.values("task_id", "estimated", "cost", *ATTEMPT):
            estimated, cost = attempt.pop("estimated"), attempt.pop("cost")
            money = {"estimated_usd": usd_text(estimated), "cost_usd": usd_text(cost)}
            attempts[attempt.pop("task_id")].append(attempt | money)
        rows = {row["id"]: row for row in Task.objects.filter(pk__in=page).order_by().values(*TASK)}
        for pk in page:
            yield rows[pk] | {"attempts": attempts[pk]}


def _artifacts(swarm: Swarm) -> Iterator[dict[str, Any]]:
    kept = Artifact.objects.filter(swarm=swarm).order_by("pk").values(*ARTIFACT)
    page = list(kept[:FILES_PAGE])
    while page:
        for row in page:
            yield row | {"place": "object storage" if row["key"] else "database"}
        page = list(kept.filter(pk__gt=page[-1]["id"])[:FILES_PAGE]) if len(page) == FILES_PAGE else []


def _events(swarm: Swarm) -> Iterator[dict[str, Any]]:
    seen = 0
    happened = Event.objects.filter(swarm_id=swarm.pk).order_by("pk").values(*EVENT)
    while page := list(happened.filter(pk__gt=seen)[:EVENTS_PAGE]):
        yield from page
        seen = page[-1]["id"]
