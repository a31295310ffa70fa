"""What the ledger entries of a filter add up to, kind by kind: from roll-ups where these know it, else by an index."""

from __future__ import annotations

from dataclasses import replace

from django.db import connection
from django.db.models import Count, QuerySet, Sum

from apps.costs.lines import Source, Sums, Tail
from apps.costs.models import LedgerEntry
from apps.costs.searching import FIRST_DAY, LAST_DAY, LedgerFilter

_BY_KIND = Source("costs_usagetotal", "kind")


def totals_by_kind(chosen: LedgerFilter) -> dict[str, Sums]:
    """Amount in nano-dollars, number of entries and tokens for each kind that has any. At most five queries.

    ``kind`` is that of the entries, not net: an adjustment is one, whatever it corrects.
    """
    if chosen.start or chosen.end or chosen.user or chosen.swarm or chosen.unsettled:
        return totals_of_entries(chosen.entries())
    if chosen.unsettled is False:
        # Nearly all are settled, and only the few others have an index.
        return _without(
            totals_by_kind(replace(chosen, unsettled=None)), totals_by_kind(replace(chosen, unsettled=True))
        )
    first, last = chosen.first or FIRST_DAY, chosen.last or LAST_DAY
    tail = Tail(chosen.tenants, first, last)
    asked = {name: getattr(chosen, name) for name in ("kind", "model", "agent") if getattr(chosen, name) is not None}
    where = " AND ".join(f"{name} = %({name})s" for name in asked) or "true"
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT kind, {", ".join(f"sum({name})::bigint" for name in Sums._fields)}
            FROM ({_BY_KIND.lines(tail, where)}) AS line GROUP BY kind
            """,
            {**tail.params, **asked},
        )
        # A roll-up of entries that all went into another day's line can be there and empty.
        return {row[0]: Sums(*row[1:]) for row in cursor if row[2]}


def totals_of_entries(rows: QuerySet[LedgerEntry]) -> dict[str, Sums]:
    """The same of any entries, read from the ledger. One query."""
    summed = rows.order_by().values_list("kind").annotate(
        Sum("amount"), Count("pk"), Sum("input_tokens"), Sum("output_tokens")
    )  # fmt: skip
    return {kind: Sums(*(int(number) for number in numbers)) for kind, *numbers in summed}


def _without(all_of: dict[str, Sums], some: dict[str, Sums]) -> dict[str, Sums]:
    nothing = Sums(0, 0, 0, 0)
    left = {kind: sums - some.get(kind, nothing) for kind, sums in all_of.items()}
    return {kind: sums for kind, sums in left.items() if sums.entries}
