"""Writing and reading the event log.

Reading order is the order of ids, and a reader gets only ids below the horizon, under which everything is decided
(:mod:`apps.events.horizon`). So no row can appear later behind a reader's position: nothing is skipped and nothing is
seen twice. What happened before is read before: an act that waited for another's commit draws its ids after it.
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import connection, transaction
from django.db.models import Q
from django.utils import timezone

from apps.events.horizon import readable
from apps.events.models import Consumer, Event
from portal.notify import Channel

START = 0
"""The position before the first event. A position is the id of the last event seen."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to be written. ``kind`` is noun, dot, verb in the past: "swarm.terminated"."""

    kind: str
    tenant_id: uuid.UUID | None = None
    swarm_id: uuid.UUID | None = None
    task_id: uuid.UUID | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


def emit(events: Iterable[NewEvent], *, now: dt.datetime | None = None) -> None:
    """Writes events in the current transaction, in the order given, and wakes readers when it commits."""
    rows = list(events)
    if not rows:
        return
    at = now or timezone.now()
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH written AS (
                INSERT INTO events_event (at, kind, tenant_id, swarm_id, task_id, data)
                SELECT %s, e.* FROM unnest(%s::text[], %s::uuid[], %s::uuid[], %s::uuid[], %s::jsonb[]) AS e
            )
            SELECT pg_notify(%s, '{}')
            """,
            [
                at,
                [row.kind for row in rows],
                [row.tenant_id for row in rows],
                [row.swarm_id for row in rows],
                [row.task_id for row in rows],
                [json.dumps(dict(row.data)) if row.data else "{}" for row in rows],
                Channel.EVENTS,
            ],
        )


WRITTEN = """
    events_written AS (
        INSERT INTO events_event (at, kind, tenant_id, swarm_id, task_id, data)
        SELECT %(now)s, kind, tenant_id, swarm_id, task_id, data FROM happened
    )
"""
"""SQL for a statement that changes many rows and writes an event for each: a CTE that reads those of its CTE
``happened`` (kind, tenant_id, swarm_id, task_id, data). Such events never travel to Python and back. The statement also
selects ``TOLD``.
"""
TOLD = f"(SELECT pg_notify('{Channel.EVENTS}', '{{}}')::text)"
"""SQL: wakes readers when the transaction commits, if the statement selects any row."""


def read(after: int, *conditions: Q, limit: int = 500, upto: int | None = None, **filters: Any) -> list[Event]:
    """The next events after a position, at most ``limit``, oldest first; those that QuerySet filters let through.

    ``upto`` is a horizon read earlier (``readable()``), for a caller inside a transaction.
    """
    horizon = readable() if upto is None else upto
    return list(Event.objects.filter(*conditions, pk__gt=after, pk__lte=horizon, **filters).order_by("pk")[:limit])


def exists(event_id: int) -> bool:
    """Whether there is such an event (still: old months are dropped)."""
    return Event.objects.filter(pk=event_id).exists()


def has_behind(position: int) -> bool:
    """Whether there are rows behind a position, readable already or not (their transactions may still be open)."""
    return Event.objects.filter(pk__gt=position).order_by().exists()


def consume(name: str, handle: Callable[[Sequence[Event]], None], *, limit: int = 500, **filters: Any) -> int:
    """Hands the next events to a durable consumer and moves its offset, in one transaction; how many there were.

    A crash before the commit leaves the offset where it was, so ``handle`` sees the events again: its effects must be
    in the same database, or idempotent. Two processes with one name take turns (row lock). With ``filters`` of a
    QuerySet it is handed only those events, and its offset moves past the others. Three queries while nothing is new.
    """
    known, _ = Consumer.objects.get_or_create(name=name)
    horizon = readable()
    if horizon <= known.event_id:
        return 0
    with transaction.atomic():
        consumer = Consumer.objects.select_for_update().get(name=name)
        events = read(consumer.event_id, limit=limit, upto=horizon, **filters)
        if events:
            handle(events)
            consumer.event_id = events[-1].pk
        if filters and len(events) < limit:
            consumer.event_id = max(horizon, consumer.event_id)
        if consumer.event_id != known.event_id:
            consumer.save()
    return len(events)
