"""One leader among several orchestrators: the one whose session holds an advisory lock of PostgreSQL."""

from __future__ import annotations

import time
from typing import Any

import psycopg
import structlog
from django.db import connections

log = structlog.get_logger(__name__)

LOCK = 0x53574D44
"""The advisory lock's number in this database."""

_HOLDER = """
    SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND classid = 0 AND objid = %(lock)s AND objsubid = 1
"""
_CONNECT_KEYS = {"host", "port", "dbname", "user", "password", "sslmode", "sslrootcert", "options"}
# A dead network is noticed within ten seconds; a Unix socket ignores these.
_KEEPALIVE = {
    "connect_timeout": 5,
    "keepalives_idle": 4,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 8000,
}


class Leadership:
    """The lock, on a connection of its own: PostgreSQL frees it at once when this process dies.

    Its methods raise psycopg.Error, or django.db.Error, when the database cannot be reached.
    """

    def __init__(self) -> None:
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._watched: tuple[int, float] | None = None

    def acquire(self) -> bool:
        """Tries to become the leader; whether this process leads now. Does not wait."""
        if self._connection is None or self._connection.closed:
            params = connections["default"].get_connection_params()
            self._connection = psycopg.connect(
                **{**{key: value for key, value in params.items() if key in _CONNECT_KEYS}, **_KEEPALIVE},
                application_name="swarmdesk orchestrator's lock",
                autocommit=True,
            )
        if not self._ask("SELECT pg_try_advisory_lock(%(lock)s)"):
            return False
        if self.holds():
            self._watched = None
            return True
        log.error("lock_not_kept", hint="DATABASE_URL must reach PostgreSQL directly or by a session pooler.")
        self.release()
        return False

    def holds(self) -> bool:
        """Whether this process leads: its connection lives and the database says that it has the lock."""
        if self._connection is None or self._connection.closed:
            return False
        try:
            return bool(self._ask(f"SELECT EXISTS ({_HOLDER} AND pid = pg_backend_pid())"))
        except psycopg.Error as error:
            log.warning("lock_connection_lost", error=str(error).split("\n", 1)[0])
            self.release()
            return False

    def oust(self, *, after_s: float) -> bool:
        """Takes the lock from a leader that has stopped working without dying; whether that was done.

        It has stopped when the same session has held the lock for ``after_s`` seconds, as seen from here, and no tick
        was recorded in as long. Its session is ended, so it stops acting as soon as it wakes up.
        """
        holder = self._ask(_HOLDER)
        if holder is None:
            self._watched = None
            return False
        if self._watched is None or self._watched[0] != holder:
            self._watched = (holder, time.monotonic())
        if time.monotonic() - self._watched[1] < after_s:
            return False
        self._watched = None
        ousted = self._ask(
            "SELECT pg_terminate_backend(%(pid)s) WHERE NOT EXISTS ("
            "SELECT FROM execution_tick WHERE at > now() - make_interval(secs => %(after_s)s))",
            pid=holder,
            after_s=after_s,
        )
        if ousted:
            log.warning("leader_ousted", backend=holder, after_s=after_s)
        return bool(ousted)

    def release(self) -> None:
        """Ends the connection, and with it any leadership."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, question: str, **params: Any) -> Any:
        assert self._connection is not None
        row = self._connection.execute(question.encode(), {"lock": LOCK, **params}).fetchone()
        return row[0] if row else None
