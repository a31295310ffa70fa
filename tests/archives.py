"""Terminated swarms and what is kept of them, for tests of archives."""

from __future__ import annotations

import datetime as dt
import gzip
import json
from pathlib import Path
from typing import Any

from django.core.files.storage import storages

from apps.execution import archiving
from apps.execution.models import Archive
from apps.swarms.actions import lifecycle
from apps.swarms.models import Swarm
from apps.tenants.access import principal_of_command
from apps.tenants.models import Tenant
from tests.swarms import NOW, StepOf, make_swarm

REASON = "It wrote poems."


def files_in(directory: Path) -> dict[str, dict[str, Any]]:
    """``STORAGES`` with archives in files of this directory, and artifacts below it."""
    return {
        "default": {"BACKEND": "portal.storage.WholeFileStorage", "OPTIONS": {"location": str(directory / "other")}},
        "archive": {"BACKEND": "portal.storage.WholeFileStorage", "OPTIONS": {"location": str(directory)}},
        "artifacts": {
            "BACKEND": "portal.storage.WholeFileStorage",
            "OPTIONS": {"location": str(directory / "artifacts")},
        },
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    }


def terminated(tenant: Tenant, *, items: int = 2, now: dt.datetime = NOW) -> Swarm:
    """A swarm that was terminated before any of its tasks ran."""
    swarm = make_swarm(tenant, [StepOf("gather", items=items)], now=now)
    return lifecycle.terminate(swarm, by=principal_of_command("test"), reason=REASON, now=now)


def archived(swarm: Swarm, *, now: dt.datetime = NOW) -> Archive:
    """The swarm's archive, handed out and written as the orchestrator and a worker would."""
    archiving.hand_out(now=now)
    archive = Archive.objects.get(swarm=swarm)
    assert archiving.store(archive.pk)
    return Archive.objects.get(swarm=swarm)


def document(archive: Archive) -> dict[str, Any]:
    """What the archive's object says."""
    with storages["archive"].open(archive.key) as file:
        found: dict[str, Any] = json.loads(gzip.decompress(file.read()))
    return found
