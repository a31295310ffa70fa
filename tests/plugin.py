"""The server of a test run: one embedded PostgreSQL without durability, unless DATABASE_URL names another.

Parallel test processes share it.
"""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from _pytest.nodeid import NodeId

from portal.embedded import SETTINGS, Server

_FAST = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "300",
    "max_wal_size": "256MB",
    "deadlock_timeout": "100ms",  # a second by default, which hammers of one tenant wait for again and again
}
_PREFIX = "swarmdesk-test-"


def folder_in_memory() -> str | None:
    """A place in memory for a server's files, where there is plenty; None where there is not: the usual place.

    A database is well over a thousand files. To copy one takes a second of a disk, and a fiftieth of that in memory.
    """
    with suppress(OSError):
        room = min(shutil.disk_usage("/dev/shm").free, psutil.virtual_memory().available)
        if room > 4 * 2**30 and os.access("/dev/shm", os.W_OK):
            return "/dev/shm"
    return None


def _remove_left_behind(folder: Path) -> None:
    """Removes what runs that were killed left an hour ago or longer; their servers ended with them."""
    for left in folder.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            old = time.time() - left.stat().st_mtime > 3600
            if old and not (left / "postgres" / "postmaster.pid").exists():
                shutil.rmtree(left, ignore_errors=True)


def _start_server() -> str:
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder_in_memory()))
    _remove_left_behind(directory.parent)
    server = Server(directory / "postgres", {**SETTINGS, **_FAST})
    params = server.ensure_running()

    def stop() -> None:
        server.stop()
        server.release()
        shutil.rmtree(directory, ignore_errors=True)

    atexit.register(stop)
    return f"postgresql://postgres@/postgres?host={params['host']}&port={params['port']}"


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, parser: Any, args: list[str]) -> None:
    gc.disable()  # until all is collected, which stays to the end
    # Without compiled files, each of the hundred processes of a run compiles every module of ours anew.
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if not os.environ.get("DATABASE_URL") and not any(a in args for a in ("--help", "-h", "--version")):
        os.environ["DATABASE_URL"] = _start_server()
    os.environ.setdefault("STANDALONE", "true")
    os.environ.setdefault("SECRET_KEY", "test-" + "x" * 60)
    os.environ["CACHE_URL"] = os.environ.get("TEST_CACHE_URL", "")


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are processors: some always wait for a server, a worker or a browser."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of a group run in one process of a parallel run, which sets up what they share once.

    pytest-xdist 3.8 puts the group into ``_nodeid``, which pytest 9.2 reads no more: each test would go anywhere.
    """
    if not getattr(config.option, "loadgroup", False):
        return
    for item in items:
        if grouped := item.__dict__.get("_nodeid"):
            item._id = NodeId.parse(grouped)
        if item.get_closest_marker("xdist_group") and "@" not in item.nodeid.rpartition("]")[2]:
            raise pytest.UsageError(f"{item.nodeid} is in a group that pytest-xdist would not see.")
    items.sort(key=_short)


def _short(item: pytest.Item) -> bool:
    """Whether a test needs neither database nor processes: these come last, so that all processes end together.

    pytest-django puts what needs no database last, and with it whole servers that are started, for half a minute.
    """
    wants_database = {"db", "own_database"} & set(getattr(item, "fixturenames", ()))
    return not (wants_database or any(item.get_closest_marker(name) for name in ("django_db", "processes", "browser")))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(10_000)  # Python's own 700 is less than a page or an example makes: most is looked at too early
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """With NO_SKIPS set, as continuous integration does, a test that was skipped fails the run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("NO_SKIPS") and exitstatus == 0 and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if os.environ.get("NO_SKIPS") and (skipped := len(terminalreporter.stats.get("skipped", []))):
        terminalreporter.write_line(f"NO_SKIPS is set and {skipped} tests were skipped.", red=True)
