"""Secrets never reach a log, an error page or a row: provoked with errors that carry them, then looked for."""

from __future__ import annotations

import io
import json
import logging
import multiprocessing
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import structlog
from django.db import connection
from django.test import Client
from django.utils import timezone
from django_q.worker import worker
from hypothesis import given
from hypothesis import strategies as st

from apps.api.views.platform import Me
from apps.execution.runtimes import AgentRuntime
from apps.swarms.models import Swarm, Task
from apps.tenants.models import Tenant, User
from portal import env, logs, redaction
from portal.redaction import MASK, redacted, redacted_value
from tests.running import run_until
from tests.swarms import AgentOf, StepOf, make_swarm, simulated_provider

KNOWN = "plain-looking.value/42"
"""The key of a provider, which has no shape that could tell."""
SHAPED = {
    "header": "Zm9yLXlvdXItZXllcy1vbmx5",
    "query": "query-token-5f3a",
    "body": "correct horse battery staple",
    "cookie": "c00kie0f5omebody",
    "chained": "sk-ant-REDACTED-api03-1234",
    "database": "s3cret%40database",
}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Authorization: Bearer abcdef123456", f"Authorization: {MASK} {MASK}"),
        ("{'Authorization': 'Bearer abcdefgh12345', 'n': 1}", f"{{'Authorization': '{MASK}', 'n': 1}}"),
        ("('HTTP_AUTHORIZATION', 'Basic YWJjOmRlZg==')", f"('HTTP_AUTHORIZATION', '{MASK}')"),
        ("Cookie: sessionid=abcdef; csrftoken=ghijk\nHost: x", f"Cookie: {MASK}\nHost: x"),
        ('{"password": "hunter2 \\" 3", "user": "joe"}', f'{{"password": "{MASK}", "user": "joe"}}'),
        ("GET /x?token=abcdef&y=1", f"GET /x?token={MASK}&y=1"),
        ("GET /oidc/callback/?code=abc&state=def HTTP/1.1", f"GET /oidc/callback/?code={MASK}&state={MASK} HTTP/1.1"),
        ("connect to postgresql://joe:s3cr%40t@db/x", f"connect to postgresql://joe:{MASK}@db/x"),
        ("Incorrect API key provided: sk-proj-12345678abc.", f"Incorrect API key provided: {MASK}"),
        ("token swd_0123456789abcdef is not known", f"token {MASK} is not known"),
        ("client_secret=abcdef, next=1", f"client_secret={MASK}, next=1"),
        ("id eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl!", f"id {MASK}!"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\nx", f"{MASK}\nx"),
        # What is no secret stays.
        ("input_tokens=5, total_tokens: 12", "input_tokens=5, total_tokens: 12"),
        ("Bearer of bad news; the token: is refused", "Bearer of bad news; the token: is refused"),
        ("The key is missing: set OPENAI_API_KEY", "The key is missing: set OPENAI_API_KEY"),
        ("KeyError: 'token'", "KeyError: 'token'"),
        ("password: None", "password: None"),
        ("Answer 500 of https://api.openai.com/v1/x", "Answer 500 of https://api.openai.com/v1/x"),
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_goes_and_the_rest_stays(text: str, left: str) -> None:
    assert redacted(text) == left
    assert redacted(left) == left


TOKENISH = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=12, max_size=40).map(lambda text: f"{text}7")


PLAIN = st.text(st.characters(codec="ascii"), max_size=30)


@given(TOKENISH, PLAIN, PLAIN)
def test_a_token_goes_whatever_stands_around_it(token: str, before: str, after: str) -> None:
    for told in (f"Authorization: Bearer {token}", f" swd_{token}", f" api_key={token}", f"'password': '{token}'"):
        assert token not in redacted(f"{before} {told} {after}") or token in before + after


@given(st.text(st.characters(codec="ascii"), min_size=8, max_size=30), PLAIN)
def test_a_known_value_goes_wherever_it_stands(value: str, around: str) -> None:
    before = redaction._known.copy(), redaction._pattern
    try:
        redaction.know(value)
        assert value not in redacted(f"{around}{value}{around}") or value in MASK * 4
    finally:
        redaction._known.clear()
        redaction._known.update(before[0])
        redaction._pattern = before[1]


