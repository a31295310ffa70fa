"""Putting the bytes of a file where they belong, before the row that names them.

A process that dies between any two steps leaves either nothing, or a row of ``LooseObject`` with or without its object:
the row is committed before the first byte is sent, and goes in the transaction that records the artifact.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import io
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.core.files.storage import storages

from apps.execution.errors import FileNotStored
from apps.execution.leases import Leased
from apps.execution.models import LooseObject
from portal.ids import uuid7
from portal.redaction import redacted
from portal.storage import Described

UPLOADS = 8
"""Files that one process sends to object storage at a time."""
IN_LOOP = 64 * 1024
"""Bytes whose digest is made at once; that of more is made on a thread, as an event loop has others to serve."""


@dataclass(frozen=True, slots=True)
class FileLimits:
    """Sizes in bytes: up to ``in_database`` of a file lie in the database; ``largest`` is the most that is taken."""

    in_database: int
    largest: int
    per_task: int

    @classmethod
    def from_settings(cls) -> FileLimits:
        return cls(settings.ARTIFACT_DATABASE_BYTES, settings.ARTIFACT_MAX_BYTES, settings.ARTIFACTS_PER_TASK)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file whose bytes are safe: in ``content``, to be written with its row, or in object storage under ``key``."""

    id: uuid.UUID
    name: str
    media_type: str
    size: int
    sha256: str
    content: bytes | None
    key: str
    created_at: dt.datetime


class FileStore:
    """Stores files for all attempts of a process. ``announce(loose)`` adds to a batch; a future of its commit."""

    def __init__(
        self,
        announce: Callable[[LooseObject], asyncio.Future[Any]],
        *,
        limits: FileLimits | None = None,
        now: Callable[[], dt.datetime],
    ) -> None:
        self.limits = limits or FileLimits.from_settings()
        self._announce = announce
        self._now = now
        self._threads = ThreadPoolExecutor(UPLOADS, thread_name_prefix="files")

    async def store(self, leased: Leased, name: str, media_type: str, data: bytes) -> StoredFile:
        """A file of an attempt; where it is large, it lies in object storage then. Raises FileNotStored."""
        at, loop = self._now(), asyncio.get_running_loop()
        if len(data) <= IN_LOOP:
            digest = hashlib.sha256(data).hexdigest()
        else:
            digest = await loop.run_in_executor(self._threads, lambda: hashlib.sha256(data).hexdigest())
        if len(data) <= self.limits.in_database:
            return StoredFile(uuid7(), name, media_type, len(data), digest, data, "", at)
        key = LooseObject.new_key(leased.tenant_id, leased.swarm_id)
        await self._announce(LooseObject(key=key, attempt_id=leased.token, since=at))
        file = Described(
            io.BytesIO(data),
            media_type=media_type,
            metadata={"swarm": str(leased.swarm_id), "type": media_type, "created": at.isoformat()},
        )
        try:
            await loop.run_in_executor(self._threads, _put, key, file)
        except Exception as error:
            reason = redacted(f"{type(error).__name__}: {error}".split("\n", 1)[0])[:500]
            raise FileNotStored(name, reason) from error
        return StoredFile(uuid7(), name, media_type, len(data), digest, None, key, at)

    def close(self) -> None:
        """Waits for no upload: what is under way belongs to attempts that are over, and is swept."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _put(key: str, file: Described) -> None:
    stored = storages["artifacts"].save(key, file)
    if stored != key:
        raise RuntimeError(f"The storage kept it as {stored} instead of {key}: it must replace what has that name.")


def announce(loose: Sequence[LooseObject]) -> list[None]:
    """Writes rows of objects that are about to be stored. Safe to repeat after a lost connection."""
    LooseObject.objects.bulk_create(loose, ignore_conflicts=True)
    return [None] * len(loose)
