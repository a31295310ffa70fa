"""One reader of the event log for all the sockets of a web process.

A NOTIFY wakes it, it reads what is new from the database (at most ten times a second, however many hints and sockets
there are), and offers each event to each subscriber. Everything but the database calls runs on the event loop, so
what happens between two awaits is atomic.
"""

from __future__ import annotations

import asyncio
import time
import uuid
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog
from django.core.serializers.json import DjangoJSONEncoder
from django.db import DatabaseError, InterfaceError, close_old_connections, connections

from apps.console.sentences import sentence
from apps.console.visible import event_filter, may_see
from apps.events import log as event_log
from apps.events.horizon import readable
from apps.events.log import START
from apps.events.models import Event
from apps.swarms.models import Swarm, Task
from apps.tenants.access import Principal
from portal.notify import Channel, Listener

log = structlog.get_logger(__name__)

T = TypeVar("T")

READ_INTERVAL_S = 0.1
"""Between two reads of the event log."""
POLL_S = 5.0
"""Reads without a hint, since hints may be lost."""
LINGER_S = 60.0
"""How long the hub goes on without subscribers."""
BATCH = 500
RECENT = 5_000
"""Events kept in memory for those who come back."""
REPLAY_LIMIT = 2_000
"""Events replayed from the database; whoever missed more reloads."""
QUEUE_LIMIT = 5_000
"""Messages waiting for one slow client; then it reloads."""

_encode = DjangoJSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


@dataclass(frozen=True, slots=True)
class Message:
    """An event and its JSON text, which is made once for all subscribers."""

    position: int
    event: Event
    text: str


@dataclass(eq=False, slots=True)
class Subscriber:
    """One socket: what it may see, how far it has come, and the messages that wait to be sent to it."""

    principal: Principal
    swarm_id: uuid.UUID | None = None
    position: int = START
    queue: asyncio.Queue[str] = field(default_factory=lambda: asyncio.Queue(QUEUE_LIMIT))

    def offer(self, message: Message, last_id: int) -> None:
        """Takes an event that is behind its position and that it may see; starts over when its queue is full."""
        if message.position <= self.position:
            return
        self.position = message.position
        if self.swarm_id is not None and message.event.swarm_id != self.swarm_id:
            return
        if not may_see(self.principal, message.event):
            return
        try:
            self.queue.put_nowait(message.text)
        except asyncio.QueueFull:
            self.reset(last_id)

    def reset(self, last_id: int) -> None:
        """Drops what waits and tells the client to load its page's parts anew and go on after ``last_id``."""
        while not self.queue.empty():
            self.queue.get_nowait()
        self.queue.put_nowait(_encode({"type": "reset", "after": last_id}))


