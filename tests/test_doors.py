"""The matrix: every door, before everybody, answers as the table ``tests/data/doors.txt`` says.

A door without a row fails here. ``DOORS=FILE python -m pytest tests/test_doors.py`` writes the table as the doors
answer now to a file: look at each new row, and put it where it belongs.
"""  # A1 A4 A5

from __future__ import annotations

import asyncio
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from channels.testing import WebsocketCommunicator
from django.test import override_settings

from apps.console.consumers import LOG_IN_FIRST, NO_SUCH_SWARM, ConsoleConsumer
from portal.asgi import application
from tests.answers import Walk, quiet
from tests.archives import files_in
from tests.databases import database_in_use, new_database
from tests.doors import PEOPLE, TABLE, Door, doors, table, table_text
from tests.scene import UNKNOWN_ID, Scene, make_scene
from tests.test_console_socket import run

pytestmark = pytest.mark.django_db

HOW = f"""
Say in tests/data/{TABLE.name} what it answers to whom, one row a door. What they answer now is written to a file by
    DOORS=/tmp/doors.txt python -m pytest tests/test_doors.py
Where a door needs an id or a body that makes sense: tests/scene.py, addresses() and bodies()."""
BY_TOKEN = " by token"

Answers = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def scene(django_db_setup: None, django_db_blocker: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Made once for all people, committed: the socket reads it on connections of its own."""
    folder = tmp_path_factory.mktemp("archives")
    with (
        django_db_blocker.unblock(),
        new_database() as url,
        database_in_use(url),
        override_settings(STORAGES=files_in(folder)),
        quiet(),
    ):
        yield make_scene()


@pytest.fixture(scope="module")
def answered() -> Iterator[Answers]:
    """What each door answered to whom; written to the file that DOORS names."""
    found: Answers = defaultdict(dict)
    yield found
    if path := os.environ.get("DOORS"):
        Path(path).write_text(table_text(found))


def test_every_door_has_a_row_and_every_row_a_door() -> None:
    rows, known = {name.removesuffix(BY_TOKEN) for name in table()}, set(doors())
    assert known <= rows, f"doors without a row: {sorted(known - rows)}{HOW}"
    assert rows <= known, f"rows without a door, to be taken out of {TABLE.name}: {sorted(rows - known)}"


def test_the_table_opens_nothing_to_strangers() -> None:
    """Whoever reads the table need not look for it: nobody and the outsider see and do nothing of the tenant's."""
    for name, says in table().items():
        assert says["nobody"] not in ("sees", "does"), name
        assert says["outsider"] not in ("sees", "does"), name


@pytest.mark.parametrize("who", PEOPLE)
def test_every_door_answers_as_the_table_says(who: str, scene: Scene, answered: Answers) -> None:
    walk = Walk(scene, who)
    for door in doors().values():
        if not door.message:
            answered[door.name][who] = walk.answer(door)
    faults = walk.faults
    if who in scene.tokens:
        with_token = Walk(scene, who, by_token=True)
        for door in doors().values():
            if door.pattern.startswith("/api/v1/"):
                answered[door.name + BY_TOKEN][who] = with_token.answer(door)
        faults += with_token.faults
    differs = wrong(who, answered)
    assert not [*differs, *faults], "\n".join([*differs, *sorted(set(faults)), *([HOW] if differs else [])])


def wrong(who: str, answered: Answers) -> list[str]:
    """How the answers differ from the table. Where a token's are not told, they are those of a session."""
    told = []
    for name, answers in answered.items():
        says = (table().get(name) or table().get(name.removesuffix(BY_TOKEN)) or {}).get(who, "nothing: no row")
        if who in answers and says != answers[who]:
            told.append(f"{name}: answers {who} “{answers[who]}”, the table says “{says}”")
    return told


# -- sockets -----------------------------------------------------------------------------------------------------------


def test_every_socket_message_is_answered_as_the_table_says(scene: Scene, answered: Answers) -> None:
    (path,) = {door.pattern for door in doors().values() if door.message}

    async def scenario() -> None:
        await asyncio.gather(*(before_the_socket(scene, who, path, answered) for who in PEOPLE))

    run(scenario)
    faults = [line for who in PEOPLE for line in wrong(who, {n: a for n, a in answered.items() if is_message(n)})]
    assert not faults, "\n".join([*faults, HOW])


def is_message(name: str) -> bool:
    door: Door | None = doors().get(name)
    return bool(door and door.message)


async def before_the_socket(scene: Scene, who: str, path: str, answered: Answers) -> None:
    """All that a person hears: of what was missed since the log began, and in answer to each message."""
    cookie = scene.clients[who].cookies.get("sessionid")
    headers = [(b"origin", b"http://127.0.0.1"), (b"host", b"127.0.0.1")]
    headers += [(b"cookie", f"sessionid={cookie.value}".encode())] if cookie else []
    socket = WebsocketCommunicator(application, f"{path}?after=0", headers=headers)
    assert (await socket.connect(10))[0]

    async def hear(message: dict[str, Any], answer: str) -> str:
        """All that comes up to the answer to a message, its word at the end."""
        await socket.send_to(text_data=json.dumps(message))
        heard = ""
        while True:
            text: str = await socket.receive_from(10)
            heard += text
            if json.loads(text)["type"] in (answer, "error"):
                return heard

    try:
        if who == "nobody":
            assert (await socket.receive_output(10))["code"] == LOG_IN_FIRST
            for kind in ("connect", *ConsoleConsumer.messages):
                answered[f"{path} {kind}"][who] = str(LOG_IN_FIRST)
            return
        missed = await hear({"type": "ping"}, "pong")
        found = scene.planted(missed)
        answered[f"{path} connect"][who] = "sees" if found else "opens"
        answered[f"{path} ping"][who] = "opens"
        asked = {"type": "subscribe", "swarm": str(scene.running.pk)}
        said = await hear(asked, "subscribed")
        refusal = await hear(asked | {"swarm": UNKNOWN_ID}, "subscribed")
        answered[f"{path} subscribe"][who] = "404" if said == refusal else "sees"
        assert NO_SUCH_SWARM in refusal
        if who == "outsider":
            assert not found | scene.planted(said), "the outsider hears of the tenant"
    finally:
        await socket.disconnect()
