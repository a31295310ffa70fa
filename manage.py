#!/usr/bin/env python
"""Command-line door to Swarmdesk."""

import gc
import os
import sys


def main() -> None:
    gc.disable()  # all that is loaded to start stays: looking for garbage in it is an eighth of the start
    if sys.argv[1:2] == ["simulate_provider"]:
        # It needs neither settings nor models, and is started often: by `up`, tests, drills and benchmarks.
        from apps.providers.simulator import main as simulate_provider

        gc.enable()
        sys.exit(simulate_provider(sys.argv[2:]))

    if sys.argv[1:2] == ["work"]:
        from apps.execution import cluster_named

        cluster_named.set_from(sys.argv[2:])

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    from portal import commands

    commands.main(sys.argv)


if __name__ == "__main__":
    main()
