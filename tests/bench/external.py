"""Cost events of agents elsewhere, over HTTP, while swarms run here on the same machine.

``python -m tests.bench.external [--events N] [--batch N] [--senders N] [--json]`` sends events priced by their tokens
to a real daphne: for 2,000 end users and 100 runs, watched by budgets of the tenant, of each end user a day, of each
agent and of each run. It prints how many a minute were recorded, how long a request took, and how fast the swarms'
tasks ran meanwhile and without it. It fails unless ledger and budgets agree afterwards.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

import psutil

from tests.bench.setting import Setting, setting, wait_for
from tests.bench.throughput import product, submit, tenant_with_budgets
from tests.processes import free_port

LATENCY_MS = 200
SWARMS = 2
REPLICAS = 20
END_USERS = 2000
RUNS = 100


@dataclass
class Figures:
    """What one run did. Tasks per second are of swarms here; milliseconds of processor time are per 1,000 events."""

    events: int
    seconds: float
    request_p50_s: float
    request_max_s: float
    web_ms: float
    postgres_ms: float
    tasks_per_second_alone: float
    tasks_per_second_meanwhile: float

    @property
    def per_minute(self) -> float:
        return self.events / self.seconds * 60


@contextmanager
def web(place: Setting) -> Iterator[tuple[str, psutil.Process]]:
    """daphne; its address and its process."""
    port = free_port()
    command = ["-m", "daphne", "-b", "127.0.0.1", "-p", str(port), "portal.asgi:application"]
    with place.running(*command) as process:

        def listening() -> bool:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return True
            return False

        wait_for(listening, "the web server's start", 60)
        yield f"http://127.0.0.1:{port}/api/v1/costs/events/", psutil.Process(process.pid)


def token() -> str:
    """Of a developer of the tenant."""
    from apps.audit.trail import Actor
    from apps.tenants.actions import create_token
    from apps.tenants.models import Membership, User
    from apps.tenants.roles import Role

    tenant = tenant_with_budgets()
    user = User.objects.create(username="sender", email="sender@example.test")
    Membership.objects.create(user=user, tenant=tenant, role=Role.DEVELOPER)
    _, text = create_token(user, tenant, role="", life=dt.timedelta(days=1), by=Actor("system", "bench"))
    return str(text)


def budgets() -> None:
    """Those of the tenant and its agents are there; these watch each end user and each run. The price is an old one."""
    from apps.costs.models import Budget, Price

    tenant = tenant_with_budgets()
    Price.objects.update(effective_from=dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    Budget.objects.create(tenant=tenant, name="users", scope="end_user", period="daily", limit=10**15)
    Budget.objects.create(tenant=tenant, name="runs", scope="swarm", period="run", limit=10**15)


def batch(first: int, size: int) -> bytes:
    """Events number ``first`` and on, of the last hour."""
    now = dt.datetime.now(dt.UTC)
    rows = [
        {
            "event_id": f"bench/{number}",
            "tenant": "bench",
            "time": (now - dt.timedelta(seconds=number % 3600)).isoformat(),
            "agent": f"agent-{number % 10}",
            "model": "simulated:small",
            "end_user": f"user-{number * 7919 % END_USERS}",
            "run": f"run-{number % RUNS}",
            "input_tokens": 500 + number % 1000,
            "output_tokens": 50 + number % 200,
        }
        for number in range(first, first + size)
    ]
    return json.dumps(rows).encode()


def send(url: str, bearer: str, bodies: list[bytes], took: list[float]) -> None:
    headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}
    while True:
        try:
            body = bodies.pop()
        except IndexError:
            return
        begun = time.perf_counter()
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=120) as answer:
            if answer.status != 201:
                raise RuntimeError(f"answered {answer.status}")
            answer.read()
        took.append(time.perf_counter() - begun)


def tasks_done(since: dt.datetime) -> int:
    from apps.swarms.models import Task

    return Task.objects.filter(status="succeeded", finished_at__gte=since).count()


def rate_over(seconds: float) -> float:
    """Tasks of the swarms per second, over so many seconds from now."""
    from django.utils import timezone

    begun = timezone.now()
    time.sleep(seconds)
    return tasks_done(begun) / seconds


def verify(events: int) -> None:
    """Raises AssertionError unless each event is charged once and the budgets agree with the ledger."""
    from apps.costs import consistency
    from apps.costs.models import ExternalEvent, LedgerEntry

    assert ExternalEvent.objects.count() == events
    assert LedgerEntry.objects.exclude(external_id="").count() == events
    assert consistency.spent_differs_from_ledger(window=10**6) == []


def measure(place: Setting, events: int, size: int, senders: int) -> Figures:
    from django.utils import timezone

    with place.simulator(LATENCY_MS), product(place), web(place) as (url, server):
        budgets()
        bearer = token()
        swarms = [submit(9000, REPLICAS) for _ in range(SWARMS)]
        wait_for(lambda: tasks_done(swarms[-1].created_at) > SWARMS * REPLICAS, "the swarms' start", 60)
        alone = rate_over(10)
        bodies = [batch(start, min(size, events - start)) for start in range(0, events, size)]
        before = place.cost([server])
        took: list[float] = []
        threads = [threading.Thread(target=send, args=(url, bearer, bodies, took)) for _ in range(senders)]
        since, begun = timezone.now(), time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - begun
        meanwhile = tasks_done(since) / seconds
        cost = place.cost([server]) - before
        verify(events)
    took.sort()
    return Figures(
        events,
        seconds,
        took[len(took) // 2],
        took[-1],
        cost.workers / events * 1e6,
        cost.postgres / events * 1e6,
        alone,
        meanwhile,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=50_000, help="Default: 50,000.")
    parser.add_argument("--batch", type=int, default=1000, help="Events of a request. Default: 1,000.")
    parser.add_argument("--senders", type=int, default=2, help="Requests at once. Default: 2.")
    parser.add_argument("--json", action="store_true", help="Print JSON instead of lines.")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended then, too
    with setting() as place:
        figures = measure(place, options.events, options.batch, options.senders)
    found = {**asdict(figures), "per_minute": figures.per_minute}
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(f"{name:28}{value:12,.2f}" for name, value in found.items()))


if __name__ == "__main__":
    main()
