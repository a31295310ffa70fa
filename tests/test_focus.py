"""FOCUS 1.2: what an export holds, and that a strict validator accepts it and refuses whatever is broken. # C7"""

from __future__ import annotations

import csv
import datetime as dt
import io
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.costs.centres import Rule, Terms
from apps.costs.entries import write
from apps.costs.exports import focus
from apps.costs.models import Kind, LedgerEntry
from apps.costs.prices import Rates
from apps.tenants.models import Tenant
from tests.focus import FOCUS_COLUMNS, billed, violations
from tests.statements import (
    MODEL,
    OCTOBER,
    PERSON,
    SEPTEMBER,
    SWARM,
    call,
    entry,
    october_of,
    one_of_each,
    owed,
    rows_of,
)

Rows = list[dict[str, str]]


def exported(tenant: Tenant, **changes: object) -> str:
    return b"".join(focus.write(october_of(tenant, **changes))).decode()


# -- what a strict validator says --------------------------------------------------------------------------------------


def test_a_month_of_every_kind_of_entry_conforms(acme: Tenant) -> None:
    one_of_each(acme)
    text = exported(acme)
    assert violations(text) == []
    assert len(rows_of(text)) == 2 + 4 + 2 + 7


def test_rows_with_a_cost_centre_conform_and_tell_its_code_and_name(acme: Tenant) -> None:
    one_of_each(acme)
    terms = Terms({"CC-1": "Writing", "CC-2": "Nights"}, (Rule("CC-2", run="night *"), Rule("CC-1", agent="writer")))
    text = exported(acme, terms=terms)
    assert violations(text) == []
    told = {(row["SubAccountId"], row["SubAccountName"], row["x_CostCentre"]) for row in rows_of(text)}
    assert told == {("CC-1", "Writing", "Writing"), ("CC-2", "Nights", "Nights"), ("", "", "")}


def test_a_draft_conforms_too_and_has_no_invoice(acme: Tenant) -> None:
    one_of_each(acme)
    text = exported(acme, is_closed=False, statement_id="")
    assert violations(text) == []
    assert {(row["InvoiceId"], row["x_StatementStatus"]) for row in rows_of(text)} == {("", "Draft")}


def test_a_month_without_entries_is_a_header(acme: Tenant) -> None:
    assert violations(exported(acme)) == []
    assert rows_of(exported(acme)) == []


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/New_York", "Europe/Berlin", "Pacific/Apia"])
def test_the_first_and_the_last_moment_of_a_month_conform_in_any_time_zone(acme: Tenant, zone: str) -> None:
    acme.time_zone = zone
    october = october_of(acme)
    edges = [october.starts_at, october.ends_at - dt.timedelta(microseconds=1)]
    hours = {"quantity": Decimal("0.5"), "unit_price": 10, "amount": 5, "kind": Kind.INFRASTRUCTURE}
    outside = [october.starts_at - dt.timedelta(microseconds=1), october.ends_at]
    write([call(acme, (10, 5, 0, 0), at=at) for at in (*edges, *outside)], now=OCTOBER)
    write([entry(acme, at=at, **hours) for at in edges], now=OCTOBER)
    text = exported(acme)
    assert violations(text) == []
    assert len(rows_of(text)) == 2 * 2 + 2


def test_columns_are_sorted_and_the_products_own_come_last(acme: Tenant) -> None:
    names = list(focus.COLUMNS)
    own = [name for name in names if name.startswith("x_")]
    assert names == sorted(set(names) - set(own)) + sorted(own)
    assert set(names) - set(own) <= FOCUS_COLUMNS
    assert exported(acme).splitlines()[0].split(",") == names


# -- money ---------------------------------------------------------------------------------------------------------


def test_the_rows_add_up_to_the_ledger(acme: Tenant) -> None:
    one_of_each(acme)
    october = october_of(acme)
    assert billed(exported(acme)) == owed(acme, october.starts_at, october.ends_at)


