"""The console's socket: what happens reaches those who may see it, once, in order, and without gaps."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.db import database_sync_to_async
from channels.testing import WebsocketCommunicator
from django.db import connection, connections, transaction
from django.db.models import Max

from apps.console import consumers, hub
from apps.console.hub import Message, Subscriber
from apps.events.log import NewEvent, emit
from apps.events.models import Event
from apps.swarms.models import Swarm
from apps.tenants.access import Principal, principal_of
from apps.tenants.granting import give
from apps.tenants.models import Membership, Tenant, User
from apps.tenants.roles import Role
from portal.asgi import application
from tests.browser import session_of
from tests.swarms import StepOf, make_swarm


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs a scenario on an event loop of its own, and closes what its threads opened."""

    async def whole() -> None:
        try:
            await asyncio.wait_for(scenario(), 60)
        finally:
            await hub.hub().close()
            await database_sync_to_async(connections.close_all)()

    asyncio.run(whole())


class Client:
    """A socket of a person."""

    def __init__(self, communicator: WebsocketCommunicator) -> None:
        self._communicator = communicator

    async def say(self, message: Any) -> None:
        await self._communicator.send_to(text_data=message if isinstance(message, str) else json.dumps(message))

    async def hear(self) -> dict[str, Any]:
        heard: dict[str, Any] = json.loads(await self._communicator.receive_from(10))
        return heard

    async def has_something(self, within_s: float) -> bool:
        """Waits for a message without taking it."""
        loop = asyncio.get_running_loop()
        until = loop.time() + within_s
        while self._communicator.output_queue.empty() and loop.time() < until:  # noqa: ASYNC110 (it has no event)
            await asyncio.sleep(0.01)
        return not self._communicator.output_queue.empty()

    async def hear_events(self, count: int) -> list[dict[str, Any]]:
        heard = [await self.hear() for _ in range(count)]
        assert {message["type"] for message in heard} <= {"event"}, heard
        return heard

    async def hears_nothing(self) -> bool:
        """Nothing is on its way: all events have been handed out, and asked for an answer, the socket answers first."""
        last = await call(lambda: Event.objects.aggregate(last=Max("pk"))["last"] or 0)
        reading = hub.hub()
        while reading.position < last or any(each.queue.qsize() for each in reading._subscribers):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await self.say({"type": "ping"})
        return await self.hear() == {"type": "pong"}

    async def close_code(self) -> int:
        message = await self._communicator.receive_output(10)
        assert message["type"] == "websocket.close", message
        return int(message["code"])


@asynccontextmanager
async def socket(user: User | None, query: str = "") -> AsyncIterator[Client]:
    headers = [(b"origin", b"http://127.0.0.1"), (b"host", b"127.0.0.1")]
    if user:
        headers.append((b"cookie", f"sessionid={await call(session_of, user)}".encode()))
    communicator = WebsocketCommunicator(application, f"/ws/console/{query}", headers=headers)
    accepted, _ = await communicator.connect(10)
    assert accepted
    try:
        yield Client(communicator)
    finally:
        await communicator.disconnect()


def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Awaitable[Any]:
    """Runs something that talks to the database away from the event loop."""
    return sync_to_async(function)(*args, **kwargs)


def happened(tenant: Tenant | None, kind: str = "swarm.paused", **fields: Any) -> int:
    """Something happens, and is committed; the event's id."""
    emit([NewEvent(kind, tenant.pk if tenant else None, **fields)])
    last = Event.objects.order_by("-pk").first()
    assert last
    return last.pk


@pytest.fixture(autouse=True)
def committed(own_database: str) -> str:
    return own_database


def test_a_stranger_is_refused_with_the_code_that_asks_for_a_login() -> None:
    async def scenario() -> None:
        async with socket(None) as client:
            assert await client.close_code() == 4401

    run(scenario)


def test_what_happens_arrives_with_all_that_a_page_needs(operator: User, acme: Tenant) -> None:
    swarm = make_swarm(acme, [StepOf("read", items=2)])
    task = swarm.tasks.order_by("index").last()
    assert task

    async def scenario() -> None:
        async with socket(operator) as client:
            fields = {"swarm_id": swarm.pk, "task_id": task.pk, "data": {"code": "provider_timeout"}}
            event_id = await call(happened, acme, "task.failed", **fields)
            heard = await client.hear()
            assert heard.pop("at").endswith("Z")
            assert heard == {
                "type": "event",
                "id": event_id,
                "kind": "task.failed",
                "tenant": str(acme.pk),
                "swarm": str(swarm.pk),
                "task": str(task.pk),
                "data": {"code": "provider_timeout"},
                "text": "read[1] failed for good: the model provider did not answer in time",
                "icon": "error",
                "tone": "bad",
            }

    run(scenario)


