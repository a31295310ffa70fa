"""Processes forked from one that has loaded the libraries, for tests of what a process does once it has started.

To start one anew takes up to a second and a half of a processor, nearly all of it for modules that do not differ
between tests. Only libraries are loaded before the fork: settings, models and all other code of ours are loaded by each
process for itself, with the environment that its test gives it. Tests of a start itself use ``subprocess``.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
DJANGO = (
    "django.core.management",
    "django.db.backends.postgresql.base",
    "django.contrib.admin",
    "django_filters.filters",
    "psycopg_pool",
    "whitenoise",
    "channels",
    "psutil",
    "cryptography.hazmat.primitives.ciphers.aead",
)
RUNNER = ("pydantic_ai", "openai", "pydantic_ai.models.openai", "aiohttp", "jinja2", "boto3", "xlsxwriter")
WEB = ("twisted.web.http", "autobahn.websocket", "import_export", "tablib", "jsonschema", "yaml", "jwt", "requests")
_LARGEST_REQUEST = 128 * 1024


class Forked:
    """What tests use of ``subprocess.Popen``, of a forked process. What goes through pipes is text."""

    def __init__(
        self,
        *arguments: str,
        ahead: tuple[str, ...] = (),
        env: Mapping[str, str] | None = None,
        stdin: int | None = None,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        start_new_session: bool = False,
    ) -> None:
        """Runs what Python would with these arguments (``manage.py ...``, ``-m module ...`` or ``-c code ...``).

        The libraries ``ahead`` are loaded before the fork, once for all that follow. Its folder is the project's.
        """
        self.args = arguments
        self.returncode: int | None = None
        self.stdin: IO[str] | None = None
        self.stdout: IO[str] | None = None
        self.stderr: IO[str] | None = None
        given: list[int] = []
        for number, (name, wanted) in enumerate((("stdin", stdin), ("stdout", stdout), ("stderr", stderr))):
            if wanted == subprocess.PIPE:
                read, write = os.pipe()
                mine, theirs = (write, read) if name == "stdin" else (read, write)
                setattr(self, name, os.fdopen(mine, "w" if name == "stdin" else "r", encoding="utf-8"))
            elif wanted == subprocess.STDOUT:
                theirs = os.dup(given[1])
            elif wanted == subprocess.DEVNULL:
                theirs = os.open(os.devnull, os.O_RDWR)
            else:
                theirs = os.dup(number if wanted is None else wanted if isinstance(wanted, int) else wanted.fileno())
            given.append(theirs)
        self._status, told = os.pipe()
        request = {
            "arguments": arguments,
            "ahead": ahead,
            "env": dict(os.environ if env is None else env),
            "session": start_new_session,
        }
        asked = _parent()
        socket.send_fds(asked, [json.dumps(request).encode()], [*given, told])
        for descriptor in (*given, told):
            os.close(descriptor)
        self.pid = int(asked.recv(32))

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        self.wait()

    def poll(self) -> int | None:
        """Its exit code, as ``subprocess`` has it; None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = int(os.read(self._status, 32))
            os.close(self._status)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All it writes to its pipes, once it has ended."""
        if self.stdin is not None:
            self.stdin.close()
        with ThreadPoolExecutor(2) as readers:
            read = [readers.submit(stream.read) if stream else None for stream in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
        self._close()
        out, err = (each.result() if each else "" for each in read)
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _close(self) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()


@functools.cache
def _parent() -> socket.socket:
    """The way to the process that this test process's are forked from. Closed, it ends."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.forks", str(there.fileno())],
        cwd=ROOT,
        env=environment,
        pass_fds=[there.fileno()],
    )
    there.close()

    def end() -> None:
        here.close()
        process.wait(10)

    atexit.register(end)
    return here


# -- in the parent -----------------------------------------------------------------------------------------------------


def _load(names: tuple[str, ...]) -> None:
    gc.disable()
    for name in names:
        importlib.import_module(name)
    gc.freeze()
    gc.enable()


def _serve(asked: socket.socket) -> dict[str, Any] | None:
    """Forks until nobody asks any more. In a forked process: what it is to do."""
    statuses: dict[int, int] = {}
    awake, wake = os.pipe()
    os.set_blocking(awake, False)
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    while True:
        ready = select.select([asked.fileno(), awake], [], [])[0]
        if awake in ready:
            with suppress(BlockingIOError):
                os.read(awake, 4096)
        while statuses:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            with suppress(BrokenPipeError):  # the test is over
                os.write(statuses[pid], str(os.waitstatus_to_exitcode(status)).encode())
            os.close(statuses.pop(pid))
        if asked.fileno() not in ready:
            continue
        message, descriptors, _, _ = socket.recv_fds(asked, _LARGEST_REQUEST, 4)
        if not message:
            return None
        request: dict[str, Any] = json.loads(message)
        _load(request["ahead"])
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for number, descriptor in enumerate(descriptors[:3]):
                os.dup2(descriptor, number)
            asked.close()
            for descriptor in (awake, wake, *descriptors, *statuses.values()):
                os.close(descriptor)
            return request
        for descriptor in descriptors[:3]:
            os.close(descriptor)
        statuses[pid] = descriptors[3]
        asked.send(str(pid).encode())


def _become(request: dict[str, Any]) -> None:
    """Does what Python would when started like this."""
    if request["session"]:
        os.setsid()
    os.environ.clear()
    os.environ.update(request["env"])
    first, *others = request["arguments"]
    if first == "-m":
        sys.argv = others
        runpy.run_module(others[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *others[1:]]
        exec(compile(others[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = [first, *others]
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    _load(DJANGO)
    told = _serve(socket.socket(fileno=int(sys.argv[1])))
    if told is not None:
        _become(told)
