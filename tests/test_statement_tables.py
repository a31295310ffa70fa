"""The tables of a statement: CSV lines and a workbook, exact, formatted, and harmless to open. # C7"""

from __future__ import annotations

from decimal import Decimal

from apps.costs.centres import Rule, Terms
from apps.costs.entries import write
from apps.costs.exports import sums, table, workbook
from apps.costs.exports.sums import Book, Sum
from apps.costs.models import Kind
from apps.tenants.models import Tenant
from tests.statements import OCTOBER, call, entry, october_of, one_of_each, owed, rows_of
from tests.workbooks import sheets_of

FORMULA = "=cmd|'calc'!A0"


def csv_of(tenant: Tenant, **changes: object) -> list[dict[str, str]]:
    return rows_of(b"".join(table.write(sums.book_of(october_of(tenant, **changes)))).decode())


def test_the_lines_of_a_csv_add_up_to_its_total_and_to_the_ledger(acme: Tenant) -> None:
    one_of_each(acme)
    october = october_of(acme)
    *lines, total = csv_of(acme)
    assert total["Cost centre"] == "Total"
    assert sum(Decimal(line["Amount, USD"]) for line in lines) == Decimal(total["Amount, USD"])
    assert Decimal(total["Amount, USD"]) == owed(acme, october.starts_at, october.ends_at)
    assert sum(int(line["Entries"]) for line in lines) == int(total["Entries"]) == 10


def test_a_line_says_how_much_of_what(acme: Tenant) -> None:
    hours = {"kind": Kind.INFRASTRUCTURE, "amount": 12_500, "quantity": Decimal("0.125"), "unit_price": 100_000}
    write([entry(acme, **hours), entry(acme, **hours), call(acme, (10, 5, 0, 0))], now=OCTOBER)
    infrastructure, calls, _ = csv_of(acme)
    assert (infrastructure["Quantity"], infrastructure["Unit"]) == ("0.25", "agent-hours")
    assert (calls["Input tokens"], calls["Output tokens"], calls["Quantity"], calls["Unit"]) == ("10", "5", "", "")
    assert infrastructure["Amount, USD"] == "0.000025"


def test_no_text_of_a_csv_is_a_formula(acme: Tenant) -> None:
    """Agents elsewhere name themselves as they like."""
    names = [FORMULA, "+1", "-1", "@sum", "\tx", "writer"]
    write([call(acme, (10, 5, 0, 0), agent=name) for name in names], now=OCTOBER)
    assert {line["Agent"] for line in csv_of(acme)} == {f"'{name}" for name in names[:-1]} | {"writer", ""}


def test_code_and_name_of_a_cost_centre_stand_beside_each_other(acme: Tenant) -> None:
    write([call(acme, (10, 5, 0, 0)), call(acme, (10, 5, 0, 0), agent="reader")], now=OCTOBER)
    terms = Terms({"CC-1": "=Writing", "CC-2": "Unused"}, (Rule("CC-1", agent="wri*"),))
    none, written, _ = csv_of(acme, terms=terms)
    assert (none["Cost centre"], none["Cost centre name"], none["Agent"]) == ("", "", "reader")
    assert (written["Cost centre"], written["Cost centre name"]) == ("CC-1", "'=Writing")
    sheets = sheets_of(b"".join(workbook.write(sums.book_of(october_of(acme, terms=terms)))))
    for sheet in ("Lines", "By cost centre"):
        by_code = {row["Cost centre"] or "(none)": row["Cost centre name"] for row in sheets[sheet].table()}
        assert by_code["CC-1"] == "=Writing"
        assert not by_code["(none)"], sheet


def test_a_draft_is_marked(acme: Tenant) -> None:
    one_of_each(acme)
    assert csv_of(acme, is_closed=False)[-1]["Cost centre"] == "Total (draft)"
    book = sums.book_of(october_of(acme, is_closed=False))
    summary = sheets_of(b"".join(workbook.write(book)))["Summary"]
    assert any(str(cell).startswith("DRAFT") for row in summary.rows for cell in row)


