"""Runs the orchestrator until it is told to stop."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from django.db import connection
from django.db.backends.signals import connection_created

from apps.execution.orchestrator import Orchestrator
from portal.commands import Command as BaseCommand
from portal.processes import handled_beside

STOP_WITHIN_S = 1.5


class Command(BaseCommand):
    help = (
        "Runs the orchestrator: admits swarms, takes back ended leases, releases due retries. Start as many as you "
        "like: one leads, the others stand by and take over within ten seconds. Ends on SIGTERM within two seconds."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        orchestrator, ended = Orchestrator(), threading.Event()

        def stop() -> None:
            orchestrator.stop()
            # A statement that waits for a lock is not waited for: what it would have done is rolled back.
            if not ended.wait(STOP_WITHIN_S):
                os._exit(0)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, handled_beside(stop))
        connection_created.connect(_bound_statements, dispatch_uid="orchestrator")
        connection.close()
        orchestrator.run()
        ended.set()


def _bound_statements(*, connection: Any, **_: Any) -> None:
    """A lock or a statement that takes too long fails its duty, instead of keeping the leader from all others."""
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = '5s'; SET statement_timeout = '20s'")
