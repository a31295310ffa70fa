"""Doors for the background queue."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid

from django.utils import timezone

from apps.execution.models import Runner as RunnerRow
from portal.collecting import fewer_collections

ALIVE = dt.timedelta(seconds=10)


def run_agents(node: str, wanted: int = 0) -> int:
    """Runs agents until told to stop; how many attempts it finished.

    Ends at once when ``wanted`` runners of the node are alive already (0: no such limit).
    """
    from apps.execution.runner import Runner

    alive = RunnerRow.objects.filter(node=node, finished_at=None, heartbeat_at__gt=timezone.now() - ALIVE).count()
    if wanted and alive >= wanted:
        return 0
    with fewer_collections():
        return asyncio.run(Runner(node).run())


def archive_swarm(archive_id: str) -> bool:
    """Writes an archive into object storage; False when that is done, or being done, already."""
    from apps.execution import archiving

    return archiving.store(uuid.UUID(archive_id))


def sweep_files() -> int:
    """Removes from object storage what attempts left there that came to nothing; how many objects."""
    from apps.execution.artifacts import sweeping

    return sweeping.sweep(now=timezone.now())
