"""The orchestrator: one leader that admits swarms, takes back ended leases, and releases due retries.

It wakes on hints (NOTIFY), when something falls due, and at least every five seconds. Its duties are safe to repeat
and safe beside each other, so a leader that dies anywhere loses nothing, and two leaders for a moment do no harm.
"""

from __future__ import annotations

import datetime as dt
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import psycopg
import structlog
from django.db import Error as DatabaseFailure
from django.db import connection
from django.utils import timezone

from apps.costs import reserving
from apps.execution import archiving, leases, trying
from apps.execution.leadership import Leadership
from apps.execution.models import Tick
from apps.swarms import admission
from portal.notify import Channel, Listener
from portal.redaction import redacted

log = structlog.get_logger(__name__)

TICK_S = 5.0
"""Longest time between two ticks, and between two recorded ones."""
BUSY_RECORD_S = 1.0
"""Shortest time between two recorded ticks: a busy second is one row."""
GAP_S = 0.05
"""Shortest time between two ticks: a burst of hints is answered together."""
OVERDUE_S = 0.5
"""How soon to look again at what is due but could not be done (its swarm was locked)."""
TELL_S = 1.0
"""Shortest time between two rounds that tell everybody in the queue how things stand."""
STAND_BY_S = 2.0
"""How often a stand-by tries to take over."""
STUCK_S = 45.0
"""After so long without a tick, a stand-by takes the lead from a leader that hangs."""


class Work(Protocol):
    def __call__(self, *, now: dt.datetime) -> int | None:
        """Does what is due at ``now``; how much it did (0 or None: nothing)."""


@dataclass(frozen=True, slots=True)
class Duty:
    """Something the leader does: on every tick, or at most every ``every_s`` seconds."""

    name: str
    every_s: float
    work: Work


_registered: dict[str, Duty] = {}


def register_duty(name: str, every_s: float, work: Work) -> None:
    """Adds a duty of an upper layer; call it in the app's ``ready()``. The name appears in the ticks.

    ``work`` runs on the leader only, as ``work(now=...)``, and answers with a count. It must be quick (seconds), and
    safe to repeat: a new leader starts with all duties at once. Raises ValueError when the name is taken.
    """
    if name in _registered and _registered[name].work is not work:
        raise ValueError(f"there is a duty called {name!r} already")
    _registered[name] = Duty(name, every_s, work)


def registered_duties() -> list[Duty]:
    """The duties of upper layers, in the order in which they were registered."""
    return list(_registered.values())


@dataclass(slots=True)
class _Unrecorded:
    """What ticks did since the last one that was recorded."""

    did: Counter[str] = field(default_factory=Counter)
    errors: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


