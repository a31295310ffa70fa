"""Downloads that PostgreSQL writes itself: rows go from COPY to the browser in pieces, however many there are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.db import connection
from django.http import HttpRequest, StreamingHttpResponse

PIECE = 64 * 1024


def csv_response(request: HttpRequest, query: str, params: Sequence[Any], *, file_name: str) -> StreamingHttpResponse:
    """The rows of a SELECT as a CSV file with its column names on top, in flat memory.

    The SELECT runs on a connection of its own (on the request's own in a synchronous server). Text that a spreadsheet
    would take for a formula is the query's business: see :func:`as_text`. When it fails half way the download breaks
    off: nobody takes it for whole.
    """
    rows = _copied(f"COPY ({query}) TO STDOUT WITH (FORMAT csv, HEADER)", params)
    # Django reads a synchronous iterator to its end before an asynchronous server sends the first byte.
    content = _in_a_thread(rows) if isinstance(request, ASGIRequest) else rows
    return StreamingHttpResponse(
        content,
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{file_name}"', "Cache-Control": "no-store"},
    )


def as_text(expression: str) -> str:
    """SQL of a text that people may have written, so that a spreadsheet takes it for text and never for a formula."""
    return f"CASE WHEN {expression} ~ '^[=+@\\t\\r-]' THEN '''' || {expression} ELSE {expression} END"


def _copied(statement: str, params: Sequence[Any]) -> Iterator[bytes]:
    # The driver's own cursor: the one that Django counts queries with takes no parameters here.
    with connection.cursor() as cursor, cursor.cursor.copy(statement, params) as copy:
        piece = bytearray()
        for line in copy:
            piece += line
            if len(piece) >= PIECE:
                yield bytes(piece)
                piece.clear()
        if piece:
            yield bytes(piece)


async def _in_a_thread(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces, each made in one thread of their own, which has a database connection of its own."""
    loop = asyncio.get_running_loop()
    thread = ThreadPoolExecutor(1, "copy")
    try:
        while (piece := await loop.run_in_executor(thread, next, pieces, None)) is not None:
            yield piece
    finally:
        thread.submit(_end, pieces)
        thread.shutdown(wait=False)


def _end(pieces: Any) -> None:
    pieces.close()
    connection.close()
