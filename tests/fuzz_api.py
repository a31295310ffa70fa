"""Thousands of requests made up from the published schema, in a database of its own.

``python -m tests.fuzz_api [--examples N] [--only TEXT] [--seed N]`` prints how many answers had which status and every
fault with the request that shows it: a 5xx, or an answer that breaks the schema. It ends with 1 when there is one.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from contextlib import suppress

from tests.bench.setting import setting


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_api", description=__doc__.partition("\n")[0])
    parser.add_argument("--examples", type=int, default=100, metavar="N", help="requests to each operation")
    parser.add_argument("--only", default="", metavar="TEXT", help="operations such as 'POST /api/v1/swarms/'")
    parser.add_argument("--seed", type=int, default=None, metavar="N", help="other requests than the usual ones")
    arguments = parser.parse_args()

    with setting():
        # Only now: settings are those of the database that was just made.
        from django.conf import settings

        from tests.fuzzing import world

        logging.getLogger("django.request").setLevel(logging.CRITICAL)
        settings.RATE_LIMITS = dict.fromkeys(settings.RATE_LIMITS, 0)
        settings.ALLOWED_HOSTS = ["testserver"]
        started = time.monotonic()
        fuzzer = world()
        with suppress(KeyboardInterrupt):  # Ctrl-C: what was found so far
            fuzzer.run(examples=arguments.examples, only=arguments.only, seed=arguments.seed)
        found = fuzzer.found
    for fault, sent in found.faults.items():
        sys.stdout.write(f"{fault}\n    {sent}\n")
    statuses = ", ".join(f"{count} x {status}" for status, count in sorted(found.answers.items()))
    sys.stdout.write(f"{found.asked} requests in {time.monotonic() - started:.0f} s: {statuses}\n")
    sys.stdout.write(f"{len(found.faults)} faults\n")
    return 1 if found.faults else 0


if __name__ == "__main__":
    sys.exit(main())
