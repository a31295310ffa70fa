"""Recording the files of attempts that succeeded, in the transaction that records their results."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence

from apps.events.log import NewEvent, emit
from apps.execution.artifacts.storing import StoredFile
from apps.execution.leases import Leased
from apps.execution.models import Artifact, LooseObject

ROWS = 500
BYTES = 4_000_000
"""Most rows, and about the most bytes of content, of one statement."""


def record(files: Sequence[tuple[Leased, StoredFile]], *, now: dt.datetime) -> None:
    """Writes files as artifacts of their tasks. The caller has found that each attempt's result was taken.

    A few statements, however many files there are.
    """
    for some in _portions([_artifact(leased, file) for leased, file in files]):
        Artifact.objects.bulk_create(some)
    if keys := [file.key for _, file in files if file.key]:
        LooseObject.objects.filter(key__in=keys).delete()
    emit(
        [
            # Neither its name nor anything else that an agent wrote: events cannot be erased.
            NewEvent(
                "artifact.created",
                leased.tenant_id,
                leased.swarm_id,
                leased.task_id,
                {"artifact_id": str(file.id), "size": file.size},
            )
            for leased, file in files
        ],
        now=now,
    )


def _artifact(leased: Leased, file: StoredFile) -> Artifact:
    return Artifact(
        id=file.id,
        swarm_id=leased.swarm_id,
        tenant_id=leased.tenant_id,
        task_id=leased.task_id,
        attempt_id=leased.token,
        name=file.name,
        media_type=file.media_type,
        size=file.size,
        sha256=file.sha256,
        content=file.content,
        key=file.key,
        created_at=file.created_at,
    )


def _portions(artifacts: Sequence[Artifact]) -> Iterator[list[Artifact]]:
    portion: list[Artifact] = []
    size = 0
    for artifact in artifacts:
        more = 0 if artifact.key else artifact.size
        if portion and (len(portion) >= ROWS or size + more > BYTES):
            yield portion
            portion, size = [], 0
        portion.append(artifact)
        size += more
    if portion:
        yield portion
