"""What choosing a region and noting its answer cost a call: ``python -m tests.bench.hot_path``.

Microseconds of processor time per call, without a query and without a network, for one, three and ten regions.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid

CALLS = 50_000


async def measure(regions: int) -> float:
    """Microseconds for one call: the route, leave to send it, and the note of its answer."""
    from apps.providers.breaker import Circuit
    from apps.providers.directory import Directory, Endpoint, Standing
    from apps.providers.quota import Limits
    from apps.providers.switchboard import Switchboard

    async def nobody(endpoint: Endpoint) -> None: ...

    board = Switchboard("bench", nobody)
    standings = tuple(
        Standing(
            id=uuid.uuid4(),
            endpoint=Endpoint("simulated", "openai_compatible", f"region-{number}", "http://127.0.0.1:9/v1", ""),
            order=number,
            draining=False,
            limits=Limits(),
            patience_s=30,
            probe_every_s=15,
            checks=5,
            circuit=Circuit(),
            slowed_until=None,
            checked_at=None,
            p99_s=0.2,
            samples=100,
            last_call=0.0,
        )
        for number in range(regions)
    )
    board._loop = asyncio.get_running_loop()
    board._directory = Directory({"simulated": standings}, {(uuid.uuid4(), "simulated"): frozenset({"region-0"})})
    board._standings = {each.id: each for each in standings}
    tenant = uuid.uuid4()
    began = time.process_time()
    for _ in range(CALLS):
        hop = board.hops("simulated", tenant).hops[0]
        board.held_up_s(hop)
        await board.permit(hop, 500)
        board.answered(hop, 0.2)
    return (time.process_time() - began) / CALLS * 1e6


def main() -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "portal.settings"
    os.environ.setdefault("SECRET_KEY", "benchmark-" + "x" * 50)
    import django

    django.setup()
    for regions in (1, 3, 10):
        print(f"{regions:>3} regions: {asyncio.run(measure(regions)):.1f} microseconds a call")


if __name__ == "__main__":
    main()
