"""Correcting a ledger entry from its page: what is owed, a preview, the booking, and every refusal.  # C7"""

from __future__ import annotations

import html
from typing import Any

import pytest
from django.contrib.messages import get_messages
from django.test import Client
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.costs import statements
from apps.costs.entries import write
from apps.costs.models import LedgerEntry
from apps.costs.periods import Month
from apps.costs.settling import Settlement, settle
from apps.tenants.access import principal_of_command
from apps.tenants.models import Tenant, User
from portal.money import NANO, usd_text
from tests.costs import ask, budget, period, verify_money_is_whole
from tests.spending import staff
from tests.statements import entry, one_of_each
from tests.test_statement_pages import words

pytestmark = pytest.mark.django_db


def page(entry_id: int, act: str = "correct") -> str:
    return f"/admin/costs/ledgerentry/{entry_id}/{act}/"


def post(client: Client, wrong: LedgerEntry, do: str = "book", **fields: Any) -> Any:
    usual = {"owed": "0", "reason": "Wrong price", "seen": str(wrong.amount), "do": do}
    return client.post(page(wrong.pk), {**usual, **fields})


def said(response: Any) -> str:
    return " ".join(str(message) for message in get_messages(response.wsgi_request))


def charged(tenant: Tenant, amount: int, **fields: Any) -> LedgerEntry:
    (made,) = write([entry(tenant, amount=amount, **fields)], now=None)
    return LedgerEntry.objects.get(pk=made)


def test_finance_corrects_an_entry_of_a_closed_month(finance: User, acme: Tenant) -> None:
    wrong = charged(acme, 500_000_001, model="openai:gpt-4o")
    statements.close(acme, Month(2026, 10), by=principal_of_command("test"), now=timezone.now())
    client = staff(finance)
    assert page(wrong.pk) in client.get(page(wrong.pk, "change")).content.decode()
    text = words(client.get(page(wrong.pk)))
    assert "Charged 0.500000001 USD" in text
    assert "Owed now 0.500000001 USD" in text
    preview = post(client, wrong, "preview", owed="0.2")
    text = words(preview)
    for told in ("0.20 USD instead of 0.500000001 USD", "−0.300000001 USD , given back", "None: no budget watched"):
        assert told in text, told
    current = timezone.now().astimezone(acme.zone)
    assert f"Booked in {current:%B %Y}" in text
    assert LedgerEntry.objects.count() == 1
    assert 'name="owed" value="0.20"' in preview.content.decode()
    edited = post(client, wrong, "edit", owed="0.20")
    assert 'value="0.20"' in edited.content.decode()
    assert "Show what will be booked" in words(edited)

    booked = post(client, wrong, owed="0.20", reason="Wrong price <b>")
    correction = LedgerEntry.objects.get(corrects=wrong.pk)
    assert (booked.status_code, booked["Location"]) == (302, page(wrong.pk, "change"))
    assert f'0.20 USD is owed for it now, by <a href="{page(correction.pk, "change")}"' in said(booked)
    assert (correction.amount, correction.note) == (-300_000_001, "Wrong price <b>")
    act = AuditEntry.objects.get(action="cost:update", resource_kind="ledgerentry")
    assert (act.actor, act.reason) == (str(finance.pk), "Wrong price <b>")
    text = words(client.get(page(wrong.pk, "change")))
    assert "Owed after corrections" in text
    assert "In the statement of" in text
    assert "2026-10" in text
    month = client.get(f"/admin/costs/statement/acme/{current:%Y-%m}/")
    assert [row["of_period"] for row in month.context["corrections"]["rows"]] == ["2026-10"]

    twice = post(client, wrong, owed="0.20")  # the button was pressed again
    assert "Meanwhile 0.20 USD is owed for it, not 0.500000001 USD: look at it again." in words(twice)
    assert f'name="seen" value="{200_000_000}"' in twice.content.decode()
    assert post(client, wrong, owed="0.3", seen="200000000").status_code == 302
    assert "Owed now 0.30 USD , after earlier corrections" in words(client.get(page(wrong.pk)))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"owed": ""}, "Say what should be owed."),
        ({"owed": "12,5"}, "Use a point for decimals"),
        ({"owed": "0.0000000001"}, "No more than nine decimals"),
        ({"owed": "-1"}, "Enter an amount of 0 or more."),
        ({"owed": "1e3"}, "Enter an amount in USD"),
        ({"owed": "99999999999"}, "9 billion USD or less"),
        ({"reason": "  "}, "Say why: whoever reads the statement will ask."),
        ({"reason": "x" * 201}, "at most 200 characters"),
        ({"owed": "0.5"}, "0.50 USD is what is owed for it already."),
        ({"seen": "7"}, "Meanwhile 0.50 USD is owed for it, not 0.000000007 USD"),
        ({"seen": ""}, "look at it again"),
        ({"seen": "x"}, "look at it again"),
    ],
)
def test_what_cannot_be_booked_is_said_on_the_form(
    finance: User, acme: Tenant, fields: dict[str, str], says: str
) -> None:
    wrong = charged(acme, NANO // 2)
    client = staff(finance)
    for do in ("preview", "book"):
        response = post(client, wrong, do, **fields)
        assert response.status_code == 200
        assert says in words(response)
        assert "Book the correction" not in words(response)
    assert LedgerEntry.objects.count() == 1


def test_the_preview_names_the_budgets_and_they_get_the_difference(finance: User, acme: Tenant) -> None:  # C4
    hard = budget(acme, 100 * NANO)
    (verdict,) = ask(acme, 90 * NANO)
    settle([Settlement(verdict.id, 80 * NANO)], now=timezone.now())
    wrong = LedgerEntry.objects.get()
    client = staff(finance)
    text = words(post(client, wrong, "preview", owed="30"))
    assert f"{hard.name}, 2026-11: 80.00 USD spent becomes 30.00 USD, of 100.00 USD" in text
    assert post(client, wrong, owed="30").status_code == 302
    assert period(hard).spent == 30 * NANO
    verify_money_is_whole()


def test_only_who_may_correct_costs_corrects_and_corrections_are_not_corrected(
    viewer: User, outsider: User, platform_admin: User, acme: Tenant
) -> None:  # A5
    ids = one_of_each(acme)
    wrong = LedgerEntry.objects.get(pk=ids[0])
    looking, foreign, root = staff(viewer), staff(outsider), staff(platform_admin)
    before = LedgerEntry.objects.count()
    assert page(wrong.pk) not in looking.get(page(wrong.pk, "change")).content.decode()
    assert looking.get(page(wrong.pk)).status_code == 403
    assert post(looking, wrong).status_code == 403
    for answer in (foreign.get(page(wrong.pk)), post(foreign, wrong), root.get(page(10**17)), root.get(page(0))):
        assert (answer.status_code, answer["Location"]) == (302, "/admin/costs/ledgerentry/")
    correction = LedgerEntry.objects.filter(corrects__isnull=False).earliest("pk")
    assert page(correction.pk) not in root.get(page(correction.pk, "change")).content.decode()
    refused = post(root, correction, seen=str(correction.amount))
    assert refused["Location"] == page(correction.pk, "change")
    assert f"Adjust the one it corrects, entry {correction.corrects}" in html.unescape(said(refused))
    assert LedgerEntry.objects.count() == before
    assert post(root, wrong).status_code == 302
    assert usd_text(LedgerEntry.objects.get(corrects=wrong.pk).amount) == usd_text(-wrong.amount)
