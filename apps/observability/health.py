"""Probes: is the system alive, and is this process ready for work? No secrets in the answers."""

from __future__ import annotations

import datetime as dt
import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from django.db import DatabaseError, connection
from django.db.migrations.loader import MigrationLoader
from django.utils import timezone

from apps.events import consumers
from apps.execution.models import Tick
from apps.providers.models import Provider, SecretState

log = structlog.get_logger(__name__)

OLDEST_TICK = dt.timedelta(seconds=60)
FAILED_TICKS = 3
ANSWER_WITHIN_S = 3.0


@dataclass(frozen=True, slots=True)
class Health:
    """The answer of one check."""

    name: str
    ok: bool
    detail: str

    def as_json(self) -> dict[str, Any]:
        return {"ok": self.ok, "detail": self.detail}


Probe = Callable[[], Sequence[Health]]


def liveness(*, now: dt.datetime | None = None) -> list[Health]:
    """Whether the orchestrator works: it ticked within 60 s, and not all of its last three ticks failed. One query."""
    now = now or timezone.now()
    try:
        ticks = list(Tick.objects.order_by("-id").values_list("at", "ok")[:FAILED_TICKS])
    except DatabaseError as error:
        return [Health("database", False, _why(error))]
    return [Health("database", True, "Reachable."), _is_recent(ticks, now), _do_not_all_fail(ticks)]


def _is_recent(ticks: Sequence[tuple[dt.datetime, bool]], now: dt.datetime) -> Health:
    if not ticks:
        return Health("tick_age", False, "The orchestrator has never ticked. Start it: manage.py orchestrate.")
    age = now - ticks[0][0]
    return Health("tick_age", age <= OLDEST_TICK, f"The orchestrator's last tick was {age.total_seconds():.1f} s ago.")


def _do_not_all_fail(ticks: Sequence[tuple[dt.datetime, bool]]) -> Health:
    failed = sum(not ok for _, ok in ticks)
    all_failed = failed == FAILED_TICKS
    return Health("tick_success", not all_failed, f"{failed} of the orchestrator's last {len(ticks)} ticks failed.")


def readiness() -> list[Health]:
    """Whether work can be done: database migrated, a provider with a key, event consumers known. Four queries."""
    checks: dict[str, Callable[[], Health]] = {
        "database": _database_is_migrated,
        "provider_key": _some_provider_has_its_key,
        "event_consumers": _consumers_are_registered,
    }
    answers = []
    for name, check in checks.items():
        try:
            answers.append(check())
        except DatabaseError as error:
            answers.append(Health(name, False, _why(error)))
            connection.close()
    return answers


def _database_is_migrated() -> Health:
    with connection.cursor() as cursor:
        cursor.execute("SELECT app, name FROM django_migrations")
        applied = set(cursor.fetchall())
    missing = sorted(_migrations_on_disk() - applied)
    if missing:
        return Health("database", False, f"{len(missing)} migrations are not applied. Run: manage.py migrate.")
    return Health("database", True, "Reachable and migrated.")


@functools.cache
def _migrations_on_disk() -> frozenset[tuple[str, str]]:
    """What must be applied; the files do not change under a running process."""
    loader = MigrationLoader(None, load=False)
    loader.load_disk()
    replaced = {key for migration in loader.disk_migrations.values() for key in migration.replaces}
    return frozenset(loader.disk_migrations) - replaced


def _some_provider_has_its_key() -> Health:
    """By what workers have recorded of the keys they hold: this process need not hold any, or be allowed to."""
    now = timezone.now()
    providers = list(Provider.objects.enabled())
    if not providers:
        return Health("provider_key", False, "There is no enabled provider. Add one in the admin.")
    names = {provider.secret_name for provider in providers} - {""}
    found = SecretState.objects.filter(name__in=names) if names else ()
    states = {(state.name, state.worker_class): state for state in found}
    usable = 0
    for provider in providers:
        held = (states.get((provider.secret_name, each)) for each in provider.worker_classes)
        usable += not provider.secret_name or any(state is not None and state.is_usable(now=now) for state in held)
    if not usable:
        why = "Workers could not read any" if states else "No worker has read one yet"
        return Health("provider_key", False, f"No provider has a valid key. {why}: see Keys of providers in the admin.")
    return Health("provider_key", True, f"{usable} of {len(providers)} providers can be used.")


def _consumers_are_registered() -> Health:
    if missing := consumers.missing():
        return Health("event_consumers", False, f"Not registered: {', '.join(missing)}.")
    return Health("event_consumers", True, f"All {len(consumers.expected())} are registered.")


def _why(error: Exception) -> str:
    """For anybody to read: what failed, without host names, users or statements."""
    log.warning("probe_failed", error=str(error).split("\n", 1)[0])
    return f"The database cannot be used ({type(error).__name__})."


# -- answering in time -------------------------------------------------------------------------------------------------


class Bounded:
    """Asks a probe on a thread of its own, so that a database that hangs cannot hang the answer.

    While one question hangs no other is asked: probes come every few seconds, and would pile up.
    """

    def __init__(self, probe: Probe, *, within_s: float = ANSWER_WITHIN_S) -> None:
        self._probe = probe
        self._within_s = within_s
        self._asking = threading.Lock()

    def __call__(self) -> list[Health]:
        answer: list[Health] = []
        if not self._asking.acquire(timeout=self._within_s):
            return [Health("database", False, "It has not answered the last question yet.")]

        def ask() -> None:
            try:
                answer.extend(self._probe())
            except Exception as error:
                log.error("probe_failed", exc_info=error)
                answer.append(Health("probe", False, f"The check itself failed ({type(error).__name__})."))
            finally:
                connection.close()
                self._asking.release()

        thread = threading.Thread(target=ask, name="probe", daemon=True)
        thread.start()
        thread.join(self._within_s)
        if thread.is_alive():
            return [Health("database", False, f"It did not answer within {self._within_s:g} s.")]
        return answer
