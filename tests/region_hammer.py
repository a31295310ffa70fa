"""Processes that share regions: ``python -m tests.region_hammer COUNT board|permits|claim ...``.

Several are forked from one that has loaded everything, and end when standard input does. Each says "ready"; what they
tell at their end comes as a JSON line for each.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import uuid
from collections.abc import Callable

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
django.setup()

from django.utils import timezone  # noqa: E402

from apps.providers import switching  # noqa: E402
from apps.providers.clients import ModelClients  # noqa: E402
from apps.providers.permits import Permit, Permits  # noqa: E402
from apps.providers.probing import Patience  # noqa: E402
from apps.providers.switchboard import Switchboard  # noqa: E402
from portal.batching import DatabaseThread  # noqa: E402


def _say(line: str) -> None:
    """In one piece, as others write there, too."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


PATIENCE = Patience(ask_s=1.0, claim_s=4.0, trial_s=1.0, yield_s=0.2)


async def _board() -> None:
    """A switchboard without calls: it probes what is open."""
    clients = ModelClients()
    board = Switchboard(f"hammer-{os.getpid()}", clients.ask, refresh_s=0.05, patience=PATIENCE)
    await board.start()
    _say("ready")
    await asyncio.to_thread(sys.stdin.read)
    await board.aclose()
    await clients.aclose()


async def _permits(region_id: str, calls: int, call_s: float, callers: int) -> list[tuple[float, float]]:
    """Takes ``calls`` permits as fast as it gets them, each caller one after another; when they were used."""
    thread = DatabaseThread("regions")
    permits = Permits(thread, f"hammer-{os.getpid()}", timezone.now)
    seen: list[tuple[float, float]] = []
    _say("ready")
    await asyncio.to_thread(sys.stdin.read)

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
    return seen


def _claim(region_id: str, lease_s: float) -> None:
    """Claims a probe and hangs, as if asking the region."""
    _say(str(switching.claim_probe(uuid.UUID(region_id), uuid.uuid4(), lease_s=lease_s, now=timezone.now())))
    sys.stdin.read()


def _work(command: list[str]) -> object:
    match command:
        case ["board"]:
            return asyncio.run(_board())
        case ["permits", region_id, calls, call_s, callers]:
            return asyncio.run(_permits(region_id, int(calls), float(call_s), int(callers)))
        case ["claim", region_id, lease_s]:
            _claim(region_id, float(lease_s))
            return None
    sys.exit(f"not known: {command}")


def _forked(work: Callable[[], object]) -> int:
    """Does it in a process of its own; where to read what came of it."""
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        return reading
    os.close(reading)
    try:
        with os.fdopen(writing, "w") as told:
            told.write(json.dumps(work()))
    finally:
        os._exit(0)


if __name__ == "__main__":
    count, command = int(sys.argv[1]), sys.argv[2:]
    if count == 1:
        _say(json.dumps(_work(command)))
    else:
        for reading in [_forked(lambda: _work(command)) for _ in range(count)]:
            with os.fdopen(reading) as told:
                _say(told.read())
