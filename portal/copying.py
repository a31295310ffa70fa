"""Large files: PostgreSQL writes the rows itself, and they go from COPY to their reader in pieces, however many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.db import connection
from django.http import HttpRequest, StreamingHttpResponse

Params = Sequence[Any] | Mapping[str, Any]

PIECE = 64 * 1024


def csv_response(request: HttpRequest, query: str, params: Params, *, file_name: str) -> StreamingHttpResponse:
    """The rows of a SELECT as a CSV file with its column names on top, in flat memory.

    Text that a spreadsheet would take for a formula is the query's business: see :func:`as_text`.
    """
    return download(request, copied(query, params), file_name=file_name, content_type="text/csv; charset=utf-8")


def download(
    request: HttpRequest, pieces: Iterator[bytes], *, file_name: str, content_type: str
) -> StreamingHttpResponse:
    """A file that is made while it is sent.

    The pieces are made on a database connection of their own (on the request's own in a synchronous server). When that
    fails half way the download breaks off: nobody takes it for whole.
    """
    # Django reads a synchronous iterator to its end before an asynchronous server sends the first byte.
    content = _in_a_thread(pieces) if isinstance(request, ASGIRequest) else pieces
    return StreamingHttpResponse(
        content,
        content_type=content_type,
        headers={"Content-Disposition": f'attachment; filename="{file_name}"', "Cache-Control": "no-store"},
    )


def copied(query: str, params: Params) -> Iterator[bytes]:
    """The rows of a SELECT as CSV with its column names on top, in pieces; null is an empty field.

    One statement, so one snapshot: what is written meanwhile is in all of it or in none.
    """
    statement = f"COPY ({query}) TO STDOUT WITH (FORMAT csv, HEADER, ENCODING 'UTF8')"
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


def as_text(expression: str) -> str:
    """SQL of a text that people may have written, so that a spreadsheet takes it for text and never for a formula."""
    return f"CASE WHEN {expression} ~ '^[=+@\\t\\r-]' THEN '''' || {expression} ELSE {expression} END"


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
