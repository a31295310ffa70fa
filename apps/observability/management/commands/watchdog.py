"""Proves the system whole, once."""

from __future__ import annotations

from typing import Any

from apps.observability import watchdog
from apps.observability.wholeness import CHECKS
from portal.commands import Command as BaseCommand


class Command(BaseCommand):
    help = (
        "Checks once whether the system is whole, as the orchestrator does every minute, and prints what is not. "
        "Exit 0: all is well; 1: something is wrong."
    )

    stealth_options = ("now",)  # the moment that it is asked of

    def handle(self, *args: Any, **options: Any) -> None:
        done = watchdog.run(now=options.get("now"))
        for name, finding in done.findings.items():
            self.stdout.write(f"{name}: {finding['about']}")
            for fault in finding["faults"]:
                self.stdout.write(f"  {fault}")
        if not done.ok:
            self.stdout.write(f"{len(done.findings)} of {len(CHECKS)} checks found something.")
            raise SystemExit(1)
        self.stdout.write(f"All is well: {len(CHECKS)} checks in {done.seconds:.2f} s.")
