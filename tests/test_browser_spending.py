"""The finance user in a real browser: every page of the costs app, and those about spending in light, dark and small.

``SCREENSHOTS=/some/folder python -m pytest tests/test_browser_spending.py`` keeps pictures to look at.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from django.contrib import admin
from django.urls import reverse

from apps.costs.models import LedgerEntry
from apps.execution.models import Attempt
from apps.swarms.models import Agent, Step, Swarm, Task
from apps.tenants.models import Membership, Tenant, User
from apps.tenants.roles import Role
from portal.admin_site import pages
from tests.admin_rows import make_rows
from tests.browser import OpenTab, Tab, chromium, db, tab, web, web_of_module
from tests.doors import table
from tests.spending import spend, varied

__all__ = ["chromium", "db", "tab", "web", "web_of_module"]
pytestmark = pytest.mark.browser

SIZES = [(1280, False), (390, True)]
DAYS = "from=2026-11-01&to=2026-11-24"
READ_BY_FINANCE = {label for label, answers in table().items() if answers["finance"].startswith("r")}
REPORT, LEDGER, PRICES = "/admin/costs/report/", "/admin/costs/ledgerentry/", "/admin/costs/prices-in-force/"


@pytest.fixture
def clerk(acme: Tenant, rival: Tenant, finance: User) -> User:
    """Finance of two tenants, with something in every list."""
    finance.is_staff = True
    finance.save()
    Membership.objects.create(user=finance, tenant=rival, role=Role.FINANCE)
    varied([acme, rival], 150)
    make_rows(acme, 1)
    return finance


def picture(window: Tab, name: str) -> None:
    """Kept where SCREENSHOTS says, if it does."""
    if folder := os.environ.get("SCREENSHOTS"):
        window.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def verify(window: Tab, hosts: set[str]) -> None:
    assert window.complaints == []
    assert window.overflow() == 0, window.page.url
    assert hosts == {urlsplit(window.web.url).netloc}
    text = window.page.inner_text("body")
    for secret in ("Say {{", "broke", "-person", "-user-"):  # a prompt, an error of a task, names of people
        assert secret not in text, (window.page.url, secret)


def hosts_asked(window: Tab) -> set[str]:
    """The hosts that the window asks for anything, from now on."""
    hosts: set[str] = set()
    window.page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    return hosts


PROMPT, OUTPUT, STRANGER = "Zanzibar ahoy", "Quagga ahoy", "ocelot"


def plant(stranger: Tenant) -> None:
    """Another tenant with rows in every list, and everybody's work with texts that would be noticed."""
    make_rows(stranger, 1)
    Swarm.objects.update(spec={"swarm": "planted", "tasks": [{"id": "one", "prompt": PROMPT}]})
    Agent.objects.update(instructions=PROMPT)
    Step.objects.update(prompt=PROMPT)
    Task.objects.update(item=PROMPT, result=OUTPUT, error=OUTPUT)
    Attempt.objects.update(context={"prompt": PROMPT}, error=OUTPUT)


def linked(window: Tab, below: str) -> list[str]:
    """The addresses below one that the page links to, each once, in their order; none that is a file."""
    found = window.page.eval_on_selector_all("a[href]", "all => all.map(a => new URL(a.href).pathname)")
    return [
        path for path in dict.fromkeys(found) if path.startswith(below) and path != below and "/export/" not in path
    ]


def addresses(window: Tab) -> Iterator[str]:
    """Every list that finance opens, with a row's page and what that leads to, and every page that is no list."""
    yield reverse("admin:index")
    for page in pages():
        if page.path.startswith("costs/"):
            yield reverse(f"admin:{page.name}")
    for model, model_admin in admin.site._registry.items():
        if model._meta.label not in READ_BY_FINANCE:
            continue
        listed = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
        yield listed
        rows = [path for path in linked(window, listed) if not path.endswith("/add/")]
        assert rows, f"make_rows has nothing for {listed}"
        yield rows[0]
        yield from (path for path in linked(window, rows[0].removesuffix("change/")) if path not in rows)
        if getattr(model_admin, "write_permission", None):
            yield f"{listed}add/"