def test_who_comes_back_hears_what_was_missed_and_then_what_comes_each_once(operator: User, acme: Tenant) -> None:
    seen = happened(acme)
    missed = [happened(acme) for _ in range(5)]

    async def scenario() -> None:
        async with socket(operator, f"?after={seen}") as client:
            assert [e["id"] for e in await client.hear_events(5)] == missed
            later = [await call(happened, acme) for _ in range(3)]
            assert [e["id"] for e in await client.hear_events(3)] == later
            assert await client.hears_nothing()
        more = [await call(happened, acme) for _ in range(2)]
        async with socket(operator, f"?after={later[-1]}") as client:  # now from memory
            assert [e["id"] for e in await client.hear_events(2)] == more
        async with socket(operator, "?after=0") as client:
            assert [e["id"] for e in await client.hear_events(11)] == [seen, *missed, *later, *more]
        async with socket(operator) as client:
            assert await client.hears_nothing(), "without ?after= only what comes is sent"

    run(scenario)


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_missed_or_doubled_under_writers_that_commit_out_of_order(
    operator: User, acme: Tenant, seed: int
) -> None:
    writers, each = 6, 40

    def write(number: int) -> None:
        chance, pause = random.Random(f"{seed} {number}"), threading.Event()
        try:
            for _ in range(each):
                with transaction.atomic():
                    emit([NewEvent("swarm.paused", acme.pk)])
                    pause.wait(chance.random() * 0.02)
                    emit([NewEvent("swarm.running", acme.pk)])
                    if chance.random() < 0.1:
                        transaction.set_rollback(True)
        finally:
            connection.close()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    heard: list[int] = []

    async def listen(chance: random.Random) -> None:
        """Hears some, breaks off, comes back: until the writers are done and nothing more comes."""
        silent = False
        while not silent:
            over = not any(thread.is_alive() for thread in threads)
            async with socket(operator, f"?after={heard[-1] if heard else 0}") as client:
                for _ in range(chance.randrange(1, 60)):
                    if not await client.has_something(within_s=1):
                        silent = over
                        break
                    message = await client.hear()
                    assert message["type"] == "event"
                    heard.append(message["id"])

    async def scenario() -> None:
        for thread in threads:
            thread.start()
        await listen(random.Random(seed))

    run(scenario)
    assert heard == list(Event.objects.order_by("pk").values_list("pk", flat=True))


def test_the_outsider_gets_nothing_live_replayed_or_by_subscription(
    operator: User, outsider: User, acme: Tenant, rival: Tenant
) -> None:
    swarm = make_swarm(acme, [StepOf("read")])
    happened(acme, swarm_id=swarm.pk)

    async def scenario() -> None:
        async with socket(outsider, f"?after=0&swarm={swarm.pk}") as client, socket(operator) as witness:
            assert (await client.hear())["type"] == "error"
            await client.say({"type": "subscribe", "swarm": str(swarm.pk)})
            assert (await client.hear())["detail"] == "There is no such swarm, or you may not see it."
            await call(happened, acme, swarm_id=swarm.pk)
            await witness.hear_events(1)
            assert await client.hears_nothing()
            own = await call(happened, rival)
            assert [e["id"] for e in await client.hear_events(1)] == [own]

    run(scenario)


def test_an_outsider_with_a_grant_hears_of_that_swarm_alone(  # A1 A5
    operator: User, outsider: User, owner: User, acme: Tenant
) -> None:
    swarm, other = (make_swarm(acme, [StepOf("read")]) for _ in range(2))
    give(outsider, swarm.pk, acme, gives="swarm:read", reason="Helps.", by=principal_of(owner))
    for each in (other, swarm):
        happened(acme, swarm_id=each.pk)
    before = list(Event.objects.filter(swarm_id=swarm.pk).order_by("pk").values_list("pk", flat=True))

    async def scenario() -> None:
        async with socket(outsider, "?after=0") as client:
            assert [e["id"] for e in await client.hear_events(len(before))] == before
            for hidden in (other.pk, None):
                await call(happened, acme, swarm_id=hidden)
            await call(happened, acme, "ledger.entry", swarm_id=swarm.pk)
            shown = await call(happened, acme, swarm_id=swarm.pk)
            assert [e["id"] for e in await client.hear_events(1)] == [shown]
            await client.say({"type": "subscribe", "swarm": str(other.pk)})
            assert (await client.hear())["type"] == "error"
            await client.say({"type": "subscribe", "swarm": str(swarm.pk)})
            assert (await client.hear())["type"] == "subscribed"

    run(scenario)


