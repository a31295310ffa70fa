"""How a runner gathers what its agents ask of the budgets."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Sequence

from apps.costs import reserving
from apps.costs.reserving import CallRequest, Verdict
from portal.batching import Batcher, DatabaseThread

RESERVE_INTERVAL_S = 0.02


def reservations(thread: DatabaseThread, *, now: Callable[[], dt.datetime]) -> Batcher[CallRequest, Verdict]:
    """Calls that wait for their money; each is asked for under an id of its own."""
    return Batcher(
        thread,
        lambda calls: reserving.reserve(calls, now=now(), fresh=True),
        again=lambda calls: reserving.reserve(calls, now=now()),
        interval_s=RESERVE_INTERVAL_S,
        prompt=True,
    )


def releases(thread: DatabaseThread) -> Batcher[uuid.UUID, None]:
    """Reservations that are given back."""
    return Batcher(thread, _release, interval_s=RESERVE_INTERVAL_S)


def _release(ids: Sequence[uuid.UUID]) -> list[None]:
    reserving.release(ids)
    return [None] * len(ids)
