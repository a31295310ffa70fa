"""Django's PostgreSQL backend that starts the embedded server on first use when no DATABASE_URL is set."""

from __future__ import annotations

from typing import Any

import psycopg
from django.db.backends.postgresql import base, operations

from portal import embedded
from portal.database import arrays
from portal.database.errors import DatabaseUnavailable

arrays.register()

PLAN_AFTER = 2
"""How often a connection runs a statement before it has it planned for good."""


class DatabaseOperations(operations.DatabaseOperations):
    def last_executed_query(self, cursor: Any, sql: str, params: Any) -> str:
        """The statement with its parameters. A planned cursor does not know it."""
        known = isinstance(cursor, psycopg.ClientCursor)
        return str(super().last_executed_query(cursor, sql, params) if known else self.compose_sql(sql, params))


class DatabaseWrapper(base.DatabaseWrapper):
    ops_class = DatabaseOperations

    def get_connection_params(self) -> dict[str, Any]:
        """Connection parameters; those of the embedded server where ``EMBEDDED_DIR`` is set."""
        params: dict[str, Any] = super().get_connection_params()
        params["prepare_threshold"] = PLAN_AFTER  # of planned cursors only: psycopg prepares for no others
        if directory := self.settings_dict.get("EMBEDDED_DIR"):
            try:
                params.update(embedded.ensure_running(directory))
            except embedded.CannotStart as error:
                raise DatabaseUnavailable(str(error)) from error
        return params

    def planned_cursor(self) -> Any:
        """A cursor whose statements PostgreSQL plans once: see :mod:`portal.database.planned`."""
        self.ensure_connection()
        with self.wrap_database_errors:
            return self._prepare_cursor(psycopg.Cursor(self.connection))  # type: ignore[attr-defined]

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """A connection; DatabaseUnavailable, without the password, when none can be made."""
        try:
            return super().get_new_connection(conn_params)
        except self.Database.OperationalError as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DatabaseUnavailable(
                f"The database at {self._place(conn_params)} cannot be reached: {reason}"
            ) from error

    def _place(self, params: dict[str, Any]) -> str:
        if self.settings_dict.get("EMBEDDED_DIR"):
            return str(self.settings_dict["EMBEDDED_DIR"])
        user, host = params.get("user"), params.get("host") or "localhost"
        port = f":{params['port']}" if params.get("port") else ""
        name = params.get("dbname") or ""
        return f"DATABASE_URL (postgresql://{f'{user}@' if user else ''}{host}{port}/{name})"
