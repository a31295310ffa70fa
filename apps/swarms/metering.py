"""What swarms hold and keep, for the costs that accrue by the hour."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator

from django.db import connection

from apps.costs.accrual import AgentMeter, Held, StorageMeter, register_meter
from apps.swarms.models import Holding


def held(start: dt.datetime, end: dt.datetime) -> Iterator[Held]:
    """What was held from ``start`` to ``end``, cut to those times. One query."""
    rows = Holding.objects.between(start, end).order_by("id")
    for tenant_id, swarm_id, agents, since, until in rows.values_list(
        "tenant_id", "swarm_id", "agents", "since", "until"
    ):
        yield Held(tenant_id, swarm_id, agents, max(since, start), min(until or end, end))


def first_held() -> dt.datetime | None:
    """When the pool was first taken from; None if it never was."""
    return Holding.objects.order_by("id").values_list("since", flat=True).first()


def result_bytes() -> dict[uuid.UUID, int]:
    """Bytes of the results of tasks, as the database keeps them (compressed where they are long), by tenant."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT s.tenant_id, sum(t.bytes)::bigint FROM (
                SELECT swarm_id, sum(pg_column_size(result)) AS bytes FROM swarms_task
                WHERE result IS NOT NULL GROUP BY swarm_id
            ) t JOIN swarms_swarm s ON s.id = t.swarm_id GROUP BY s.tenant_id
            """
        )
        return dict(cursor.fetchall())


def register() -> None:
    """Called once, when the apps are ready."""
    register_meter(AgentMeter("Agents of swarms", held, first_held))
    register_meter(StorageMeter("Task results", result_bytes))
