"""Keys rotated under load: Vault, runner processes of two classes, a provider that revokes the old key.

It does so when the grace is over, as a provider should, or the moment every process has the new one, which is harsher:
what is on its way with the old one then is refused.

``python -m tests.bench.rotation`` runs it for longer, over several rotations.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from django.db import connection
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.providers.models import Provider, SecretState
from apps.swarms.models import Swarm
from apps.tenants.models import Tenant
from tests.forks import RUNNER, Forked
from tests.running import SimulatorProcess, wait_until
from tests.swarms import AgentOf, StepOf, make_swarm
from tests.vault_server import Vault

NAME, OTHER = "HOUSE_KEY", "EUROPE_KEY"
LATENCY_MS = 200
CALLS_PER_S = 50
REPLICAS = 100
"""So many at once, as a call is queued, leased and recorded besides."""
GRACE_S = 1
"""For so long a process keeps the key before: short, and still some times as long as a call."""


def key(number: int) -> str:
    """The key of a rotation: easy to look for, and no more guessable than needs be."""
    return f"sk-house-{number:04d}-d41d8cd98f00b204"


@dataclass
class Workers:
    """A `manage.py work` of a class, with what it wrote."""

    worker_class: str
    log: Path
    token: str
    process: Forked

    def runners(self) -> list[int]:
        """Processes that hold keys, by what the trail says."""
        entries = AuditEntry.objects.filter(actor__startswith=f"{self.worker_class}@", action="secret:load")
        return sorted({int(actor.rpartition("/")[2]) for actor in entries.values_list("actor", flat=True)})

    def family(self) -> list[psutil.Process]:
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]


@contextmanager
def workers(worker_class: str, count: int, vault: Vault, paths: str, folder: Path) -> Iterator[Workers]:
    """Starts a cluster of runners whose token may read what is below ``paths``; ends it with all it started."""
    log = folder / f"{worker_class}.log"
    token = vault.grant(paths)
    environment = {
        **os.environ,
        "SECRETS_BACKEND": f"vault:{vault.address}/secret/desk",
        "VAULT_TOKEN": token,
        "LOG_FORMAT": "json",
        "GRACE_SECONDS": "8",
        "SECRETS_GRACE_S": str(GRACE_S),
    }
    command = ["work", "--cluster", "agents", "--class", worker_class, "--workers", str(count)]
    with log.open("w") as output:
        process = Forked("manage.py", *command, ahead=RUNNER, env=environment, stdout=output, stderr=output)
    made = Workers(worker_class, log, token, process)
    try:
        yield made
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            for member in made.family():
                member.kill()


def load(tenant: Tenant, seconds: float, *, replicas: int = REPLICAS) -> Swarm:
    """A swarm that makes at least fifty calls a second for so long, where the machine has the time for it."""
    fields: dict[str, Any] = {"model": "simulated:small", "max_output_tokens": 50}
    steps = [StepOf("call", items=int(CALLS_PER_S * seconds), prompt="Say {{ item }}.")]
    return make_swarm(tenant, steps, {"worker": AgentOf(replicas, fields)}, now=timezone.now())


def prepare(vault: Vault, at: SimulatorProcess) -> None:
    """The provider with the key that is rotated, and one of another class; both keys in Vault."""
    Provider.objects.filter(name="simulated").update(secret_name=NAME, worker_classes=["agents"])
    Provider.objects.create(name="europe", secret_name=OTHER, worker_classes=["agents-eu"])
    vault.put(f"secret/desk/{NAME}", value=key(0))
    vault.put(f"secret/desk/{OTHER}", value="sk-europe-9e107d9d372bb682")
    at.accept(key(0))


@dataclass(frozen=True)
class Rotation:
    """What one rotation was like: seconds from the order until every process had the new key, and until the old one
    was revoked."""

    all_on_new_s: float
    revoked_s: float
    runners: list[int]


def rotate(number: int, vault: Vault, at: SimulatorProcess, crew: Workers, *, at_once: bool = False) -> Rotation:
    """Puts a new key beside the old one, orders every process to read it, and revokes the old one.

    That happens when the grace of the last process is over; ``at_once``, when the last process has the new key.
    """
    from apps.providers.secrets.orders import order_refresh
    from apps.tenants.access import principal_of_command

    runners = crew.runners()
    vault.put(f"secret/desk/{NAME}", value=key(number))
    at.accept(key(number - 1), key(number))
    began = timezone.now()
    order_refresh(by=principal_of_command("drill"), reason="A drill.")
    turned = AuditEntry.objects.filter(action="secret:rotate", at__gt=began)

    def all_turned() -> bool:
        return {int(actor.rpartition("/")[2]) for actor in turned.values_list("actor", flat=True)} >= set(runners)

    wait_until(all_turned, timeout_s=15, what="all runners on the new key")
    last = max(turned.values_list("at", flat=True))
    if not at_once:
        over = last + dt.timedelta(seconds=GRACE_S)
        wait_until(lambda: timezone.now() > over, timeout_s=GRACE_S + 5, what="the end of the grace")
    at.accept(key(number))
    return Rotation((last - began).total_seconds(), (timezone.now() - began).total_seconds(), runners)


def wait_for_calls(swarm: Swarm, count: int, *, timeout_s: float = 60) -> None:
    wait_until(
        lambda: Swarm.objects.values_list("tasks_succeeded", flat=True).get(pk=swarm.pk) >= count,
        timeout_s=timeout_s,
        what=f"{count} calls",
    )


def tables_with(pattern: str) -> list[str]:
    """The tables with a row that, as text, matches: what a dump of the database would show."""
    found = []
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f'SELECT EXISTS (SELECT FROM "{table}" t WHERE t::text ~ %s)', [pattern])
            if cursor.fetchone() == (True,):
                found.append(table)
    return found


def memory_has(pid: int, needle: bytes) -> bool:
    """Whether the memory of a process holds a text anywhere it can write to."""
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in maps:
            place = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if place and "[v" not in line:
                start, end = (int(part, 16) for part in place.groups())
                memory.seek(start)
                try:
                    if needle in memory.read(end - start):
                        return True
                except OSError:
                    continue
    return False


def usable(worker_class: str, name: str = NAME) -> bool:
    state = SecretState.objects.filter(name=name, worker_class=worker_class).first()
    return state is not None and state.is_usable(now=timezone.now())
