"""Kills a worker at each line of saving files: ``python -m tests.file_killer``; the leased tasks come on stdin.

For each distinct line of ``MODULES`` that it comes to, a forked process makes one attempt at the next of the tasks (it
saves a small file and a large one, and writes its result) and is killed (SIGKILL) right before that line. On stdout, a
JSON line for each: {"task", "killed"}. The last attempt ends by itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import sys
from functools import partial
from typing import Any

import django

if __name__ == "__main__":
    django.setup()

# Once, before processes part: it takes a while.
from django.core.files.storage import storages
from django.utils import timezone

from apps.execution import results
from apps.execution.artifacts import storing
from apps.execution.artifacts.saving import AttemptFiles
from apps.execution.leases import Leased
from portal.batching import Batcher, DatabaseThread
from tests import desk
from tests.killer import forked, killed_at

MODULES = ("/artifacts/storing.py", "/artifacts/recording.py", "/portal/storage.py")
SMALL = b"small"
LARGE = b"large" * 300_000


def attempt(leased: Leased) -> None:
    """An attempt as a runner makes it: files announced and stored while it runs, recorded with its result."""

    async def main() -> None:
        thread = DatabaseThread("leases")
        announcer: Batcher[Any, None] = Batcher(thread, storing.announce, interval_s=0.04)
        store = storing.FileStore(announcer.submit, now=timezone.now)
        files = AttemptFiles(store, leased)
        await files.save("small.txt", SMALL)
        await files.save("large.bin", LARGE)
        done = desk.done(leased, files.close(), timezone.now())
        await thread.run(lambda: results.write([done], now=timezone.now()))
        store.close()
        await thread.aclose()

    asyncio.run(main())


def main() -> None:
    storages["artifacts"].exists("x")  # loads its backend
    for number, leased in enumerate(pickle.load(sys.stdin.buffer), start=1):
        status = forked(killed_at(number, partial(attempt, leased), MODULES))
        killed = os.WIFSIGNALED(status)
        sys.stdout.write(json.dumps({"task": str(leased.task_id), "killed": killed}) + "\n")
        sys.stdout.flush()
        if not killed:
            sys.exit(status != 0)
    sys.exit("there are more lines than tasks")


if __name__ == "__main__":
    main()
