"""The policy of the queue: who starts next, who waits for what, and until when. Facts in, decision out."""

from __future__ import annotations

import datetime as dt

TASK_BONUS = dt.timedelta(seconds=60)
"""How much earlier a ready task counts for each level of priority above low."""


def task_rank(priority: int, ready_at: dt.datetime) -> int:
    """The place of a ready task among all ready tasks, in milliseconds: the lowest runs first.

    It is the time at which the task became ready, less ``TASK_BONUS`` for each level of its swarm's priority. All
    tasks age alike, so a number that never changes orders them by priority with ageing: a critical task passes normal
    ones that are up to two minutes older, and none that is older still, so nothing starves.
    """
    return _milliseconds(ready_at) - priority * _milliseconds_of(TASK_BONUS)


def _milliseconds(at: dt.datetime) -> int:
    return (at - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(milliseconds=1)


def _milliseconds_of(span: dt.timedelta) -> int:
    return span // dt.timedelta(milliseconds=1)
