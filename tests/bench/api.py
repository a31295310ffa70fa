"""The REST API over HTTP: status reads, submits and cost events, at real web processes with 10,000 swarms.

``python -m tests.bench.api [--swarms N] [--connections N] [--processes N] [--seconds N] [--json]`` asks from 50
connections, each with a token of its own, first as fast as the answers come, then at a third of that rate: at full
speed how long an answer takes is the number of connections divided by the rate, whatever the work. All on loopback.
"""

from __future__ import annotations

import argparse
import datetime as dt
import http.client
import itertools
import json
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from tests.bench.setting import Cost, Setting, setting, wait_for
from tests.processes import free_port

HEADERS = ("what", "requests/s", "p50 ms", "p95 ms", "p99 ms", "web CPU ms", "db CPU ms", "answers")
UNLIMITED = {f"API_LIMIT_{name}": "0" for name in ("TOKEN", "SESSION", "INGEST", "ADDRESS")}
EVENTS_PER_REQUEST = 100
Ask = Callable[[int], tuple[str, str, Any, dict[str, str]]]
"""Of the number of a request: method, path, body, header fields."""


@dataclass
class Figures:
    """What one kind of request did. Milliseconds are those of whole answers, as a caller sees them, and those of
    processors in web processes and in PostgreSQL, by request: the latter say the same on a machine that is busy.
    """

    what: str
    per_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    web_cpu_ms: float
    database_cpu_ms: float
    answers: dict[int, int]


@contextmanager
def web(place: Setting, processes: int) -> Iterator[tuple[list[int], list[psutil.Process]]]:
    """Web processes, and their ports."""
    started = []
    with ExitStack() as stack:
        ports = [free_port() for _ in range(processes)]
        for port in ports:
            command = ["-m", "daphne", "-b", "127.0.0.1", "-p", str(port), "portal.asgi:application"]
            started.append(psutil.Process(stack.enter_context(place.running(*command, **UNLIMITED)).pid))
        for port in ports:
            wait_for(lambda port=port: _listens(port), "the web server's start", 60)  # type: ignore[misc]
        yield ports, started


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def world(swarms: int, tokens: int) -> tuple[list[str], list[str]]:
    """A tenant with swarms of every status, all with tasks, and tokens for it; ids of swarms, and the tokens."""
    from apps.audit.trail import Actor
    from apps.swarms.models import Agent, Step, Swarm, SwarmStatus, Task, TaskStatus
    from apps.tenants.actions import create_token
    from apps.tenants.models import Membership, User
    from apps.tenants.roles import Role
    from tests.bench.throughput import tenant_with_budgets

    tenant = tenant_with_budgets()
    rows = [
        Swarm(tenant=tenant, name=f"swarm {n}", spec={}, status=SwarmStatus.PAUSED, tasks_total=4)
        for n in range(swarms)
    ]
    Swarm.objects.bulk_create(rows, batch_size=2000)
    agents = [Agent(swarm=swarm, name="writer", model="simulated:small", slots_free=1) for swarm in rows]
    Agent.objects.bulk_create(agents, batch_size=2000)
    steps = [
        Step(swarm=swarm, agent=agent, name="write", position=0, prompt="Write.", tasks_total=4, is_fan_out=True)
        for swarm, agent in zip(rows, agents, strict=True)
    ]
    Step.objects.bulk_create(steps, batch_size=2000)
    tasks = [
        Task(swarm_id=step.swarm_id, step=step, agent_id=step.agent_id, index=index, status=TaskStatus.PENDING)
        for step in steps
        for index in range(4)
    ]
    Task.objects.bulk_create(tasks, batch_size=5000)
    user = User.objects.create(username="integrator", email="integrator@example.test")
    Membership.objects.create(user=user, tenant=tenant, role=Role.DEVELOPER)
    by = Actor("system", "bench")
    made = [create_token(user, tenant, life=dt.timedelta(days=1), by=by)[1] for _ in range(tokens)]
    return [str(swarm.pk) for swarm in rows], made


