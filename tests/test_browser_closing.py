"""Finance closes a month and corrects an entry of it by clicking, in a real browser; the pages in dark and small.  # C7

``SCREENSHOTS=/some/folder python -m pytest tests/test_browser_closing.py`` keeps pictures to look at.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from django.utils import timezone

from apps.costs import statements
from apps.costs.entries import write
from apps.costs.models import CentreRule, CostCentre, LedgerEntry, Statement
from apps.costs.periods import Month
from apps.tenants.access import principal_of_command
from apps.tenants.models import Tenant, User
from portal.money import usd_text
from tests.browser import OpenTab, chromium, db, tab, web, web_of_module
from tests.statements import MODEL, OCTOBER, call, entry, one_of_each
from tests.test_browser_spending import hosts_asked, picture, verify

__all__ = ["chromium", "db", "tab", "web", "web_of_module"]
pytestmark = pytest.mark.browser

LIST = "/admin/costs/statement/"
MONTH = f"{LIST}acme/2026-10/"


def test_finance_closes_a_month_and_corrects_an_entry_by_clicking(tab: OpenTab, finance: User, acme: Tenant) -> None:
    finance.is_staff = True
    finance.save()
    one_of_each(acme)
    write([call(acme, (90_000 + 17 * n, 9_000 + n, 0, 0), agent=f"research-{n:02}") for n in range(60)], now=OCTOBER)
    for code, name, agent in (("CC-4711", "Research and development", "research-*"), ("CC-80", "Editing", "writer")):
        centre = CostCentre.objects.create(tenant=acme, code=code, name=name)
        CentreRule.objects.create(centre=centre, agent=agent)
    statements.close(acme, Month(2026, 9), by=principal_of_command("close_month"), now=timezone.now())
    (wrong,) = write([entry(acme, amount=7_500_000_000, model=MODEL, input_tokens=900)], now=OCTOBER)
    window = tab(finance)
    hosts = hosts_asked(window)
    page, site = window.page, window.web.url

    page.goto(f"{site}{LIST}")
    picture(window, "statements")
    page.click("text=Show only it")
    page.click("a:has-text('October 2026')")
    picture(window, "draft")
    page.click("text=Close this month")
    picture(window, "close")
    page.fill("[name=confirm]", "2026-01")
    page.click("button:has-text('for good')")
    page.wait_for_selector("text=is not 2026-10, the month that would be closed")
    page.fill("[name=confirm]", "2026-10")
    page.click("button:has-text('for good')")
    page.wait_for_selector("text=is closed:")
    verify(window, hosts)
    picture(window, "closed")
    statement = Statement.objects.get(period="2026-10")
    assert statement.is_closed
    assert usd_text(statement.total) in page.inner_text("body")

    page.goto(f"{site}/admin/costs/ledgerentry/{wrong}/change/")
    page.click("text=Correct this entry")
    page.fill("[name=owed]", "0.75")
    page.fill("[name=reason]", "The call was billed ten times.")
    picture(window, "correct")
    page.click("text=Show what will be booked")
    page.wait_for_selector("text=−6.75 USD")
    picture(window, "preview")
    page.click("text=Change it")
    assert page.input_value("[name=owed]") == "0.75"
    page.click("text=Show what will be booked")
    page.click("text=Book the correction")
    page.wait_for_selector("text=0.75 USD is owed for it now")
    picture(window, "corrected")
    correction = LedgerEntry.objects.get(corrects=wrong)
    assert correction.amount == -6_750_000_000
    page.click(f"a:has-text('entry {correction.pk}') >> nth=0")
    page.wait_for_selector("text=The call was billed ten times.")
    assert page.locator("text=Correct this entry").count() == 0
    verify(window, hosts)

    page.goto(f"{site}{MONTH}")
    page.click("text=Print view")
    page.wait_for_selector("#print")
    verify(window, hosts)
    picture(window, "print")
    for size in ("A4", "Letter"):
        paper = page.pdf(format=size, prefer_css_page_size=False, print_background=False)
        assert paper.startswith(b"%PDF")
        if folder := os.environ.get("SCREENSHOTS"):
            (Path(folder) / f"statement-{size}.pdf").write_bytes(paper)
        assert 2 <= paper.count(b"/Type /Page\n") + paper.count(b"/Type /Page ") <= 6

    current = f"{timezone.now().astimezone(acme.zone):%Y-%m}"
    paths = {
        "statements": LIST,
        "closed": MONTH,
        "draft": f"{LIST}acme/{current}/",
        "close-refused": f"{LIST}acme/{current}/close/",
        "print": f"{MONTH}print/",
        "correct": f"/admin/costs/ledgerentry/{wrong}/correct/",
    }
    for width, dark in ((1280, True), (390, False)):
        window = tab(finance, width=width, dark=dark)
        hosts = hosts_asked(window)
        for name, path in paths.items():
            window.page.goto(f"{site}{path}")
            picture(window, f"{name}-{width}{'-dark' * dark}")
            verify(window, hosts)
