"""Forks a simulated provider for each line on standard input: ``python -m tests.simulators``.

A line is the arguments of ``simulate_provider`` as JSON, and answered with the number of a process that serves them.
All end with this one. A test run starts dozens: each would spend a quarter of a second on loading the same modules.
"""

from __future__ import annotations

import json
import os
import signal
import sys

from apps.providers.simulator import main as simulate_provider
from portal.processes import told_when_parent_ends


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them: their numbers are free at once
    for line in sys.stdin:
        tie = told_when_parent_ends()
        pid = os.fork()
        if pid == 0:
            tie()
            nowhere = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1):
                os.dup2(nowhere, stream)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os._exit(simulate_provider(json.loads(line)))
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
