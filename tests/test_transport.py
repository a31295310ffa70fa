"""The HTTP transport: plain requests, and errors that tell what was sent from what was not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import httpx2
import pytest

from apps.providers.transport import AiohttpTransport, LaunchPad
from tests.processes import free_port

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def ask(port: int, *, read_s: float | None = None) -> httpx2.Response:
    timeout = httpx2.Timeout(None, connect=2, read=read_s)
    async with httpx2.AsyncClient(transport=AiohttpTransport(), timeout=timeout) as client:
        return await client.post(f"http://127.0.0.1:{port}/v1/é?x=1%2F2", json={"a": "ü"}, headers={"X-Key": "k"})


def asked(handler: Handler, *, read_s: float | None = None) -> httpx2.Response:
    """The answer of a server on this machine that treats each connection as ``handler`` does."""

    async def main() -> httpx2.Response:
        server = await asyncio.start_server(handler, "127.0.0.1", 0)
        try:
            return await ask(server.sockets[0].getsockname()[1], read_s=read_s)
        finally:
            server.close()

    return asyncio.run(main())


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    return head + await reader.readexactly(length)


def test_a_request_arrives_as_it_was_made_and_the_answer_comes_back_whole() -> None:
    seen: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_request(reader))
        writer.write(b"HTTP/1.1 429 Too Many\r\nRetry-After: 3\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()
        writer.close()

    answer = asked(handler)
    assert (answer.status_code, answer.headers["retry-after"], answer.json()) == (429, "3", {})
    request = seen[0]
    assert request.startswith(b"POST /v1/%C3%A9?x=1%2F2 HTTP/1.1\r\n")
    assert request.lower().count(b"\r\nhost:") == request.lower().count(b"\r\ncontent-length:") == 1
    assert b"X-Key: k" in request
    assert request.endswith('{"a":"ü"}'.encode())


def test_redirects_are_answers_not_followed() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    assert asked(handler).status_code == 302


def test_a_refused_connection_was_never_sent() -> None:
    with pytest.raises(httpx2.ConnectError):
        asyncio.run(ask(free_port()))


def test_a_connection_dropped_after_the_request_may_have_been_acted_on() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.close()

    with pytest.raises(httpx2.ReadError):
        asked(handler)


def test_an_answer_that_breaks_off_is_a_read_error() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await writer.drain()
        writer.close()

    with pytest.raises(httpx2.ReadError):
        asked(handler)


def test_an_answer_that_does_not_come_is_a_read_timeout() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await reader.read()
        writer.close()

    with pytest.raises(httpx2.ReadTimeout):
        asked(handler, read_s=0.1)


def test_what_is_not_http_is_a_protocol_error() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"220 mail.example.test ESMTP\r\n\r\n")
        await writer.drain()
        writer.close()

    with pytest.raises(httpx2.RemoteProtocolError):
        asked(handler)


def test_few_calls_are_prepared_at_once_and_each_makes_room_when_it_goes_out() -> None:
    """A call holds its place only until its request is on the wire, not until its answer is there."""
    started, waiting, peak = 0, 0, 0

    async def main() -> None:
        pad = LaunchPad(at_once=2)
        all_out = asyncio.Event()

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal started
            await read_request(reader)
            started += 1
            if started == 6:
                all_out.set()
            await all_out.wait()  # nobody is answered before all six are on the wire
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(handler, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        async with httpx2.AsyncClient(transport=AiohttpTransport()) as client:

            async def call() -> None:
                nonlocal waiting, peak
                async with pad.launching():
                    waiting += 1
                    peak = max(peak, waiting)
                    await asyncio.sleep(0)
                    waiting -= 1
                    assert (await client.post(url, json={})).status_code == 200

            async with asyncio.timeout(10):
                await asyncio.gather(*(call() for _ in range(6)))
        server.close()

    asyncio.run(main())
    assert (started, peak) == (6, 2)


def test_a_call_that_fails_before_it_goes_out_leaves_its_place() -> None:
    async def main() -> None:
        pad = LaunchPad(at_once=1)
        for _ in range(3):
            with pytest.raises(ValueError, match="not sent"):
                async with asyncio.timeout(5), pad.launching():
                    raise ValueError("not sent")

    asyncio.run(main())
