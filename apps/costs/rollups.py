"""Keeping the roll-ups: a durable reader of the ledger that adds each entry to its sums, once.

The position and the sums change in one transaction, and the reader stops at the horizon below which everything is
decided (:mod:`apps.events.horizon`): whatever was there at any moment, the roll-ups are the sum of exactly the entries
up to the position. What lies behind it is read from the ledger itself (:mod:`apps.costs.reports`).

Whoever changes roll-ups holds the lock on the position's row.
"""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import structlog
from django.db import connection, transaction
from django.db.models import Q

from apps.costs.models import RolledTenant
from apps.costs.summing import TABLES, TENANTS, adding
from apps.events.horizon import Log, readable
from portal.queue import enqueue

log = structlog.get_logger(__name__)

EVERY_S = 10.0
"""How often the orchestrator rolls up."""
BATCH = 20_000
"""Ids in one transaction: well under a second of work."""
BATCHES = 5
"""Most transactions in one go, so that the orchestrator's other duties do not wait."""
REBUILT_AT_ONCE = 20_000
"""Most entries of a tenant whose roll-ups the orchestrator rebuilds itself; more is a job of its own."""

ASKED_AGAIN_AFTER = dt.timedelta(minutes=15)


def position() -> int:
    """The entry up to which the ledger is rolled up."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT entry_id FROM costs_rollupposition")
        (entry_id,) = cursor.fetchone() or (0,)
    return int(entry_id)


def roll(*, now: dt.datetime, upto: int | None = None, batch: int = BATCH, batches: int = BATCHES) -> int:
    """Adds what the ledger has behind the position to the roll-ups; how many entries, at most ``batch * batches``.

    Does nothing while another process works on the roll-ups. ``upto`` is a horizon read earlier, for a caller inside a
    transaction. First it rebuilds the roll-ups of a tenant whose time zone has changed (see :func:`rebuild_tenant`).
    """
    horizon = readable(Log.LEDGER) if upto is None else upto
    _follow_time_zones(now=now)
    rolled = 0
    for _ in range(batches):
        with transaction.atomic():
            start = _lock(wait=False)
            if start is None or start >= horizon:
                break
            end = min(start + batch, horizon)
            rolled += _add("l.id > %(start)s AND l.id <= %(end)s", start=start, end=end)
            _move(end, now=now)
    return rolled


def rebuild(*, now: dt.datetime, upto: int | None = None, batch: int = 200_000) -> int:
    """Makes all roll-ups anew from the ledger, in one transaction; how many entries. Readers see the old meanwhile."""
    horizon = readable(Log.LEDGER) if upto is None else upto
    with transaction.atomic():
        start, rolled = _lock(wait=True) or 0, 0
        end = max(start, horizon)
        with connection.cursor() as cursor:
            for table in TABLES:
                cursor.execute(f"DELETE FROM {table.name}")
            cursor.execute("DELETE FROM costs_rolledtenant")
        for first in range(0, end, batch):
            rolled += _add("l.id > %(start)s AND l.id <= %(end)s", start=first, end=min(first + batch, end))
        _move(end, now=now)
    log.info("rollups_rebuilt", entries=rolled)
    return rolled


def rebuild_tenant(tenant_id: uuid.UUID, *, wait: bool = True) -> int:
    """Makes the roll-ups of one tenant anew, with days of the time zone that it has now; how many entries.

    One transaction: readers see the old ones, with days of the old time zone, until it commits. Without ``wait`` it
    does nothing while another process works on the roll-ups.
    """
    with transaction.atomic():
        end = _lock(wait=wait)
        if end is None:
            return 0
        with connection.cursor() as cursor:
            for table in TABLES:
                cursor.execute(f"DELETE FROM {table.name} WHERE tenant_id = %s", [tenant_id])
            cursor.execute("DELETE FROM costs_rolledtenant WHERE tenant_id = %s", [tenant_id])
        rolled = _add("l.tenant_id = %(tenant)s AND l.id <= %(end)s", tenant=tenant_id, end=end)
    log.info("rollups_of_tenant_rebuilt", tenant_id=str(tenant_id), entries=rolled)
    return rolled


def _lock(*, wait: bool) -> int | None:
    """Locks the position until the transaction ends; the position. None when another holds it and ``wait`` is off."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT entry_id FROM costs_rollupposition FOR UPDATE {'' if wait else 'SKIP LOCKED'}")
        row = cursor.fetchone()
    return int(row[0]) if row else None


def _move(entry_id: int, *, now: dt.datetime) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE costs_rollupposition SET entry_id = %s, updated_at = %s", [entry_id, now])


def _add(which: str, **params: Any) -> int:
    """Adds the ledger entries that ``which`` describes (``l`` is the ledger) to the roll-ups; how many there were."""
    with connection.cursor() as cursor:
        cursor.execute(TENANTS.format(which=which), params)
        cursor.execute(adding(which), params)
        (rolled,) = cursor.fetchone() or (0,)
    return int(rolled)


def _follow_time_zones(*, now: dt.datetime) -> None:
    """Rebuilds the roll-ups of tenants whose time zone has changed: small ones here, large ones by a job."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT r.tenant_id,
                (SELECT coalesce(sum(d.entries), 0) FROM costs_daytotal d WHERE d.tenant_id = r.tenant_id)
            FROM costs_rolledtenant r JOIN tenants_tenant t ON t.id = r.tenant_id
            WHERE r.time_zone <> t.time_zone ORDER BY 2 LIMIT 5
            """
        )
        moved = list(cursor)
    for tenant_id, entries in moved:
        if entries <= REBUILT_AT_ONCE:
            rebuild_tenant(tenant_id, wait=False)
        else:
            _ask_to_rebuild(tenant_id, now=now)


def _ask_to_rebuild(tenant_id: uuid.UUID, *, now: dt.datetime) -> None:
    """Enqueues the job once; again when it has not come to its end for a while."""
    with transaction.atomic():
        asked = (
            RolledTenant.objects.filter(tenant_id=tenant_id)
            .filter(Q(rebuild_asked_at=None) | Q(rebuild_asked_at__lt=now - ASKED_AGAIN_AFTER))
            .update(rebuild_asked_at=now)
        )
        if asked:
            enqueue("apps.costs.tasks.rebuild_rollups", tenant_id=str(tenant_id))
