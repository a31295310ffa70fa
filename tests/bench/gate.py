"""What the gate adds to a call: ``python -m tests.bench.gate [--latency-ms 500] [--seconds 8] [--json]``.

The same requests to the same simulated endpoint, bare and with everything on: routing over three regions, breakers,
region limits, a reservation in two hard budgets, settlement and ledger. Milliseconds of latency per call at 1, 50 and
200 calls at once. Calls begin evenly spread, so that what is measured is a call and not a stampede. Besides,
milliseconds of processor time per call: of the calling process, bare and governed, and of PostgreSQL.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from tests.bench.setting import Setting, setting

AT_ONCE = (1, 50, 200)
Call = Callable[[int], Awaitable[None]]


@dataclass
class Row:
    """Milliseconds of latency at so many calls at once."""

    at_once: int
    calls: int
    bare_p50: float
    bare_p99: float
    gate_p50: float
    gate_p99: float
    bare_processor: float
    gate_processor: float
    postgres_processor: float

    @property
    def added_p50(self) -> float:
        return self.gate_p50 - self.bare_p50

    @property
    def added_p99(self) -> float:
        return self.gate_p99 - self.bare_p99


def quantile(values: list[float], q: float) -> float:
    return sorted(values)[min(int(q * len(values)), len(values) - 1)]


async def load(call: Call, at_once: int, latency_s: float, seconds: float) -> list[float]:
    """Milliseconds of each call, with ``at_once`` callers for some seconds."""
    took: list[float] = []
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds

    async def caller(number: int) -> None:
        await asyncio.sleep(latency_s * number / at_once)
        while loop.time() < until:
            began = time.perf_counter()
            await call(number)
            took.append((time.perf_counter() - began) * 1e3)

    await asyncio.gather(*(caller(number) for number in range(at_once)))
    return took


def request(number: int) -> tuple[Any, Any, Any]:
    from pydantic_ai.messages import ModelRequest, UserPromptPart
    from pydantic_ai.models import ModelRequestParameters
    from pydantic_ai.settings import ModelSettings

    text = f"Collect three facts on item {number}."
    return [ModelRequest([UserPromptPart(text)])], ModelSettings(max_tokens=300), ModelRequestParameters()


async def measure(place: Setting, tenant: Any, latency_s: float, seconds: float) -> list[Row]:
    from django.utils import timezone

    from apps.costs.prices import ModelPrice
    from apps.costs.reserving import Settlement
    from apps.execution import results
    from apps.execution.batches import releases, reservations
    from apps.execution.failover import Line
    from apps.execution.gate import CallContext, Gate
    from apps.execution.governed import GovernedModel
    from apps.execution.runner import WRITE_INTERVAL_S
    from apps.providers.clients import ModelClients
    from apps.providers.switchboard import Switchboard
    from apps.providers.transport import LaunchPad
    from portal.batching import Batcher, DatabaseThread

    def write(items: Any) -> list[None]:
        results.write(items, now=timezone.now())
        return [None] * len(items)

    books, reserves = DatabaseThread("books"), DatabaseThread("reserves")
    reserver = reservations(reserves, now=timezone.now)
    writer: Batcher[Settlement, None] = Batcher(books, write, interval_s=WRITE_INTERVAL_S)
    gate = Gate(reserver.submit, writer.submit, releases(reserves).submit)
    clients, pad = ModelClients(connections=256), LaunchPad()
    board = Switchboard("bench", clients.ask)
    await board.start()
    price = ModelPrice("simulated:small", 150_000_000, 600_000_000)
    endpoint = board.hops("simulated", tenant.pk).hops[0].endpoint
    model = clients.model(endpoint, "small")

    async def bare(number: int) -> None:
        async with pad.launching():
            await model.request(*request(number))

    async def governed(number: int) -> None:
        context = CallContext(
            tenant_id=tenant.pk,
            subject_id=None,
            swarm_id=None,
            task_id=None,
            attempt_id=uuid.uuid4(),
            agent="bench",
            model=price.model,
            price=price,
            expires_at=timezone.now() + timedelta(seconds=60),
            deadline=asyncio.get_running_loop().time() + 60,
        )
        line = Line(board, clients, "simulated", "small", tenant.pk, {})
        whole = GovernedModel(line.face(), gate, context, max_output_tokens=300, pad=pad, line=line)
        await whole.request(*request(number))

    rows = []
    for warm in (bare, governed):
        await load(warm, 20, latency_s, 1.0)
    for at_once in AT_ONCE:
        run = partial(load, at_once=at_once, latency_s=latency_s, seconds=seconds)
        used = [time.process_time()]
        plain = await run(bare)
        used.append(time.process_time())
        before = place.cost([])
        all_on = await run(governed)
        used.append(time.process_time())
        database = place.cost([]) - before
        rows.append(
            Row(
                at_once,
                len(all_on),
                quantile(plain, 0.5),
                quantile(plain, 0.99),
                quantile(all_on, 0.5),
                quantile(all_on, 0.99),
                (used[1] - used[0]) / len(plain) * 1e3,
                (used[2] - used[1]) / len(all_on) * 1e3,
                database.postgres / len(all_on) * 1e3,
            )
        )
    for batcher in (reserver, writer):
        await batcher.drain()
    await board.aclose()
    await clients.aclose()
    for thread in (books, reserves):
        await thread.aclose()
    return rows


def prepare(place: Setting) -> Any:
    """A tenant with two hard budgets, and three limited regions at the simulator."""
    from apps.providers.models import Provider, Region
    from tests.bench.throughput import tenant_with_budgets

    tenant = tenant_with_budgets()
    url = f"http://127.0.0.1:{place.simulator_port}/v1"
    provider = Provider.objects.get(name="simulated")
    limits = {"requests_per_minute": 1_000_000, "tokens_per_minute": 2_000_000_000, "concurrency": 1_000}
    Region.objects.update(base_url=url, **limits)
    for order in (2, 3):
        Region.objects.create(provider=provider, name=f"backup-{order}", order=order, base_url=url, **limits)
    return tenant


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency-ms", type=int, default=500, help="Of the simulated provider. Default: 500.")
    parser.add_argument("--seconds", type=float, default=8.0, help="Of each of the six runs. Default: 8.")
    parser.add_argument("--unlimited", action="store_true", help="Regions without limits.")
    parser.add_argument("--json", action="store_true", help="Print JSON instead of a table.")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with setting() as place:
        tenant = prepare(place)
        if options.unlimited:
            from apps.providers.models import Region

            Region.objects.update(requests_per_minute=None, tokens_per_minute=None, concurrency=None)
        with place.simulator(options.latency_ms):
            from portal.collecting import fewer_collections

            with fewer_collections():  # as in a runner
                rows = asyncio.run(measure(place, tenant, options.latency_ms / 1e3, options.seconds))
    if options.json:
        print(json.dumps([{**asdict(row), "added_p50": row.added_p50, "added_p99": row.added_p99} for row in rows]))
        return
    heads = ("at once", "calls", "bare p50", "p99", "gate p50", "p99", "added p50", "p99", "CPU bare", "gate", "db")
    widths = (8, 8, 10, 8, 10, 8, 11, 8, 10, 7, 7)
    print("".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True)))
    for row in rows:
        print(
            f"{row.at_once:>8}{row.calls:>8}{row.bare_p50:>10.1f}{row.bare_p99:>8.1f}{row.gate_p50:>10.1f}"
            f"{row.gate_p99:>8.1f}{row.added_p50:>11.1f}{row.added_p99:>8.1f}"
            f"{row.bare_processor:>10.2f}{row.gate_processor:>7.2f}{row.postgres_processor:>7.2f}"
        )


if __name__ == "__main__":
    main()
