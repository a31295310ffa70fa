"""Up to which id a log can be read: no row with a lower id can still appear.

Ids are drawn in the order of inserts but commit out of order. An id that was drawn before a certain moment belongs to a
transaction that had its transaction id by then (the column's default sees to that). So: note the last id drawn, then
draw a transaction id, X. Once every transaction below X is decided, so is every row up to the id noted.

A log is a table whose ids are drawn that way, with a row of its own in :class:`apps.events.models.Horizon`.
"""

from __future__ import annotations

from enum import StrEnum

from django.db import connection


class Log(StrEnum):
    """The tables that are read in the order of their ids."""

    EVENTS = "events_event"
    LEDGER = "costs_ledgerentry"


def readable(log: Log = Log.EVENTS) -> int:
    """The highest id up to which everything is decided; 0 for an empty log. Two short queries, four while it moves.

    Inside a transaction it only tells what is known; call it before one begins.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END, h.safe_id, h.mark_id, h.mark_xact
            FROM {log}_id_seq s, events_horizon h WHERE h.log = %s
            """,
            [log],
        )
        drawn, safe, mark, mark_xact = cursor.fetchone() or (0, 0, 0, 0)
        if safe == drawn:
            return int(safe)
        if not _decided(mark_xact):
            return int(safe)
        if mark == drawn or connection.in_atomic_block:
            return max(int(mark), int(safe))
        # X is drawn after the last id was read, by this very statement.
        cursor.execute(
            """
            UPDATE events_horizon SET safe_id = greatest(safe_id, %(mark)s), mark_id = %(drawn)s,
                mark_xact = pg_current_xact_id()::text::bigint
            WHERE log = %(log)s AND mark_id < %(drawn)s RETURNING mark_xact
            """,
            {"mark": mark, "drawn": drawn, "log": log},
        )
        moved = cursor.fetchone()
        if moved and _decided(moved[0]):
            return int(drawn)
        return max(int(mark), int(safe))


def _decided(xact: int) -> bool:
    """Whether every transaction below this id has committed or rolled back.

    Transaction ids are shared by all databases of a server; those that run in another database do not count, nor does
    one that ends while this looks. One that cannot be placed and goes on (prepared) does. An id that this server has
    not given out yet comes from another one, whose dump was restored here: whatever was undecided there is not in it.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT pg_snapshot_xmin(s)::text::bigint >= %(xact)s OR pg_snapshot_xmax(s)::text::bigint <= %(xact)s
                OR NOT EXISTS (
                SELECT FROM pg_snapshot_xip(s) AS running LEFT JOIN pg_stat_activity a ON a.backend_xid = running::xid
                WHERE running::text::bigint < %(xact)s AND CASE
                    WHEN a.datname IS NULL THEN pg_xact_status(running) = 'in progress'
                    ELSE a.datname = current_database() END
            )
            FROM pg_current_snapshot() AS s
            """,
            {"xact": xact},
        )
        (decided,) = cursor.fetchone() or (False,)
    return bool(decided)