def test_money_is_told_to_those_who_may_see_it_and_the_platform_to_its_admins(
    finance: User, developer: User, platform_admin: User, acme: Tenant
) -> None:
    async def scenario() -> None:
        async with socket(finance) as money, socket(developer) as work, socket(platform_admin) as everything:
            budget = await call(happened, acme, "budget.exhausted", data={"budget": "Monthly cap"})
            swarm = await call(happened, acme, "swarm.started")
            runner = await call(happened, None, "runner.started")
            assert [e["id"] for e in await everything.hear_events(3)] == [budget, swarm, runner]
            (heard,) = await money.hear_events(1)
            assert heard["text"] == "Budget “Monthly cap” is exhausted: calls that do not fit are refused"
            assert [e["id"] for e in await work.hear_events(2)] == [budget, swarm]
            assert await money.hears_nothing()
            assert await work.hears_nothing()

    run(scenario)


def test_how_providers_do_is_told_to_all_who_may_see_swarms_and_keys_to_platform_admins(
    viewer: User, outsider: User, finance: User, platform_admin: User
) -> None:  # P2 P7
    told = {"provider": "openai", "region": "east", "cause": "5 calls failed within 30 s; the last: answered 503"}

    async def scenario() -> None:
        async with socket(viewer) as seen, socket(finance) as money, socket(platform_admin) as everything:
            before = await call(happened, None, "runner.started", data={"node": "one"})
            opened = await call(happened, None, "breaker.opened", data=told)
            key = await call(happened, None, "secrets.rotated", data={"name": "OPENAI_API_KEY"})
            over = await call(happened, None, "provider.failed_over", data={"provider": "openai", "to": "west"})
            assert [e["id"] for e in await everything.hear_events(4)] == [before, opened, key, over]
            first, second = await seen.hear_events(2)
            assert (first["id"], first["kind"], first["tone"]) == (opened, "breaker.opened", "bad")
            assert first["text"] == f"The breaker of openai/east opened, no calls go there: {told['cause']}"
            assert second["text"] == "openai failed over to west"
            assert await seen.hears_nothing()
            assert await money.hears_nothing()
        # Whoever comes back gets what it missed: the same events, whichever tenant it is of.
        for name, user in {"viewer": viewer, "outsider": outsider}.items():
            await hub.hub().close()  # nothing is in its memory any more: it reads the log
            async with socket(user, f"?after={before}") as again:
                assert [e["id"] for e in await again.hear_events(2)] == [opened, over], name
                assert await again.hears_nothing()
        async with socket(finance, f"?after={before}") as again:
            assert await again.hears_nothing()

    run(scenario)


def test_a_subscription_narrows_to_one_swarm_and_widens_again(operator: User, acme: Tenant) -> None:
    one, two = make_swarm(acme, [StepOf("a")]), make_swarm(acme, [StepOf("b")])

    async def scenario() -> None:
        async with socket(operator) as client:
            await client.say({"type": "subscribe", "swarm": str(one.pk)})
            assert await client.hear() == {"type": "subscribed", "swarm": str(one.pk)}
            await call(happened, acme, swarm_id=two.pk)
            mine = await call(happened, acme, swarm_id=one.pk)
            assert [e["id"] for e in await client.hear_events(1)] == [mine]
            await client.say({"type": "subscribe", "swarm": None})
            assert await client.hear() == {"type": "subscribed", "swarm": None}
            other = await call(happened, acme, swarm_id=two.pk)
            assert [e["id"] for e in await client.hear_events(1)] == [other]

    run(scenario)


@pytest.mark.parametrize("after", ["999999999", "nonsense", "-1", "²", "9" * 40])
def test_an_id_that_the_log_does_not_know_gives_a_reset_and_then_goes_on(
    operator: User, acme: Tenant, after: str
) -> None:
    last = happened(acme)

    async def scenario() -> None:
        async with socket(operator, f"?after={after}") as client:
            assert await client.hear() == {"type": "reset", "after": last}
            new = await call(happened, acme)
            assert [e["id"] for e in await client.hear_events(1)] == [new]

    run(scenario)


def test_who_missed_too_much_gets_a_reset(operator: User, acme: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "REPLAY_LIMIT", 10)
    first = happened(acme)
    ids = [happened(acme) for _ in range(11)]

    async def scenario() -> None:
        async with socket(operator, f"?after={first}") as client:
            assert await client.hear() == {"type": "reset", "after": ids[-1]}
        async with socket(operator, f"?after={ids[0]}") as client:
            assert [e["id"] for e in await client.hear_events(10)] == ids[1:]

    run(scenario)


def test_other_tenants_events_do_not_count_as_missed(
    operator: User, acme: Tenant, rival: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "REPLAY_LIMIT", 10)
    first = happened(acme)
    for _ in range(30):
        happened(rival)
    mine = happened(acme)

    async def scenario() -> None:
        async with socket(operator, f"?after={first}") as client:
            assert [e["id"] for e in await client.hear_events(1)] == [mine]

    run(scenario)


