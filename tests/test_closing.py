"""Closing a month: in order, once, for good; what is corrected or comes late goes into an open month."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.utils.module_loading import import_string
from django_q.models import OrmQ

from apps.audit.models import AuditEntry
from apps.costs import statements
from apps.costs.adjusting import CannotAdjust, adjust, owed_for
from apps.costs.booking import bookings
from apps.costs.entries import NewEntry, write
from apps.costs.exports.extract import CannotExport, extract_of
from apps.costs.exports.files import export
from apps.costs.exports.formats import Format
from apps.costs.fitting import BIGGEST
from apps.costs.models import (
    BudgetPeriod,
    CentreRule,
    CostCentre,
    Kind,
    LedgerEntry,
    Statement,
    StatementLine,
    StatementStatus,
)
from apps.costs.periods import Month
from apps.costs.settling import Settlement, charge_expired, settle
from apps.costs.statements import CannotClose, can_close, close, draft_lines
from apps.events.models import Event
from apps.execution import orchestrator
from apps.tenants.access import AccessDenied, principal_of, principal_of_command
from apps.tenants.models import Tenant, User
from tests.costs import LATER, ask, budget, period, verify_money_is_whole
from tests.costs import NOW as CALLED
from tests.statements import SWARM, call, entry, one_of_each, owed

BY = principal_of_command("test")
SEPTEMBER, OCTOBER, NOVEMBER = Month(2026, 9), Month(2026, 10), Month(2026, 11)
NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)

pytestmark = pytest.mark.django_db


def closed(tenant: Tenant, *months: Month) -> Statement:
    for month in months:
        statement = close(tenant, month, by=BY, now=NOW)
    return statement


def test_a_closed_month_has_its_lines_and_its_total(acme: Tenant, rival: Tenant) -> None:  # C7
    one_of_each(acme)
    one_of_each(rival)
    drafted = [
        (line.kind, line.model, line.agent, line.amount) for line in draft_lines(extract_of(acme, "2026-10", now=NOW))
    ]
    statement = closed(acme, SEPTEMBER, OCTOBER)
    assert (statement.status, statement.closed_at, statement.tenant_name) == (StatementStatus.CLOSED, NOW, "Acme")
    lines = list(statement.lines.all())
    assert [(line.kind, line.model, line.agent, line.amount) for line in lines] == drafted
    assert sum(line.amount for line in lines) == statement.total
    assert sum(line.entries for line in lines) == statement.entries == 10
    assert owed(acme, statement.starts_at, statement.ends_at).scaleb(9) == statement.total
    assert statement.starts_at == dt.datetime(2026, 10, 1, 4, tzinfo=dt.UTC)  # midnight in New York
    act = AuditEntry.objects.get(resource_id=str(statement.pk))
    assert (act.action, act.details["act"], act.actor) == ("cost:update", "close", "test")
    told = Event.objects.filter(kind="statement.closed").latest("id")
    assert told.data["statement_id"] == str(statement.pk)
    assert not Statement.objects.filter(tenant=rival).exists()


def test_months_are_closed_in_their_order_and_only_when_they_are_over(acme: Tenant) -> None:
    one_of_each(acme)
    for month, says in (
        (OCTOBER, "2026-09 comes first"),
        (NOVEMBER, "can be closed from 1 December 2026, 01:00 .EST."),
    ):
        with pytest.raises(CannotClose, match=says):
            close(acme, month, by=BY, now=NOW)
    closed(acme, SEPTEMBER)
    with pytest.raises(CannotClose, match="closed already"):
        close(acme, SEPTEMBER, by=BY, now=NOW)
    end = dt.datetime(2026, 11, 1, 4, tzinfo=dt.UTC)
    assert not can_close(acme, OCTOBER, now=end + HOUR - dt.timedelta(microseconds=1))
    assert can_close(acme, OCTOBER, now=end + HOUR)
    assert Statement.objects.count() == 1


def test_a_month_without_entries_can_be_closed_or_skipped(acme: Tenant) -> None:
    statement = closed(acme, Month(2026, 6))
    assert (statement.total, statement.entries, statement.lines.count()) == (0, 0, 0)
    one_of_each(acme)
    closed(acme, SEPTEMBER)
    with pytest.raises(CannotExport, match="owed nothing for 2026-07"):
        extract_of(acme, "2026-07", now=NOW)


def test_months_meet_when_the_time_zone_changes(acme: Tenant) -> None:
    one_of_each(acme)
    september = closed(acme, SEPTEMBER)
    for zone in ("Asia/Tokyo", "Pacific/Honolulu"):
        acme.time_zone = zone
        acme.save()
        extract = extract_of(acme, "2026-10", now=NOW)
        assert extract.starts_at == september.ends_at
    october = closed(acme, OCTOBER)
    assert (october.starts_at, october.time_zone) == (september.ends_at, "Pacific/Honolulu")
    assert october.ends_at == dt.datetime(2026, 11, 1, 10, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("table", "at"),
    [("costs_ledgerentry", "2026-10-31 23:59:59.999999"), ("costs_ledgerentry_default", "2026-10-31 23:59:59")],
)
def test_the_database_refuses_entries_of_a_closed_month(acme: Tenant, rival: Tenant, table: str, at: str) -> None:  # C7
    one_of_each(acme)
    one_of_each(rival)
    Tenant.objects.filter(pk=acme.pk).update(time_zone="UTC")
    closed(acme, SEPTEMBER, OCTOBER)
    columns = (
        "at, tenant_id, agent, kind, model, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, "
        "amount, unsettled, period_ids, external_id, run, note"
    )
    insert = f"INSERT INTO {table} ({columns}) SELECT %s, %s, '', 'llm', '', 0, 0, 0, 0, 1, false, '{{}}', '', '', ''"
    with connection.cursor() as cursor:
        with pytest.raises(DatabaseError, match="is closed up to 2026-11-01"), transaction.atomic():
            cursor.execute(insert, [at, acme.pk])
        cursor.execute(insert, [at, rival.pk])  # whose month is open
        cursor.execute(insert.replace(table, "costs_ledgerentry"), ["2026-11-01", acme.pk])
    with pytest.raises(DatabaseError, match="is closed up to"), transaction.atomic():
        write([NewEntry(tenant_id=acme.pk, kind=Kind.LLM, amount=1, at=NOW - 60 * 24 * HOUR)], now=NOW)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE costs_statement SET total = 0",
        "UPDATE costs_statement SET status = 'closing', closed_at = NULL",
        "DELETE FROM costs_statementline",
        "UPDATE costs_statementline SET amount = 0",
        "INSERT INTO costs_statementline (statement_id, cost_centre, kind, model, agent, entries, input_tokens, "
        "output_tokens, amount) SELECT id, 'x', 'llm', '', '', 1, 0, 0, 5 FROM costs_statement",
        "DELETE FROM costs_statement",
        "INSERT INTO costs_statement SELECT * FROM jsonb_populate_recordset(NULL::costs_statement, (SELECT jsonb_agg("
        "to_jsonb(s) || jsonb_build_object('id', gen_random_uuid(), 'period', '2099-01', 'ends_at', now())) "
        "FROM costs_statement s))",
    ],
)
def test_the_database_keeps_closed_statements(acme: Tenant, statement: str) -> None:
    one_of_each(acme)
    closed(acme, SEPTEMBER)
    refusal = "append-only|kept for ever|statement is closed|cannot be closed yet"
    with pytest.raises(DatabaseError, match=refusal), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
    assert Statement.objects.get().total == sum(StatementLine.objects.values_list("amount", flat=True)) > 0


def test_only_who_may_correct_costs_closes(acme: Tenant, finance: User, viewer: User, outsider: User) -> None:  # A5
    one_of_each(acme)
    for user in (viewer, outsider):
        with pytest.raises(AccessDenied):
            close(acme, SEPTEMBER, by=principal_of(user), now=NOW)
    assert not Statement.objects.exists()
    close(acme, SEPTEMBER, by=principal_of(finance), now=NOW)
    assert Statement.objects.visible_to(principal_of(viewer)).count() == 1
    assert not Statement.objects.visible_to(principal_of(outsider)).exists()


def test_what_a_crash_left_closing_is_a_draft_that_a_job_finishes(acme: Tenant) -> None:
    one_of_each(acme)
    closed(acme, SEPTEMBER)
    begun = statements._begin(acme.pk, OCTOBER, by=BY, now=NOW)
    assert not extract_of(acme, "2026-10", now=NOW).is_closed
    with pytest.raises(DatabaseError, match="closed up to"), transaction.atomic():
        write([entry(acme, amount=1)], now=NOW)
    with pytest.raises(CannotClose, match="being closed"):
        close(acme, OCTOBER, by=BY, now=NOW)
    done = statements.finish(begun.pk, now=NOW)
    assert done.is_closed
    assert statements.finish(begun.pk, now=NOW + HOUR).closed_at == NOW
    assert done.lines.count() > 3
    assert extract_of(acme, "2026-10", now=NOW).statement_id == str(done.pk)


def test_a_closed_month_is_exported_as_it_was_whatever_changes_later(acme: Tenant) -> None:  # C7
    one_of_each(acme)
    centre = CostCentre.objects.create(tenant=acme, code="CC-1", name="Writing")
    CentreRule.objects.create(centre=centre, agent="wri*")
    closed(acme, SEPTEMBER, OCTOBER)
    files: dict[Format, bytes] = {}
    for again in (False, True):
        for format in Format:
            content = b"".join(export(extract_of(acme, "2026-10", now=NOW), format, by=BY))
            assert files.setdefault(format, content) == content
        CostCentre.objects.all().delete()
        Tenant.objects.filter(pk=acme.pk).update(name="Renamed", time_zone="Asia/Tokyo")
        acme.refresh_from_db()
        assert again or LedgerEntry.objects.exists()
    assert b"CC-1" in files[Format.FOCUS]
    assert b"Writing" in files[Format.FOCUS]
    assert b"CC-1" in files[Format.CSV]


def test_the_first_rule_that_matches_decides_on_the_cost_centre(acme: Tenant) -> None:  # C7
    centres = {code: CostCentre.objects.create(tenant=acme, code=code, name=code) for code in ("A", "B", "C", "D")}
    person = "00000000-0000-0000-0000-000000008842"
    rules: list[tuple[str, dict[str, Any]]] = [
        ("A", {"agent": "100%_*", "position": 1}),
        ("B", {"model": "openai:gpt-?o", "kind": "llm", "position": 2}),
        ("C", {"subject_id": person, "run": "night*", "position": 3}),
        ("D", {"position": 9}),
    ]
    for code, fields in rules:
        CentreRule.objects.create(centre=centres[code], **fields)
    write(
        [
            entry(acme, amount=1, agent="100%_sure", model="openai:gpt-4o"),
            entry(acme, amount=10, agent="100 sure", model="openai:gpt-4o"),
            entry(acme, amount=100, agent="x", model="openai:gpt-40o", run="night 7"),
            entry(acme, amount=1000, subject_id=None, run="night 7"),
        ],
        now=NOW,
    )
    lines = draft_lines(extract_of(acme, "2026-10", now=NOW))
    assert {line.cost_centre: line.amount for line in lines} == {"A": 1, "B": 10, "C": 100, "D": 1000}


def test_what_comes_late_for_a_closed_month_is_booked_now_and_says_so(acme: Tenant, rival: Tenant) -> None:
    one_of_each(acme)
    closed(acme, SEPTEMBER)
    late, fine = dt.datetime(2026, 9, 30, 12, tzinfo=dt.UTC), dt.datetime(2026, 10, 2, tzinfo=dt.UTC)
    booked = bookings([(acme.pk, late), (acme.pk, fine), (rival.pk, late)], now=NOW)
    assert [each.at for each in booked] == [NOW, fine, late]
    assert booked[0].note == "Of 2026-09-30 12:00 UTC, a month that was closed when it was reported."
    assert booked[1].note == booked[2].note == ""


# -- adjusting --------------------------------------------------------------------------------------------------------


def test_an_adjustment_is_an_entry_of_now_that_is_linked_to_what_it_corrects(acme: Tenant, finance: User) -> None:
    (wrong,) = write([call(acme, (1_000, 100, 0, 0))], now=NOW)
    closed(acme, OCTOBER)
    original = LedgerEntry.objects.get(pk=wrong)
    by = principal_of(finance)
    made = adjust(original, owed=7, seen=original.amount, reason=" Wrong\nprice ", by=by, now=NOW)
    correction = LedgerEntry.objects.get(pk=made)
    assert (correction.kind, correction.amount, correction.at) == (Kind.ADJUSTMENT, 7 - original.amount, NOW)
    assert (correction.corrects, correction.note, correction.swarm_id) == (wrong, "Wrong price", SWARM)
    assert owed_for(original) == 7
    act = AuditEntry.objects.get(action="cost:update", resource_kind="ledgerentry")
    assert (act.reason, act.details["adjustment"], act.resource_id) == ("Wrong price", made, str(wrong))
    assert adjust(original, owed=9, seen=7, reason="Not that wrong", by=by, now=NOW) > made
    assert owed_for(original) == 9


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"reason": "  "}, "Say why"),
        ({"reason": "x" * 201}, "201 characters"),
        ({"owed": -1}, "zero or more"),
        ({"owed": 2**63}, "no more than can be counted"),
        ({"owed": 500}, "owed for it already"),
        ({"seen": 499}, "look at it again"),
    ],
)
def test_what_cannot_be_adjusted_is_said(acme: Tenant, changes: dict[str, Any], says: str) -> None:
    write([entry(acme, amount=500)], now=NOW)
    with pytest.raises(CannotAdjust, match=says):
        adjust(LedgerEntry.objects.get(), **{"owed": 1, "seen": 500, "reason": "x", "by": BY, "now": NOW, **changes})
    assert LedgerEntry.objects.count() == 1


def test_a_correction_is_not_corrected_and_outsiders_correct_nothing(
    acme: Tenant, viewer: User, outsider: User
) -> None:
    (id,) = write([entry(acme, amount=500)], now=NOW)
    original = LedgerEntry.objects.get(pk=id)
    for user in (viewer, outsider):
        with pytest.raises(AccessDenied):
            adjust(original, owed=1, seen=500, reason="x", by=principal_of(user), now=NOW)
    made = adjust(original, owed=1, seen=500, reason="x", by=BY, now=NOW)
    with pytest.raises(CannotAdjust, match=f"Adjust the one it corrects, entry {id}"):
        adjust(LedgerEntry.objects.get(pk=made), owed=1, seen=-499, reason="x", by=BY, now=NOW)


def test_budgets_get_what_is_adjusted(acme: Tenant) -> None:  # C4
    hard, soft = budget(acme, 100), budget(acme, 50, "soft", enforcement="soft")
    (verdict,) = ask(acme, 90)
    settle([Settlement(verdict.id, 120)], now=CALLED)  # billed beyond what was reserved
    original = LedgerEntry.objects.get()
    assert (period(hard).spent, period(hard).overage) == (90, 30)
    states = []
    for seen, now_owed in ((120, 95), (95, 40), (40, 130)):
        adjust(original, owed=now_owed, seen=seen, reason="x", by=BY, now=CALLED)
        verify_money_is_whole()
        states.append((period(hard).spent, period(hard).overage))
    assert states == [(90, 5), (40, 0), (100, 30)]
    assert BudgetPeriod.objects.get(budget=soft).committed == 130


def test_a_call_that_was_adjusted_by_hand_is_not_corrected_again_when_it_is_settled_late(acme: Tenant) -> None:
    budget(acme, 100)
    (verdict,) = ask(acme, 90)
    charge_expired(now=LATER)
    adjust(LedgerEntry.objects.get(), owed=20, seen=90, reason="x", by=BY, now=LATER)
    settle([Settlement(verdict.id, 15)], now=LATER)
    assert LedgerEntry.objects.count() == 2
    verify_money_is_whole()


def test_a_budget_that_cannot_count_so_much_leaves_everything_as_it_was(acme: Tenant) -> None:
    soft = budget(acme, 50, "soft", enforcement="soft")
    for _ in range(2):
        (verdict,) = ask(acme, 5)
        settle([Settlement(verdict.id, 5)], now=CALLED)
    first = LedgerEntry.objects.earliest("id")
    with pytest.raises(CannotAdjust, match="cannot count that much"):
        adjust(first, owed=BIGGEST, seen=5, reason="x", by=BY, now=CALLED)
    assert period(soft).spent == 10


# -- what a crash left, and its job lost -------------------------------------------------------------------------------


def test_a_month_that_hangs_in_closing_is_handed_out_again(acme: Tenant, rival: Tenant) -> None:
    (duty,) = (duty for duty in orchestrator.registered_duties() if duty.name == "closing")
    one_of_each(acme)
    begun = statements._begin(acme.pk, SEPTEMBER, by=BY, now=NOW)
    closed(rival, OCTOBER)
    OrmQ.objects.all().delete()  # the queue was emptied
    assert duty.work(now=NOW + statements.FINISHED_WITHIN) == 0
    assert not OrmQ.objects.exists()
    assert duty.work(now=NOW + statements.FINISHED_WITHIN + HOUR) == 1
    (job,) = OrmQ.objects.all()
    assert job.key == "ops"
    assert import_string(job.task["func"])(**job.task["kwargs"]) == 1
    assert Statement.objects.get(pk=begun.pk).is_closed
    assert duty.work(now=NOW + 2 * HOUR) == 0
