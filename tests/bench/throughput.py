"""What governing costs: the product against the same agents without it, on one machine in one run.

``python -m tests.bench.throughput [--tasks N] [--only A,B,C,D,P] [--json]`` measures

A  a swarm through the product with two agent worker processes;
B  the same pydantic-ai agents in two bare asyncio processes: no queue, no budget, no database;
C  the same calls as plain django-q2 tasks, with 2 and with 16 workers;
D  tasks through lease, reserve, settle and ledger with a model that answers at once;
P  how long a ready task waits for its start when the product runs at half of A's rate.

For each: tasks per second, processor time per task (workers and PostgreSQL apart), and memory (PSS) of all workers.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil

from tests.bench.setting import ROOT, Setting, end, family, pss_mb, setting, wait_for

LATENCY_MS = 200
PROCESSES = 2
CONCURRENCY = 200


@dataclass
class Figures:
    """What one variant did. Milliseconds of processor time are per task."""

    name: str
    tasks: int
    seconds: float
    workers_ms: float
    postgres_ms: float
    pss_mb: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def per_second(self) -> float:
        return self.tasks / self.seconds


def tenant_with_budgets() -> Any:
    """A tenant with room for everything, watched by a hard budget of its own and one for each agent."""
    from apps.costs.models import Budget, Price
    from apps.providers.models import Provider, Region
    from apps.swarms.models import ResourcePool
    from apps.tenants.models import Tenant

    ResourcePool.objects.update(agents_total=100_000, memory_gb_total=100_000, cpu_total=100_000)
    tenant, made = Tenant.objects.get_or_create(slug="bench", defaults={"name": "Bench"})
    if made:
        Budget.objects.create(tenant=tenant, name="tenant", limit=10**15)
        Budget.objects.create(tenant=tenant, name="agents", scope="agent", limit=10**15)
        Price.objects.create(
            provider="simulated", model="small", input_per_mtok=150_000_000, output_per_mtok=600_000_000
        )
        Region.objects.create(provider=Provider.objects.create(name="simulated"), name="bench", base_url="http://0/v1")
    return tenant


def submit(tasks: int, replicas: int) -> Any:
    from apps.swarms.actions.submit import submit as submit_swarm
    from apps.tenants.access import principal_of_command
    from tests.bench import agents

    return submit_swarm(agents.spec(tasks, replicas), tenant=tenant_with_budgets(), by=principal_of_command("bench"))


def wait_over(swarm: Any, timeout_s: float) -> None:
    from apps.swarms.models import Swarm

    wait_for(lambda: Swarm.objects.get(pk=swarm.pk).is_over, "the end of the swarm", timeout_s)
    swarm.refresh_from_db()
    if swarm.status != "succeeded":
        raise RuntimeError(f"the swarm {swarm.status}: {swarm.status_reason}")


@contextmanager
def product(place: Setting) -> Iterator[list[psutil.Process]]:
    """Orchestrator and a cluster of two agent workers; yields the cluster's processes."""
    from apps.execution.models import Runner
    from apps.providers.models import Region

    tenant_with_budgets()
    Region.objects.update(base_url=f"http://127.0.0.1:{place.simulator_port}/v1")
    with ExitStack() as stack:
        stack.enter_context(place.running("manage.py", "orchestrate"))
        work = stack.enter_context(
            place.running("manage.py", "work", "--cluster", "agents", "--workers", str(PROCESSES))
        )
        wait_for(lambda: Runner.objects.filter(finished_at=None).count() >= PROCESSES, "the runners' start", 60)
        warm = submit(2 * PROCESSES, 2 * PROCESSES)
        wait_over(warm, 60)
        yield [psutil.Process(work.pid)]


def measure(place: Setting, swarm_of: Any, workers: list[psutil.Process], name: str, tasks: int) -> Figures:
    """Submits a swarm and measures it from its first start to its last end."""
    from django.db.models import Max, Min

    from apps.swarms.models import Task

    before = place.cost(workers)
    swarm = swarm_of()
    memory = 0.0

    def sampled() -> bool:
        nonlocal memory
        memory = max(memory, pss_mb([worker.pid for worker in workers]))
        from apps.swarms.models import Swarm

        return Swarm.objects.get(pk=swarm.pk).is_over

    deadline = time.monotonic() + 300
    while not sampled():
        if time.monotonic() > deadline:
            raise TimeoutError("the swarm did not end")
        time.sleep(0.5)
    wait_over(swarm, 5)
    cost = place.cost(workers) - before
    times = Task.objects.filter(swarm=swarm).aggregate(first=Min("started_at"), last=Max("finished_at"))
    seconds = (times["last"] - times["first"]).total_seconds()
    return Figures(name, tasks, seconds, cost.workers / tasks * 1e3, cost.postgres / tasks * 1e3, memory)


def through_the_product(place: Setting, tasks: int) -> Figures:
    replicas = PROCESSES * CONCURRENCY
    with place.simulator(LATENCY_MS), product(place) as workers:
        return measure(place, lambda: submit(tasks, replicas), workers, "A product", tasks)


