"""Processes that hand out and send webhooks, for tests: ``python -m tests.webhook_sender WHAT ...``.

``send [SECONDS]`` sends what is due, by a clock so many seconds ahead, and prints how many attempts it made.
``kill HOOK`` hands out one event after the other, each in a forked process that is killed (SIGKILL) before the next
distinct line it comes to, with the rest done in this one, until none is killed; prints a JSON line for each: {"killed",
"deliveries", "jobs"}.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
from functools import partial

import django

MODULES = ("/apps/webhooks/handing_out.py", "/apps/events/log.py")


def send(ahead_s: float) -> None:
    from asgiref.sync import async_to_sync
    from django.utils import timezone

    from apps.webhooks.sending import Sender

    ahead = dt.timedelta(seconds=ahead_s)
    sys.stdout.write(f"{async_to_sync(Sender(clock=lambda: timezone.now() + ahead).run)()}\n")


def kill(hook_id: str) -> None:
    from django.utils import timezone
    from django_q.models import OrmQ

    from apps.events.models import Event
    from apps.webhooks import handing_out
    from apps.webhooks.models import Delivery, Webhook
    from tests.killer import forked, killed_at
    from tests.processes import wait_until
    from tests.webhooks import happened

    hook = Webhook.objects.select_related("tenant").get(pk=hook_id)

    def work() -> bool:
        return handing_out.hand_out(now=timezone.now()) > 0

    def work_until_it_comes() -> None:
        """Once is not always enough: readers wait while a transaction of another database is just ending."""
        wait_until(work, "the event is handed out")

    def finish(event: int) -> bool:
        work()
        return Delivery.objects.filter(event_id=event).exists()

    happened(hook.tenant)
    work_until_it_comes()  # loads what the processes then share
    Delivery.objects.all().delete()
    OrmQ.objects.all().delete()
    for number in range(1, 200):
        happened(hook.tenant)
        event = Event.objects.latest("pk").pk
        killed = os.WIFSIGNALED(forked(killed_at(number, work_until_it_comes, MODULES)))
        if killed:
            wait_until(partial(finish, event), "the event is handed out")
        told = {
            "killed": killed,
            "deliveries": Delivery.objects.filter(event_id=event).count(),
            "jobs": OrmQ.objects.count(),
        }
        sys.stdout.write(json.dumps(told) + "\n")
        Delivery.objects.all().delete()
        OrmQ.objects.all().delete()
        if not killed:
            return
    sys.exit("there are more lines than that")


if __name__ == "__main__":
    django.setup()
    match sys.argv[1:]:
        case ["send", *rest]:
            send(float(rest[0]) if rest else 0.0)
        case ["kill", hook_id]:
            kill(hook_id)
