"""The console's socket: what happens, as typed messages, to those who may see it.

Messages to the client: ``event`` (id, kind, at, tenant, swarm, task, data, and text, icon, tone for people), ``reset``
(too much was missed: load the page's parts anew and go on after the id in ``after``), ``heartbeat`` every 20 s,
``subscribed``, ``pong`` and ``error``. From the client: ``ping``, and ``subscribe`` with a swarm's id to see only that
swarm (null: everything again). Close code 4401: log in first.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any, ClassVar
from urllib.parse import parse_qs

from channels.auth import get_user
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.conf import settings
from django.db import DatabaseError

from apps.console.hub import Subscriber, hub
from apps.swarms.models import Swarm
from apps.tenants.access import NOBODY, Principal, principal_of
from apps.tenants.models import User

HEARTBEAT_S = 20.0
"""Between heartbeats; at each, the person's session and permissions are looked up again."""
LOG_IN_FIRST = 4401
TRY_AGAIN_LATER = 1013
MESSAGE_BYTES = 4096
NO_SUCH_SWARM = "There is no such swarm, or you may not see it."
BURST = 100
BURST_PAUSE_S = 0.05
"""After each burst of messages comes a pause: at most 2,000 a second go to one client, since the server in front
buffers what a client does not read. A client that cannot follow gets a reset, not a pile."""


class ConsoleConsumer(AsyncJsonWebsocketConsumer):
    """``/ws/console/?after=EVENT_ID&swarm=SWARM_ID``, both optional."""

    subscriber: Subscriber | None = None

    async def connect(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        principal = await self._principal()
        if principal is None:
            await self.accept()  # a close before the handshake could not carry its code
            await self.close(code=LOG_IN_FIRST)
            return
        asked = parse_qs(self.scope["query_string"].decode("ascii", "replace"))
        after, swarm = (asked.get(key, [""])[-1] for key in ("after", "swarm"))
        swarm_id = await self._visible_swarm(principal, swarm)
        # Joined before it is open: whoever sees an open socket misses nothing from then on.
        self.subscriber = await hub().join(principal, after=_event_id(after), swarm_id=swarm_id)
        await self.accept()
        if swarm and swarm_id is None:
            await self._refuse(NO_SUCH_SWARM)
        self._tasks = [asyncio.create_task(self._send_events()), asyncio.create_task(self._beat())]

    async def disconnect(self, code: int) -> None:
        if self.subscriber:
            hub().leave(self.subscriber)
        for task in self._tasks:
            task.cancel()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None, **kwargs: Any) -> None:
        if self.subscriber is None:
            return
        if text_data is None or len(text_data) > MESSAGE_BYTES:
            await self._refuse(f"Send JSON text of at most {MESSAGE_BYTES} bytes.")
            return
        try:
            content = json.loads(text_data)
        except ValueError:
            await self._refuse("That is not JSON.")
            return
        await self.receive_json(content)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        kind = content.get("type") if isinstance(content, dict) else None
        known = self.messages.get(kind) if isinstance(kind, str) else None
        if known is None:
            await self._refuse(f'Unknown message: "type" is {" or ".join(map(json.dumps, self.messages))}.')
            return
        await known(self, content)

    async def _ping(self, content: dict[str, Any]) -> None:
        await self.send_json({"type": "pong"})

    async def _subscribe(self, content: dict[str, Any]) -> None:
        if self.subscriber is None:
            return
        wanted = content.get("swarm")
        swarm_id = await self._visible_swarm(self.subscriber.principal, wanted)
        if wanted is not None and swarm_id is None:
            await self._refuse(NO_SUCH_SWARM)
            return
        self.subscriber.swarm_id = swarm_id
        await self.send_json({"type": "subscribed", "swarm": str(swarm_id) if swarm_id else None})

    messages: ClassVar[dict[str, Callable[[ConsoleConsumer, dict[str, Any]], Awaitable[None]]]] = {
        "ping": _ping,
        "subscribe": _subscribe,
    }
    """What a client may say, by its ``type``."""

    async def _send_events(self) -> None:
        if self.subscriber is None:
            return
        queue, sent = self.subscriber.queue, 0
        while True:
            await self.send(text_data=await queue.get())
            sent += 1
            if sent % BURST == 0:
                await asyncio.sleep(BURST_PAUSE_S)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            try:
                principal = await self._principal()
            except DatabaseError:
                await self.close(code=TRY_AGAIN_LATER)  # what cannot be checked is not shown
                return
            if principal is None:
                await self.close(code=LOG_IN_FIRST)
                return
            if self.subscriber:
                self.subscriber.principal = principal
            await self.send_json({"type": "heartbeat"})

    async def _principal(self) -> Principal | None:
        """What the person behind the session may do now; None when there is no such session (any more)."""
        session = self.scope.get("session")
        engine = import_module(settings.SESSION_ENGINE)
        fresh = engine.SessionStore(session.session_key if session else None)
        user = await get_user({"session": fresh})
        if not isinstance(user, User):
            return None
        client = self.scope.get("client")
        principal: Principal = await database_sync_to_async(principal_of)(user, address=client[0] if client else None)
        return None if principal is NOBODY else principal

    async def _visible_swarm(self, principal: Principal, wanted: Any) -> uuid.UUID | None:
        try:
            swarm_id = uuid.UUID(str(wanted))
        except ValueError:
            return None
        seen = Swarm.objects.visible_to(principal).filter(pk=swarm_id)
        return swarm_id if await seen.aexists() else None

    async def _refuse(self, why: str) -> None:
        await self.send_json({"type": "error", "detail": why})


def _event_id(text: str | None) -> int | None:
    """The id in ``?after=``; -1, which no event has, for what is not a number; None when it is missing."""
    if not text:
        return None
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else -1
