"""Real processes in tests: starting commands, waiting for what they do, finding what they leave."""

from __future__ import annotations

import itertools
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent


def wait_until(holds: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Until ``holds()``; fails when it does not come true in time."""
    pause, waited = 0.05, 0.0
    never = threading.Event()
    while not holds():
        assert waited < seconds, f"not within {seconds:g} s: {what}"
        never.wait(pause)
        waited += pause


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on, and that nobody else here is given before somebody does.

    Each test process has ports of its own, below those that the system lends to whoever connects somewhere.
    """
    for port in _ports:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("there is no end to them")


_FIRST, _OF_EACH, _LENT_FROM = 10_000, 1_500, 32_768
_begin = _FIRST + _OF_EACH * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % (_LENT_FROM - _FIRST - _OF_EACH)
_ports = itertools.cycle(random.sample(range(_begin, _begin + _OF_EACH), _OF_EACH))
"""In an order of its own each time: another run on this machine seldom asks for the same."""


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without what the test run set for itself."""
    kept = {k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "STANDALONE", "SECRET_KEY", "CACHE_URL")}
    return {**kept, **changes}


def run_python(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in the project's folder, without the database of the test run."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment(**changes),
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )


def manage(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Runs a command of manage.py, without the database of the test run."""
    return run_python("manage.py", *arguments, **changes)


def processes_with(text: str) -> list[psutil.Process]:
    """The processes whose command line or environment holds a text, such as a test's own folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and (
                any(text in part for part in process.cmdline()) or any(text in v for v in process.environ().values())
            ):
                found.append(process)
        except psutil.Error:
            continue
    return found
