"""The usual case of a reservation, in one statement: the budgets are those that are known, and all of it fits.

A call waits for it, so it is one exchange with PostgreSQL where the whole way takes five.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Sequence

from apps.costs.asking import RESERVATION, CallRequest, columns_of, list_of_lists
from apps.costs.fitting import BIGGEST
from apps.costs.watching import SAME_BUDGETS, PeriodKey, guess
from portal.database.planned import run_planned


def reserve_at_once(calls: Sequence[CallRequest], *, now: dt.datetime) -> bool:
    """Reserves all of these calls, of which there is one and none was asked for before; or nothing: False.

    False where the budgets are not as this process last saw them, where a period has to be made first, and where not
    all calls fit. Only in the last case are the periods locked, until the transaction around it ends, if any.
    """
    guessed = guess(calls, now=now)
    if guessed is None:
        return False
    watched, same = guessed
    wanted: Counter[PeriodKey] = Counter()
    for call, keys in zip(calls, watched.keys, strict=True):
        for key in keys:
            wanted[key] += call.amount
    if max(wanted.values(), default=0) > BIGGEST:
        return False
    place_of = {key: place for place, key in enumerate(wanted, start=1)}
    in_order = sorted(zip(calls, watched.keys, strict=True), key=lambda pair: pair[0].id)
    ((done,),) = run_planned(
        _RESERVE,
        {
            **columns_of([call for call, _ in in_order]),
            "places": list_of_lists([[place_of[key] for key in keys] for _, keys in in_order]),
            "budgets": [key.budget_id for key in wanted],
            "keys": [key.key for key in wanted],
            "holders": [key.holder for key in wanted],
            "amounts": list(wanted.values()),
            "biggest": BIGGEST,
            "now": now,
            **same,
        },
    )
    return bool(done)


# As in the whole way, the periods are locked in the order of their ids, and none while one is missing. What the CHECK
# of a period looks at is written as it was found under lock: PostgreSQL checks also what the row would become were it
# still as it was when the statement began.
_RESERVE = f"""
    WITH same AS MATERIALIZED ({SAME_BUDGETS}), wanted AS MATERIALIZED (
        SELECT p.id, k.place, k.amount
        FROM unnest(%(budgets)s::uuid[], %(keys)s::text[], %(holders)s::text[], %(amounts)s::bigint[])
                 WITH ORDINALITY AS k (budget_id, key, holder, amount, place)
        JOIN costs_budgetperiod p ON p.budget_id = k.budget_id AND p.key = k.key AND p.holder = k.holder
        WHERE (TABLE same)
    ), locked AS MATERIALIZED (
        SELECT p.id, w.place, p.ceiling, p.spent, p.reserved,
               CASE WHEN p.ceiling IS NULL THEN %(biggest)s::bigint ELSE p."limit" END
                   - p.spent - p.overage - p.reserved >= w.amount AS fits
        FROM wanted w JOIN costs_budgetperiod p USING (id)
        WHERE (SELECT count(*) FROM wanted) = cardinality(%(budgets)s::uuid[])
        ORDER BY p.id FOR UPDATE OF p
    ), agreed AS MATERIALIZED (
        SELECT (TABLE same) AND count(*) = cardinality(%(budgets)s::uuid[]) AND coalesce(bool_and(fits), true)
        FROM locked
    ), held AS (
        INSERT INTO costs_reservation ({", ".join(RESERVATION)}, period_ids, created_at)
        SELECT {", ".join(f"c.{name}" for name in RESERVATION)},
               ARRAY(SELECT l.id FROM locked l WHERE l.place = ANY (c.places::int[]) ORDER BY l.id),
               %(now)s::timestamptz
        FROM unnest({", ".join(f"%({name})s::{kind}[]" for name, kind in RESERVATION.items())}, %(places)s::text[])
                 AS c ({", ".join(RESERVATION)}, places)
        WHERE (TABLE agreed)
        ON CONFLICT DO NOTHING
        RETURNING amount, period_ids
    ), added AS (
        SELECT id, sum(amount)::bigint AS amount FROM held CROSS JOIN unnest(period_ids) AS id GROUP BY id
    ), reserved AS (
        UPDATE costs_budgetperiod p
        SET ceiling = l.ceiling, spent = l.spent, reserved = l.reserved + added.amount,
            updated_at = %(now)s::timestamptz
        FROM added JOIN locked l USING (id) WHERE p.id = added.id
    )
    TABLE agreed
"""
