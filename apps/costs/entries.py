"""Writing ledger entries: the one statement that adds rows to the ledger."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.db import connection

from apps.costs.models import Kind
from apps.costs.prices import Rates


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEntry:
    """An amount owed, in nano-dollars, to be written. ``at`` None: the moment of writing.

    See :class:`apps.costs.models.LedgerEntry` for the fields; ``rates`` becomes its four prices per million tokens.
    """

    tenant_id: uuid.UUID
    kind: Kind
    amount: int
    at: dt.datetime | None = None
    subject_id: uuid.UUID | None = None
    swarm_id: uuid.UUID | None = None
    task_id: uuid.UUID | None = None
    attempt_id: uuid.UUID | None = None
    reservation_id: uuid.UUID | None = None
    agent: str = ""
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    rates: Rates | None = None
    quantity: Decimal | None = None
    unit_price: int | None = None
    unsettled: bool = False
    corrects: int | None = None
    period_ids: Sequence[int] = ()
    external_id: str = ""
    run: str = ""
    note: str = ""


def _field(name: str) -> Callable[[NewEntry], Any]:
    return lambda entry: getattr(entry, name)


def _rate(place: int) -> Callable[[NewEntry], int | None]:
    return lambda entry: entry.rates[place] if entry.rates else None


_COLUMNS: dict[str, tuple[str, Callable[[NewEntry], Any]]] = {
    **{name: ("uuid", _field(name)) for name in ("tenant_id", "subject_id", "swarm_id", "task_id", "attempt_id")},
    "reservation_id": ("uuid", _field("reservation_id")),
    **{name: ("text", _field(name)) for name in ("agent", "model", "external_id", "run", "note")},
    "kind": ("text", lambda entry: str(entry.kind)),
    **{name: ("bigint", _field(name)) for name in ("input_tokens", "output_tokens", "amount", "corrects")},
    **{name: ("bigint", _field(name)) for name in ("cache_read_tokens", "cache_write_tokens", "unit_price")},
    **{f"{name}_per_mtok": ("bigint", _rate(n)) for n, name in enumerate(("input", "output"))},
    **{f"{name}_per_mtok": ("bigint", _rate(n)) for n, name in enumerate(("cache_read", "cache_write"), 2)},
    "quantity": ("numeric", _field("quantity")),
    "unsettled": ("bool", _field("unsettled")),
    # An array of arrays must be rectangular, so each list of periods travels as text.
    "period_ids": ("text", lambda entry: "{" + ",".join(map(str, entry.period_ids)) + "}"),
}
"""By column: the type it travels as, and its value of an entry."""

_INSERT = """
    INSERT INTO costs_ledgerentry (at, {columns})
    SELECT coalesce(e.at, %s), {values}
    FROM unnest(%s::timestamptz[], {arrays}) WITH ORDINALITY AS e (at, {columns}, place)
    ORDER BY e.place RETURNING id
""".format(
    columns=", ".join(_COLUMNS),
    values=", ".join("e.period_ids::bigint[]" if name == "period_ids" else f"e.{name}" for name in _COLUMNS),
    arrays=", ".join(f"%s::{kind}[]" for kind, _ in _COLUMNS.values()),
)


def write(entries: Sequence[NewEntry], *, now: dt.datetime | None) -> list[int]:
    """Adds entries to the ledger in the current transaction, in the order given; their ids in that order.

    The database refuses entries of a period that is closed.
    """
    if not entries:
        return []
    arrays = [[value(entry) for entry in entries] for _, value in _COLUMNS.values()]
    with connection.cursor() as cursor:
        cursor.execute(_INSERT, [now, [entry.at for entry in entries], *arrays])
        return [id for (id,) in cursor.fetchall()]
