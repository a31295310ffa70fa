"""How requests reach the views: on threads that stay, with connections to the database that stay too."""

from __future__ import annotations

import asyncio
import http.client
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from django.db import connection
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.urls.base import get_script_prefix

from apps.tenants.models import Tenant, User
from portal.web import ThreadedHandler
from tests.api_client import Caller
from tests.browser import Daphne, db, web, web_of_module

__all__ = ["db", "web", "web_of_module"]

THREADS = 8
entered, may_go_on = threading.Semaphore(0), threading.Event()
seen: list[str] = []


def echo(request: HttpRequest) -> HttpResponse:
    response = JsonResponse(
        {"body": request.body.decode(), "prefix": get_script_prefix(), "thread": threading.current_thread().name}
    )
    response.set_cookie("one", "1", httponly=True)
    response.set_cookie("two", "2")
    return response


def held(request: HttpRequest) -> HttpResponse:
    seen.append(request.GET["name"])
    entered.release()
    assert may_go_on.wait(30)
    return HttpResponse("done")


def broken(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("a fault of a view")


class Parts:
    """Parts without end, which tell whether they were closed."""

    closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return b"part"

    def close(self) -> None:
        Parts.closed = True


def endless(request: HttpRequest) -> HttpResponseBase:
    return StreamingHttpResponse(Parts())


def parts(request: HttpRequest, how: str) -> HttpResponseBase:
    async def later() -> AsyncIterator[bytes]:
        for part in (b"a" * 70_000, b"b"):
            yield part

    return StreamingHttpResponse(later() if how == "async" else iter((b"a" * 70_000, b"b")))


urlpatterns = [
    path("echo/", echo),
    path("held/", held),
    path("broken/", broken),
    path("endless/", endless),
    path("parts/<how>/", parts),
]


@contextmanager
def _handler(settings: Any, threads: int) -> Iterator[ThreadedHandler]:
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = []
    handler = ThreadedHandler(threads)
    try:
        yield handler
    finally:
        may_go_on.set()
        handler._threads.shutdown()


def _scope(target: str, method: str = "GET", root: str = "") -> dict[str, Any]:
    route, _, query = target.partition("?")
    return {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": root + route,
        "root_path": root,
        "scheme": "http",
        "query_string": query.encode(),
        "headers": [(b"host", b"127.0.0.1")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }


async def _answer(handler: ThreadedHandler, scope: dict[str, Any], *bodies: bytes) -> tuple[dict[str, Any], bytes]:
    talk = ApplicationCommunicator(handler, scope)
    for body in bodies or (b"",):
        await talk.send_input({"type": "http.request", "body": body, "more_body": body is not (bodies or (b"",))[-1]})
    start = await talk.receive_output(10)
    content, more = b"", True
    while more:
        message = await talk.receive_output(10)
        content, more = content + message.get("body", b""), message.get("more_body", False)
    await talk.wait(10)
    return start, content


def _run(steps: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(steps)


def test_a_body_without_a_length_arrives_whole_and_cookies_leave_one_by_one(settings: Any) -> None:
    with _handler(settings, 1) as handler:
        start, content = _run(_answer(handler, _scope("/echo/", "POST", "/desk"), b"one ", b"and ", b"two"))
    assert start["status"] == 200
    assert b'"body": "one and two"' in content
    assert b'"prefix": "/desk/"' in content
    assert b'"thread": "web_0"' in content
    cookies = [value for name, value in start["headers"] if name == b"Set-Cookie"]
    assert cookies == [b"one=1; HttpOnly; Path=/", b"two=2; Path=/"]


def test_a_fault_of_a_view_is_an_answer_and_the_thread_goes_on(settings: Any) -> None:
    settings.DEBUG_PROPAGATE_EXCEPTIONS = False
    with _handler(settings, 1) as handler:
        assert _run(_answer(handler, _scope("/broken/")))[0]["status"] == 500
        assert _run(_answer(handler, _scope("/echo/")))[0]["status"] == 200


@pytest.mark.parametrize("how", ["sync", "async"])
def test_a_stream_arrives_whole(settings: Any, how: str) -> None:
    with _handler(settings, 1) as handler:
        assert _run(_answer(handler, _scope(f"/parts/{how}/")))[1] == b"a" * 70_000 + b"b"


def test_a_stream_ends_when_its_reader_is_gone(settings: Any) -> None:
    async def steps(handler: ThreadedHandler) -> None:
        talk = ApplicationCommunicator(handler, _scope("/endless/"))
        await talk.send_input({"type": "http.request"})
        assert (await talk.receive_output(10))["status"] == 200
        assert (await talk.receive_output(10))["body"] == b"part"
        await talk.send_input({"type": "http.disconnect"})
        await talk.wait(10)

    Parts.closed = False
    with _handler(settings, 1) as handler:
        _run(steps(handler))
    assert Parts.closed


def test_what_waits_in_line_is_dropped_when_its_caller_is_gone(settings: Any) -> None:
    async def steps(handler: ThreadedHandler) -> None:
        first, gone, last = (ApplicationCommunicator(handler, _scope(f"/held/?name={n}")) for n in ("1", "gone", "2"))
        for talk in (first, gone, last):
            await talk.send_input({"type": "http.request"})
        await asyncio.to_thread(entered.acquire, timeout=10)
        await gone.send_input({"type": "http.disconnect"})
        await gone.wait(10)
        may_go_on.set()
        for talk in (first, last):
            assert (await talk.receive_output(10))["status"] == 200

    seen.clear()
    may_go_on.clear()
    with _handler(settings, 1) as handler:
        _run(steps(handler))
    assert seen == ["1", "2"]


# -- connections to the database, of a real web process ---------------------------------------------------------------


def _backends() -> set[int]:
    """The database's other connections, by process."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND query NOT LIKE 'LISTEN%'"
        )
        return {pid for (pid,) in cursor.fetchall()}


def _ask_at_once(web: Daphne, headers: dict[str, str], count: int) -> list[int]:
    def ask(_: int) -> int:
        asked = http.client.HTTPConnection("127.0.0.1", web.port, timeout=30)
        asked.request("GET", "/api/v1/me/", headers=headers)
        return asked.getresponse().status

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(ask, range(count)))


@pytest.mark.processes
def test_connections_are_bounded_kept_and_made_again_when_the_database_was_away(
    web: Daphne, owner: User, acme: Tenant
) -> None:
    headers = Caller(owner, acme).headers
    _terminate(_backends())
    assert _ask_at_once(web, headers, 30) == [200] * 30
    first = _backends()
    assert 1 <= len(first) <= THREADS + 2  # and the two of the console's socket, from other tests
    assert _ask_at_once(web, headers, 30) == [200] * 30
    assert first <= _backends(), "connections are kept from one request to the next"
    _terminate(_backends())
    assert _ask_at_once(web, headers, 30) == [200] * 30, "a connection that is lost is made again before it is used"
    assert not first & _backends()


def _terminate(backends: set[int]) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", [list(backends)])
