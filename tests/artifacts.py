"""Artifacts for tests, written as rows: in the database, or as an object in storage."""

from __future__ import annotations

import hashlib
import io
from typing import Any

from django.core.files.base import File
from django.core.files.storage import storages

from apps.execution.models import Artifact, LooseObject
from apps.swarms.models import Swarm, Task
from tests.swarms import NOW


def make_artifact(
    of: Task | Swarm, name: str = "report.md", data: bytes = b"# Report\n", *, stored: bool = False, **fields: Any
) -> Artifact:
    """A file of a task, or of a swarm without one; ``stored`` puts its bytes into object storage."""
    task, swarm = (of, of.swarm) if isinstance(of, Task) else (None, of)
    key = LooseObject.new_key(swarm.tenant_id, swarm.pk) if stored else ""
    if stored:
        storages["artifacts"].save(key, File(io.BytesIO(data)))
    made: Artifact = Artifact.objects.create(
        swarm=swarm,
        tenant_id=swarm.tenant_id,
        task=task,
        name=name,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        content=None if stored else data,
        key=key,
        **{"media_type": "text/markdown", "created_at": NOW, **fields},
    )
    return made
