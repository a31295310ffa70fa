"""Recording costs from elsewhere, below the API: all of a transaction or nothing, and in the admin for people."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from apps.audit import trail
from apps.audit.models import AuditEntry
from apps.costs.booking import Booking
from apps.costs.external import AT_ONCE, record
from apps.costs.external_events import CostEvent, Status
from apps.costs.external_reservations import Billed, Wanted, release, reserve, settle, standings
from apps.costs.models import BudgetPeriod, ExternalEvent, ExternalReservation, LedgerEntry, Reservation
from apps.costs.reserving import Refused
from apps.events.models import Event
from apps.privacy.models import DataSubject
from apps.tenants.access import AccessDenied, principal_of, principal_of_command
from apps.tenants.models import Tenant, User
from portal.money import NANO
from tests.costs import budget, period, verify_money_is_whole

BY = principal_of_command("test")
NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)


def events(tenant: Tenant, count: int, **fields: Any) -> list[CostEvent]:
    return [
        CostEvent(
            **{
                "tenant_id": tenant.pk,
                "event_id": f"e{n}",
                "at": NOW,
                "amount": 1000,
                "end_user": f"u{n % 5}",
                **fields,
            }
        )
        for n in range(count)
    ]


class Broken(Exception):
    """What a test lets a statement raise."""


@pytest.fixture
def broken_trail(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The audit trail fails at the calls whose numbers, from 1, are in the list."""
    fails: list[int] = []
    calls = 0
    whole = trail.record

    def record_or_break(*args: Any, **kwargs: Any) -> AuditEntry:
        nonlocal calls
        calls += 1
        if calls in fails:
            raise Broken
        return whole(*args, **kwargs)

    monkeypatch.setattr("apps.audit.trail.record", record_or_break)
    monkeypatch.setattr("apps.costs.external_reservations.record", record_or_break)
    return fails


@pytest.mark.django_db
def test_without_its_audit_entry_nothing_is_recorded(acme: Tenant, broken_trail: list[int]) -> None:
    hard = budget(acme, NANO)
    broken_trail.append(1)
    with pytest.raises(Broken):
        record(events(acme, 3), by=BY, now=NOW)
    assert not ExternalEvent.objects.exists()
    assert not LedgerEntry.objects.exists()
    assert not DataSubject.objects.exists()
    assert not BudgetPeriod.objects.filter(budget=hard).exists()
    assert not Event.objects.filter(kind__startswith="budget.").exists()


@pytest.mark.django_db
@pytest.mark.parametrize("act", ["reserve", "settle", "release"])
def test_without_its_audit_entry_no_money_moves(act: str, acme: Tenant, broken_trail: list[int]) -> None:
    hard = budget(acme, NANO)
    wanted = Wanted(tenant_id=acme.pk, amount=1000, lease=dt.timedelta(minutes=1))
    made = None
    if act != "reserve":
        answer = reserve(wanted, by=BY, now=NOW)
        assert not isinstance(answer, Refused)
        made = answer[0]
    broken_trail.append(1 if made is None else 2)
    acts = {
        "reserve": lambda: reserve(wanted, by=BY, now=NOW),
        "settle": lambda: made and settle(made, Billed(amount=10), by=BY, now=NOW),
        "release": lambda: made and release(made, by=BY, now=NOW),
    }
    with pytest.raises(Broken):
        acts[act]()
    assert Reservation.objects.count() == ExternalReservation.objects.count() == (made is not None)
    assert not LedgerEntry.objects.exists()
    if made:
        assert standings([made.pk])[made.pk].state == "held"
        assert period(hard).reserved == 1000


