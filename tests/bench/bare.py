"""The benchmark's agents in a bare asyncio process: ``python -m tests.bench.bare PORT FIRST COUNT CONCURRENCY``.

Prints ``ready`` when everything is loaded, waits for a line, runs, and prints its processor seconds.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    import django

    django.setup()
    from tests.bench.agents import run_bare

    port, first, count, concurrency = map(int, sys.argv[1:])
    asyncio.run(run_bare(port, first, 1, 1))  # imports and first-use costs, which long-lived workers have paid too
    print("ready", flush=True)
    sys.stdin.readline()
    before = time.process_time()
    asyncio.run(run_bare(port, first, count, concurrency))
    print(time.process_time() - before, flush=True)


if __name__ == "__main__":
    main()
