"""What is known of the secrets that processes hold. Never a value."""

from __future__ import annotations

import datetime as dt
from typing import ClassVar

from django.db import models
from django.utils import timezone

REFUSED_FOR = dt.timedelta(minutes=10)
"""So long a refusal by the provider counts: it is noted again while it goes on."""


class SecretStanding(models.TextChoices):
    IN_USE = "in_use", "In use"
    KEPT = "kept", "Kept"
    MISSING = "missing", "Missing"
    REFUSED = "refused", "Refused"


class SecretState(models.Model):
    """How a secret stands in one class of processes."""

    id = models.BigAutoField(primary_key=True)
    name = models.CharField(max_length=100)
    worker_class = models.CharField(max_length=40)
    backend = models.CharField(max_length=200, help_text="Where it was read.")
    fingerprint = models.CharField(max_length=16, blank=True, help_text="A keyed hash: equal for equal values.")
    version = models.CharField(max_length=100, blank=True, help_text="As the backend calls it, where it does.")
    loaded_at = models.DateTimeField(null=True, blank=True, help_text="When a process of the class last read it.")
    rotated_at = models.DateTimeField(null=True, blank=True, help_text="When its value was last another one.")
    expires_at = models.DateTimeField(null=True, blank=True, help_text="As the backend says, where it does.")
    lacking_since = models.DateTimeField(
        null=True, blank=True, help_text="Since when some process of the class has none, as it could not read it."
    )
    refused_at = models.DateTimeField(null=True, blank=True, help_text="When the provider last refused the newest one.")
    failed_at = models.DateTimeField(null=True, blank=True)
    last_error = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering: ClassVar = ["name", "worker_class"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["name", "worker_class"], name="one_state_per_secret_and_class")
        ]
        verbose_name = "key of a provider"
        verbose_name_plural = "keys of providers"

    def __str__(self) -> str:
        return f"{self.name} of {self.worker_class}"

    @property
    def trouble(self) -> str:
        """What is wrong with it; empty when nothing is."""
        return "The provider does not take it." if self.refused_at else self.last_error

    @property
    def standing(self) -> SecretStanding:
        """``KEPT``: it could not be read anew, and processes go on with what they hold."""
        if self.refused_at:
            return SecretStanding.REFUSED
        if not self.fingerprint or self.lacking_since:
            return SecretStanding.MISSING
        return SecretStanding.KEPT if self.last_error else SecretStanding.IN_USE

    def is_usable(self, *, now: dt.datetime) -> bool:
        """Whether processes of the class hold it, as far as is known, and the provider did not refuse it lately."""
        refused = self.refused_at is not None and now - self.refused_at < REFUSED_FOR
        return bool(self.fingerprint) and self.lacking_since is None and not refused

    def note_read(
        self, fingerprint: str, version: str, backend: str, *, expires_at: dt.datetime | None, now: dt.datetime
    ) -> bool:
        """It was read; whether it is another one than before (False the first time)."""
        before, self.fingerprint = self.fingerprint, fingerprint
        if before != fingerprint:
            self.rotated_at, self.refused_at = now, None
        self.version, self.backend, self.expires_at, self.loaded_at = version, backend, expires_at, now
        self.lacking_since, self.last_error = None, ""
        self.save()
        return before not in ("", fingerprint)

    def note_failure(self, error: str, backend: str, *, lacks: bool, now: dt.datetime) -> None:
        """It could not be read; ``lacks`` says that a process of the class has none."""
        self.backend, self.failed_at, self.last_error = backend, now, error[:300]
        if lacks and self.lacking_since is None:
            self.lacking_since = now
        self.save()

    def note_refused(self, fingerprint: str, *, now: dt.datetime) -> bool:
        """The provider refused it; whether that is news. A refusal of what is not the newest any more is none."""
        if fingerprint != self.fingerprint:
            return False
        news = self.refused_at is None or now - self.refused_at >= REFUSED_FOR
        self.refused_at = now
        self.save()
        return news

    def age(self, *, now: dt.datetime) -> dt.timedelta | None:
        """How long its value has been the same; None when it was never read."""
        return now - self.rotated_at if self.rotated_at else None


class BackendState(models.Model):
    """A secrets backend as processes last met it; ``down_since`` while none of them reaches it."""

    name = models.CharField(max_length=200, primary_key=True)
    down_since = models.DateTimeField(null=True, blank=True)
    last_error = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering: ClassVar = ["name"]
        verbose_name = "secrets backend"

    def __str__(self) -> str:
        return self.name


class RefreshOrder(models.Model):
    """An order to all processes: read your secrets anew. They have heard of those up to an id."""

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering: ClassVar = ["-id"]

    def __str__(self) -> str:
        return f"order {self.pk}"