class Hub:
    """Reads the event log for the subscribers of one event loop."""

    def __init__(self) -> None:
        self.position = START
        self.last_id = 0
        self.reads = 0
        self._needed_at = time.monotonic()
        self._floor = START  # every event behind it, up to `position`, is in `_recent`
        self._recent: deque[Message] = deque()
        self._subscribers: set[Subscriber] = set()
        self._names: OrderedDict[uuid.UUID, str] = OrderedDict()
        self._wake = asyncio.Event()
        self._starting = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._listener: Listener | None = None
        # A thread of its own keeps one database connection, and page views never wait for it.
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="hub")

    async def join(self, principal: Principal, *, after: int | None, swarm_id: uuid.UUID | None = None) -> Subscriber:
        """A new subscriber with what it missed since event ``after`` in its queue, and all that comes from now on.

        ``after`` is 0 for the start of the log and None for now. What is too long ago, or an id that is not in the
        log (any more), gives a reset. Between what is replayed and what comes live there is no gap and no overlap.
        """
        self._needed_at = time.monotonic()
        await self._start()
        subscriber = Subscriber(principal, swarm_id)
        known = START if after == 0 else self.position if after is None else await self._find(after)
        if known is None or not await self._replay(subscriber, known):
            subscriber.position = self.position
            subscriber.reset(self.last_id)
        # No await from the last look at `_floor` to here: nothing can slip between.
        for message in self._recent:
            subscriber.offer(message, self.last_id)
        self._subscribers.add(subscriber)
        return subscriber

    def leave(self, subscriber: Subscriber) -> None:
        """Ends a subscription; calling it again does nothing."""
        self._subscribers.discard(subscriber)

    async def close(self) -> None:
        """Stops reading and closes its database connection."""
        task, self._task = self._task, None
        if task:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        if self._listener:
            self._listener.stop()
            self._listener = None
        with suppress(RuntimeError):  # already shut down
            await self._in_thread(connections.close_all)
        self._threads.shutdown(wait=False)
        _hubs.pop(asyncio.get_running_loop(), None)

    async def _find(self, event_id: int) -> int | None:
        if self._floor <= event_id <= self.position:
            return event_id
        return event_id if await self._in_thread(_is_in_log, event_id) else None

    async def _replay(self, subscriber: Subscriber, known: int) -> bool:
        """Offers what the database has behind ``known`` until memory has the rest; False when that is too much."""
        subscriber.position = known
        replayed = 0
        while subscriber.position < self._floor:
            stood = subscriber.position
            messages, reached = await self._in_thread(self._read_missed, subscriber.position, subscriber.principal)
            replayed += len(messages)
            if replayed > REPLAY_LIMIT:
                return False
            for message in messages:
                subscriber.offer(message, self.last_id)
            subscriber.position = max(subscriber.position, reached)
            if subscriber.position == stood:
                await asyncio.sleep(READ_INTERVAL_S)
        return True

    def _read_missed(self, after: int, principal: Principal) -> tuple[list[Message], int]:
        horizon = readable()
        events = event_log.read(after, event_filter(principal), limit=REPLAY_LIMIT + 1, upto=horizon)
        # All that was asked for came: the reader stands at the horizon, though the last event it may see lies before.
        reached = events[-1].pk if len(events) > REPLAY_LIMIT else max(after, horizon)
        return self._messages([event for event in events if may_see(principal, event)]), reached

    async def _start(self) -> None:
        async with self._starting:
            if self._task is not None:
                return
            self._recent.clear()
            self.last_id = self.position = self._floor = await self._in_thread(readable)
            loop = asyncio.get_running_loop()

            def wake() -> None:
                with suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(self._wake.set)

            self._listener = Listener([Channel.EVENTS], lambda channel, payload: wake(), wake)
            self._listener.start()
            self._task = asyncio.create_task(self._run(), name="console-hub")

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._wake.wait()
            self._wake.clear()
            if self._subscribers:
                self._needed_at = time.monotonic()
            elif time.monotonic() - self._needed_at > LINGER_S:
                break
            try:
                if await self._pump():
                    self._wake.set()
            except (DatabaseError, InterfaceError) as error:
                log.warning("console_hub_cannot_read", error=str(error).splitlines()[0] if str(error) else repr(error))
                await asyncio.sleep(1)
                self._wake.set()
            await asyncio.sleep(READ_INTERVAL_S)
        self._task = None
        if self._listener:
            self._listener.stop()
            self._listener = None
        await self._in_thread(connections.close_all)

    async def _pump(self) -> bool:
        """Reads and hands out what is new; whether it should look again soon."""
        messages, undecided = await self._in_thread(self._read_new)
        self.reads += 1
        for message in messages:
            self._recent.append(message)
            self.position = message.position
            self.last_id = message.event.pk
            for subscriber in self._subscribers:
                subscriber.offer(message, self.last_id)
        while len(self._recent) > RECENT:
            self._floor = self._recent.popleft().position
        return undecided or len(messages) >= BATCH

    def _read_new(self) -> tuple[list[Message], bool]:
        messages = self._messages(event_log.read(self.position, limit=BATCH))
        # Rows that are there but not readable yet wait for an older transaction, whose end sends no hint of its own.
        behind = messages[-1].position if messages else self.position
        return messages, event_log.has_behind(behind)

    def _messages(self, events: list[Event]) -> list[Message]:
        self._learn_names(events)
        return [Message(event.pk, event, _encode(self._document(event))) for event in events]

    def _document(self, event: Event) -> dict[str, Any]:
        subject = self._names.get(event.task_id or event.swarm_id or uuid.UUID(int=0), "")
        said = sentence(event.kind, event.data, subject)
        return {
            "type": "event",
            "id": event.pk,
            "kind": event.kind,
            "at": event.at,
            "tenant": event.tenant_id,
            "swarm": event.swarm_id,
            "task": event.task_id,
            "data": event.data,
            "text": said.text,
            "icon": said.icon,
            "tone": said.tone,
        }

    def _learn_names(self, events: Iterable[Event]) -> None:
        """Looks up the names of tasks and swarms that are not remembered, all at once."""
        tasks = {event.task_id for event in events if event.task_id} - self._names.keys()
        swarms = {event.swarm_id for event in events if event.swarm_id and not event.task_id} - self._names.keys()
        if tasks:
            rows = (
                Task.objects.filter(pk__in=tasks).select_related("step").only("index", "step__name", "step__is_fan_out")
            )
            self._names.update({task.pk: task.key for task in rows})
        if swarms:
            self._names.update(Swarm.objects.filter(pk__in=swarms).values_list("pk", "name"))
        while len(self._names) > 20_000:
            self._names.popitem(last=False)

    async def _in_thread(self, call: Callable[..., T], *args: Any) -> T:
        def run() -> T:
            close_old_connections()
            try:
                return call(*args)
            finally:
                close_old_connections()

        return await asyncio.get_running_loop().run_in_executor(self._threads, run)


def _is_in_log(position: int) -> bool:
    """Whether the log has everything behind a position: it is not from the future, and its month was not dropped."""
    return position <= readable() and Event.objects.filter(pk__lte=position).order_by().exists()


_hubs: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Hub] = weakref.WeakKeyDictionary()


def hub() -> Hub:
    """The hub of the running event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _hubs:
        _hubs[loop] = Hub()
    return _hubs[loop]
