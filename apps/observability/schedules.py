"""Jobs that run by the clock, on the ops cluster."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.db import connection
from django.utils import timezone
from django_q.models import Schedule

DAILY: dict[str, tuple[str, dt.time]] = {
    "Make partitions ahead": ("apps.observability.tasks.make_partitions_ahead", dt.time(2, 10)),
    "Remove old ticks, runners and watchdog runs": ("apps.observability.tasks.prune_old_rows", dt.time(2, 20)),
}
"""By name: the task's door and the time of day, in UTC."""


def ensure_schedules(**_: Any) -> int:
    """Writes the schedules that are missing; how many. Run after each migration; what an operator changed stays."""
    if Schedule._meta.db_table not in connection.introspection.table_names():
        return 0  # only some apps were migrated yet
    made = 0
    for name, (door, at) in DAILY.items():
        tomorrow = timezone.now().astimezone(dt.UTC).date() + dt.timedelta(days=1)
        _, created = Schedule.objects.get_or_create(
            func=door,
            defaults={
                "name": name,
                "schedule_type": Schedule.DAILY,
                "repeats": -1,
                "cluster": "ops",
                "next_run": dt.datetime.combine(tomorrow, at, dt.UTC),
            },
        )
        made += created
    return made
