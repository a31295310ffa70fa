"""Calls that were answered from the response cache: nothing is owed for them, and the ledger says so."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from django.db import connection

from apps.costs.entries import NewEntry, write
from apps.costs.models import Kind


@dataclass(frozen=True, slots=True)
class CachedCall:
    """A call that was not made, as its answer was kept from ``age_s`` seconds ago.

    ``saved`` is what the answer cost at today's price, in nano-dollars; None where that is not known. ``degraded``: it
    was older than the agent wants, and no region answered. Its ``id`` is used once.
    """

    id: uuid.UUID
    tenant_id: uuid.UUID
    subject_id: uuid.UUID | None
    swarm_id: uuid.UUID | None
    task_id: uuid.UUID | None
    attempt_id: uuid.UUID | None
    agent: str
    model: str
    age_s: float
    saved: int | None = None
    degraded: bool = False

    @property
    def note(self) -> str:
        """What the ledger says of it."""
        why = ", as no region answered" if self.degraded else ""
        return f"Answered from the cache{why}: the answer was {_span(self.age_s)} old."


def record(calls: Sequence[CachedCall], *, now: dt.datetime) -> int:
    """Writes an entry of nothing for each call, in the current transaction; how many.

    Calls that have theirs already get no other one, so a batch that is repeated changes nothing.
    """
    wanted = {call.id: call for call in calls}
    with connection.cursor() as cursor:
        cursor.execute("SELECT reservation_id FROM costs_ledgerentry WHERE reservation_id = ANY(%s)", [list(wanted)])
        for (id,) in cursor.fetchall():
            del wanted[id]
    entries = [
        NewEntry(
            tenant_id=call.tenant_id,
            kind=Kind.LLM,
            amount=0,
            subject_id=call.subject_id,
            swarm_id=call.swarm_id,
            task_id=call.task_id,
            attempt_id=call.attempt_id,
            reservation_id=call.id,
            agent=call.agent,
            model=call.model,
            saved=call.saved or 0,
            note=call.note,
        )
        for call in wanted.values()
    ]
    return len(write(entries, now=now))


def _span(seconds: float) -> str:
    """A span as a person says it: "12 s", "4 min", "3.5 h"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
