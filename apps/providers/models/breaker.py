"""The breaker of a region as all workers share it."""

from __future__ import annotations

import datetime as dt
from typing import ClassVar

from django.db import models
from django.utils import timezone

from apps.providers.breaker import Circuit, Failure, Probe, State
from apps.providers.models.region import Region


class BreakerState(models.TextChoices):
    CLOSED = State.CLOSED.value, "Closed"
    OPEN = State.OPEN.value, "Open"
    HALF_OPEN = State.HALF_OPEN.value, "Half open"


class Breaker(models.Model):
    """A row for each region that ever failed. It is changed by :mod:`apps.providers.switching` only, under its lock."""

    region = models.OneToOneField(Region, on_delete=models.CASCADE, primary_key=True, related_name="breaker")
    state = models.CharField(max_length=9, choices=BreakerState, default=BreakerState.CLOSED)
    since = models.DateTimeField(default=timezone.now, help_text="When the state last changed.")
    cause = models.CharField(max_length=500, blank=True)
    failures = models.JSONField(default=list, help_text="Times, and calls since the one before.")
    failed_at = models.DateTimeField(null=True, help_text="When a call or a probe last failed there.")
    last_error = models.CharField(max_length=300, blank=True, help_text="What that one met with.")
    next_probe_at = models.DateTimeField(null=True)
    probe_token = models.UUIDField(null=True)
    probe_expires_at = models.DateTimeField(null=True)
    is_held = models.BooleanField(default=False, help_text="Opened by a person, and closed by nobody else.")
    slowed_until = models.DateTimeField(null=True, help_text="The region asked for fewer calls until then.")
    checked_at = models.DateTimeField(null=True, help_text="When it was last asked whether it answers.")

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=models.Q(probe_token__isnull=True, probe_expires_at__isnull=True)
                | models.Q(probe_token__isnull=False, probe_expires_at__isnull=False),
                name="probe_has_token_and_end",
            ),
            models.CheckConstraint(
                condition=~models.Q(state="closed") | models.Q(probe_token__isnull=True, is_held=False),
                name="closed_breaker_has_no_probe",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.region}: {self.get_state_display().lower()}"

    @property
    def circuit(self) -> Circuit:
        probe = None
        if self.probe_token is not None and self.probe_expires_at is not None:
            probe = Probe(self.probe_token, self.probe_expires_at)
        failures = tuple(Failure(dt.datetime.fromtimestamp(at, dt.UTC), calls) for at, calls in self.failures)
        return Circuit(State(self.state), failures, self.next_probe_at, probe, self.is_held)

    def move(self, circuit: Circuit, *, cause: str, now: dt.datetime) -> bool:
        """Takes over a circuit's state and saves; whether the state itself changed. The row is locked by the caller."""
        changed = circuit.state is not State(self.state)
        if changed or circuit.held != self.is_held:
            self.cause = cause[:500]
        self.state = BreakerState(circuit.state.value)
        self.failures = [[failure.at.timestamp(), failure.calls] for failure in circuit.failures]
        self.next_probe_at = circuit.next_probe_at
        self.probe_token = circuit.probe.token if circuit.probe else None
        self.probe_expires_at = circuit.probe.expires_at if circuit.probe else None
        self.is_held = circuit.held
        if changed:
            self.since = now
        self.save()
        return changed
