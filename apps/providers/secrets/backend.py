"""What a place that keys are read from can do, and how it fails."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Protocol

from portal import redaction
from portal.encryption import Secret


class SecretsError(Exception):
    """A secret could not be read; the text is for a person and holds nothing of any secret."""


class SecretMissing(SecretsError):
    """The backend answers, and has no such secret."""


class AccessRefused(SecretsError):
    """The backend answers, and does not let this process read the secret."""


class BackendDown(SecretsError):
    """The backend does not answer, or cannot: what is held is kept, and it is asked again soon."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A secret as a backend gave it. ``version`` and ``expires_at`` where the backend knows them."""

    secret: Secret
    version: str = ""
    expires_at: dt.datetime | None = None


class Backend(Protocol):
    """Where secrets are read. Used by one thread; every call may block, for at most some tens of seconds."""

    def read(self, name: str) -> Reading:
        """The secret of that name. Raises SecretMissing, AccessRefused or BackendDown."""

    def health(self) -> None:
        """Returns when it answers, and takes this process's credentials. Raises AccessRefused or BackendDown."""

    def upkeep(self) -> float | None:
        """Does what keeps the access alive; seconds until it must be called again (None: never). Raises as above."""


def reading_of(name: str, value: object, *, version: str = "", expires_at: dt.datetime | None = None) -> Reading:
    """A reading of what a backend holds under a name; from now on no log shows it. Raises SecretMissing."""
    if not isinstance(value, str) or not value.strip():
        raise SecretMissing(f"The secret {name} is empty, or no text.")
    text = value.rstrip("\r\n")
    redaction.know(text)
    return Reading(Secret(text), version[:100], expires_at)
