from __future__ import annotations

import contextlib
import errno
import fcntl
import http.client
import os
import secrets
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command, get_commands
from django.core.management.base import CommandError, CommandParser
from django.db import connection

from portal.commands import Command as BaseCommand
from portal.crew import Crew, CrewFailed, Duty
from portal.files import kept_text

USERS = ("admin", "operator", "finance", "compliance", "viewer")
REGIONS = (("sim-east", 1, ("--latency-ms", "700", "--jitter-ms", "900")),
           ("sim-west", 2, ("--latency-ms", "900", "--jitter-ms", "1200")))  # fmt: skip
_READY_EVERY_S = 0.25
_TELL_EVERY_S = 15.0


class Command(BaseCommand):
    help = (
        "Runs all of Swarmdesk on this machine until Ctrl-C: the database (unless DATABASE_URL names one), the pages "
        "and the API, the orchestrator, the workers and, unless --no-demo, demo tenants with simulated providers and a "
        "steady trickle of swarms."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--port", type=int, default=8000, help="Port of the pages on 127.0.0.1. Default: 8000.")
        parser.add_argument("--no-demo", action="store_true", help="No demo tenants, users, providers and swarms.")
        parser.add_argument(
            "--workers", type=int, default=2, metavar="N", help="Processes that run agents. Default: 2."
        )

    def handle(self, *args: Any, port: int, no_demo: bool, workers: int, **options: Any) -> None:
        if not 1 <= port <= 65535:
            raise CommandError("--port is from 1 to 65535.")
        if not 1 <= workers <= 64:
            raise CommandError("--workers is from 1 to 64.")
        _verify_free(port)
        self._asked = 0
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            with _alone(Path(settings.DATA_DIR)):
                self._run(port, demo=not no_demo, workers=workers)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, *_: object) -> None:
        self._asked += 1

    def _run(self, port: int, *, demo: bool, workers: int) -> None:
        started = time.monotonic()
        crew = Crew(self.stdout, _environment(workers))
        self._prepare(crew)
        ports = _free_ports(port, len(REGIONS)) if demo else []
        regions = [(name, f"http://127.0.0.1:{at}/v1") for (name, _, _), at in zip(REGIONS, ports, strict=False)]
        password = ""
        if demo:
            password = demo_password(Path(settings.DATA_DIR))
            self._seed(crew, regions, password)
        connection.close()
        if self._asked:
            return
        try:
            crew.add(_duties(port, ports))
            ready = _Ready(port, crew, lambda: self._welcome(port, password, time.monotonic() - started), demo=demo)
            crew.run(ready.step, lambda: bool(self._asked))
            crew.say("up", "ending")
        except CrewFailed as error:
            raise CommandError(str(error), returncode=1) from error
        finally:
            first = self._asked
            crew.end(lambda: self._asked > first)

    def _prepare(self, crew: Crew) -> None:
        crew.say("up", "preparing the database")
        connection.ensure_connection()
        call_command("migrate", verbosity=0, interactive=False)

    def _seed(self, crew: Crew, regions: list[tuple[str, str]], password: str) -> None:
        if "seed_demo" in get_commands():
            crew.say("up", "preparing the demo")
            arguments = [part for name, url in regions for part in ("--region", f"{name}={url}")]
            call_command("seed_demo", *arguments, password=password, verbosity=0)

    def _welcome(self, port: int, password: str, seconds: float) -> None:
        lines = [f"Swarmdesk is at http://127.0.0.1:{port}   (ready in {seconds:.0f} s; Ctrl-C ends it)"]
        if password:
            lines.append(f"Log in as {', '.join(USERS)}; the password of each is: {password}")
        else:
            lines.append("The first user: manage.py createsuperuser")
        with contextlib.suppress(OSError):
            self.stdout.write("\n" + "\n".join(f"  {line}" for line in lines) + "\n")
            self.stdout.flush()


class _Ready:
    """Asks the pages whether everything is ready, and tells once when it is."""

    def __init__(self, port: int, crew: Crew, welcome: Any, *, demo: bool) -> None:
        self._port, self._crew, self._welcome = port, crew, welcome
        # Readiness needs a provider, which without the demo somebody has yet to add on the pages.
        self._path = "/readyz" if demo else "/livez"
        self._tell_at = time.monotonic() + _TELL_EVERY_S

    def step(self) -> float | None:
        status, body = _get(self._port, self._path)
        if status == 200:
            self._welcome()
            return None
        if time.monotonic() >= self._tell_at:
            self._tell_at += _TELL_EVERY_S
            self._crew.say("up", f"not ready yet: {body or 'the pages do not answer'}")
        return _READY_EVERY_S


def _get(port: int, path: str) -> tuple[int, str]:
    page = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        page.request("GET", path)
        response = page.getresponse()
        return response.status, " ".join(response.read(500).decode(errors="replace").split())
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        page.close()


def _duties(port: int, simulators: list[int]) -> list[Duty]:
    known = get_commands()
    duties: list[Duty] = []

    def manage(name: str, command: str, *arguments: str, ends_last: bool = False) -> None:
        if command in known:
            whole = [sys.executable, str(settings.BASE_DIR / "manage.py"), command, *arguments]
            duties.append(Duty(name, whole, ends_last=ends_last))

    for (name, seed, options), at in zip(REGIONS, simulators, strict=False):
        place = ("--port", str(at), "--region", name, "--seed", str(seed))
        manage(name, "simulate_provider", *place, *options, ends_last=True)
    bind = ("-b", "127.0.0.1", "-p", str(port))
    duties.append(Duty("web", [sys.executable, "-m", "daphne", "-v", "0", *bind, "portal.asgi:application"]))
    manage("orchestrator", "orchestrate")
    manage("agents", "work", "--cluster", "agents")
    manage("ops", "work", "--cluster", "ops")
    if simulators:
        manage("demo", "demo_traffic")
    return duties


def _environment(workers: int) -> dict[str, str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "AGENT_WORKERS": str(workers)}
    environment.setdefault("OPS_WORKERS", "1")
    return environment


def _verify_free(port: int) -> None:
    """Raises CommandError when the port cannot be had."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
            raise CommandError(
                f"Port {port} on 127.0.0.1 {why}. Choose another: make run PORT=8080, or manage.py up --port 8080"
            ) from None


def _free_ports(near: int, count: int) -> list[int]:
    """Free ports, the next ones to ``near`` where possible, so that the demo's regions keep their addresses."""
    found: list[int] = []
    candidates = iter(range(near + 1, min(near + 20, 65535)))
    with contextlib.ExitStack() as held:
        while len(found) < count:
            probe = held.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", next(candidates, 0)))
                found.append(probe.getsockname()[1])
    return found


@contextlib.contextmanager
def _alone(data_dir: Path) -> Any:
    """Nobody else runs ``up`` on this data folder meanwhile."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(data_dir / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CommandError(f"{data_dir} cannot be used: {error.strerror}. Set DATA_DIR to another folder.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise CommandError(
            f"Swarmdesk already runs on {data_dir}. End that one first, or set DATA_DIR to another folder."
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)


def demo_password(data_dir: Path) -> str:
    """The password of the demo users, made once per installation."""
    return kept_text(data_dir / "demo-password", lambda: "-".join(secrets.token_hex(2) for _ in range(3)))
