"""Statements that PostgreSQL plans once for each connection, however often they run.

Elsewhere parameters are put into the text of a statement, which is then parsed and planned each time. Where a statement
has many parts and few rows, that costs more than its execution.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping
from typing import Any, cast

from django.db import connection

from portal.database.arrays import as_text


def run_planned(statement: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Runs a statement that answers rows, with parameters by name; its rows.

    Parameters are None, texts, whole numbers, truths, UUIDs, moments, or flat lists of one of these; TypeError for
    others. All travel as text, so that the statement stays one whatever they are, and each needs a cast in it. Nothing
    else may be put into its text: another text is another statement.

    The plan is kept although tables grow: until their statistics are renewed it is the one that was best when they
    were small. So it is not for a statement that looks for rows in a table whose size changes within minutes.
    """
    with cast("Any", connection).planned_cursor() as cursor:
        cursor.execute(statement, {name: _written(value) for name, value in parameters.items()})
        return cast("list[tuple[Any, ...]]", cursor.fetchall())


def _written(value: Any) -> str | None:
    match value:
        case None:
            return None
        case str() | int() | uuid.UUID():  # PostgreSQL reads "True" as it does "t"
            return str(value)
        case dt.datetime():
            return value.isoformat()
        case list():
            if (text := as_text(value)) is not None:
                return text
    raise TypeError(f"A {type(value).__name__} cannot be a parameter of a planned statement.")
