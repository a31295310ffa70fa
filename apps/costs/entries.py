"""Writing ledger entries: the one statement that adds rows to the ledger."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from operator import attrgetter
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
    saved: int | None = None


_PRICES = ("input_per_mtok", "output_per_mtok", "cache_read_per_mtok", "cache_write_per_mtok")
_TYPES: dict[str, str] = {
    "at": "timestamptz",
    **dict.fromkeys(("tenant_id", "subject_id", "swarm_id", "task_id", "attempt_id", "reservation_id"), "uuid"),
    **dict.fromkeys(("agent", "kind", "model", "external_id", "run", "note"), "text"),
    **dict.fromkeys(("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"), "bigint"),
    **dict.fromkeys(("unit_price", "amount", "corrects", "saved", *_PRICES), "bigint"),
    "quantity": "numeric",
    "unsettled": "bool",
    "period_ids": "bigint[]",
}
"""By column of the ledger: its type."""

_PLAIN = tuple(name for name in _TYPES if name not in _PRICES)
_values = attrgetter(*_PLAIN, "rates")
_NO_RATES = (None,) * len(_PRICES)


def write(entries: Sequence[NewEntry], *, now: dt.datetime | None) -> list[int]:
    """Adds entries to the ledger in the current transaction, in the order given; their ids in that order.

    The database refuses entries of a month that is closed.
    """
    if not entries:
        return []
    *plain, rates = zip(*map(_values, entries), strict=True)
    columns: dict[str, Sequence[Any]] = dict(zip(_PLAIN, plain, strict=True))
    columns |= zip(_PRICES, zip(*(each or _NO_RATES for each in rates), strict=True), strict=True)
    columns["at"] = [at or now for at in columns["at"]]
    columns["kind"] = [str(kind) for kind in columns["kind"]]
    # An array of arrays must be rectangular, so each list of periods travels as text.
    columns["period_ids"] = [f"{{{','.join(map(str, ids))}}}" for ids in columns["period_ids"]]
    # What is the same in all entries, as most of a batch is, travels once: arrays are what a batch costs.
    differing = tuple(name for name in _TYPES if columns[name].count(columns[name][0]) < len(entries))
    same = [columns[name][0] for name in _TYPES if name not in differing]
    arrays = [list(columns[name]) for name in differing] or [list(range(len(entries)))]
    with connection.cursor() as cursor:
        cursor.execute(_insert(differing), [*same, *arrays])
        return [id for (id,) in cursor.fetchall()]


@lru_cache(maxsize=256)
def _insert(differing: tuple[str, ...]) -> str:
    """The statement for entries that differ in these columns: parameters are the other values, then the arrays."""
    values = (f"e.{name}::{kind}" if name in differing else f"%s::{kind}" for name, kind in _TYPES.items())
    arrays = [f"%s::{'text' if name == 'period_ids' else _TYPES[name]}[]" for name in differing] or ["%s::int[]"]
    return f"""
        INSERT INTO costs_ledgerentry ({", ".join(_TYPES)})
        SELECT {", ".join(values)}
        FROM unnest({", ".join(arrays)}) WITH ORDINALITY AS e ({", ".join(differing or ("number",))}, place)
        ORDER BY e.place RETURNING id
    """