def test_finance_opens_every_page_of_the_costs_app_and_reads_of_nothing_but_costs(
    tab: OpenTab, clerk: User, acme: Tenant
) -> None:
    plant(Tenant.objects.create(slug=STRANGER, name=STRANGER.title()))
    window = tab(clerk, width=390)
    hosts = hosts_asked(window)
    opened, refused = [], []
    window.page.on("response", lambda answer: refused.append(answer.url) if answer.status >= 400 else None)
    for path in addresses(window):
        window.page.goto(window.web.url + path)
        opened.append(path)
        assert refused == []
        verify(window, hosts)
        html = window.page.content()
        for secret in (PROMPT, OUTPUT, STRANGER):
            assert secret.lower() not in html.lower(), (path, secret)
    assert {REPORT, LEDGER, PRICES, "/admin/costs/budget/add/"} < set(opened)
    assert len(opened) > 2 * len(READ_BY_FINANCE) + 5


@pytest.mark.parametrize(("width", "dark"), SIZES)
def test_the_pages_about_spending_fit_every_screen(
    tab: OpenTab, clerk: User, acme: Tenant, width: int, dark: bool
) -> None:
    spend(acme, 3, model="nobody:nothing")
    entry = LedgerEntry.objects.filter(kind="llm").latest("at")
    window = tab(clerk, width=width, dark=dark)
    hosts = hosts_asked(window)
    paths = {
        "first": "/admin/",
        "report": f"{REPORT}?{DAYS}",
        "report-empty": f"{REPORT}?from=2020-01-01&to=2020-01-09",
        "report-refused": f"{REPORT}?from=2026-11-20&to=2026-11-01",
        "ledger": f"{LEDGER}?{DAYS}",
        "ledger-refused": f"{LEDGER}?{DAYS}&user=nobody",
        "entry": f"{LEDGER}{entry.pk}/change/",
        "prices": f"{PRICES}?tenant={acme.pk}&model=google:gemini-2.5-pro",
    }
    for name, path in paths.items():
        window.page.goto(window.web.url + path)
        picture(window, f"{name}-{width}{'-dark' * dark}")
        verify(window, hosts)


def test_typed_days_and_named_frames_take_each_other_back(tab: OpenTab, clerk: User) -> None:
    window = tab(clerk)
    window.page.goto(f"{window.web.url}{REPORT}")
    window.page.fill("[name=from]", "2026-11-03")
    window.page.dispatch_event("[name=from]", "change")
    assert window.page.input_value("[name=period]") == "custom"
    window.page.fill("[name=to]", "2026-11-12")
    window.page.click("button:has-text('Show')")
    window.page.wait_for_selector("text=3 Nov to 12 Nov 2026")
    assert window.page.locator("canvas.chart").count() == 2
    window.page.select_option("[name=period]", "last_month")
    assert window.page.input_value("[name=from]") == ""
    window.page.click("button:has-text('Show')")
    window.page.wait_for_url("**period=last_month**")
    assert window.page.locator("[role=alert]").count() == 0


def test_a_line_of_the_report_leads_to_its_entries_and_those_to_a_file(tab: OpenTab, clerk: User) -> None:
    window = tab(clerk)
    window.page.goto(f"{window.web.url}{REPORT}?{DAYS}&by=agent")
    line = window.page.locator("tr", has=window.page.locator("a", has_text="researcher")).last
    exact = line.locator("td").first.get_attribute("title")
    line.locator("a").click()
    window.page.wait_for_selector("tr.total")
    assert window.page.locator("tr.total td").first.get_attribute("title") == exact
    with window.page.expect_download() as waiting:
        window.page.click("text=Export as CSV")
    lines = Path(waiting.value.path()).read_text().splitlines()
    entries = window.page.locator("tr.total td").nth(1).inner_text()
    assert f"{len(lines) - 1:,}" == entries
