"""Probes: is the system alive, and is this process ready for work? No secrets in the answers."""

from __future__ import annotations

import datetime as dt
import functools
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from django.db import DatabaseError, connection
from django.db.migrations.loader import MigrationLoader
from django.utils import timezone

from apps.events import consumers
from apps.execution.models import Tick
from apps.providers.models import Provider

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
    """Whether work can be done: database migrated, a provider with a key, event consumers known. Three queries."""
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
    variables = list(Provider.objects.filter(is_enabled=True).values_list("secret_name", flat=True))
    usable = sum(not variable or _is_set(variable) for variable in variables)
    if not variables:
        return Health("provider_key", False, "There is no enabled provider. Add one in the admin.")
    if not usable:
        return Health(
            "provider_key", False, "No provider has its key. Set the variable that its page in the admin names."
        )
    return Health("provider_key", True, f"{usable} of {len(variables)} providers can be used.")


def _is_set(variable: str) -> bool:
    """Whether the environment has a value, or the path of a file with one, for a key."""
    if os.environ.get(variable):
        return True
    path = os.environ.get(f"{variable}_FILE", "")
    try:
        return path != "" and Path(path).read_text(encoding="utf-8").strip() != ""
    except OSError:
        return False


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
