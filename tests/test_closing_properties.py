"""Whatever happens, in whatever order: the ledger is the sum of its statements, open and closed, and of roll-ups."""

from __future__ import annotations

import datetime as dt
import uuid
from contextlib import suppress
from itertools import pairwise

import pytest
from django.db import transaction
from django.db.models import Sum
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from apps.costs import consistency, external, reports, rollups
from apps.costs.adjusting import CannotAdjust, adjust, owed_for
from apps.costs.exports.extract import extract_of
from apps.costs.exports.formats import WRITERS, Format
from apps.costs.external_events import CostEvent
from apps.costs.grouping import By
from apps.costs.models import CentreRule, CostCentre, LedgerEntry, Statement
from apps.costs.periods import Month, first_open_month, last_statement
from apps.costs.reserving import Settlement, charge_expired, reserve, settle
from apps.costs.statements import CannotClose, close, draft_lines
from apps.tenants.access import principal_of_command
from apps.tenants.models import Tenant
from portal.ids import uuid7
from tests.costs import budget, call, verify_money_is_whole

BY = principal_of_command("test")
BEGINS = dt.datetime(2026, 2, 20, 12, tzinfo=dt.UTC)  # the months that this reaches are over
ZONES = ["UTC", "America/New_York", "Asia/Tokyo", "Pacific/Kiritimati", "Pacific/Pago_Pago", "Europe/Berlin"]
_places = st.integers(0, 40)


class Books(RuleBasedStateMachine):
    """One tenant whose months are closed while it spends, corrects, and moves."""

    def __init__(self) -> None:
        super().__init__()
        self.rolled_back = transaction.atomic()
        self.rolled_back.__enter__()
        self.now = BEGINS
        self.calls: list[uuid.UUID] = []
        self.closed: dict[str, bytes] = {}
        self.tenant = Tenant.objects.create(slug=f"t{uuid7()}", name="T", time_zone="Europe/Berlin")
        for code, agent in (("A", "writer"), ("B", "re*")):
            centre = CostCentre.objects.create(tenant=self.tenant, code=code, name=code)
            CentreRule.objects.create(centre=centre, agent=agent)
        budget(self.tenant, 400, "month")
        budget(self.tenant, 90, "soft", enforcement="soft", period="daily")

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.rolled_back.__exit__(None, None, None)

    @rule(amounts=st.lists(st.integers(0, 60), min_size=1, max_size=4), agent=st.sampled_from(["writer", "reader"]))
    def reserve_calls(self, amounts: list[int], agent: str) -> None:
        expires_at = self.now + dt.timedelta(seconds=30)
        requests = [call(self.tenant, amount, agent=agent, expires_at=expires_at) for amount in amounts]
        self.calls += [verdict.id for verdict in reserve(requests, now=self.now) if verdict.granted]

    @rule(places=st.sets(_places, min_size=1, max_size=3), amount=st.integers(0, 80))
    def settle_calls(self, places: set[int], amount: int) -> None:
        ids = {self.calls[place % len(self.calls)] for place in places if self.calls}
        settle([Settlement(id, amount) for id in ids], now=self.now)

    @rule()
    def charge_expired_calls(self) -> None:
        charge_expired(now=self.now)

    @rule(hours=st.lists(st.integers(0, 60 * 24), min_size=1, max_size=3), amount=st.integers(0, 90))
    def record_late(self, hours: list[int], amount: int) -> None:
        events = [
            CostEvent(
                tenant_id=self.tenant.pk,
                event_id=str(uuid7()),
                at=self.now - dt.timedelta(hours=each),
                amount=amount,
                agent="reader",
            )
            for each in hours
        ]
        external.record(events, by=BY, now=self.now)

    @rule(place=_places, owed=st.integers(0, 100))
    def adjust_entry(self, place: int, owed: int) -> None:
        entries = list(LedgerEntry.objects.filter(tenant_id=self.tenant.pk).order_by("id"))
        if entries:
            entry = entries[place % len(entries)]
            with suppress(CannotAdjust):
                adjust(entry, owed=owed, seen=owed_for(entry), reason="x", by=BY, now=self.now)

    @rule(ahead=st.integers(0, 1))
    def close_month(self, ahead: int) -> None:
        last = last_statement(self.tenant.pk)
        month = first_open_month(self.tenant, last) or (Month.parse(last.period).next if last else Month(2026, 1))
        for _ in range(ahead):
            month = month.next
        with suppress(CannotClose):
            close(self.tenant, month, by=BY, now=self.now)
            extract = extract_of(self.tenant, str(month), now=self.now)
            self.closed[str(month)] = b"".join(WRITERS[Format.CSV].write(extract))

    @rule(zone=st.sampled_from(ZONES))
    def move(self, zone: str) -> None:
        self.tenant.time_zone = zone
        self.tenant.save(update_fields=["time_zone"])

    @rule()
    def roll_up(self) -> None:
        rollups.roll(now=self.now, upto=self.newest())

    @rule(hours=st.sampled_from([1, 13, 6 * 24, 17 * 24, 31 * 24]))
    def time_passes(self, hours: int) -> None:
        self.now = min(self.now + dt.timedelta(hours=hours), BEGINS + dt.timedelta(days=230))

    def newest(self) -> int:
        return LedgerEntry.objects.order_by("-id").values_list("id", flat=True).first() or 0

    @invariant()
    def ledger_is_statements_is_rollups(self) -> None:
        entries = LedgerEntry.objects.filter(tenant_id=self.tenant.pk)
        ledger = entries.aggregate(total=Sum("amount"))["total"] or 0
        statements = list(Statement.objects.filter(tenant=self.tenant).order_by("starts_at"))
        for before, after in pairwise(statements):
            assert before.ends_at <= after.starts_at
        closed = sum(statement.total for statement in statements)
        drafts, entries_in_drafts = 0, 0
        last = statements[-1] if statements else None
        month = first_open_month(self.tenant, last)
        while month is not None and month <= Month(2026, 11):
            lines = draft_lines(extract_of(self.tenant, str(month), now=self.now + dt.timedelta(days=400)))
            drafts += sum(line.amount for line in lines)
            entries_in_drafts += sum(line.entries for line in lines)
            month = month.next
        assert closed + drafts == ledger
        assert sum(statement.entries for statement in statements) + entries_in_drafts == entries.count()
        found = reports.grouped({self.tenant.pk}, dt.date(2025, 12, 1), dt.date(2026, 12, 1), By.AGENT)
        assert found.amount == ledger
        verify_money_is_whole()

    @invariant()
    def closed_months_stay_as_they_are(self) -> None:
        for period, content in list(self.closed.items())[-2:]:
            extract = extract_of(self.tenant, period, now=self.now)
            assert b"".join(WRITERS[Format.CSV].write(extract)) == content


@pytest.mark.django_db
def test_any_sequence_of_acts_keeps_ledger_statements_and_rollups_equal() -> None:  # C7
    run_state_machine_as_test(
        Books,
        settings=settings(
            max_examples=12,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
        ),
    )
    assert consistency.rollups_differ_from_ledger() == []
