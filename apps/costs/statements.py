"""Drafts of statements, and closing a month for good.

Closing is two transactions. The first keeps the ledger's writers out for a moment, so that whatever was being written
is in, and adds the statement: from its commit on, the database refuses entries before its end. The second adds up what
can no longer change, at its leisure. A job that commits with the first one finishes what a crash leaves between them.
"""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import structlog
from django.db import OperationalError, connection, transaction

from apps.audit import trail
from apps.costs.centres import terms_of
from apps.costs.exports.extract import Extract, extract_of_statement
from apps.costs.models import Statement, StatementLine, StatementStatus
from apps.costs.periods import Month, Window, first_open_month, last_statement, window_of
from apps.events import log as events
from apps.tenants.access import Principal
from apps.tenants.models import Tenant
from apps.tenants.roles import Permission
from portal.money import usd_text
from portal.queue import enqueue

log = structlog.get_logger(__name__)

GRACE = dt.timedelta(hours=1)
"""How long after its end a month can be closed: what was running then has been written. The database insists on it."""
LONGEST_WAIT_MS = 2000
"""How long the ledger's writers can be kept waiting by a closing that waits for one of them."""
TRIES = 5
FINISHED_WITHIN = dt.timedelta(minutes=5)
"""How long adding a month up may take before a job is thought lost: it takes seconds."""
EVERY_S = 300
AT_ONCE = 20


class CannotClose(Exception):
    """The month cannot be closed now; the text says why, for a person."""


_LINES = """
    SELECT {centre} AS cost_centre, l.kind, l.model, l.agent, count(*) AS entries,
        sum(l.input_tokens)::bigint AS input_tokens, sum(l.output_tokens)::bigint AS output_tokens,
        sum(l.quantity) AS quantity, sum(l.amount)::bigint AS amount
    FROM costs_ledgerentry l
    WHERE l.tenant_id = %(tenant_id)s AND l.at >= %(starts_at)s AND l.at < %(ends_at)s
    GROUP BY 1, 2, 3, 4
"""


def draft_lines(extract: Extract) -> list[StatementLine]:
    """The lines that a month has now; not saved. One query."""
    with connection.cursor() as cursor:
        cursor.execute(f"{_LINES.format(**extract.centre_sql())} ORDER BY 1, 2, 3, 4", extract.params())
        names = [column.name for column in cursor.description or ()]
        return [StatementLine(**dict(zip(names, row, strict=True))) for row in cursor]


def verify_close(tenant: Tenant, month: Month, *, now: dt.datetime) -> Window:
    """What closing the month would close. Raises CannotClose where it is closed, not over, or not the next one."""
    last = last_statement(tenant.pk)
    return verify_next(tenant, month, last=last, due=first_open_month(tenant, last), now=now)


def verify_next(tenant: Tenant, month: Month, *, last: Statement | None, due: Month | None, now: dt.datetime) -> Window:
    """The same for who knows the tenant's latest closed month and its earliest open one with entries."""
    if last is not None and month <= Month.parse(last.period):
        state = "being closed" if last.period == str(month) and not last.is_closed else "closed"
        raise CannotClose(f"{month} is {state} already.")
    window = window_of(tenant, month, last)
    if now < window.ends_at + GRACE:
        local = (window.ends_at + GRACE).astimezone(tenant.zone)
        raise CannotClose(f"{month} is not over: it can be closed from {local:%-d %B %Y, %H:%M} ({local.tzname()}) on.")
    if due is not None and due < month:
        raise CannotClose(f"{due} comes first: months are closed in their order.")
    return window


def can_close(tenant: Tenant, month: Month, *, now: dt.datetime) -> bool:
    try:
        verify_close(tenant, month, now=now)
    except CannotClose:
        return False
    return True


