"""What ``manage.py work`` is told of its cluster, put where django-q2 and the settings look for it.

They read it from the environment while they are imported. Imports nothing of Django: it is asked before that.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence

WORKERS_VARIABLE = {"agents": "AGENT_WORKERS", "ops": "OPS_WORKERS"}


def environment(cluster: str, workers: int | None, worker_class: str | None) -> dict[str, str]:
    """The variables that say the same as these options."""
    told = {"Q_CLUSTER_NAME": cluster}
    if workers is not None:
        told[WORKERS_VARIABLE[cluster]] = str(workers)
    if worker_class is not None:
        told["WORKER_CLASS"] = worker_class
    return told


def set_from(arguments: Sequence[str]) -> None:
    """Sets the variables for this process. Options that will not do are left to the command, which says why."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--cluster", choices=list(WORKERS_VARIABLE), default="agents")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--class", dest="worker_class")
    try:
        told, _ = parser.parse_known_args(arguments)
    except argparse.ArgumentError:
        return
    if told.workers is not None and told.workers < 1:
        return
    if told.worker_class is not None and not re.fullmatch(r"[a-z][a-z0-9-]{0,39}", told.worker_class):
        return
    os.environ.update(environment(told.cluster, told.workers, told.worker_class))
