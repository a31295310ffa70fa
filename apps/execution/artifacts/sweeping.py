"""Removing what attempts left in object storage: of those that failed, were stopped, or died with their worker.

What is to go is known from rows of ``LooseObject``, so nothing is listed. An attempt whose lease token is no task's can
never become current again, so its objects will not be recorded: they are removed without a lock, as often as it takes.
"""

from __future__ import annotations

import datetime as dt

import structlog
from django.core.files.storage import storages
from django.db.models import Exists, OuterRef

from apps.execution.models import LooseObject
from apps.swarms.models import Task, TaskStatus
from portal.redaction import redacted

log = structlog.get_logger(__name__)

GRACE = dt.timedelta(hours=6)
"""How long an object is left alone. An upload goes on when its attempt is over, and must end before its row goes."""
MOST = 2_000
"""Objects removed by one job."""
PAGE = 200
GIVE_UP_AFTER = 5
"""Failures in a row after which the storage is taken to be down."""


def sweep(*, now: dt.datetime, most: int = MOST) -> int:
    """Removes objects that no attempt can claim any more; how many. What cannot be removed stays for the next time."""
    storage = storages["artifacts"]
    current = Task.objects.filter(status=TaskStatus.RUNNING, lease_token=OuterRef("attempt_id"))
    due = LooseObject.objects.filter(~Exists(current), since__lt=now - GRACE).order_by("since", "key")
    removed = failed = 0
    keys = list(due.values_list("key", flat=True)[:most])
    for start in range(0, len(keys), PAGE):
        gone = []
        for key in keys[start : start + PAGE]:
            try:
                storage.delete(key)
            except Exception as error:
                failed += 1
                log.warning("object_not_removed", key=key, error=redacted(str(error).split("\n", 1)[0])[:500])
                if failed >= GIVE_UP_AFTER:
                    break
            else:
                failed = 0
                gone.append(key)
        LooseObject.objects.filter(key__in=gone).delete()
        removed += len(gone)
        if failed >= GIVE_UP_AFTER:
            break
    if removed:
        log.info("objects_removed", count=removed)
    return removed
