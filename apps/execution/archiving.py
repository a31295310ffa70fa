"""Archiving: what was terminated goes as one document into object storage, whatever dies or fails on the way.

The orchestrator finds swarms that were terminated and hands them out; a job of the ops cluster writes one and marks it
stored. Nothing in between has to survive: a swarm that is not archived is found, handed out and written again, each
time after a longer wait, and its row says what went wrong last.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from typing import IO

import structlog
from django.core.files.base import File
from django.core.files.storage import Storage, storages
from django.db import connection, transaction
from django.db.models import Exists, F, OuterRef
from django.utils import timezone

from apps.audit import trail
from apps.costs.models import Reservation
from apps.events.log import NewEvent, emit
from apps.execution import archive_document
from apps.execution.models import Archive
from apps.swarms.models import Swarm
from portal.queue import enqueue
from portal.redaction import redacted

log = structlog.get_logger(__name__)

EVERY_S = 5.0
"""How often the orchestrator looks."""
BATCH = 50
"""Most archives handed out at a time: the queue has other work, too."""
FIRST_WAIT = dt.timedelta(minutes=1)
"""How long a first try may take before there is another; each further one is given twice as long."""
LONGEST_WAIT = dt.timedelta(hours=1)
LOCK = 0x41524348
"""First half of the advisory locks that keep two jobs from writing one archive; the second is of the swarm."""
IN_MEMORY = 1_000_000
"""Bytes of a document that are kept in memory; what is longer goes through a temporary file."""
ARCHIVER = trail.Actor("system", "archiver")


def hand_out(*, now: dt.datetime) -> int:
    """Enqueues the writing of archives that are due; how many. A duty of the orchestrator.

    A swarm with calls in flight waits until they are settled or charged, a lease at most: its costs are in its archive.
    """
    with transaction.atomic():
        in_flight = Reservation.objects.filter(swarm_id=OuterRef("pk"))
        ended = Swarm.objects.to_archive().filter(~Exists(in_flight), archive=None)[:BATCH]
        Archive.objects.bulk_create(
            [
                Archive(swarm_id=swarm_id, tenant_id=tenant_id, created_at=now, due_at=now)
                for swarm_id, tenant_id in ended.values_list("pk", "tenant_id")
            ],
            ignore_conflicts=True,
        )
        due = list(Archive.objects.due(now).select_for_update(skip_locked=True)[:BATCH])
        free = _lock([archive.pk for archive in due])
        due = [archive for archive in due if archive.pk in free]  # the others are being written now
        for archive in due:
            archive.tries += 1
            archive.due_at = now + wait_after(archive.tries)
            enqueue("apps.execution.tasks.archive_swarm", archive_id=str(archive.pk))
        Archive.objects.bulk_update(due, ["tries", "due_at"])
    return len(due)


def _lock(archive_ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
    """Of these archives, those that nobody writes; nobody else does until the transaction ends."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM unnest(%s::uuid[]) AS id WHERE pg_try_advisory_xact_lock(%s, hashtext(id::text))",
            [list(archive_ids), LOCK],
        )
        return {pk for (pk,) in cursor.fetchall()}


def wait_after(tries: int) -> dt.timedelta:
    """How long to wait for the outcome of that many tries (1 is the first) before the next."""
    return min(FIRST_WAIT * int(2 ** min(tries - 1, 10)), LONGEST_WAIT)


def store(archive_id: uuid.UUID) -> bool:
    """Writes an archive and marks its swarm archived; whether this call did. Does nothing where it is done already.

    What goes wrong with the store is kept on the row, logged and raised; the orchestrator hands it out again.
    """
    try:
        return _store(archive_id)
    except Exception as error:
        reason = redacted(f"{type(error).__name__}: {error}".split("\n", 1)[0])[:500]
        Archive.objects.filter(pk=archive_id, stored_at=None).update(error=reason)
        log.warning("archive_failed", archive_id=str(archive_id), error=reason)
        raise


def _store(archive_id: uuid.UUID) -> bool:
    """One transaction that sees one moment and writes last: it holds nobody up while the document is on its way.

    Its lock is on no row, so it takes no transaction number before the object is stored: readers of the event log wait
    for the numbers below theirs. The object is stored before the row says so; a repeat finds the same rows, makes the
    same bytes, and stores them under the same key.
    """
    storage = storages["archive"]
    with transaction.atomic(durable=True), tempfile.SpooledTemporaryFile(IN_MEMORY) as file:
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        if not _lock([archive_id]):
            return False
        archive = Archive.objects.select_related("swarm").filter(pk=archive_id, stored_at=None).first()
        if archive is None:
            return False
        archive_document.write(archive.swarm, file)
        archive.size, archive.sha256 = _measure(file)
        archive.key = _put(storage, archive, file)
        _mark_stored(archive, now=timezone.now())
    log.info("archived", swarm_id=str(archive.swarm_id), size=archive.size)
    return True


def _measure(file: IO[bytes]) -> tuple[int, str]:
    """Size and SHA-256 of a file; leaves it at its beginning."""
    size = file.tell()
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    file.seek(0)
    return size, digest


def _put(storage: Storage, archive: Archive, file: IO[bytes]) -> str:
    """Stores the document; its key. What earlier tries left in the swarm's folder is removed.

    The key holds the digest, so that a try which was given up, and still goes on, never replaces what is stored.
    """
    folder = f"{archive.tenant_id}/{archive.swarm_id}"
    key = f"{folder}/{archive.sha256}.json.gz"
    for name in _files(storage, folder):
        if f"{folder}/{name}" != key:
            storage.delete(f"{folder}/{name}")
    stored = storage.save(key, File(file))
    if stored != key:
        raise RuntimeError(f"The storage kept it as {stored} instead of {key}: it must replace what has that name.")
    return key


def _files(storage: Storage, folder: str) -> list[str]:
    try:
        return storage.listdir(folder)[1]
    except FileNotFoundError:
        return []


def _mark_stored(archive: Archive, *, now: dt.datetime) -> None:
    facts: Mapping[str, str | int] = {"size": archive.size or 0, "sha256": archive.sha256, "key": archive.key}
    archive.stored_at, archive.error, archive.format = now, "", archive_document.FORMAT
    archive.save()
    Swarm.objects.filter(pk=archive.swarm_id).update(archived_at=now, version=F("version") + 1)
    emit([NewEvent("swarm.archived", archive.tenant_id, archive.swarm_id, data={"size": archive.size})], now=now)
    trail.record(
        ARCHIVER,
        "swarm:archive",
        archive.swarm,
        tenant_id=archive.tenant_id,
        reason=archive.get_reason_display(),
        details=facts,
    )
