"""Requests on threads that stay, each with its own connection to the database."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, cast

from django.core import signals
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.core.handlers.base import BaseHandler
from django.http import FileResponse, HttpResponseBase, StreamingHttpResponse
from django.urls import set_script_prefix

Send = Callable[[Mapping[str, Any]], Awaitable[None]]


class ThreadedHandler(ASGIHandler):
    """Django behind ASGI, for views that are synchronous: a request stays on one of so many threads from its first
    middleware to its last.

    Django's own handler makes a thread for each request, and with it a connection to the database that nobody uses
    again, and goes to and fro between thread and event loop for each part of the way. Here connections are kept
    (``CONN_MAX_AGE``), there are never more of them than threads, and what comes when all threads work waits in line.
    """

    def __init__(self, threads: int) -> None:
        BaseHandler.__init__(self)
        self.load_middleware(is_async=False)
        self._threads = ThreadPoolExecutor(threads, "web")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            body = await self.read_body(receive)
        except RequestAborted:
            return
        with body:
            # The one message that can follow the body: that the client is gone.
            gone = asyncio.ensure_future(receive())
            try:
                await self._serve(scope, body, send, gone)
            finally:
                gone.cancel()

    async def _serve(self, scope: Any, body: Any, send: Send, gone: asyncio.Future[Any]) -> None:
        work: Future[HttpResponseBase] = self._submit(self._respond, scope, body)
        answer = asyncio.wrap_future(work)
        await asyncio.wait({gone, answer}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done() and work.cancel():  # nobody waits for it any more, and no thread has begun
            return
        response = await answer
        if not response.streaming:
            await self._start(response, send)
            await send({"type": "http.response.body", "body": response.content})  # type: ignore[attr-defined]
            return
        sending = asyncio.ensure_future(self._stream(cast("StreamingHttpResponse", response), send))
        try:
            await asyncio.wait({gone, sending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sending.cancel()  # nothing, when it is through
            await asyncio.wait({sending})
            await asyncio.wrap_future(self._submit(response.close))
        if not sending.cancelled():
            sending.result()

    def _submit(self, call: Callable[..., Any], *args: Any) -> Future[Any]:
        return self._threads.submit(contextvars.copy_context().run, call, *args)

    def _respond(self, scope: Any, body: Any) -> HttpResponseBase:
        """On a thread: the answer; closed already, unless it is streamed."""
        prefix = get_script_prefix(scope)  # type: ignore[no-untyped-call]
        set_script_prefix(prefix)
        signals.request_started.send(sender=type(self), scope=scope)
        request, refused = self.create_request(scope, body)
        response: HttpResponseBase = refused or self.get_response(request)  # type: ignore[arg-type]
        response._handler_class = type(self)  # type: ignore[attr-defined]
        if isinstance(response, FileResponse):
            response.block_size = self.chunk_size
        if not response.streaming:
            response.close()
        return response

    async def _start(self, response: HttpResponseBase, send: Send) -> None:
        headers = [(name.encode("ascii"), value.encode("latin1")) for name, value in response.items()]
        headers += [(b"Set-Cookie", cookie.output(header="").strip().encode()) for cookie in response.cookies.values()]
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})

    async def _stream(self, response: StreamingHttpResponse, send: Send) -> None:
        await self._start(response, send)
        async with aclosing(self._parts(response)) as parts:
            async for part in parts:
                for start in range(0, len(part), self.chunk_size):
                    piece = part[start : start + self.chunk_size]
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    async def _parts(self, response: StreamingHttpResponse) -> AsyncGenerator[bytes]:
        if response.is_async:
            async with aclosing(cast("AsyncGenerator[bytes]", aiter(response))) as made:
                async for part in made:
                    yield part
            return
        parts = iter(response)
        while (piece := await asyncio.wrap_future(self._submit(next, parts, None))) is not None:
            yield piece
