"""What the tests of agents elsewhere share: events as they are sent, and reservations."""

from __future__ import annotations

import datetime as dt
import itertools
from typing import Any

from django.utils import timezone

_numbers = itertools.count(1)


def event(**changes: Any) -> dict[str, Any]:
    """An event of acme that has just cost a tenth of a dollar; a value of None leaves the key out."""
    fields = {
        "event_id": f"event-{next(_numbers)}",
        "tenant": "acme",
        "time": ago(seconds=0),
        "agent": "crawler",
        "amount_usd": "0.10",
        **changes,
    }
    return {key: value for key, value in fields.items() if value is not None}


def ago(**delta: float) -> str:
    """RFC 3339 of a moment before now; negative for one ahead."""
    return (timezone.now() - dt.timedelta(**delta)).isoformat()


def tokens(**changes: Any) -> dict[str, Any]:
    """An event of a model call that is priced by its tokens."""
    fields = {"amount_usd": None, "model": "simulated:small", "input_tokens": 1000, "output_tokens": 100}
    return event(**{**fields, **changes})