def test_after_a_crash_between_batches_the_rest_is_sent_again(
    own_database: str, acme: Tenant, broken_trail: list[int]
) -> None:  # C9
    hard = budget(acme, NANO)
    sent = events(acme, AT_ONCE + 500)
    broken_trail.append(2)
    with pytest.raises(Broken):
        record(sent, by=BY, now=NOW)
    assert ExternalEvent.objects.count() == LedgerEntry.objects.count() == AT_ONCE
    again = record(sent, by=BY, now=NOW)
    assert [outcome.status for outcome in again] == [Status.DUPLICATE] * AT_ONCE + [Status.RECORDED] * 500
    assert period(hard).spent == 1000 * len(sent)
    verify_money_is_whole()


@pytest.mark.django_db
def test_an_event_can_be_booked_at_another_time_with_a_note(acme: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monthly = budget(acme, NANO)
    later = NOW + dt.timedelta(days=20)
    monkeypatch.setattr(
        "apps.costs.external.bookings", lambda costs, *, now: [Booking(later, "Booked late.") for _ in costs]
    )
    record(events(acme, 1), by=BY, now=later)
    entry = LedgerEntry.objects.get()
    assert (entry.at, entry.note) == (later, "Booked late.")
    kept = ExternalEvent.objects.get()
    assert (kept.at, kept.booked_at) == (NOW, later)
    assert period(monthly).key == "2026-12"
    assert record(events(acme, 1), by=BY, now=later)[0].status == Status.DUPLICATE


@pytest.mark.django_db
def test_who_may_not_record_is_refused_here_too(acme: Tenant, viewer: User, outsider: User) -> None:
    wanted = Wanted(tenant_id=acme.pk, amount=1, lease=dt.timedelta(minutes=1))
    for user in (viewer, outsider):
        with pytest.raises(AccessDenied):
            record(events(acme, 1), by=principal_of(user), now=NOW)
        with pytest.raises(AccessDenied):
            reserve(wanted, by=principal_of(user), now=NOW)
    assert not ExternalEvent.objects.exists()


@pytest.mark.django_db
def test_many_budgets_over_at_once_are_each_told_once(acme: Tenant) -> None:
    budget(acme, 500, "each user", scope="end_user")
    record(events(acme, 50), by=BY, now=NOW)
    told = Event.objects.filter(kind="budget.overage")
    assert [(event.data["excess"], event.data["external_events"]) for event in told] == [(9_500, 10)] * 5
    assert set(BudgetPeriod.objects.values_list("spent", "overage")) == {(500, 9_500)}
    first = ExternalEvent.objects.get(event_id="e0")
    assert (first.overage, ExternalEvent.objects.get(event_id="e49").overage) == (500, 1000)
    verify_money_is_whole()


@pytest.mark.django_db
def test_finance_sees_what_became_of_events_and_calls(acme: Tenant, rival: Tenant, finance: User) -> None:
    budget(acme, 1500, "all")
    now = timezone.now()
    record(events(acme, 2, at=now), by=BY, now=now)
    record(events(rival, 1, at=now, event_id="of-the-rival"), by=BY, now=now)
    free = Tenant.objects.create(slug="free", name="Free")
    finance.memberships.create(tenant=free, role="finance")
    held = reserve(Wanted(tenant_id=free.pk, amount=NANO, lease=dt.timedelta(minutes=5), run="crew-7"), by=BY, now=now)
    assert not isinstance(held, Refused)
    finance.is_staff = True
    finance.save()
    client = Client()
    client.force_login(finance)
    listed = client.get("/admin/costs/externalevent/").content.decode()
    assert "over budget" in listed
    assert "charged" in listed
    assert "of-the-rival" not in listed
    entry = LedgerEntry.objects.filter(tenant_id=acme.pk).first()
    assert entry
    assert f"/admin/costs/ledgerentry/{entry.pk}/change/" in listed
    for path in ("/admin/costs/externalreservation/", "/admin/costs/reservation/"):
        calls = client.get(path).content.decode()
        assert "crew-7" in calls
        assert "Lease ends" in calls
        assert "minutes from now" in calls
    page = client.get(f"/admin/costs/externalreservation/{held[0].pk}/change/")
    assert "held" in page.content.decode()
