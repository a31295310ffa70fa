"""Writing and reading the event log.

Reading order is (transaction id, event id), and a reader sees only rows of transactions below its snapshot's xmin, that
is, of transactions that are all decided. So no row can appear later behind a reader's position: nothing is skipped and
nothing is seen twice. Events of one swarm are in the order in which they happened, because whoever changes a swarm
takes its row lock before anything else in the transaction (PostgreSQL draws the transaction id at that first lock).
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from django.db import connection, transaction
from django.utils import timezone

from apps.events.models import Consumer, Event
from portal.notify import Channel, notify


class Position(NamedTuple):
    """A place in the log; ``START`` is before its first row."""

    xact_id: int
    event_id: int


START = Position(0, 0)


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
            INSERT INTO events_event (at, kind, tenant_id, swarm_id, task_id, data)
            SELECT %s, e.* FROM unnest(%s::text[], %s::uuid[], %s::uuid[], %s::uuid[], %s::jsonb[]) AS e
            """,
            [
                at,
                [row.kind for row in rows],
                [row.tenant_id for row in rows],
                [row.swarm_id for row in rows],
                [row.task_id for row in rows],
                [json.dumps(dict(row.data)) if row.data else "{}" for row in rows],
            ],
        )
    notify(Channel.EVENTS)


def read(after: Position, *, limit: int = 500, **filters: Any) -> list[Event]:
    """The next events after a position, at most ``limit``, oldest first; ``filters`` are QuerySet filters."""
    return list(
        Event.objects.filter(**filters)
        .extra(
            where=["(xact_id, id) > (%s, %s)", "xact_id < pg_snapshot_xmin(pg_current_snapshot())::text::bigint"],
            params=[after.xact_id, after.event_id],
        )
        .order_by("xact_id", "id")[:limit]
    )


def position_of(event_id: int) -> Position | None:
    """The position of an event a client has seen; None when there is no such event (any more)."""
    found = Event.objects.filter(pk=event_id).values_list("xact_id", "id").first()
    return Position(*found) if found else None


def head() -> Position:
    """The position behind every event that can be read now: a reader that starts here sees only what comes."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
        (xmin,) = cursor.fetchone() or (0,)
    return Position(xmin - 1, 2**63 - 1)


def has_behind(position: Position) -> bool:
    """Whether there are rows behind a position, readable already or not (their transactions may still be open)."""
    return (
        Event.objects.extra(where=["(xact_id, id) > (%s, %s)"], params=[position.xact_id, position.event_id])
        .order_by()
        .exists()
    )


def last_id() -> int:
    """Id of the last event that can be read now; 0 for an empty log."""
    found = (
        Event.objects.extra(where=["xact_id < pg_snapshot_xmin(pg_current_snapshot())::text::bigint"])
        .order_by("-xact_id", "-id")
        .values_list("id", flat=True)
        .first()
    )
    return found or 0


def consume(name: str, handle: Callable[[Sequence[Event]], None], *, limit: int = 500) -> int:
    """Hands the next events to a durable consumer and moves its offset, in one transaction; how many there were.

    A crash before the commit leaves the offset where it was, so ``handle`` sees the events again: its effects must be
    in the same database, or idempotent. Two processes with one name take turns (row lock).
    """
    Consumer.objects.get_or_create(name=name)
    with transaction.atomic():
        consumer = Consumer.objects.select_for_update().get(name=name)
        events = read(Position(consumer.xact_id, consumer.event_id), limit=limit)
        if events:
            handle(events)
            consumer.xact_id, consumer.event_id = events[-1].xact_id, events[-1].pk
            consumer.save()
    return len(events)
