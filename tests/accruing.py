"""A process that accrues until told otherwise, to be raced and killed: ``python -m tests.accruing NOW``.

It says "." on stdout for each hour it is done with; an error ends it with exit code 1 and a traceback on stderr.
"""

from __future__ import annotations

import datetime as dt
import os
import sys
import traceback

import django

PROCESSES = 8


def main(now: str) -> None:
    """Forks PROCESSES processes that all accrue the same hours, each of which says its process id first."""
    django.setup()
    from apps.costs.accrual import accrue

    def tell(*_: object) -> None:
        sys.stdout.write(".\n")
        sys.stdout.flush()

    for _ in range(PROCESSES):
        if os.fork() == 0:
            sys.stdout.write(f"{os.getpid()}\n")
            sys.stdout.flush()
            try:
                accrue(now=dt.datetime.fromisoformat(now), progress=tell)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
    os.close(1)
    sys.stdin.read()
    sys.exit(max(os.WEXITSTATUS(status) for _, status in (os.wait() for _ in range(PROCESSES))))


if __name__ == "__main__":
    main(*sys.argv[1:])
