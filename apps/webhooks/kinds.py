"""The kinds of events that webhooks can be about, and what of each is told: ids, numbers and codes, never text.

Reasons that people typed, names, prompts and results stay here; whoever may see them looks them up by the ids.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from apps.events.models import Event
from portal.money import usd_text

PING = "webhook.ping"
LARGEST_BODY = 16_384
"""Bytes. The specification asks for less than 20 kB."""


@dataclass(frozen=True, slots=True)
class Kind:
    """``facts`` of an event's data are told as they are; ``money`` maps facts in nano-dollars to names in USD."""

    about: str
    facts: tuple[str, ...] = ()
    money: Mapping[str, str] = field(default_factory=dict, hash=False)


_STOPPED = ("cause", "budget_id", "cancelled", "in_flight")
_PERIOD = ("budget_id", "period", "holder")
_OWED = {"owed": "owed_usd", "limit": "limit_usd"}

KINDS: dict[str, Kind] = {
    "swarm.submitted": Kind("a swarm was submitted", ("priority", "agents", "tasks", "budget_usd")),
    "swarm.queued": Kind("a swarm went back to the queue"),
    "swarm.started": Kind("a swarm was admitted and starts", ("waited_s",)),
    "swarm.running": Kind("a swarm goes on after a pause"),
    "swarm.paused": Kind("a swarm was paused"),
    "swarm.stopping": Kind("a swarm stops, with calls in flight", _STOPPED),
    "swarm.succeeded": Kind("a swarm succeeded"),
    "swarm.failed": Kind("a swarm failed", _STOPPED),
    "swarm.terminated": Kind("a swarm was stopped for good", _STOPPED),
    "swarm.retried": Kind("failed tasks of a swarm run again", ("tasks",)),
    "swarm.archived": Kind("the archive of a swarm was stored", ("size",)),
    "task.pending": Kind("a task waits for others"),
    "task.ready": Kind("a task can run"),
    "task.running": Kind("a task was taken by a runner", ("attempt",)),
    "task.waiting": Kind("an attempt failed, another follows", ("code",)),
    "task.succeeded": Kind("a task succeeded"),
    "task.failed": Kind("a task failed for good", ("code",)),
    "task.cancelled": Kind("a task was cancelled", ("code",)),
    "artifact.created": Kind("a file of a task that succeeded can be downloaded", ("artifact_id", "size")),
    "budget.created": Kind(
        "a budget was made", ("budget_id", "scope", "period", "enforcement", "limit_usd", "alert_levels")
    ),
    "budget.changed": Kind(
        "a budget was changed: each value before and after",
        ("budget_id", "enforcement", "limit_usd", "alert_levels", "is_active"),
    ),
    "budget.alert": Kind("a budget reached a level", ("level", "cause", "enforcement", *_PERIOD), _OWED),
    "budget.alert_withdrawn": Kind("a level is no longer reached", ("level", "enforcement", *_PERIOD), _OWED),
    "budget.exhausted": Kind(
        "a hard budget refused a call",
        _PERIOD,
        {"limit": "limit_usd", "spent": "spent_usd", "reserved": "reserved_usd", "asked": "asked_usd"},
    ),
    "budget.overage": Kind(
        "more was billed than was reserved",
        (*_PERIOD, "reservation_id", "external_events"),
        {"reserved": "reserved_usd", "billed": "billed_usd", "excess": "excess_usd"},
    ),
    "ledger.adjusted": Kind("a ledger entry was corrected", ("entry", "difference_usd", "owed_usd")),
    "statement.closed": Kind("a month was closed", ("statement_id", "period", "total_usd", "entries")),
    "cost_centre.created": Kind("a cost centre was made", ("cost_centre_id",)),
    "cost_centre.changed": Kind("a cost centre was changed", ("cost_centre_id",)),
    "cost_centre.deleted": Kind("a cost centre was deleted", ("cost_centre_id",)),
    "webhook.enabled": Kind("a webhook was enabled", ("webhook_id",)),
    "webhook.disabled": Kind("a webhook was disabled, by a person or by itself", ("webhook_id", "cause")),
}
"""Events of a tenant, by kind."""

PLATFORM = frozenset(
    {
        "budget.settlement_unmatched",
        "secrets.backend_down",
        "secrets.backend_recovered",
        "secrets.key_refused",
        "secrets.rotated",
        "watchdog.failed",
        "watchdog.recovered",
    }
)
"""Events of no tenant, or not for tenants: no webhook gets them."""


def body_of(event: Event, tenant: str) -> str:
    """The JSON that is sent for an event of the tenant with this slug: ``{"type", "timestamp", "data"}``."""
    known = KINDS[event.kind]
    data: dict[str, Any] = {"event_id": event.pk, "tenant": tenant}
    data |= {key: str(value) for key in ("swarm_id", "task_id") if (value := getattr(event, key))}
    facts = {key: event.data[key] for key in known.facts if key in event.data}
    # What an event lacks, or has in another shape than now, is left out: one odd event must not stop all webhooks.
    amounts = {name: event.data.get(key) for key, name in known.money.items()}
    facts |= {name: usd_text(nano) for name, nano in amounts.items() if isinstance(nano, int)}
    body = _written(event.kind, event.at, {**data, **facts})
    return body if len(body.encode()) <= LARGEST_BODY else _written(event.kind, event.at, {**data, "truncated": True})


def ping_body(tenant: str, webhook_id: str, *, now: dt.datetime) -> str:
    """What is sent to see whether a webhook works."""
    return _written(PING, now, {"tenant": tenant, "webhook_id": webhook_id})


def _written(kind: str, at: dt.datetime, data: Mapping[str, Any]) -> str:
    told = {"type": kind, "timestamp": at.astimezone(dt.UTC).isoformat().replace("+00:00", "Z"), "data": data}
    return json.dumps(told, separators=(",", ":"), ensure_ascii=False)
