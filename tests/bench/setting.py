"""What every benchmark needs: a PostgreSQL of its own, processes it ends again, and their processor time and memory."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.processes import free_port

ROOT = Path(__file__).resolve().parents[2]
START_S = 60


def wait_for(condition: Callable[[], object], what: str, timeout_s: float) -> None:
    """Waits until ``condition()`` is true. Raises TimeoutError, naming what did not happen."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {timeout_s:.0f} s")
        time.sleep(0.05)


@dataclass(frozen=True)
class Cost:
    """Processor seconds of the worker processes and of PostgreSQL."""

    workers: float
    postgres: float

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.workers - other.workers, self.postgres - other.postgres)


class Setting:
    """A database and a simulator for one benchmark run; everything it starts, it ends."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = (directory / "processes.log").open("w")
        self.simulator_port = free_port()
        # Here as in the processes: what one enqueues the other must be able to read.
        os.environ.update(
            {
                "DATA_DIR": str(directory),
                "STANDALONE": "true",
                "SECRET_KEY": "benchmark-" + "x" * 50,
                "LOG_FORMAT": "json",
            }
        )
        os.environ.pop("DATABASE_URL", None)
        self.environment = dict(os.environ)

    def prepare(self) -> None:
        """Migrates the database and points this process's Django at it."""
        os.environ["DJANGO_SETTINGS_MODULE"] = "portal.settings"
        import django
        from django.core.management import call_command

        django.setup()
        call_command("migrate", verbosity=0)
        from django.db import connection

        params = connection.get_connection_params()
        url = f"postgresql://{params['user']}@/{params['dbname']}?host={params['host']}&port={params['port']}"
        self.environment["DATABASE_URL"] = url

    def start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """Starts a process of the project in a group of its own."""
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**self.environment, **environment},
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )

    @contextmanager
    def running(self, *command: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        """A process for the length of a block; ended with its children afterwards."""
        process = self.start(*command, **environment)
        try:
            yield process
        finally:
            end(process)

    @contextmanager
    def simulator(self, latency_ms: int) -> Iterator[None]:
        """The provider simulator at ``simulator_port``."""
        port = str(self.simulator_port)
        with self.running("manage.py", "simulate_provider", "--port", port, "--latency-ms", str(latency_ms)):

            def listening() -> bool:
                with suppress(OSError), socket.create_connection(("127.0.0.1", self.simulator_port), 1):
                    return True
                return False

            wait_for(listening, "the simulator's start", START_S)
            yield

    def cost(self, workers: list[psutil.Process]) -> Cost:
        """Processor time used so far by worker processes (with their children) and by PostgreSQL."""
        return Cost(sum(map(cpu_seconds, workers)), sum(map(cpu_seconds, self._postgres())))

    def _postgres(self) -> list[psutil.Process]:
        pid = int((self.directory / "postgres" / "postmaster.pid").read_text().splitlines()[0])
        return [psutil.Process(pid)]

    def close(self) -> None:
        """Stops PostgreSQL and removes the data."""
        from django.db import connections

        connections.close_all()
        for process in self._postgres():
            process.terminate()
            with suppress(psutil.TimeoutExpired):
                process.wait(20)
        self.log.close()
        shutil.rmtree(self.directory, ignore_errors=True)


@contextmanager
def setting() -> Iterator[Setting]:
    """A fresh setting, gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="swarmdesk-bench-"))
    directory.chmod(0o755)
    made = Setting(directory)
    try:
        made.prepare()
        yield made
    finally:
        made.close()


def end(process: subprocess.Popen[Any]) -> None:
    """Ends a process and its children: asks first, then kills."""
    tree = family(process.pid)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(15)
    for member in tree:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()


def family(pid: int) -> list[psutil.Process]:
    """A process and all its descendants."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(process: psutil.Process) -> float:
    """User and system time of a process, its living descendants, and those that ended."""
    total = 0.0
    for member in family(process.pid):
        with suppress(psutil.NoSuchProcess):
            times = member.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def pss_mb(pids: list[int]) -> float:
    """Proportional set size of processes and their descendants: shared pages are divided among those that share."""
    total = 0
    for pid in pids:
        for member in family(pid):
            with suppress(OSError):
                for line in Path(f"/proc/{member.pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total += int(line.split()[1])
    return total / 1024