class Orchestrator:
    """``run()`` until ``stop()``. Only the process that holds the lock acts; the others stand by."""

    def __init__(
        self,
        *,
        name: str | None = None,
        duties: Sequence[Duty] | None = None,
        clock: Callable[[], dt.datetime] = timezone.now,
    ) -> None:
        self.name = name or f"{socket.gethostname()}/{os.getpid()}"
        self._duties = duties
        self._clock = clock
        self._leadership = Leadership()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._last_run: dict[str, float] = {}
        self._told_at: float | None = None
        self._recorded_at: float | None = None
        self._unrecorded = _Unrecorded()

    @property
    def duties(self) -> list[Duty]:
        """What a tick does, in order."""
        if self._duties is not None:
            return list(self._duties)
        return [
            Duty("expired", 0, leases.expire),
            Duty("released", 0, leases.release_due),
            Duty("admitted", 0, self._admit),
            Duty("charged", 0, reserving.charge_expired),
            Duty("tries", TICK_S, trying.close_overdue),
            Duty("archiving", archiving.EVERY_S, archiving.hand_out),
            *registered_duties(),
        ]

    def stop(self) -> None:
        """Asks ``run()`` to return."""
        self._stop.set()
        self._wake.set()

    def wake(self) -> None:
        """Asks for a tick soon."""
        self._wake.set()

    def run(self) -> None:
        """Stands by, leads, and stands by again when the lead is lost, until stopped. Outlives any lost database."""
        listener = Listener([Channel.ADMIT], lambda channel, payload: self.wake(), self.wake)
        listener.start()
        patience = 0.5
        try:
            while not self._stop.is_set():
                try:
                    self._stand_by()
                    patience = 0.5
                    self._lead()
                except Exception as error:
                    self._report(error, patience)
                    self._leadership.release()
                    connection.close()
                    self._stop.wait(patience)
                    patience = min(patience * 2, 4.0)
        finally:
            listener.stop()
            self._leadership.release()
            connection.close()

    def _report(self, error: Exception, patience: float) -> None:
        if isinstance(error, DatabaseFailure | psycopg.Error):
            reason = str(error).split("\n", 1)[0] or type(error).__name__
            log.warning("database_lost", error=reason, again_in_s=patience)
        else:
            log.error("orchestrator_failed", again_in_s=patience, exc_info=error)

    def _stand_by(self) -> None:
        """Returns when this process leads or should stop."""
        if self._leadership.acquire():
            return
        log.info("standing_by", name=self.name)
        while not self._stop.wait(STAND_BY_S) and not self._leadership.acquire():
            self._leadership.oust(after_s=STUCK_S)

    def _lead(self) -> None:
        """Ticks until stopped or no longer the leader."""
        if not self._stop.is_set():
            log.info("leading", name=self.name)
        self._last_run.clear()
        self._recorded_at = self._told_at = None
        while not self._stop.is_set():
            if not self._leadership.holds():
                log.warning("lead_lost", name=self.name)
                return
            self._wake.clear()
            began = time.monotonic()
            pause = self.tick()
            took = time.monotonic() - began
            # A slow tick is given as long a rest, so that hints cannot keep the database busy all the time.
            rest = max(GAP_S - took, min(took, 1.0))
            self._stop.wait(rest)
            self._wake.wait(max(pause - rest, 0.0))

    def tick(self) -> float:
        """Does every duty that is due once; seconds until the next tick is due.

        A duty that fails is logged, recorded, and keeps none of the others from being done. Raises a database error
        when the tick cannot be recorded.
        """
        began = time.monotonic()
        now = self._clock()
        notes = self._unrecorded
        for duty in self.duties:
            last = self._last_run.get(duty.name)
            if duty.every_s and last is not None and began - last < duty.every_s:
                continue
            self._last_run[duty.name] = began
            try:
                done = duty.work(now=now)
            except Exception as error:
                log.error("duty_failed", duty=duty.name, exc_info=error)
                notes.errors[duty.name] = f"{type(error).__name__}: {error}".split("\n", 1)[0][:500]
                _mend_connection()
            else:
                if done:
                    notes.did[duty.name] += done
        notes.seconds = max(notes.seconds, time.monotonic() - began)
        self._record(now)
        return self._pause(now)

    def _admit(self, *, now: dt.datetime) -> int:
        began = time.monotonic()
        tell = self._told_at is None or began - self._told_at >= TELL_S
        if tell:
            self._told_at = began
        return admission.admit(now=now, tell=tell).admitted

    def _record(self, now: dt.datetime) -> None:
        """Writes a tick: at least every five seconds, and soon after something was done or failed."""
        notes, clock = self._unrecorded, time.monotonic()
        since = TICK_S if self._recorded_at is None else clock - self._recorded_at
        # A tick may come a moment before it is due; one that is left out would make the gap longer than promised.
        if since < (BUSY_RECORD_S if notes.did or notes.errors else TICK_S - 2 * GAP_S):
            return
        Tick.objects.create(
            at=now,
            leader=self.name,
            seconds=round(notes.seconds, 4),
            ok=not notes.errors,
            error=redacted("\n".join(f"{name}: {error}" for name, error in notes.errors.items())),
            did=dict(notes.did),
        )
        self._recorded_at, self._unrecorded = clock, _Unrecorded()

    def _pause(self, now: dt.datetime) -> float:
        """Seconds until something is due: a retry, the end of a lease, a registered duty, or just the next tick."""
        clock = time.monotonic()
        pauses = [TICK_S if self._recorded_at is None else self._recorded_at + TICK_S - clock]
        pauses += [
            self._last_run[duty.name] + duty.every_s - clock
            for duty in self.duties
            if duty.every_s and duty.name in self._last_run
        ]
        if due := leases.next_due():
            pauses.append(max((due - now).total_seconds(), OVERDUE_S if due <= now else GAP_S))
        return max(min(pauses), 0.0)


def _mend_connection() -> None:
    """Drops a connection that broke, so that the next duty gets a new one."""
    if not connection.in_atomic_block:
        connection.close_if_unusable_or_obsolete()