def test_a_client_that_does_not_keep_up_gets_one_reset_instead_of_a_pile(acme: Tenant) -> None:
    async def scenario() -> None:
        queue: asyncio.Queue[str] = asyncio.Queue(3)
        slow = Subscriber(Principal("user", "1", everything=True), queue=queue)
        for n in range(1, 7):
            slow.offer(Message(n, Event(pk=n, kind="swarm.paused", tenant_id=acme.pk), f"event {n}"), last_id=n)
        waiting = [queue.get_nowait() for _ in range(queue.qsize())]
        assert json.loads(waiting[0]) == {"type": "reset", "after": 4}
        assert waiting[1:] == ["event 5", "event 6"]

    run(scenario)


def test_a_burst_of_hints_is_read_in_a_few_reads_for_all_sockets(operator: User, viewer: User, acme: Tenant) -> None:
    async def scenario() -> None:
        async with socket(operator) as one, socket(viewer) as two:
            await one.hears_nothing()
            loop = asyncio.get_running_loop()
            reads, began = hub.hub().reads, loop.time()
            await asyncio.gather(*(call(happened, acme) for _ in range(100)))
            await asyncio.gather(one.hear_events(100), two.hear_events(100))
            assert hub.hub().reads - reads <= 2 + (loop.time() - began) / hub.READ_INTERVAL_S

    run(scenario)


def test_permissions_that_are_taken_away_end_what_is_sent(
    operator: User, viewer: User, acme: Tenant, rival: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert consumers.HEARTBEAT_S <= 30
    monkeypatch.setattr(consumers, "HEARTBEAT_S", 0.3)
    # With a role elsewhere, the account stays open: without any, the socket would close.
    Membership.objects.create(user=operator, tenant=rival, role=Role.VIEWER)

    async def scenario() -> None:
        async with socket(operator) as client:
            await call(Membership.objects.filter(user=operator, tenant=acme).delete)
            assert await client.hear() == {"type": "heartbeat"}
            await call(happened, acme)
            for _ in range(3):
                assert await client.hear() == {"type": "heartbeat"}
        async with socket(viewer) as client:
            await call(User.objects.filter(pk=viewer.pk).update, is_active=False)
            assert await client.close_code() == 4401

    run(scenario)


def test_nonsense_is_answered_and_harms_nothing(operator: User, acme: Tenant) -> None:
    async def scenario() -> None:
        async with socket(operator) as client:
            nonsense: Any
            for nonsense in (
                {"type": "explode"},
                {"no": "type"},
                [],
                7,
                "not json",
                "x" * 10_000,
                {"type": "subscribe", "swarm": "x"},
                {"type": "subscribe", "swarm": {"a": 1}},
                {"type": "subscribe", "swarm": str(uuid.uuid4())},
            ):
                await client.say(nonsense)
                answer = await client.hear()
                assert answer["type"] == "error", nonsense
                assert answer["detail"], nonsense
            await client.say({"type": "ping"})
            assert await client.hear() == {"type": "pong"}
            event_id = await call(happened, acme)
            assert [e["id"] for e in await client.hear_events(1)] == [event_id]

    run(scenario)


def test_a_lost_database_connection_is_made_again_and_nothing_is_missed(operator: User, acme: Tenant) -> None:
    def cut() -> None:
        """Ends every other connection of this database, as a restart of the server would."""
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    async def scenario() -> None:
        async with socket(operator) as client:
            before = await call(happened, acme)
            await call(cut)
            during = await call(happened, acme)
            assert [e["id"] for e in await client.hear_events(2)] == [before, during]
            after = await call(happened, acme)
            assert [e["id"] for e in await client.hear_events(1)] == [after]

    run(scenario)


def test_a_page_of_another_site_cannot_open_the_socket(operator: User) -> None:
    async def scenario() -> None:
        headers = [(b"origin", b"https://evil.test"), (b"host", b"127.0.0.1")]
        headers.append((b"cookie", f"sessionid={await call(session_of, operator)}".encode()))
        communicator = WebsocketCommunicator(application, "/ws/console/", headers=headers)
        accepted, _ = await communicator.connect(10)
        assert not accepted

    run(scenario)


def test_swarms_that_are_gone_have_no_name_and_break_nothing(operator: User, acme: Tenant) -> None:
    async def scenario() -> None:
        async with socket(operator) as client:
            await call(happened, acme, "task.succeeded", swarm_id=uuid.uuid4(), task_id=uuid.uuid4())
            assert (await client.hear())["text"] == "A task succeeded"

    run(scenario)
    assert not Swarm.objects.exists()
