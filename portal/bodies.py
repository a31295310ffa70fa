"""Bounds the bodies of requests before anything reads them: Django would write them to disk, whoever sends them."""

from __future__ import annotations

import json
from typing import Any

MOST_BYTES = 17 * 2**20
"""Of any request. What one kind of request may be as large as is decided where it is read; none reads more."""


class BodyLimit:
    """ASGI: answers 413 to what is larger, and lets nothing after that through. A proxy should bound bodies as well."""

    def __init__(self, app: Any, most: int = MOST_BYTES) -> None:
        self.app = app
        self.most = most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self.most:
            await self._refuse(send)
            return
        seen, refused = 0, False

        async def counted() -> Any:
            nonlocal seen, refused
            message = await receive()
            seen += len(message.get("body", b""))
            if seen <= self.most:
                return message
            if not refused:
                refused = True
                await self._refuse(send)
            return {"type": "http.disconnect"}

        async def passed_on(message: Any) -> None:
            if not refused:
                await send(message)

        await self.app(scope, counted, passed_on)

    async def _refuse(self, send: Any) -> None:
        error = {"code": "too_large", "detail": f"The body is larger than {self.most:,} bytes.", "attr": None}
        body = json.dumps({"type": "client_error", "errors": [error]}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"connection", b"close"),
        ]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": body})
