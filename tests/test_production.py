"""A server with production's settings, as a process of its own: what it checks, what it sends, what it refuses."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator

from portal.bodies import BodyLimit
from tests.processes import manage, run_python

pytestmark = pytest.mark.processes

SERVER = {
    "SECRET_KEY": "pGm2Qw0Zt4LxVb8KcNsY6RfHd1JuEa9oTi3XyW7zUq5CvBnMkSgPlOhD",
    "VAULT_MASTER_KEY": bytes(range(32)).hex(),
    "ALLOWED_HOSTS": "desk.example",
    "STANDALONE": "false",
}
NOWHERE = {**SERVER, "DATABASE_URL": "postgresql://joe:s3cret@127.0.0.1:1/desk"}
ASK = """
import json, sys, django
django.setup()
from django.test import Client
from django.contrib.auth import get_user_model
get_user_model().objects.create_superuser("root", password="correct horse battery")
client = Client(HTTP_HOST="desk.example")
def facts(response):
    cookies = {name: [bool(morsel["secure"]), bool(morsel["httponly"]), morsel["samesite"]]
               for name, morsel in response.cookies.items()}
    return {"status": response.status_code, "headers": dict(response.headers), "cookies": cookies}
page = client.get("/login/", secure=True)
login = client.post("/login/", {"username": "root", "password": "correct horse battery"}, secure=True)
print(json.dumps({
    "plain": facts(client.get("/login/")),
    "proxied": facts(Client(HTTP_HOST="desk.example").get("/login/", headers={"X-Forwarded-Proto": "https"})),
    "page": facts(page),
    "login": facts(login),
    "probe": facts(client.get("/livez")),
    "other_host": facts(client.get("/", secure=True, HTTP_HOST="elsewhere.example")),
    "model_clients": sorted({"pydantic_ai", "openai", "anthropic", "aiohttp"} & set(sys.modules)),
}))
"""


def test_check_deploy_is_clean_with_warnings_as_errors() -> None:
    done = manage("check", "--deploy", "--fail-level", "WARNING", **NOWHERE, PYTHONWARNINGS="error")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "no issues (0 silenced)" in done.stdout


def test_the_web_process_refuses_an_environment_that_does_not_do() -> None:
    wrong = {**NOWHERE, "VAULT_MASTER_KEY": "", "DEBUG": "true", "SECRET_KEY": "short"}
    done = run_python("-m", "daphne", "-p", "0", "portal.asgi:application", **wrong)
    assert done.returncode == 2
    assert [line.split(".")[0] for line in done.stderr.splitlines() if line.startswith("web: ")] == [
        "web: VAULT_MASTER_KEY is not set",
        "web: DEBUG is on",
        "web: SECRET_KEY can be guessed",
    ]
    assert "Traceback" not in done.stderr


def test_what_a_server_sends(own_database: str) -> None:
    done = run_python(
        "-c", ASK, **{**SERVER, "DATABASE_URL": own_database, "DJANGO_SETTINGS_MODULE": "portal.settings"}
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert (told["plain"]["status"], told["plain"]["headers"]["Location"]) == (301, "https://desk.example/login/")
    assert told["proxied"]["status"] == 200
    assert told["page"]["headers"]["Strict-Transport-Security"] == "max-age=31536000; includeSubDomains; preload"
    assert told["page"]["cookies"]["csrftoken"][0], "a CSRF cookie over HTTPS only"
    assert told["login"]["cookies"]["sessionid"] == [True, True, "Lax"]
    assert told["probe"]["status"] in (200, 503), "probes are not redirected"
    assert told["other_host"]["status"] == 400
    assert told["model_clients"] == [], "who serves pages calls no model: a third of its start and of its memory"
    assert "Traceback" not in done.stdout


def answer_to(*, declared: int | None, sent: int, most: int = 1000) -> tuple[int | None, int]:
    """The status of the answer to a body, and how many bytes of it the application behind the limit has read."""
    read = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal read
        while (message := await receive())["type"] == "http.request":
            read += len(message["body"])
            if not message["more_body"]:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b""})
                return

    async def ask() -> int | None:
        headers = [] if declared is None else [(b"content-length", str(declared).encode())]
        communicator = ApplicationCommunicator(BodyLimit(app, most), {"type": "http", "headers": headers})
        for start in range(0, sent, 100):
            more = start + 100 < sent
            await communicator.send_input(
                {"type": "http.request", "body": b"x" * min(100, sent - start), "more_body": more}
            )
        status: int = (await communicator.receive_output(5))["status"]
        return status

    return asyncio.run(ask()), read


@pytest.mark.parametrize(
    ("declared", "sent", "status", "read"),
    [
        (1000, 1000, 200, 1000),
        (1001, 1001, 413, 0),  # refused before anything is read
        (None, 1000, 200, 1000),  # in chunks, its length not told
        (None, 5000, 413, 1000),
        (10, 5000, 413, 1000),  # a length that is not true
    ],
)
def test_a_body_that_is_too_large_is_not_read(declared: int | None, sent: int, status: int, read: int) -> None:
    assert answer_to(declared=declared, sent=sent) == (status, read)
