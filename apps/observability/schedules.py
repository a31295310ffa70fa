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
    "Remove old deliveries of webhooks": ("apps.webhooks.tasks.prune_deliveries", dt.time(2, 30)),
    "Find what could be saved": ("apps.costs.tasks.find_advice", dt.time(3, 40)),
}
"""By name: the task's door and the time of day, in UTC."""


HOURLY: dict[str, tuple[str, int]] = {
    "Accrue infrastructure and storage": ("apps.costs.tasks.accrue_costs", 6),
    "Remove cached answers that are over": ("apps.providers.tasks.prune_caches", 36),
    "Remove files that no task kept": ("apps.execution.tasks.sweep_files", 51),
}
"""By name: the task's door and the minute of the hour."""


def ensure_schedules(**_: Any) -> int:
    """Writes the schedules that are missing; how many. Run after each migration; what an operator changed stays."""
    if Schedule._meta.db_table not in connection.introspection.table_names():
        return 0  # only some apps were migrated yet
    now = timezone.now().astimezone(dt.UTC)
    next_hour = now.replace(minute=0, second=0, microsecond=0) + dt.timedelta(hours=1)
    tomorrow = now.date() + dt.timedelta(days=1)
    wanted = [
        (name, door, Schedule.DAILY, dt.datetime.combine(tomorrow, at, dt.UTC)) for name, (door, at) in DAILY.items()
    ]
    wanted += [
        (name, door, Schedule.HOURLY, next_hour + dt.timedelta(minutes=minute))
        for name, (door, minute) in HOURLY.items()
    ]
    made = 0
    for name, door, kind, next_run in wanted:
        _, created = Schedule.objects.get_or_create(
            func=door,
            defaults={"name": name, "schedule_type": kind, "repeats": -1, "cluster": "ops", "next_run": next_run},
        )
        made += created
    return made