def test_the_rows_of_a_call_are_its_meters_and_the_last_carries_the_rounding(acme: Tenant) -> None:
    write([call(acme, (1_001, 13, 7, 3))], now=OCTOBER)
    rows = rows_of(exported(acme))
    assert [(row["SkuMeter"], row["ConsumedQuantity"], row["ListUnitPrice"]) for row in rows] == [
        ("Input Tokens", "991", "2.5"),
        ("Cached Input Tokens Read", "7", "1.25"),
        ("Cached Input Tokens Written", "3", "3.125000001"),
        ("Output Tokens", "13", "10"),
    ]
    assert (rows[0]["PricingQuantity"], rows[0]["PricingUnit"]) == ("0.000991", "1000000 Tokens")
    # 9375.000003 nano-dollars of cache writes are billed as 9375; the call was rounded up to one more in all.
    assert [(row["ListCost"], row["BilledCost"]) for row in rows] == [
        ("0.0024775", "0.0024775"),
        ("0.00000875", "0.00000875"),
        ("0.000009375000003", "0.000009375"),
        ("0.00013", "0.000130001"),
    ]


TOKENS = st.integers(0, 2_000_000)
RATE = st.one_of(st.integers(0, 100), st.integers(0, 600_000_000_000))
CALLS = st.lists(
    st.tuples(st.tuples(TOKENS, TOKENS, TOKENS, TOKENS), st.tuples(RATE, RATE, RATE, RATE)), min_size=1, max_size=40
)


@pytest.mark.django_db
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=CALLS, more=st.lists(st.integers(-(10**12), 10**12), max_size=5))
def test_any_calls_conform_and_add_up(calls: list[tuple[tuple[int, ...], tuple[int, ...]]], more: list[int]) -> None:
    tenant = Tenant(id=uuid.uuid4(), slug="t", name="T")
    entries = []
    for (fresh, out, read, written), rates in calls:
        entries.append(call(tenant, (fresh + read + written, out, read, written), Rates(*rates)))
    entries += [entry(tenant, amount=amount, input_tokens=3, rates=Rates(1, 1, 1, 1), model=MODEL) for amount in more]
    write(entries, now=OCTOBER)
    text = exported(tenant)
    assert violations(text) == []
    assert billed(text) == Decimal(sum(e.amount for e in entries)).scaleb(-9)
    assert {row["x_LedgerEntryId"] for row in rows_of(text)} == set(map(str, _ids(tenant)))


def _ids(tenant: Tenant) -> list[int]:
    return list(LedgerEntry.objects.filter(tenant_id=tenant.pk).values_list("id", flat=True))


def test_an_amount_beyond_what_bigints_multiply_to_is_exact(acme: Tenant) -> None:
    write([call(acme, (9_000_000_000_000, 0, 0, 0), Rates(600_000_000, 0, 0, 0))], now=OCTOBER)
    (row,) = rows_of(exported(acme))
    assert row["BilledCost"] == row["ListCost"] == "5400000"


# -- entries that are not explained by rates ---------------------------------------------------------------------------


def row_of(tenant: Tenant, **fields: object) -> dict[str, str]:
    """The row of the only entry."""
    write([entry(tenant, **fields)], now=OCTOBER)
    (row,) = rows_of(exported(tenant))
    return row


def test_an_unsettled_call_is_one_request_at_what_was_charged(acme: Tenant) -> None:
    row = row_of(acme, amount=5_000, unsettled=True, model=MODEL)
    assert (row["PricingQuantity"], row["PricingUnit"], row["ListUnitPrice"]) == ("1", "Requests", "0.000005")
    assert (row["ConsumedQuantity"], row["ConsumedUnit"], row["PricingCategory"]) == ("1", "Requests", "Other")
    assert (row["x_Unsettled"], row["ChargeCategory"]) == ("true", "Usage")
    assert row["ChargeDescription"].startswith("Charged as reserved")


def test_a_given_amount_tells_the_tokens_it_was_for(acme: Tenant) -> None:
    row = row_of(acme, amount=7_001, input_tokens=3, output_tokens=4, model="own:model")
    assert (row["ConsumedQuantity"], row["ConsumedUnit"]) == ("7", "Tokens")
    assert (row["ListCost"], row["BilledCost"], row["PublisherName"]) == ("0.000007001", "0.000007001", "own")


