"""Writing what runners did: settlements, outcomes, attempts and all that follows, a batch in one transaction."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from django.db import connection, transaction

from apps.costs import cached_calls, settling
from apps.costs.cached_calls import CachedCall
from apps.costs.settling import Settlement
from apps.execution.artifacts import recording
from apps.execution.artifacts.storing import StoredFile
from apps.execution.leases import Leased
from apps.execution.models import Outcome
from apps.swarms import progress
from apps.swarms.models import FailureCode, TaskStatus
from portal.database.arrays import as_rows

MAX_RESULT_CHARS = 1_000_000
DROPPED = "Its lease had ended before it did; its result was dropped."

_OUTCOMES = {
    TaskStatus.SUCCEEDED: Outcome.SUCCEEDED,
    TaskStatus.CANCELLED: Outcome.CANCELLED,
    TaskStatus.FAILED: Outcome.FAILED,
    TaskStatus.WAITING: Outcome.FAILED,
}


_OF_SPENDING = ("requests", "input_tokens", "output_tokens", "estimated", "cost")
_ATTEMPT: dict[str, str] = {
    **dict.fromkeys(("id", "task_id"), "uuid"),
    "number": "int",
    "runner_id": "uuid",
    **dict.fromkeys(("started_at", "finished_at"), "timestamptz"),
    **dict.fromkeys(("outcome", "failure_code", "error"), "text"),
    "context": "jsonb",
    **dict.fromkeys(_OF_SPENDING, "bigint"),
    "files_created": "int",
}
"""By column of an attempt: its type."""


@dataclass(slots=True)
class Spending:
    """What the calls of one attempt came to; money in nano-dollars."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    estimated: int = 0
    cost: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """One attempt that is over: what becomes of its task, how it went, and the files that it saved."""

    leased: Leased
    runner_id: uuid.UUID
    outcome: progress.TaskOutcome
    finished_at: dt.datetime
    context: dict[str, Any]
    spending: Spending = field(default_factory=Spending)
    files: Sequence[StoredFile] = ()


def write(items: Sequence[Settlement | CachedCall | Finished], *, now: dt.datetime) -> None:
    """Writes a batch in one transaction. Safe to repeat after a lost connection: tokens and reservations decide what
    still counts.
    """
    settlements = [item for item in items if isinstance(item, Settlement)]
    cached = [item for item in items if isinstance(item, CachedCall)]
    finished = [item for item in items if isinstance(item, Finished)]
    with transaction.atomic():
        # First, because runners whose agents belong to one swarm take turns from the lock of its row on. Whoever holds
        # a swarm waits for no reservation of somebody else.
        moves, _ = settling.take(settlements)
        if finished:
            progress.lock_swarms({item.leased.swarm_id for item in finished})
            recorded = progress.record([item.outcome for item in finished], now=now)
            _write_attempts([_as_taken(item, recorded) for item in finished])
            if files := _kept_files(finished, recorded):
                recording.record(files, now=now)
        settling.apply(moves, now=now)
        if cached:
            cached_calls.record(cached, now=now)


def _as_taken(item: Finished, recorded: progress.Recorded) -> Finished:
    """The attempt as it ended: one whose lease was over has failed, whatever it found out, and its result is dropped.

    A batch that is repeated finds its attempts written already, and changes nothing.
    """
    if item.leased.token in recorded.statuses or not item.outcome.counted:
        return item
    lost = replace(
        item.outcome, status=TaskStatus.FAILED, result=None, failure_code=FailureCode.LEASE_EXPIRED, error=DROPPED
    )
    return replace(item, outcome=lost)


def _kept_files(finished: Sequence[Finished], recorded: progress.Recorded) -> list[tuple[Leased, StoredFile]]:
    """The files of attempts whose success was taken; those of the others are swept."""
    return [
        (item.leased, file)
        for item in finished
        if item.files and recorded.statuses.get(item.leased.token) == TaskStatus.SUCCEEDED
        for file in item.files
    ]


def _write_attempts(finished: Sequence[Finished]) -> None:
    """Keeps every attempt, also one whose lease had ended: what it ran with and cost is true all the same."""
    if not finished:
        return
    rows, parameters = as_rows(
        _ATTEMPT,
        {
            "id": [item.leased.token for item in finished],
            "task_id": [item.leased.task_id for item in finished],
            "number": [item.leased.number for item in finished],
            "runner_id": [item.runner_id for item in finished],
            "started_at": [item.leased.started_at for item in finished],
            "finished_at": [item.finished_at for item in finished],
            "outcome": [str(_outcome(item)) for item in finished],
            "failure_code": [str(item.outcome.failure_code) for item in finished],
            "error": [item.outcome.error for item in finished],
            "context": [json.dumps(item.context) for item in finished],
            **{name: [getattr(item.spending, name) for item in finished] for name in _OF_SPENDING},
            "files_created": [len(item.files) for item in finished],
        },
    )
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO execution_attempt ({', '.join(_ATTEMPT)}) {rows} ON CONFLICT (id) DO NOTHING", parameters
        )


def _outcome(item: Finished) -> Outcome:
    return _OUTCOMES[item.outcome.status] if item.outcome.counted else Outcome.HANDED_BACK


def storable_text(value: str) -> str:
    """Text that PostgreSQL can keep: it has no NUL."""
    return value.replace("\x00", "")


def storable(result: Any) -> Any:
    """A result as it is kept. Raises ValueError when it is too large or not JSON."""
    encoded = json.dumps(result, ensure_ascii=False)
    if len(encoded) > MAX_RESULT_CHARS:
        raise ValueError(f"The result is larger than {MAX_RESULT_CHARS:,} characters.")
    return json.loads(encoded.replace("\\u0000", "")) if "\\u0000" in encoded else result