def test_a_workbook_has_a_summary_the_lines_and_a_sheet_for_each_breakdown(acme: Tenant) -> None:
    one_of_each(acme)
    october = october_of(acme)
    total = owed(acme, october.starts_at, october.ends_at)
    sheets = sheets_of(b"".join(workbook.write(sums.book_of(october))))
    assert list(sheets) == ["Summary", "Lines", "By cost centre", "By model", "By agent", "By user", "By day"]
    for name, sheet in list(sheets.items())[1:]:
        assert sheet.frozen, name
        assert sheet.widths == len(sheet.rows[0]), name
        amounts, exact = sheet.column("Amount, USD"), sheet.column("Exact amount, USD")
        assert sheet.table()[-1][str(sheet.rows[0][0])] == "Total"
        assert amounts[-1] == float(total), name
        assert Decimal(str(exact[-1])) == sum(Decimal(str(text)) for text in exact[:-1]) == total, name
    cells = [cell for row in sheets["Summary"].rows for cell in row]
    assert float(total) in cells
    assert "Closed" in cells
    assert "2026-10-01 00:00 America/New_York" in cells


def test_numbers_are_numbers_and_texts_are_texts(acme: Tenant) -> None:
    write([call(acme, (1_000, 5, 0, 0), agent=FORMULA)], now=OCTOBER)
    sheets = sheets_of(b"".join(workbook.write(sums.book_of(october_of(acme)))))
    (line, _) = sheets["Lines"].table()
    assert line["Agent"] == FORMULA
    assert (line["Input tokens"], line["Amount, USD"]) == (1000.0, 0.00255)
    assert sum(sheet.formulas for sheet in sheets.values()) == 0


def test_an_amount_that_a_float_would_lose_stands_there_as_text(acme: Tenant) -> None:
    write([entry(acme, amount=8_999_999_999_000_000_001)], now=OCTOBER)
    sheets = sheets_of(b"".join(workbook.write(sums.book_of(october_of(acme)))))
    line = sheets["Lines"].table()[0]
    assert line["Amount, USD"] == 8_999_999_999.0
    assert line["Exact amount, USD"] == "8999999999.000000001"


def test_days_are_those_of_the_tenants_time_zone(acme: Tenant) -> None:
    october = october_of(acme)
    write([entry(acme, amount=5, at=october.starts_at)], now=OCTOBER)
    assert [row.name for row in sums.book_of(october).breakdowns["day"]] == ["2026-10-01"]


def test_no_other_tenants_entry_is_in_the_tables(acme: Tenant, rival: Tenant) -> None:
    one_of_each(rival)
    assert sums.book_of(october_of(acme)).total == 0


def test_the_same_statement_makes_the_same_bytes(acme: Tenant) -> None:
    one_of_each(acme)
    first = b"".join(workbook.write(sums.book_of(october_of(acme))))
    assert b"".join(workbook.write(sums.book_of(october_of(acme)))) == first


def test_a_breakdown_of_very_many_users_still_adds_up() -> None:
    rows = [Sum(str(n), 1, 1, 1, n) for n in range(60_000)]
    kept = sums._ordered("subject", rows)
    assert len(kept) == sums.MOST_ROWS + 1
    assert kept[-1].name == "10,000 more"
    assert sum(row.amount for row in kept) == sum(range(60_000))


def test_an_empty_month_makes_a_workbook_and_a_table(acme: Tenant) -> None:
    book = sums.book_of(october_of(acme))
    assert book == Book(book.extract, [], {name: [] for name in sums.DIMENSIONS})
    assert csv_of(acme)[-1]["Amount, USD"] == "0.00"
    assert sheets_of(b"".join(workbook.write(book)))["Lines"].column("Amount, USD") == [0.0]
