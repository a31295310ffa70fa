"""Attempts in flight, and how a runner flies them."""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from django.conf import settings

from apps.execution.artifacts.saving import AttemptFiles
from apps.execution.gate import CallContext
from apps.execution.leases import Leased


class Stop(StrEnum):
    """Why an attempt in flight is cancelled."""

    STOPPED = "stopped"  # its swarm was, by a person or by a budget
    HANDED_BACK = "handed back"  # this process ends
    LEASE_LOST = "lease lost"  # somebody else has the task now


@dataclass(slots=True)
class Flight:
    """An attempt in flight."""

    leased: Leased
    expires_at: dt.datetime
    task: asyncio.Task[None] | None = None
    context: CallContext | None = None
    stop: Stop | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    files: AttemptFiles | None = None


@dataclass(frozen=True, slots=True)
class RunnerConfig:
    """How a runner works; seconds unless said otherwise."""

    concurrency: int = 200
    lease_s: float = 30.0
    lifetime_s: float = 3600.0
    grace_s: float = 45.0
    write_reserve_s: float = 5.0  # of the grace, kept for writing what was cut short

    @classmethod
    def from_settings(cls) -> RunnerConfig:
        return cls(
            concurrency=settings.RUNNER_CONCURRENCY,
            lease_s=settings.LEASE_SECONDS,
            lifetime_s=settings.RUNNER_LIFETIME_S,
            grace_s=settings.GRACE_SECONDS,
        )
