#!/usr/bin/env python
"""Command-line door to Swarmdesk."""

import os
import sys


def main() -> None:
    if sys.argv[1:2] == ["simulate_provider"]:
        # It needs neither settings nor models, and is started often: by `up`, tests, drills and benchmarks.
        from apps.providers.simulator import main as simulate_provider

        sys.exit(simulate_provider(sys.argv[2:]))

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    from portal import commands

    commands.main(sys.argv)


if __name__ == "__main__":
    main()