def test_rates_that_do_not_explain_the_amount_are_not_shown_as_its_prices(acme: Tenant) -> None:
    row = row_of(acme, amount=1, input_tokens=1_000, rates=Rates(5_000, 1, 1, 1), model=MODEL, swarm_id=None)
    assert (row["PricingUnit"], row["BilledCost"]) == ("Requests", "0.000000001")


def test_agent_hours_and_stored_gigabytes_are_priced_by_the_unit(acme: Tenant) -> None:
    write(
        [
            entry(acme, kind=Kind.INFRASTRUCTURE, amount=12_500, quantity=Decimal("0.125"), unit_price=100_000),
            # An accrual multiplies microseconds, and keeps the quantity rounded to nine decimals for reading.
            entry(acme, kind=Kind.STORAGE, amount=52, quantity=Decimal("0.000002223"), unit_price=23_000_000),
        ],
        now=OCTOBER,
    )
    hours, stored = rows_of(exported(acme))
    assert (hours["PricingQuantity"], hours["PricingUnit"]) == ("0.125", "Agent-Hours")
    assert hours["ListUnitPrice"] == "0.0001"
    assert (hours["ChargePeriodStart"], hours["ChargePeriodEnd"]) == ("2026-10-09T08:07:06Z", "2026-10-09T09:00:00Z")
    assert (stored["PricingUnit"], stored["ServiceCategory"]) == ("GB-Months", "Storage")
    assert (stored["ListCost"], stored["BilledCost"]) == ("0.000000051129", "0.000000052")


def test_a_correction_of_an_earlier_month_says_so_and_when_it_was_charged(acme: Tenant) -> None:
    (wrong,) = write([call(acme, (800, 80, 0, 0), at=SEPTEMBER)], now=OCTOBER)
    row = row_of(acme, kind=Kind.ADJUSTMENT, amount=-50, corrects=wrong, note="Wrong price")
    assert (row["ChargeCategory"], row["ChargeClass"], row["BilledCost"]) == ("Usage", "Correction", "-0.00000005")
    assert (row["ChargePeriodStart"], row["x_CorrectedLedgerEntryId"]) == ("2026-09-03T10:00:00Z", str(wrong))
    assert row["ServiceName"] == "Model Calls"
    assert row["ChargeDescription"] == "Adjustment: Wrong price"


def test_a_correction_inside_the_month_is_no_correction_of_an_invoice(acme: Tenant) -> None:
    (wrong,) = write([entry(acme, amount=5_000, unsettled=True, model=MODEL)], now=OCTOBER)
    write([entry(acme, kind=Kind.ADJUSTMENT, amount=-4_000, corrects=wrong)], now=OCTOBER)
    _, row = rows_of(exported(acme))
    assert (row["ChargeCategory"], row["ChargeClass"]) == ("Adjustment", "")
    assert row["ConsumedQuantity"] == row["ListUnitPrice"] == row["SkuId"] == ""


# -- whose, and for whom -------------------------------------------------------------------------------------------


def test_a_row_tells_swarm_task_agent_and_person_by_pseudonym(acme: Tenant) -> None:
    task = uuid.UUID(int=0x7A)
    row = row_of(acme, amount=5, model=MODEL, task_id=task, run="night 7", external_id="event-1")
    assert (row["x_SwarmId"], row["x_TaskId"], row["x_AgentName"]) == (str(SWARM), str(task), "writer")
    assert (row["x_EndUser"], row["x_Run"], row["x_ExternalEventId"]) == (str(PERSON), "night 7", "event-1")
    assert (row["ResourceId"], row["ResourceName"], row["ResourceType"]) == (f"{SWARM}/writer", "writer", "Agent")


def test_no_other_tenants_entry_is_in_the_file(acme: Tenant, rival: Tenant) -> None:
    one_of_each(acme)
    one_of_each(rival)
    accounts = {row["BillingAccountId"] for row in rows_of(exported(acme))}
    assert accounts == {str(acme.pk)}
    assert len(rows_of(exported(acme))) == 15