def close(tenant: Tenant, month: Month, *, by: Principal, now: dt.datetime) -> Statement:
    """Closes a tenant's month; its statement. It cannot be undone: what was wrong is corrected in an open month.

    Raises AccessDenied, or CannotClose with nothing changed.
    """
    by.verify(Permission.COST_UPDATE, tenant.pk)
    for left in reversed(range(TRIES)):
        try:
            statement = _begin(tenant.pk, month, by=by, now=now)
            break
        except OperationalError as error:
            if getattr(error.__cause__, "sqlstate", "") != "55P03" or connection.in_atomic_block:  # lock_not_available
                raise
            log.warning("closing_waits_for_the_ledger", tenant=tenant.slug, period=str(month), tries_left=left)
    else:
        raise CannotClose("The ledger is too busy to be closed at this moment. Nothing was changed; try again.")
    return finish(statement.pk, now=now)


def _begin(tenant_id: uuid.UUID, month: Month, *, by: Principal, now: dt.datetime) -> Statement:
    """Closes the ledger before the month's end."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", [f"{LONGEST_WAIT_MS}ms"])
            # Two who close take turns here; the time zone stays what it is.
            tenant = Tenant.objects.select_for_update(no_key=True).get(pk=tenant_id)
            cursor.execute("LOCK TABLE costs_ledgerentry IN SHARE MODE")
        window = verify_close(tenant, month, now=now)
        statement = Statement.objects.create(
            tenant=tenant,
            period=str(month),
            starts_at=window.starts_at,
            ends_at=window.ends_at,
            time_zone=tenant.time_zone,
            tenant_slug=tenant.slug,
            tenant_name=tenant.name,
            terms=terms_of(tenant.pk).as_json(),
            closed_by_kind=by.kind,
            closed_by=by.ref,
            closing_since=now,
        )
        details = {"act": "close", "period": str(month), "from": _text(window.starts_at), "to": _text(window.ends_at)}
        trail.record(by, Permission.COST_UPDATE, statement, tenant_id=tenant.pk, details=details)
        enqueue("apps.costs.tasks.finish_statement", statement_id=str(statement.pk))
    return statement


def finish(statement_id: uuid.UUID, *, now: dt.datetime) -> Statement:
    """Adds up the lines of a month that is closing, and closes it; what is closed already stays as it is."""
    with transaction.atomic():
        statement = Statement.objects.select_for_update().get(pk=statement_id)
        if statement.is_closed:
            return statement
        extract = extract_of_statement(statement)
        with connection.cursor() as cursor:
            cursor.execute(
                f"""
                WITH line AS (
                    INSERT INTO costs_statementline (statement_id, {_COLUMNS})
                    SELECT %(statement)s, {_COLUMNS} FROM ({_LINES.format(**extract.centre_sql())}) AS sums
                    ORDER BY cost_centre, kind, model, agent
                    RETURNING amount, entries
                )
                SELECT coalesce(sum(amount), 0)::bigint, coalesce(sum(entries), 0)::bigint FROM line
                """,
                {**extract.params(), "statement": statement.pk},
            )
            total, entries = cursor.fetchone() or (0, 0)
        statement.finish(total=total, entries=entries, at=now)
        data: dict[str, Any] = {
            "statement_id": str(statement.pk),
            "period": statement.period,
            "total_usd": usd_text(total),
            "entries": entries,
        }
        events.emit([events.NewEvent("statement.closed", statement.tenant_id, data=data)], now=now)
    log.info("statement_closed", tenant=statement.tenant_slug, **data)
    return statement


def hand_out(*, now: dt.datetime) -> int:
    """Enqueues the finishing of months that hang in closing, for a lost job; how many. A duty of the orchestrator.

    Finishing one that is finished meanwhile does nothing, so it matters little whether a job is on its way still.
    """
    hanging = Statement.objects.filter(status=StatementStatus.CLOSING, closing_since__lt=now - FINISHED_WITHIN)
    ids = list(hanging.order_by("closing_since").values_list("pk", flat=True)[:AT_ONCE])
    for statement_id in ids:
        enqueue("apps.costs.tasks.finish_statement", statement_id=str(statement_id))
    if ids:
        log.warning("closing_resumed", statements=len(ids))
    return len(ids)


_COLUMNS = "cost_centre, kind, model, agent, entries, input_tokens, output_tokens, quantity, amount"


def _text(moment: dt.datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
