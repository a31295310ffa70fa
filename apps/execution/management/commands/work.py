from __future__ import annotations

import os
import sys
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.db import connection

from apps.execution.cluster_named import WORKERS_VARIABLE, environment
from apps.providers.models.provider import validate_worker_class
from portal.commands import Command as BaseCommand


class Command(BaseCommand):
    help = (
        "Runs background work until SIGTERM or Ctrl-C. The cluster `agents` runs agents; `ops` runs scheduled jobs. "
        "Ends within the grace: what is in flight may finish, the rest is handed back. A second signal does not wait."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--cluster", choices=list(WORKERS_VARIABLE), default="agents", help="Default: agents.")
        parser.add_argument(
            "--class",
            dest="worker_class",
            metavar="NAME",
            help="Which keys of providers it may hold. Default: WORKER_CLASS, or the name of the cluster.",
        )
        parser.add_argument("--workers", type=int, metavar="N", help="Worker processes. Default: AGENT_WORKERS or 2.")

    def handle(self, *args: Any, cluster: str, workers: int | None, worker_class: str | None, **options: Any) -> None:
        if workers is not None and not 1 <= workers <= 64:
            raise CommandError("--workers is from 1 to 64.")
        if worker_class is not None:
            validate_worker_class(worker_class)
        from django_q.conf import Conf

        as_it_is = cluster == Conf.CLUSTER_NAME and workers in (None, Conf.WORKERS)
        if not as_it_is or worker_class not in (None, settings.WORKER_CLASS):
            # Not by manage.py, which has set it in time: start over with it set.
            sys.stdout.flush()
            os.execve(sys.executable, sys.orig_argv, {**os.environ, **environment(cluster, workers, worker_class)})

        from apps.execution.supervisor import Supervisor

        connection.ensure_connection()
        Supervisor(cluster, Conf.WORKERS).run()