def bare(place: Setting, tasks: int) -> Figures:
    share = tasks // PROCESSES
    with place.simulator(LATENCY_MS), ExitStack() as stack:
        processes = []
        for number in range(PROCESSES):
            command = ["-m", "tests.bench.bare", str(place.simulator_port), str(number * share), str(share)]
            process = subprocess.Popen(
                [sys.executable, *command, str(CONCURRENCY)],
                cwd=ROOT,
                env=place.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=place.log,
                text=True,
            )
            stack.callback(end, process)
            processes.append(process)
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        begun = time.perf_counter()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        cpu = [float(process.stdout.readline()) for process in processes if process.stdout]
        seconds = time.perf_counter() - begun
        memory = pss_mb([process.pid for process in processes])
    return Figures("B bare asyncio", tasks, seconds, sum(cpu) / tasks * 1e3, 0.0, memory)


def plain_django_q2(place: Setting, workers: int, tasks: int) -> Figures:
    from django_q.models import OrmQ, Success, Task
    from django_q.tasks import async_task

    environment = {"Q_CLUSTER_NAME": "ops", "OPS_WORKERS": str(workers)}
    with place.simulator(LATENCY_MS), place.running("manage.py", "qcluster", **environment) as cluster:
        wait_for(lambda: len(family(cluster.pid)) >= workers + 4, "the cluster's start", 60)
        done = Success.objects.count()
        before = place.cost([psutil.Process(cluster.pid)])
        begun = time.perf_counter()
        for number in range(tasks):
            async_task("tests.bench.plain_tasks.agent_call", place.simulator_port, number, cluster="ops")
        memory = pss_mb([cluster.pid])
        wait_for(lambda: Success.objects.count() - done >= tasks or Task.objects.filter(success=False), "tasks", 300)
        seconds = time.perf_counter() - begun
        cost = place.cost([psutil.Process(cluster.pid)]) - before
        OrmQ.objects.all().delete()
    name = f"C django-q2, {workers} workers"
    return Figures(name, tasks, seconds, cost.workers / tasks * 1e3, cost.postgres / tasks * 1e3, memory)


def null_model(place: Setting, tasks: int) -> Figures:
    """Best of three, since a second of other work on the machine is a third of the whole."""
    from apps.execution.models import Runner

    tenant_with_budgets()
    with ExitStack() as stack:
        stack.enter_context(place.running("manage.py", "orchestrate"))
        before = Runner.objects.count()
        runners = [stack.enter_context(place.running("-m", "tests.bench.null")) for _ in range(PROCESSES)]
        wait_for(lambda: Runner.objects.count() >= before + PROCESSES, "the runners' start", 60)
        workers = [psutil.Process(runner.pid) for runner in runners]
        runs = [
            measure(place, lambda: submit(tasks, 4 * CONCURRENCY), workers, "D null model", tasks) for _ in range(3)
        ]
    return max(runs, key=lambda run: run.per_second)


def waiting_at_half_load(place: Setting, rate: float) -> Figures:
    """Ready to started, for a swarm whose replicas let it run at about half of ``rate``."""
    from django.db import connection

    replicas = max(int(rate / 2 * (LATENCY_MS / 1000 + 0.1)), 1)
    tasks = int(rate / 2 * 8)
    swarms = []

    def swarm_of() -> Any:
        swarms.append(submit(tasks, replicas))
        return swarms[0]

    with place.simulator(LATENCY_MS), product(place) as workers:
        figures = measure(place, swarm_of, workers, "P half load", tasks)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT percentile_disc(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY extract(epoch FROM started_at - ready_at))
            FROM swarms_task WHERE swarm_id = %s
            """,
            [swarms[0].pk],
        )
        ((p50, p99),) = cursor.fetchone() or (([0.0, 0.0]),)
    figures.extra = {"ready_to_started_p50_ms": float(p50) * 1e3, "ready_to_started_p99_ms": float(p99) * 1e3}
    return figures


def table(results: list[Figures]) -> str:
    lines = [f"{'':24}{'tasks':>7}{'per second':>12}{'workers ms':>12}{'postgres ms':>12}{'PSS MB':>9}"]
    for row in results:
        lines.append(
            f"{row.name:24}{row.tasks:>7}{row.per_second:>12.0f}{row.workers_ms:>12.2f}"
            f"{row.postgres_ms:>12.3f}{row.pss_mb:>9.0f}"
        )
        lines += [f"    {name}: {value:.0f}" for name, value in row.extra.items()]
    named = {row.name[0]: row for row in results}
    if {"A", "B"} <= named.keys():
        lines.append(f"A/B: {named['A'].per_second / named['B'].per_second:.0%}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=2000, help="Tasks of A and B. Default: 2000.")
    parser.add_argument("--only", default="A,B,C,D,P", help="Variants, by commas.")
    parser.add_argument("--json", action="store_true", help="Print JSON instead of a table.")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended then, too
    only = set(options.only.split(","))
    results: list[Figures] = []
    with setting() as place:
        if "B" in only:
            results.append(bare(place, options.tasks))
        if "A" in only:
            results.append(through_the_product(place, options.tasks))
        if "C" in only:
            results += [plain_django_q2(place, 2, 120), plain_django_q2(place, 16, 480)]
        if "D" in only:
            results.append(null_model(place, 5 * options.tasks))
        if "P" in only:
            rate = next((row.per_second for row in results if row.name[0] == "A"), 200.0)
            results.append(waiting_at_half_load(place, rate))
    if options.json:
        print(json.dumps([{**asdict(row), "per_second": row.per_second} for row in results], indent=2))
    else:
        print(table(results))


if __name__ == "__main__":
    main()
