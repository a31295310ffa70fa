"""Kills a process at each line of what it does, and repeats: ``python -m tests.killer store|hand_out ID...``.

For each distinct line of ``apps.execution.archiving`` and ``portal.storage`` that the work comes to, a forked process
does it for the next of the swarms with these ids and is killed (SIGKILL) right before that line; then another one does
it to its end. On stdout, a JSON line for each: {"id", "killed", "left" (how things stood then)}; on stderr the places.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import django

MODULES = ("/apps/execution/archiving.py", "/portal/storage.py")


def forked(work: Callable[[], Any]) -> int:
    """Does it in a process of its own; that process's wait status."""
    from django.db import connections

    connections.close_all()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if work() is not False else 3
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


def killed_at(number: int, work: Callable[[], Any], modules: tuple[str, ...] = MODULES) -> Callable[[], Any]:
    """The work, which kills its process before the ``number``-th distinct line of these modules it comes to."""

    def doomed() -> Any:
        seen: set[tuple[str, int]] = set()

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            if not frame.f_code.co_filename.endswith(modules):
                return None
            if event == "line":
                seen.add((frame.f_code.co_filename, frame.f_lineno))
                if len(seen) == number:
                    sys.stderr.write(f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}\n")
                    sys.stderr.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        threading.settrace(trace)  # of threads that begin from now on
        sys.settrace(trace)
        try:
            return work()
        finally:
            sys.settrace(None)

    return doomed


def main(what: str, *ids: str) -> None:
    django.setup()
    import uuid

    from django.core.files.storage import storages
    from django.utils import timezone
    from django_q.models import OrmQ

    from apps.execution import archiving
    from apps.execution.models import Archive
    from apps.swarms.models import Swarm

    storages["archive"].exists("x")  # imported once, before the processes part
    later = timezone.now() + dt.timedelta(days=1)

    def left(swarm_id: str) -> dict[str, Any]:
        archive = Archive.objects.filter(swarm_id=swarm_id).first()
        return {
            "archived": Swarm.objects.get(pk=swarm_id).archived_at is not None,
            "stored": bool(archive and archive.is_stored),
            "whole": bool(archive and archive.key and storages["archive"].size(archive.key) == archive.size),
            "tries": archive.tries if archive else 0,
            "jobs": sum(job.task["kwargs"]["archive_id"] == str(archive.pk) for job in OrmQ.objects.all())
            if archive and what == "hand_out"
            else 0,
        }

    for number, swarm_id in enumerate(ids, start=1):

        def work(swarm_id: str = swarm_id, now: dt.datetime = later + number * dt.timedelta(hours=2)) -> Any:
            if what == "hand_out":
                return archiving.hand_out(now=now)  # later each time, so that it is due again
            return archiving.store(Archive.objects.values_list("pk", flat=True).get(swarm_id=uuid.UUID(swarm_id)))

        status = forked(killed_at(number, work))
        told = {"id": swarm_id, "killed": os.WIFSIGNALED(status), "left": left(swarm_id)}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
        if not told["killed"]:
            return
        # Its session ends a moment after it, and with that its lock.
        deadline, patience = time.monotonic() + 10, threading.Event()
        while (status := forked(work)) == 3 << 8 and not left(swarm_id)["stored"] and time.monotonic() < deadline:
            patience.wait(0.02)
        if status not in (0, 3 << 8):
            sys.exit(f"the repeat failed: {status}")
    sys.exit("there are more lines than ids")


if __name__ == "__main__":
    main(*sys.argv[1:])
