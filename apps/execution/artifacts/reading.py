"""Reading an artifact, wherever its bytes lie, and noticing when they are not what they were."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import structlog
from django.core.files.storage import storages

from apps.execution.errors import ArtifactUnreadable
from portal.storage import stream

if TYPE_CHECKING:
    from apps.execution.models import Artifact

log = structlog.get_logger(__name__)

BUFFER = 256 * 1024
"""Bytes read ahead, so that many small reads are few requests to whatever is below."""


def open_artifact(artifact: Artifact) -> BinaryIO:
    """The artifact's bytes, as a file that is read once and checked on the way. Raises ArtifactUnreadable."""
    if not artifact.key:
        found = artifact.content_bytes() or b""
        if len(found) != artifact.size or hashlib.sha256(found).hexdigest() != artifact.sha256:
            raise ArtifactUnreadable(artifact.name, "its bytes in the database are not those that were saved")
        return io.BytesIO(found)
    try:
        source = stream(storages["artifacts"], artifact.key)
    except Exception as error:
        raise _unreadable(artifact, error) from error
    return cast("BinaryIO", io.BufferedReader(_Checked(artifact, source), BUFFER))


class _Checked(io.RawIOBase):
    """What a store sends, held against the size and the SHA-256 that were recorded.

    The last bytes are handed out only when all of them are right: who downloads never has a whole wrong file.
    """

    def __init__(self, artifact: Artifact, source: Any) -> None:
        self._artifact = artifact
        self._source = source
        self._left = artifact.size
        self._digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._left)
        if not wanted:
            return 0
        try:
            chunk = self._source.read(wanted)
        except Exception as error:
            raise _unreadable(self._artifact, error) from error
        if not chunk:
            self._refuse(f"{self._left:,} of its {self._artifact.size:,} bytes are missing in object storage")
        self._left -= len(chunk)
        self._digest.update(chunk)
        if not self._left and (self._source.read(1) or self._digest.hexdigest() != self._artifact.sha256):
            self._refuse("its object in storage is not what was saved")
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def _refuse(self, why: str) -> None:
        log.error("artifact_unreadable", artifact=str(self._artifact.pk), key=self._artifact.key, reason=why)
        raise ArtifactUnreadable(self._artifact.name, why)

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()


def _unreadable(artifact: Artifact, error: Exception) -> ArtifactUnreadable:
    gone = isinstance(error, FileNotFoundError)
    why = "its object is not in storage any more" if gone else f"object storage failed: {type(error).__name__}"
    log.error("artifact_unreadable", artifact=str(artifact.pk), key=artifact.key, reason=why, error=str(error)[:500])
    return ArtifactUnreadable(artifact.name, why)
