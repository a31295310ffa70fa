from __future__ import annotations

import os
import sys
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import connection

from portal.commands import Command as BaseCommand

_WORKERS_VARIABLE = {"agents": "AGENT_WORKERS", "ops": "OPS_WORKERS"}


class Command(BaseCommand):
    help = (
        "Runs background work until SIGTERM or Ctrl-C. The cluster `agents` runs agents; `ops` runs scheduled jobs. "
        "Ends within the grace: what is in flight may finish, the rest is handed back. A second signal does not wait."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--cluster", choices=list(_WORKERS_VARIABLE), default="agents", help="Default: agents.")
        parser.add_argument("--workers", type=int, metavar="N", help="Worker processes. Default: AGENT_WORKERS or 2.")

    def handle(self, *args: Any, cluster: str, workers: int | None, **options: Any) -> None:
        if workers is not None and not 1 <= workers <= 64:
            raise CommandError("--workers is from 1 to 64.")
        from django_q.conf import Conf

        if cluster != Conf.CLUSTER_NAME or workers not in (None, Conf.WORKERS):
            # django-q2 reads its cluster from the environment while it is imported: start over with it set.
            environment = {**os.environ, "Q_CLUSTER_NAME": cluster}
            if workers is not None:
                environment[_WORKERS_VARIABLE[cluster]] = str(workers)
            sys.stdout.flush()
            os.execve(sys.executable, sys.orig_argv, environment)

        from apps.execution.supervisor import Supervisor

        connection.ensure_connection()
        Supervisor(cluster, Conf.WORKERS).run()
