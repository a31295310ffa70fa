"""From the event log to the senders: events become deliveries, and somebody is sent for when some are due.

A duty of the orchestrator. Deliveries and the reader's position are one transaction, so each event becomes exactly one
delivery per webhook, whatever dies when. Sending is another matter, and repeats (:mod:`apps.webhooks.sending`).
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Sequence

from apps.events import log as event_log
from apps.events.models import Event
from apps.webhooks.kinds import KINDS, body_of
from apps.webhooks.models import Delivery, Webhook
from apps.webhooks.policies import LANES
from portal.queue import enqueue

CONSUMER = "webhooks"
EVERY_S = 1.0
"""How often the orchestrator looks: with the queue's half second, an event is sent within two seconds."""
BATCH = 500
MOST_BATCHES = 20
"""In one round: the leader has other duties."""
ASKED_AGAIN_AFTER = dt.timedelta(seconds=10)
"""When a sender that was sent for and does not come is taken for lost."""
NOT_BEFORE = dt.timedelta(minutes=1)
"""What happened longer than this before a webhook was made is history, and not told. Clocks of nodes differ."""
SEND = "apps.webhooks.tasks.send_webhooks"


class Caller:
    """Sends for a sender when deliveries are due that none has taken, and not twice for the same ones."""

    def __init__(self) -> None:
        self._asked_at: dt.datetime | None = None

    def call(self, *, now: dt.datetime) -> bool:
        """Enqueues the job if it is needed; whether it did.

        What was due when the job was asked for is what it comes for: while that still waits, it has not come yet.
        """
        oldest = Delivery.objects.oldest_claimable(now=now, lanes=LANES)
        if oldest is None:
            return False
        if self._asked_at and oldest <= self._asked_at and now - self._asked_at < ASKED_AGAIN_AFTER:
            return False
        enqueue(SEND)
        self._asked_at = now
        return True


_caller = Caller()


def hand_out(*, now: dt.datetime) -> int:
    """Makes deliveries of what happened, and sends for a sender if there are any to send; how many were made."""
    made = sum(_rounds(now))
    _caller.call(now=now)
    return made


def _rounds(now: dt.datetime) -> list[int]:
    made: list[int] = []

    def handle(events: Sequence[Event]) -> None:
        made.append(make_deliveries(events, now=now))

    for _ in range(MOST_BATCHES):
        tenants = set(Webhook.objects.listening().order_by().values_list("tenant_id", flat=True))
        if event_log.consume(CONSUMER, handle, limit=BATCH, tenant_id__in=tenants, kind__in=list(KINDS)) < BATCH:
            break
    return made


def make_deliveries(events: Sequence[Event], *, now: dt.datetime) -> int:
    """Writes a delivery of each event for each webhook that wants it, in the current transaction; how many."""
    hooks: dict[object, list[Webhook]] = defaultdict(list)
    for hook in (
        Webhook.objects.listening().filter(tenant_id__in={e.tenant_id for e in events}).select_related("tenant")
    ):
        hooks[hook.tenant_id].append(hook)
    rows = [
        Delivery(
            webhook=hook,
            tenant_id=hook.tenant_id,
            event_id=event.pk,
            kind=event.kind,
            swarm_id=event.swarm_id,
            body=body_of(event, hook.tenant.slug),
            next_at=now,
            created_at=now,
        )
        for event in events
        for hook in hooks[event.tenant_id]
        if hook.wants(event.kind) and event.at >= hook.created_at - NOT_BEFORE
    ]
    return len(Delivery.objects.bulk_create(rows, ignore_conflicts=True))
