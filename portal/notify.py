"""PostgreSQL NOTIFY and LISTEN: hints that something changed. The database is the truth; a hint may be lost."""

from __future__ import annotations

import json
import select
import threading
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any

import psycopg
import structlog
from django.db import connection, connections

log = structlog.get_logger(__name__)


class Channel(StrEnum):
    """What a hint is about."""

    EVENTS = "swarmdesk_events"  # rows were added to the event log
    READY = "swarmdesk_ready"  # tasks can be leased
    # {"stop": swarm id}: cancel its calls in flight; {"refresh_secrets": order id}; {"try": id}: a call to make
    CONTROL = "swarmdesk_control"
    ADMIT = "swarmdesk_admit"  # the queue, the pool or a due time changed: the orchestrator should look
    CACHES = "swarmdesk_caches"  # {"invalidated": cache}: what is cached there was ordered to be forgotten
    REGIONS = "swarmdesk_regions"  # {"provider": name}: a region's breaker, pace or drain changed


def notify(channel: Channel, payload: Mapping[str, Any] | None = None) -> None:
    """Sends a hint when the current transaction commits (at once outside one)."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_notify(%s, %s)", [channel, json.dumps(payload or {})])


class Listener(threading.Thread):
    """Calls ``on_hint(channel, payload)`` on its own thread for each hint, and ``on_connect()`` after each connect.

    The connection is its own (LISTEN does not pass a transaction pooler) and is made again after it is lost;
    hints sent meanwhile are gone, which is why ``on_connect`` should look at the database.
    """

    def __init__(
        self,
        channels: Iterable[Channel],
        on_hint: Callable[[Channel, dict[str, Any]], None],
        on_connect: Callable[[], None] = lambda: None,
        *,
        retry_s: float = 0.5,
    ) -> None:
        super().__init__(name="listener", daemon=True)
        self._channels = list(channels)
        self._on_hint = on_hint
        self._on_connect = on_connect
        self._retry_s = retry_s
        self._halt = threading.Event()

    def run(self) -> None:
        while not self._halt.is_set():
            try:
                self._listen()
            except (psycopg.Error, OSError) as error:
                log.warning("listener_lost", error=str(error).splitlines()[0] if str(error) else repr(error))
                self._halt.wait(self._retry_s)

    def _listen(self) -> None:
        params = {k: v for k, v in connections["default"].get_connection_params().items() if k in _CONNECT_KEYS}
        with psycopg.connect(**params, autocommit=True) as conn:
            for channel in self._channels:
                conn.execute(f'LISTEN "{channel}"'.encode())
            self._on_connect()
            while not self._halt.is_set():
                # libpq's socket is waited on with a bound, so that stop() is heeded without a wake-up pipe.
                if not select.select([conn.fileno()], [], [], 0.5)[0]:
                    continue
                for hint in conn.notifies(timeout=0):
                    if self._halt.is_set():
                        return  # whoever wanted the hints may be gone
                    self._on_hint(Channel(hint.channel), json.loads(hint.payload or "{}"))

    def stop(self) -> None:
        """Asks the thread to end; it does within half a second."""
        self._halt.set()


_CONNECT_KEYS = {"host", "port", "dbname", "user", "password", "sslmode", "sslrootcert", "options", "application_name"}
