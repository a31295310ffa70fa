"""When a region is left alone, and when it is tried again: facts in, decision out, the clock passed in.

A :class:`Circuit` is closed (calls go there), open (none do), or half open (one call decides). While it is open, one
prober at a time asks whether the region answers at all; when it does, the next real call closes the circuit or opens it
again. A prober holds a lease: one that dies keeps nobody from probing once its lease is over, and what it reports later
changes nothing.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """``failures`` within ``window_s`` seconds open a circuit, if at least ``share`` of the calls meanwhile failed.

    The share keeps a region open to calls whose few errors are many only because its calls are: one in a hundred is
    what failover is for. While open, it is probed every ``probe_every_s`` seconds.
    """

    failures: int = 5
    window_s: float = 30.0
    share: float = 0.5
    probe_every_s: float = 15.0


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that failed. ``calls`` is how many its process made there since its last failure, this one included."""

    at: dt.datetime
    calls: int = 1


@dataclass(frozen=True, slots=True)
class Probe:
    """Who may try the region, until when."""

    token: uuid.UUID
    expires_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Circuit:
    """The state of one region's breaker. Every method answers with the state after it; the same object: no change.

    ``held``: opened by a person, and closed by nobody but a person.
    """

    state: State = State.CLOSED
    failures: tuple[Failure, ...] = ()
    next_probe_at: dt.datetime | None = None
    probe: Probe | None = None
    held: bool = False

    def failed(self, failures: Iterable[Failure], policy: BreakerPolicy, *, now: dt.datetime) -> Circuit:
        """Failures of calls. Those that come in while it is not closed are late news, and change nothing."""
        if self.state is not State.CLOSED:
            return self
        oldest = now - dt.timedelta(seconds=policy.window_s)
        known = sorted((f for f in (*self.failures, *failures) if f.at > oldest), key=lambda f: f.at)
        recent = tuple(known[-policy.failures :])
        if len(recent) < policy.failures or len(recent) < policy.share * _calls_among(recent):
            return replace(self, failures=recent)
        return self._opened(policy, now)

    def is_due(self, now: dt.datetime) -> bool:
        """Whether somebody should claim the probe."""
        if self.held or self.state is State.CLOSED:
            return False
        if self.probe is not None:
            return self.probe.expires_at <= now
        return self.next_probe_at is not None and self.next_probe_at <= now

    def claimed(self, token: uuid.UUID, *, now: dt.datetime, lease_s: float) -> Circuit:
        """The probe taken by a prober, for ``lease_s`` seconds; no change when it is not due or another has it."""
        if not self.is_due(now):
            return self
        return replace(self, state=State.OPEN, probe=Probe(token, now + dt.timedelta(seconds=lease_s)))

    def answered(self, token: uuid.UUID, *, now: dt.datetime, lease_s: float) -> Circuit:
        """The region answers: half open, for the one call that the prober sends there within ``lease_s`` seconds."""
        if self.state is not State.OPEN or not self._holds(token):
            return self
        return replace(self, state=State.HALF_OPEN, probe=Probe(token, now + dt.timedelta(seconds=lease_s)))

    def passed(self, token: uuid.UUID) -> Circuit:
        """The prober's call succeeded, or none contradicted the good answer in time: closed."""
        return Circuit() if self.state is State.HALF_OPEN and self._holds(token) else self

    def refused(self, token: uuid.UUID, policy: BreakerPolicy, *, now: dt.datetime) -> Circuit:
        """The prober got no answer, or its call failed: open, until the next probe."""
        return self._opened(policy, now) if self._holds(token) else self

    def proved(self) -> Circuit:
        """A call sent there for want of anything better succeeded: closed, unless a person opened it."""
        return self if self.held or self.state is State.CLOSED else Circuit()

    def opened_by_hand(self) -> Circuit:
        return self if self.held else Circuit(State.OPEN, held=True)

    def closed_by_hand(self) -> Circuit:
        return self if self.state is State.CLOSED else Circuit()

    def _opened(self, policy: BreakerPolicy, now: dt.datetime) -> Circuit:
        return Circuit(State.OPEN, next_probe_at=now + dt.timedelta(seconds=policy.probe_every_s))

    def _holds(self, token: uuid.UUID) -> bool:
        return self.probe is not None and self.probe.token == token


def _calls_among(failures: tuple[Failure, ...]) -> int:
    """Calls from the first of these failures to the last, as far as those who report failures made them."""
    return 1 + sum(failure.calls for failure in failures[1:])
