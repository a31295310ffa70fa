"""What is asked of the budgets before a call, and what they answer."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from apps.costs.fitting import BIGGEST


@dataclass(frozen=True, slots=True)
class CallRequest:
    """A call that somebody wants to make. ``amount`` is the most it can cost, in nano-dollars.

    Its ``id`` is used once. Unless it is settled, released or extended before ``expires_at``, all of it is charged.
    ``run`` names a run elsewhere.
    """

    id: uuid.UUID
    tenant_id: uuid.UUID
    subject_id: uuid.UUID | None
    swarm_id: uuid.UUID | None
    task_id: uuid.UUID | None
    attempt_id: uuid.UUID | None
    agent: str
    model: str
    amount: int
    expires_at: dt.datetime
    run: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.amount <= BIGGEST:
            raise ValueError(f"cannot reserve {self.amount} nano-dollars: it must be from 0 to {BIGGEST}")


@dataclass(frozen=True, slots=True)
class Refused:
    """The budget period that refuses a call; amounts in nano-dollars."""

    budget_id: uuid.UUID
    budget: str
    key: str
    holder: str
    limit: int
    left: int
    reason: str
    may_fit_later: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a call may be made. ``reason`` says for a person which budget refuses it, ``refused`` for a program.

    ``may_fit_later``: it would fit were nothing else reserved now, so it is worth waiting for calls in flight.
    """

    id: uuid.UUID
    granted: bool
    reason: str = ""
    may_fit_later: bool = False
    refused: Refused | None = None


RESERVATION: dict[str, str] = {
    **dict.fromkeys(("id", "tenant_id", "subject_id", "swarm_id", "task_id", "attempt_id"), "uuid"),
    **dict.fromkeys(("agent", "model", "run"), "text"),
    "amount": "bigint",
    "expires_at": "timestamptz",
}
"""By column of a reservation that comes from its call: its type."""


def columns_of(calls: Sequence[CallRequest]) -> dict[str, list[Any]]:
    """The calls by column of ``RESERVATION``."""
    return {name: [getattr(call, name) for call in calls] for name in RESERVATION}


def list_of_lists(lists: Sequence[Sequence[int]]) -> list[str]:
    """Each list as PostgreSQL writes it: an array of arrays must be rectangular, so they travel as texts."""
    return [f"{{{','.join(map(str, each))}}}" for each in lists]
