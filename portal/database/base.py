"""Django's PostgreSQL backend that starts the embedded server on first use when no DATABASE_URL is set."""

from typing import Any

from django.db.backends.postgresql import base

from portal import embedded


class DatabaseWrapper(base.DatabaseWrapper):
    def get_connection_params(self) -> dict[str, Any]:
        """Connection parameters; those of the embedded server where ``EMBEDDED_DIR`` is set."""
        params: dict[str, Any] = super().get_connection_params()
        if directory := self.settings_dict.get("EMBEDDED_DIR"):
            params.update(embedded.ensure_running(directory))
        return params
