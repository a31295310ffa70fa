"""What the database keeps of readings: state, audit entries and events; written by the process that read."""

from __future__ import annotations

import datetime as dt
import os
from dataclasses import dataclass

from django.conf import settings
from django.db import transaction

from apps.audit import trail
from apps.audit.trail import Actor
from apps.events.log import NewEvent, emit
from apps.providers.models import BackendState, SecretState
from apps.providers.secrets.ring import Key


@dataclass(frozen=True, slots=True)
class Recorder:
    """Writes for one process of a class, which reads from one backend."""

    worker_class: str
    backend: str

    @property
    def actor(self) -> Actor:
        """The process: its class, node and number."""
        return Actor("system", f"{self.worker_class}@{settings.NODE_NAME[:60]}/{os.getpid()}"[:100])

    @transaction.atomic
    def read(self, name: str, key: Key, *, held: Key | None, expires_at: dt.datetime | None, now: dt.datetime) -> None:
        """A secret was read; ``held`` is what the process had before."""
        state = self._state(name)
        if state.note_read(key.fingerprint, key.version, self.backend, expires_at=expires_at, now=now):
            emit([NewEvent("secrets.rotated", data={"name": name, "fingerprint": key.fingerprint})], now=now)
        verb = "load" if held is None else "refresh" if held.fingerprint == key.fingerprint else "rotate"
        details = {"name": name, "backend": self.backend, "fingerprint": key.fingerprint, "version": key.version}
        if verb == "rotate" and held is not None:
            details["before"] = held.fingerprint
        trail.record(self.actor, f"secret:{verb}", state, tenant_id=None, details=details)

    @transaction.atomic
    def failed(self, name: str, error: str, *, lacks: bool, audited: bool, now: dt.datetime) -> None:
        """A secret could not be read; ``lacks`` says that the process has none. ``audited`` failures are denials."""
        state = self._state(name)
        state.note_failure(error, self.backend, lacks=lacks, now=now)
        if audited:
            details = {"name": name, "backend": self.backend}
            trail.record(self.actor, "secret:read", state, tenant_id=None, success=False, reason=error, details=details)

    @transaction.atomic
    def refused(self, name: str, key: Key, *, now: dt.datetime) -> None:
        """The provider did not take a key that no other one could replace."""
        state = self._state(name)
        if state.note_refused(key.fingerprint, now=now):
            emit([NewEvent("secrets.key_refused", data={"name": name, "fingerprint": key.fingerprint})], now=now)

    @transaction.atomic
    def accepted(self, name: str) -> None:
        """The provider takes it after all."""
        SecretState.objects.filter(name=name, worker_class=self.worker_class).update(refused_at=None)

    @transaction.atomic
    def down(self, error: str, *, now: dt.datetime) -> None:
        """The backend is away. One event, whoever notices it first."""
        BackendState.objects.get_or_create(name=self.backend)
        standing = BackendState.objects.filter(name=self.backend, down_since=None)
        if standing.update(down_since=now, last_error=error[:300]):
            emit([NewEvent("secrets.backend_down", data={"backend": self.backend, "error": error})], now=now)

    @transaction.atomic
    def up(self, *, now: dt.datetime) -> None:
        """The backend answers. One event, if it was away."""
        away = BackendState.objects.select_for_update().filter(name=self.backend).exclude(down_since=None).first()
        if away is not None and away.down_since is not None:
            seconds = round((now - away.down_since).total_seconds(), 1)
            BackendState.objects.filter(pk=away.pk).update(down_since=None)
            emit([NewEvent("secrets.backend_recovered", data={"backend": self.backend, "seconds": seconds})], now=now)

    def _state(self, name: str) -> SecretState:
        SecretState.objects.get_or_create(name=name, worker_class=self.worker_class, defaults={"backend": self.backend})
        return SecretState.objects.select_for_update().get(name=name, worker_class=self.worker_class)
