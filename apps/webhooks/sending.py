"""Sending what is due: claim, send, record. No transaction is open while a receiver is waited for.

A claim that is never recorded, because its sender died, is due again when its lease ends: at least once, and the
receiver tells repeats by ``webhook-id``. One sender has many attempts in flight, few of each webhook
(:class:`apps.webhooks.policies.Lanes`), so that no receiver waits for another.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from asgiref.sync import sync_to_async
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from apps.webhooks import signing
from apps.webhooks.models import Delivery
from apps.webhooks.policies import LANES, Answer, Lanes
from apps.webhooks.posting import Post, Poster
from apps.webhooks.recording import record
from portal.encryption import CannotOpen

log = structlog.get_logger(__name__)

LEASE = dt.timedelta(seconds=60)
"""Longer than an attempt can take, with what it takes to write it down."""
POLL_S = 0.25
"""How soon what falls due is seen while attempts are in flight."""
LIFETIME_S = 25.0
"""After so long it takes nothing more: the worker has other jobs, and is waited for when the desk is stopped."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One attempt that is to be made. ``fails`` tells that the webhook's last one failed."""

    delivery_id: uuid.UUID
    token: uuid.UUID
    number: int
    post: Post
    fails: bool
    problem: str = ""


def claim(*, now: dt.datetime, lanes: Lanes, room: int, failing_room: int) -> list[Claim]:
    """Takes what is due and fits, signed and ready to be sent."""
    with transaction.atomic():
        taken = Delivery.objects.claim(now=now, until=now + LEASE, lanes=lanes, room=room, failing_room=failing_room)
    return [_signed(delivery, now=now) for delivery in taken]


def _signed(delivery: Delivery, *, now: dt.datetime) -> Claim:
    hook, body, problem = delivery.webhook, delivery.body.encode(), ""
    headers: dict[str, str] = {}
    try:
        headers = signing.headers(hook.secrets(now=now), str(delivery.pk), int(now.timestamp()), body)
    except CannotOpen as error:
        problem = f"The signing secret cannot be read: {error}"
    assert delivery.lease_token is not None
    post = Post(hook.url, body, headers)
    return Claim(delivery.pk, delivery.lease_token, delivery.attempts, post, hook.failures > 0, problem)


class Sender:
    """``async_to_sync(Sender().run)()`` sends until nothing is due, or its lifetime is over; how many attempts."""

    def __init__(
        self, *, lanes: Lanes = LANES, clock: Callable[[], dt.datetime] = timezone.now, lifetime_s: float = LIFETIME_S
    ) -> None:
        self._lanes = lanes
        self._clock = clock
        self._lifetime_s = lifetime_s
        self._flights: dict[asyncio.Task[Answer], Claim] = {}

    async def run(self) -> int:
        """On the thread that called it lies the database; on the loop's, the network."""
        made, end = 0, time.monotonic() + self._lifetime_s
        async with Poster() as poster:
            while True:
                if time.monotonic() < end:
                    for one in await self._claim():
                        self._flights[asyncio.create_task(_make(poster, one))] = one
                if not self._flights:
                    return made
                done, _ = await asyncio.wait(self._flights, timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    await self._record(self._flights.pop(task), task.result())
                    made += 1

    async def _claim(self) -> list[Claim]:
        failing = sum(flight.fails for flight in self._flights.values())
        room, failing_room = self._lanes.most - len(self._flights), self._lanes.failing - failing
        if room <= 0:
            return []
        taken: list[Claim] = await self._database(
            lambda: claim(now=self._clock(), lanes=self._lanes, room=room, failing_room=failing_room), []
        )
        return taken

    async def _record(self, one: Claim, answer: Answer) -> None:
        await self._database(
            lambda: record(one.delivery_id, one.token, one.number, answer, now=self._clock(), roll=random.random()),
            False,
        )

    async def _database(self, work: Callable[[], Any], without: Any) -> Any:
        """What it gives; ``without`` it when the database is lost: what was in flight is then sent again."""
        try:
            return await sync_to_async(work, thread_sensitive=True)()
        except DatabaseError as error:
            log.warning("webhooks_not_written", error=str(error).split("\n", 1)[0])
            await sync_to_async(connection.close_if_unusable_or_obsolete, thread_sensitive=True)()
            return without


async def _make(poster: Poster, one: Claim) -> Answer:
    """What comes of an attempt, whatever it is: one that went wrong here must not end the others."""
    if one.problem:
        return Answer(None, 0.0, error=one.problem)
    try:
        return await poster.send(one.post)
    except Exception as error:
        log.exception("webhook_not_sent", delivery_id=str(one.delivery_id))
        return Answer(None, 0.0, error=f"It could not be sent ({type(error).__name__}).")