# -- the validator refuses what is broken ------------------------------------------------------------------------------


def with_value(column: str, value: str, row: int = 0) -> Callable[[Rows], Rows]:
    def change(rows: Rows) -> Rows:
        rows[row][column] = value
        return rows

    return change


def named(rows: Rows, row: int, code: str, name: str) -> Rows:
    """With a cost centre in one of the rows."""
    return with_value("SubAccountName", name, row)(with_value("SubAccountId", code, row)(rows))


def without(column: str) -> Callable[[Rows], Rows]:
    return lambda rows: [{name: value for name, value in row.items() if name != column} for row in rows]


def renamed(column: str, name: str) -> Callable[[Rows], Rows]:
    return lambda rows: [{name if key == column else key: value for key, value in row.items()} for row in rows]


@pytest.fixture(scope="module")
def sample(django_db_setup: None, django_db_blocker: Any) -> Callable[[], Rows]:
    """A fresh copy of the rows of a month; the month is gone again."""
    with django_db_blocker.unblock(), transaction.atomic():
        tenant = Tenant.objects.create(slug="sample", name="Sample")
        one_of_each(tenant)
        text = exported(tenant)
        transaction.set_rollback(True)
    return lambda: rows_of(text)


GOODWILL, INFRASTRUCTURE = 13, 10
BROKEN: list[tuple[str, Callable[[Rows], Rows], str]] = [
    ("a mandatory column is missing", without("BilledCost"), "CostAndUsage-D-006-M"),
    ("a conditional column is missing", without("SkuPriceId"), "CostAndUsage-D-058-C"),
    ("a recommended column is missing", without("ServiceSubcategory"), "CostAndUsage-D-042-O"),
    ("a column of our own has no prefix", renamed("x_SwarmId", "SwarmId"), "ColumnHandling-A-010-M"),
    ("a column of our own is no Pascal case", renamed("x_SwarmId", "x_swarm_id"), "ColumnHandling-A-011-O"),
    ("a column of FOCUS is misspelt", renamed("ListCost", "Listcost"), "ColumnHandling-A-010-M"),
    ("a column of FOCUS comes last", lambda rows: [{**without(c := "ListCost")([row])[0], c: row[c]} for row in rows],
     "ColumnHandling-A-013-O"),
    ("a cost is null", with_value("BilledCost", ""), "BilledCost: must not be null"),
    ("a cost has a currency sign", with_value("BilledCost", "$1"), "NumericFormat"),
    ("a cost has a thousands separator", with_value("BilledCost", "1,000"), "NumericFormat"),
    ("a cost has a plus sign", with_value("BilledCost", "+1"), "NumericFormat"),
    ("a cost is infinite", with_value("BilledCost", "NaN"), "NumericFormat"),
    ("a time has an offset", with_value("ChargePeriodStart", "2026-10-09T08:07:06+00:00"), "DateTimeFormat"),
    ("a time has fractions", with_value("ChargePeriodStart", "2026-10-09T08:07:06.5Z"), "DateTimeFormat"),
    ("a time is a date", with_value("BillingPeriodStart", "2026-10-01"), "DateTimeFormat"),
    ("a day does not exist", with_value("BillingPeriodStart", "2026-09-31T00:00:00Z"), "DateTimeFormat"),
    ("an unknown charge category", with_value("ChargeCategory", "Charge"), "ChargeCategory"),
    ("an unknown charge class", with_value("ChargeClass", "correction"), "ChargeClass"),
    ("an unknown frequency", with_value("ChargeFrequency", "Monthly"), "ChargeFrequency"),
    ("an unknown pricing category", with_value("PricingCategory", "On-Demand"), "PricingCategory"),
    ("a currency by its sign", with_value("BillingCurrency", "US$"), "BillingCurrency"),
    ("a subcategory of another category", with_value("ServiceSubcategory", "Virtual Machines"),
     "ServiceSubcategory-C-004-M"),
    ("usage without a unit price", with_value("ListUnitPrice", ""), "ListUnitPrice: must not be null"),
    ("usage without a quantity", with_value("ConsumedQuantity", ""), "ConsumedQuantity-C-006-C"),
    ("usage without a SKU", with_value("SkuId", ""), "SkuId: must not be null"),
    ("a quantity without a unit", with_value("ConsumedUnit", ""), "ConsumedUnit"),
    ("an adjustment that consumes", with_value("ConsumedQuantity", "1", GOODWILL), "ConsumedQuantity-C-004-C"),
    ("a price that does not make the cost", with_value("ListUnitPrice", "2.6"), "ListCost-C-009-C"),
    ("a cost off by a millionth of a nano-dollar", with_value("ListCost", "0.002502500000001"), "ListCost-C-009-C"),
    ("a contracted cost off", with_value("ContractedCost", "1"), "ContractedCost-C-009-C"),
    ("an adjustment whose list cost differs", with_value("ListCost", "1", GOODWILL), "ListCost-C-008-C"),
    ("an adjustment whose effective cost differs", with_value("EffectiveCost", "1", GOODWILL),
     "EffectiveCost-C-010-C"),
    ("a negative unit price", with_value("ContractedUnitPrice", "-2.5"), "ContractedUnitPrice-C-008-M"),
    ("a resource without a type", with_value("ResourceType", ""), "ResourceType"),
    ("a resource named like its id", lambda rows: with_value("ResourceName", rows[0]["ResourceId"])(rows),
     "ResourceName-C-006-C"),
    ("a sub account without a name", with_value("SubAccountId", "42"), "SubAccountName"),
    ("a sub account with two names", lambda rows: named(named(rows, 0, "42", "A"), 1, "42", "B"),
     "SubAccountName-C-005-C"),
    ("price details that are no object", with_value("SkuPriceDetails", '["x"]'), "KeyValueFormat-A-001-M"),
    ("price details that are nested", with_value("SkuPriceDetails", '{"x_A": {}}'), "KeyValueFormat-A-001-M"),
    ("price details with a key twice", with_value("SkuPriceDetails", '{"x_A": 1, "x_A": 2}'),
     "KeyValueFormat-A-001-M"),
    ("price details with an unknown key", with_value("SkuPriceDetails", '{"Model": 1}'), "KeyValueFormat-A-001-M"),
    ("a placeholder for null", with_value("x_Run", "N/A"), "NullHandling-A-002-M"),
    ("a text of spaces", with_value("ProviderName", "  "), "NullHandling-A-002-M"),
    ("a unit of another spelling", with_value("PricingUnit", "per 1M tokens"), "UnitFormat-A-001-M"),
    ("a charge outside the month", with_value("ChargePeriodStart", "2026-09-01T00:00:00Z"),
     "ChargePeriodStart-C-004-M"),
    ("a correction of the current month", with_value("ChargeClass", "Correction"),
     "ChargeClass-C-003-C"),
    ("a charge that ends before it begins", with_value("ChargePeriodEnd", "2026-10-09T08:07:06Z"),
     "ChargePeriodEnd-C-004-M"),
    ("a SKU price of two SKUs", with_value("SkuId", "other"), "SkuPriceId-C-008-M"),
    ("a service in two categories", lambda rows: with_value("ServiceName", "Model Calls", INFRASTRUCTURE)(rows),
     "ServiceName-C-005-C"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "rule"), [pytest.param(c, rule, id=name) for name, c, rule in BROKEN])
def test_a_broken_file_is_refused(sample: Callable[[], Rows], change: Callable[[Rows], Rows], rule: str) -> None:
    rows = change(sample())
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    assert any(rule in problem for problem in violations(text.getvalue())), violations(text.getvalue())


def test_a_file_is_refused_that_is_no_csv_or_marks_null_by_an_empty_text(acme: Tenant) -> None:
    one_of_each(acme)
    text = exported(acme)
    lines = text.splitlines(keepends=True)
    assert "NullHandling" in violations(text.replace(",,", ',"",', 1))[0]
    assert "byte order mark" in violations("\ufeff" + text)[0]
    assert "fields under" in violations(lines[0] + "1," + lines[1])[0]
