"""A secrets backend in memory for tests of the keeper, and a keeper that is driven by hand, with clocks of its own."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any

from apps.providers.models import Provider
from apps.providers.secrets.backend import BackendDown, Reading, SecretMissing, SecretsError, reading_of
from apps.providers.secrets.keeper import Keeper

NOW = dt.datetime(2026, 10, 5, 12, tzinfo=dt.UTC)


@dataclass
class Memory:
    """Holds what a test put in; notes what was asked of it."""

    values: dict[str, str] = field(default_factory=dict)
    failure: SecretsError | None = None
    expires_at: dt.datetime | None = None
    asked: list[str] = field(default_factory=list)

    def read(self, name: str) -> Reading:
        self.asked.append(name)
        self.health()
        if name not in self.values:
            raise SecretMissing(f"There is no {name}.")
        return reading_of(name, self.values[name], expires_at=self.expires_at)

    def health(self) -> None:
        if self.failure is not None:
            raise self.failure

    def upkeep(self) -> float | None:
        return None

    def goes_away(self) -> None:
        self.failure = BackendDown("It cannot be reached.")


class Process:
    """A process of a class, as far as its keys go. ``passes(seconds)`` moves its clocks and does what is due."""

    def __init__(self, backend: Memory, worker_class: str = "agents", **options: Any) -> None:
        self.clock = 1000.0
        options = {"refresh_s": 3600, "grace_s": 900, **options}
        self.keeper = Keeper(
            worker_class,
            backend=backend,
            clock=lambda: self.clock,
            now=lambda: NOW + dt.timedelta(seconds=self.clock - 1000),
            **options,
        )

    def passes(self, seconds: float = 0.0) -> float:
        self.clock += seconds
        return self.keeper.step()

    def hears(self) -> None:
        """An order's hint arrives."""
        self.keeper.hurry()
        self.keeper.step()

    def key(self, name: str) -> str:
        return self.keeper.key(name).secret.reveal()


def provider(name: str, secret_name: str, *classes: str) -> Provider:
    return Provider.objects.create(name=name, secret_name=secret_name, worker_classes=list(classes) or ["agents"])
