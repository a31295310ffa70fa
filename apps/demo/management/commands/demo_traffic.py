from __future__ import annotations

import signal
import threading
from typing import Any

import structlog
from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError, close_old_connections

from apps.demo.traffic import Traffic
from apps.swarms.actions.submit import CannotSubmit
from apps.swarms.specs import SpecInvalid
from portal.commands import Command as BaseCommand
from portal.processes import handled_beside

log = structlog.get_logger(__name__)


class Command(BaseCommand):
    help = (
        "Submits small, varied swarms for the demo tenants, one after another, until it is told to end. It skips its "
        "turn while many wait, and while a tenant has spent what its budget has for the time."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--every", type=float, default=20.0, metavar="S", help="Seconds from one to the next, about. Default: 20."
        )
        parser.add_argument("--count", type=int, default=0, metavar="N", help="End after N turns. Default: never.")
        parser.add_argument("--seed", type=int, default=None, metavar="N", help="Draw the same swarms each time.")

    def handle(self, *args: Any, every: float, count: int, seed: int | None, **options: Any) -> None:
        if not 0 <= every <= 86_400:
            raise CommandError("--every is from 0 to 86400 seconds.")
        if count < 0:
            raise CommandError("--count is 0 (no end) or more.")
        if not every and not count:
            raise CommandError("--every 0 would never rest: give --count too.")
        ending = threading.Event()
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        is_main = threading.current_thread() is threading.main_thread()
        for number in before if is_main else ():
            signal.signal(number, handled_beside(ending.set))
        try:
            self._run(Traffic(seed), every, count, ending)
        finally:
            for number, handler in before.items() if is_main else ():
                signal.signal(number, handler)

    def _run(self, traffic: Traffic, every: float, count: int, ending: threading.Event) -> None:
        turns, said = 0, ""
        while not ending.is_set():
            why = ""
            try:
                swarm, why = traffic.submit_one()
                if swarm:
                    log.info("demo_submitted", name=swarm.name, tenant=swarm.tenant.slug, swarm=str(swarm.pk))
            except (SpecInvalid, CannotSubmit) as refusal:
                why = f"refused: {refusal}"
            except DatabaseError as error:
                why = f"the database does not answer: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
                close_old_connections()
            if why and why != said:
                log.info("demo_skipped", reason=why)
            said = why
            turns += 1
            if count and turns >= count:
                return
            ending.wait(every * traffic.chance.uniform(0.5, 1.5))
