"""A process among several that share regions: ``python -m tests.region_hammer board|permits|claim ...``."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import uuid


def _django() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    import django

    django.setup()


async def _board() -> None:
    """A switchboard without calls, until standard input ends: it probes what is open."""
    from apps.providers.clients import ModelClients
    from apps.providers.switchboard import Switchboard

    clients = ModelClients()
    board = Switchboard(f"hammer-{os.getpid()}", clients.ask, refresh_s=0.05)
    await board.start()
    print("ready", flush=True)  # noqa: T201
    await asyncio.to_thread(sys.stdin.read)
    await board.aclose()
    await clients.aclose()


async def _permits(region_id: str, calls: int, call_s: float, callers: int) -> None:
    """Takes ``calls`` permits as fast as it gets them, each caller one after another; prints when they were used."""
    from django.utils import timezone

    from apps.providers.permits import Permit, Permits
    from portal.batching import DatabaseThread

    thread = DatabaseThread("regions")
    permits = Permits(thread, f"hammer-{os.getpid()}", timezone.now)
    seen: list[tuple[float, float]] = []
    print("ready", flush=True)  # noqa: T201
    await asyncio.to_thread(sys.stdin.readline)

    async def one() -> None:
        while True:
            answer = await permits.take(uuid.UUID(region_id), 100)
            if isinstance(answer, Permit):
                break
            if answer > 5:
                return  # this minute has no more
            await asyncio.sleep(min(answer, 0.02))
        began = time.time()
        await asyncio.sleep(call_s)
        seen.append((began, time.time()))
        permits.end(answer, 100)

    async def caller(number: int) -> None:
        for _ in range(number, calls, callers):
            await one()

    await asyncio.gather(*map(caller, range(callers)))
    await permits.drain()
    await thread.aclose()
    print(json.dumps(seen), flush=True)  # noqa: T201


def _claim(region_id: str, lease_s: float) -> None:
    """Claims a probe and hangs, as if asking the region."""
    from django.utils import timezone

    from apps.providers import switching

    print(switching.claim_probe(uuid.UUID(region_id), uuid.uuid4(), lease_s=lease_s, now=timezone.now()), flush=True)  # noqa: T201
    sys.stdin.read()


if __name__ == "__main__":
    _django()
    match sys.argv[1:]:
        case ["board"]:
            asyncio.run(_board())
        case ["permits", region_id, calls, call_s, callers]:
            asyncio.run(_permits(region_id, int(calls), float(call_s), int(callers)))
        case ["claim", region_id, lease_s]:
            _claim(region_id, float(lease_s))