def measure(
    what: str,
    ports: list[int],
    tokens: list[str],
    seconds: float,
    ask: Ask,
    *,
    cost: Callable[[], Cost],
    rate: float = 0,
) -> Figures:
    """Asks on a connection for each token, for so many seconds; ``rate`` requests a second, or as fast as it goes."""
    paid = cost()
    took: list[float] = []
    answers: dict[int, int] = {}
    numbers = itertools.count()
    begun = time.perf_counter()
    pause = len(tokens) / rate if rate else 0.0

    def client(index: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", ports[index % len(ports)], timeout=60)
        due = begun + pause * index / len(tokens)
        while (now := time.perf_counter()) < begun + seconds:
            if pause and now < due:
                time.sleep(min(due - now, 0.5))
                continue
            method, path, body, headers = ask(next(numbers))
            given = {"Authorization": f"Bearer {tokens[index]}", "Content-Type": "application/json", **headers}
            started = time.perf_counter()
            connection.request(method, f"/api/v1{path}", None if body is None else json.dumps(body), given)
            answer = connection.getresponse()
            answer.read()
            took.append(time.perf_counter() - started)
            answers[answer.status] = answers.get(answer.status, 0) + 1
            due += pause

    threads = [threading.Thread(target=client, args=(index,)) for index in range(len(tokens))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - begun
    took.sort()
    p50, p95, p99 = (took[min(int(len(took) * part), len(took) - 1)] * 1000 for part in (0.5, 0.95, 0.99))
    used = cost() - paid
    cpu = (1000 * used.workers / len(took), 1000 * used.postgres / len(took))
    return Figures(what, len(took) / elapsed, p50, p95, p99, *cpu, answers)


def run(place: Setting, options: argparse.Namespace) -> list[Figures]:
    ids, tokens = world(options.swarms, options.connections)

    def status(number: int) -> tuple[str, str, Any, dict[str, str]]:
        return "GET", f"/swarms/{ids[number * 7919 % len(ids)]}/", None, {}

    def submit(number: int) -> tuple[str, str, Any, dict[str, str]]:
        spec = {
            "swarm": f"bench {number}",
            "agents": {"writer": {"model": "simulated:small", "instructions": "Be brief."}},
            "tasks": [{"id": "write", "agent": "writer", "prompt": "Write."}],
        }
        return "POST", "/swarms/", {"tenant": "bench", "spec": spec}, {"Idempotency-Key": str(uuid.uuid4())}

    def events(_: int) -> tuple[str, str, Any, dict[str, str]]:
        now = dt.datetime.now(dt.UTC).isoformat()
        rows = [
            {"event_id": str(uuid.uuid4()), "tenant": "bench", "time": now, "agent": "away", "amount_usd": "0.0001"}
            for _ in range(EVENTS_PER_REQUEST)
        ]
        return "POST", "/costs/events/", rows, {}

    found = []
    with web(place, options.processes) as (ports, processes):

        def cost() -> Cost:
            return place.cost(processes)

        measure("warm", ports, tokens, 3, status, cost=cost)
        kinds = (("status", status), ("submit", submit), (f"{EVENTS_PER_REQUEST} cost events", events))
        for what, ask in kinds:
            full = measure(what, ports, tokens, options.seconds, ask, cost=cost)
            third = measure(f"{what}, third", ports, tokens, options.seconds, ask, cost=cost, rate=full.per_second / 3)
            found += [full, third]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swarms", type=int, default=10_000, help="Swarms there are. Default: 10,000.")
    parser.add_argument("--connections", type=int, default=50, help="Default: 50.")
    parser.add_argument("--processes", type=int, default=2, help="Web processes. Default: 2.")
    parser.add_argument("--seconds", type=float, default=10, help="Of each measurement. Default: 10.")
    parser.add_argument("--json", action="store_true", help="Print JSON instead of a table.")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended then, too
    with setting() as place:
        found = run(place, options)
    if options.json:
        print(json.dumps([asdict(each) for each in found], indent=2))
        return
    print(f"{HEADERS[0]:24}" + "".join(f"{name:>12}" for name in HEADERS[1:]))
    for each in found:
        times = (each.p50_ms, each.p95_ms, each.p99_ms)
        numbers = (each.per_second, *times, each.web_cpu_ms, each.database_cpu_ms)
        answers = ", ".join(f"{count} x {status}" for status, count in sorted(each.answers.items()))
        print(f"{each.what:24}" + "".join(f"{number:12.1f}" for number in numbers) + f"  {answers}")


if __name__ == "__main__":
    main()