def test_it_takes_time_in_proportion_to_the_text() -> None:
    begun = timezone.now()
    for piece in ("a-", "a_", "a.b-", "password_", "cookie ", "bearer ", "a://b:", "'", "password='", "eyJ"):
        redacted(piece * (60_000 // len(piece)))
    assert (timezone.now() - begun).total_seconds() < 30


def test_values_of_an_event_go_by_their_names() -> None:
    event = {
        "password": "x",
        "nested": [{"Set-Cookie": "y"}],
        "n": 3,
        "token_count": 5,
        "b": b"api_key=abc",
    }
    assert redacted_value(event) == {
        "password": MASK,
        "nested": [{"Set-Cookie": MASK}],
        "n": 3,
        "token_count": 5,
        "b": f"b'api_key={MASK}'",
    }


# -- provoked ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """All that must not be found anywhere."""
    monkeypatch.setenv("HOUSE_API_KEY", KNOWN)
    assert env.text("HOUSE_API_KEY") == KNOWN
    return {**SHAPED, "known": KNOWN}


@pytest.fixture
def log(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """All that is logged, as it is written; ``request.param`` is the format."""
    written, stdout, usual = io.StringIO(), sys.stdout, structlog.get_config()
    root = logging.getLogger()
    kept = root.handlers[:], root.level
    # Loggers keep the list of processors that they were first used with, so it stays the same list throughout.
    processors: list[Any] = usual["processors"]
    usually = processors[:]
    sys.stdout = written
    try:
        logs.configure(getattr(request, "param", "json"))
        processors[:] = structlog.get_config()["processors"]
        structlog.configure(**usual)
        yield written
    finally:
        sys.stdout = stdout
        logs.configure("console")
        processors[:] = usually
        structlog.configure(**usual)
        root.handlers[:], root.level = kept


both_formats = pytest.mark.parametrize("log", ["json", "console"], indirect=True)


def failing(secrets: dict[str, str]) -> Callable[..., None]:
    """Something that fails as a call of a provider does, with all it was given in its exceptions."""

    def fail(*_: Any, **__: Any) -> None:
        local = secrets["chained"]
        headers = {"Authorization": f"Bearer {local}", "x-api-key": secrets["known"]}
        url = f"https://joe:{secrets['database']}@db.example/?api_key={local}"
        request = httpx2.Request("POST", url, headers=headers)
        structlog.get_logger("x").warning("calling", headers=headers, url=str(request.url), password=secrets["body"])
        logging.getLogger("y").error("calling %s with %s", request.url, dict(request.headers))
        try:
            raise httpx2.ConnectError(f"{request.url} refused {dict(request.headers)}", request=request)
        except httpx2.ConnectError as error:
            raise RuntimeError(f"Provider refused key {secrets['known']}: password={secrets['query']}") from error

    return fail


def verify_clean(text: str, secrets: dict[str, str]) -> None:
    found = {name: text[max(0, text.find(value) - 80) :][:200] for name, value in secrets.items() if value in text}
    assert found == {}


@both_formats
@pytest.mark.parametrize("debug", [False, True])
def test_requests_that_fail_tell_nothing(
    log: io.StringIO, debug: bool, secrets: dict[str, str], owner: User, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.DEBUG = debug
    settings.SOME_URL = f"postgresql://joe:{secrets['database']}@db/x"
    settings.SOME_TOKEN = secrets["known"]
    monkeypatch.setattr("apps.console.views.overview.Overview.get", failing(secrets))
    monkeypatch.setattr(Me, "get", failing(secrets))
    client = Client(raise_request_exception=False, headers={"Authorization": f"Bearer {secrets['header']}"})
    client.force_login(owner)
    client.cookies["other"] = secrets["cookie"]
    pages = [
        client.get("/", {"token": secrets["query"]}),
        client.get("/api/v1/me/", {"token": secrets["query"]}),
        Client().get("/api/v1/me/", headers={"Authorization": f"Bearer {secrets['header']}"}),
        client.post("/login/", {"username": "owner", "password": secrets["body"]}),
        client.post("/api/v1/swarms/", f'{{"password": "{secrets["body"]}"', content_type="application/json"),
        client.get("/nothing/", {"token": secrets["query"]}),
        client.get("/", {"token": secrets["query"]}, HTTP_HOST="elsewhere.example"),
    ]
    assert pages[0].status_code == 500
    written = log.getvalue()
    assert "RuntimeError" in written
    assert "ConnectError" in written
    verify_clean(written, secrets)
    if debug:
        assert "Traceback" in pages[0].content.decode()
        # It is for a developer, and shows what their browser sent and the variables of the code.
        shown = {name: secrets[name] for name in ("known", "chained")}
        verify_clean(pages[0].content.decode(), shown)
    else:
        for page in pages:
            verify_clean(page.content.decode(), secrets)
            assert "RuntimeError" not in page.content.decode()


class Broken(AgentRuntime):
    """An agent whose provider refuses its key."""

    def __init__(self, fail: Callable[..., None]) -> None:
        self.fail = fail

    async def run(self, *args: Any, **kwargs: Any) -> Any:
        self.fail()


def everything_stored() -> str:
    """Every row of every table as text."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'")
        tables = [name for (name,) in cursor.fetchall()]
        found = []
        for table in tables:
            cursor.execute(f"SELECT t::text FROM {table} t")
            found += [f"{table}: {row}" for (row,) in cursor.fetchall()]
    return "\n".join(found)


def test_no_row_keeps_what_an_error_told(
    own_database: str, log: io.StringIO, secrets: dict[str, str], acme: Tenant, owner: User
) -> None:
    simulated_provider(1)
    agent = AgentOf(1, {"model": "simulated:small", "max_output_tokens": 100, "retry": {"max_retries": 0}})
    swarm = make_swarm(acme, [StepOf("only")], {"worker": agent}, now=timezone.now())
    run_until(lambda: Swarm.objects.get(pk=swarm.pk).is_over, runtimes={"llm": Broken(failing(secrets))})
    assert MASK in Task.objects.get(swarm=swarm).error
    client = Client()
    client.force_login(owner)
    made = client.post(
        "/api/v1/tokens/",
        {"tenant": "acme", "name": "ci"},
        content_type="application/json",
        headers={"Idempotency-Key": "once"},
    )
    assert made.status_code == 201, made.content
    stored = everything_stored()
    assert "execution_attempt" in stored
    assert "api_idempotencykey" in stored
    verify_clean(stored, {**secrets, "token": made.json()["token"]})
    verify_clean(log.getvalue(), {**secrets, "token": made.json()["token"]})


def explode(**_: object) -> None:
    failing({**SHAPED, "known": KNOWN})()


def test_a_job_that_fails_keeps_no_secret(secrets: dict[str, str], log: io.StringIO, db: None) -> None:
    tasks: queue.Queue[Any] = queue.Queue()
    results: queue.Queue[Any] = queue.Queue()
    tasks.put({"id": "1", "name": "job", "func": explode, "args": (), "kwargs": {}, "sync": True, "timeout": 5})
    tasks.queue[0]["sync"] = False
    tasks.put("STOP")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("django_q.worker.close_old_django_connections", lambda: None)
        worker(tasks, results, multiprocessing.Value("f", -1), 5)
    result = results.get(timeout=5)
    assert result["success"] is False
    assert "RuntimeError" in result["result"]
    verify_clean(str(result) + log.getvalue(), secrets)


def test_what_nobody_catches_is_told_without_secrets(
    secrets: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        failing(secrets)()
    except RuntimeError as error:
        logs._uncaught(type(error), error, error.__traceback__)
        told = threading.ExceptHookArgs((type(error), error, error.__traceback__, threading.current_thread()))
        logs._uncaught_in_thread(told)
    written = capsys.readouterr().err
    assert written.count("\nRuntimeError: ") == 2
    verify_clean(written, secrets)


@both_formats
def test_a_line_stays_a_line(log: io.StringIO, secrets: dict[str, str]) -> None:
    structlog.get_logger("x").info("done", seconds=1.5, path=Path("/x"), note='say "password=abcdef"', n=None)
    [line] = log.getvalue().splitlines()
    if line.startswith("{"):
        told = json.loads(line)
        assert (told["seconds"], told["path"], told["n"]) == (1.5, "/x", None)
        assert told["note"] == f'say "password={MASK}"'
    assert "abcdef" not in line
