"""Calls under keys that are replaced and revoked, over HTTP against the simulator: which key each one leaves with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelHTTPError

from apps.events.models import Event
from apps.providers.clients import ModelClients
from apps.providers.directory import Endpoint
from apps.providers.errors import ProviderUnavailable
from apps.providers.models import Provider, SecretState
from apps.providers.secrets.keeper import Keeper
from tests.running import SimulatorProcess, simulator, wait_until
from tests.secret_backends import Memory, provider

pytestmark = pytest.mark.processes
OLD, NEW, WRONG = "sk-old-key-0123456789abcdef", "sk-new-key-0123456789abcdef", "sk-wrong-key-0123456789abcdef"


@pytest.fixture(scope="module")
def running() -> Iterator[SimulatorProcess]:
    with simulator("--api-key", OLD, latency_ms=0) as started:
        yield started


class Desk:
    """A keeper at work, and calls under its keys."""

    def __init__(self, at: SimulatorProcess, **options: Any) -> None:
        self.at = at
        self.memory = Memory({"KEY": OLD})
        provider("house", "KEY")
        self.endpoint = Endpoint("house", "openai_compatible", "one", f"http://127.0.0.1:{at.port}/v1", "KEY")
        self.keeper = Keeper("agents", backend=self.memory, **{"refresh_s": 3600, "grace_s": 900, **options})
        self.keeper.start()

    @asynccontextmanager
    async def calling(self) -> AsyncIterator[Agent[None, str]]:
        clients = ModelClients(self.keeper)
        try:
            yield Agent(clients.model(self.endpoint, "small"))
        finally:
            await clients.aclose()

    def call(self, count: int = 1) -> list[Any]:
        """So many calls at once: what each answered, or raised."""

        async def run() -> list[Any]:
            async with self.calling() as agent:
                return await asyncio.gather(*(agent.run("Hello.") for _ in range(count)), return_exceptions=True)

        return asyncio.run(run())

    def sent(self) -> dict[str, int]:
        """Calls so far, by status."""
        return dict(self.at.stats()["statuses"])


@pytest.fixture
def desk(own_database: str, running: SimulatorProcess) -> Iterator[Desk]:
    running.accept(OLD)
    made = Desk(running)
    yield made
    made.keeper.stop()


def delta(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {status: count - before.get(status, 0) for status, count in after.items() if count != before.get(status, 0)}


def failures(answers: list[Any]) -> list[Any]:
    return [answer for answer in answers if isinstance(answer, BaseException)]


def test_a_key_that_was_revoked_before_anybody_said_so_is_read_anew_once_for_all_calls(desk: Desk) -> None:  # P8
    assert not failures(desk.call())
    desk.memory.values["KEY"] = NEW
    desk.at.accept(NEW)
    before, asked = desk.sent(), len(desk.memory.asked)
    assert not failures(desk.call(20))
    assert delta(before, desk.sent())["200"] == 20
    assert len(desk.memory.asked) == asked + 1
    before = desk.sent()
    assert not failures(desk.call(5))
    assert delta(before, desk.sent()) == {"200": 5}  # with the new key, at once


def test_a_new_key_that_the_provider_does_not_take_yet_is_replaced_by_the_old_one(desk: Desk) -> None:  # P8
    desk.memory.values["KEY"] = NEW
    desk.keeper.hurry()
    desk.keeper._due["KEY"] = 0.0
    wait_until(lambda: desk.keeper.key("KEY").secret.matches(NEW))
    before = desk.sent()
    assert not failures(desk.call(3))
    assert delta(before, desk.sent()) == {"200": 3, "401": 3}
    desk.at.accept(NEW)
    before = desk.sent()
    assert not failures(desk.call(3))
    assert delta(before, desk.sent()) == {"200": 3}


def test_a_call_that_no_key_helps_is_refused_and_the_backend_is_not_flooded(desk: Desk) -> None:
    desk.at.accept(WRONG)
    asked = len(desk.memory.asked)
    answers = [*desk.call(30), *desk.call(30)]
    assert all(isinstance(error, ModelHTTPError) and error.status_code == 401 for error in answers)
    assert len(desk.memory.asked) == asked + 1
    assert not any(key in str(answers) for key in (OLD, NEW, WRONG))
    wait_until(lambda: SecretState.objects.get().refused_at is not None)
    assert Event.objects.filter(kind="secrets.key_refused").count() == 1
    desk.at.accept(OLD)
    assert not failures(desk.call())
    wait_until(lambda: SecretState.objects.get().refused_at is None)


def test_calls_under_way_keep_their_key_while_it_is_replaced(own_database: str) -> None:  # P8
    with simulator("--api-key", OLD, latency_ms=400) as at:
        desk = Desk(at)

        async def rotate_meanwhile() -> list[Any]:
            async with desk.calling() as agent:
                flying = [asyncio.create_task(agent.run("Hello.")) for _ in range(5)]
                await asyncio.to_thread(wait_until, lambda: at.stats()["in_flight"] == 5)
                desk.memory.values["KEY"] = NEW
                await asyncio.to_thread(at.accept, NEW)
                return await asyncio.gather(*flying, agent.run("And after."), return_exceptions=True)

        try:
            assert not failures(asyncio.run(rotate_meanwhile()))
            taken = sorted(tally["taken"] for tally in at.stats()["keys"].values())
            assert taken == [1, 5]
        finally:
            desk.keeper.stop()


def test_anthropic_wants_its_key_in_another_header(desk: Desk) -> None:
    endpoint = replace(desk.endpoint, kind="anthropic")
    seen: list[tuple[str, str]] = []

    async def run() -> None:
        clients = ModelClients(desk.keeper)
        model = clients.model(endpoint, "small")
        http = clients._client(endpoint.kind, endpoint.secret_name)

        async def note(request: Any) -> None:
            seen.extend((name, request.headers[name]) for name in ("x-api-key",) if name in request.headers)

        http.event_hooks = {"request": [note]}
        with pytest.raises(ModelHTTPError):  # the simulator does not speak it
            await Agent(model).run("Hello.")
        await clients.aclose()

    asyncio.run(run())
    assert ("x-api-key", OLD) in seen


def test_a_key_that_is_not_held_is_told_before_anything_is_sent(desk: Desk) -> None:
    Provider.objects.update(worker_classes=["agents-eu"])
    desk.keeper.hurry()
    wait_until(lambda: desk.keeper.names == [])
    before = desk.sent()
    with pytest.raises(ProviderUnavailable, match="Provider 'house': The key KEY is not held by this process"):
        desk.call()
    assert desk.sent() == before
