"""Reading large results: the database writes the file, and Python only passes it on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from django.db import connection

BLOCK = 1 << 18
"""Bytes that are passed on at a time; the memory that an export takes does not depend on its size."""


def copy_csv(query: str, params: Mapping[str, Any]) -> Iterator[bytes]:
    """The result of a query as CSV with a header, in blocks. Null is an empty field, an empty text is ``""``.

    One statement, so one snapshot: what is written meanwhile is in all of it or in none.
    """
    block = bytearray()
    with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT csv, HEADER, ENCODING 'UTF8')", params) as rows,
    ):
        for row in rows:
            block += row
            if len(block) >= BLOCK:
                yield bytes(block)
                block.clear()
    if block:
        yield bytes(block)
