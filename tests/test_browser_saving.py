"""The finance user in a real browser: what-if, advice and rates, light and dark, on a desk and on a phone.

``SCREENSHOTS=/some/folder python -m pytest tests/test_browser_saving.py`` keeps pictures to look at.
"""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import pytest

from apps.costs.advising import refresh
from apps.costs.entries import NewEntry, write
from apps.costs.models import Kind, Rate
from apps.providers.models import Provider
from apps.swarms.models import AgentOverride
from apps.tenants.models import Tenant, User
from portal.money import NANO
from tests.browser import OpenTab, Tab, chromium, db, tab, web, web_of_module
from tests.test_advice import NOW as ADVISED
from tests.test_advice import idle_swarms, short_calls
from tests.test_whatif import LARGE, NOON, SMALL, call, prices

pytestmark = [pytest.mark.browser]
__all__ = ["chromium", "db", "prices", "tab", "web", "web_of_module"]

SIZES = [(1280, False), (390, True)]
if os.environ.get("SCREENSHOTS"):
    SIZES += [(1280, True), (390, False)]


def picture(window: Tab, name: str) -> None:
    """Kept where SCREENSHOTS says, if it does."""
    if folder := os.environ.get("SCREENSHOTS"):
        window.page.wait_for_timeout(400)
        window.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


@pytest.fixture
def spent(acme: Tenant, finance: User, prices: None) -> None:
    finance.is_staff = True
    finance.save()
    entries = []
    for day in range(20):
        at = NOON - dt.timedelta(days=9 - day)
        for agent, model, amount in (("writer", LARGE, 10_400_000_000), ("reader", SMALL, 1_040_000_000 * (day % 3))):
            entries.append(call(acme, amount, at=at, agent=agent, model=model, input_tokens=10**6, output_tokens=10**4))
        entries.append(NewEntry(tenant_id=acme.pk, kind=Kind.INFRASTRUCTURE, amount=2_000_000_000, at=at))
    entries.append(call(acme, 5_000_000_000, input_tokens=0, output_tokens=0))
    write(entries, now=NOON)
    Rate.objects.create(kind="infrastructure", price=NANO // 25, effective_from=NOON)


@pytest.mark.parametrize(("width", "dark"), SIZES)
def test_finance_asks_what_if(tab: OpenTab, finance: User, spent: None, width: int, dark: bool) -> None:
    window = tab(finance, width=width, dark=dark)
    window.page.goto(f"{window.web.url}/admin/costs/what-if/")
    window.page.fill("[name=first]", "2026-10-01")
    window.page.fill("[name=last]", "2026-10-31")
    window.page.fill("[name=old_1]", LARGE)
    window.page.fill("[name=new_1]", SMALL)
    window.page.fill("[name=cap]", "40")
    window.page.click("button:has-text('Work it out')")
    window.page.wait_for_selector("text=Would have been >> nth=0")
    assert window.page.locator("text=could not be priced anew").count() == 1
    picture(window, f"what-if-{width}{'-dark' * dark}")
    assert window.overflow() == 0
    assert window.complaints == []


@pytest.mark.parametrize(("width", "dark"), SIZES[:2])
def test_finance_looks_at_rates(tab: OpenTab, finance: User, spent: None, width: int, dark: bool) -> None:
    window = tab(finance, width=width, dark=dark)
    for path in ("", "add/", f"{Rate.objects.get().pk}/change/"):
        window.page.goto(f"{window.web.url}/admin/costs/rate/{path}")
        picture(window, f"rates-{path.strip('/')[:3]}-{width}{'-dark' * dark}")
        assert window.overflow() == 0
    assert window.complaints == []


@pytest.mark.parametrize(("width", "dark"), SIZES)
def test_finance_acts_on_advice(
    tab: OpenTab, finance: User, acme: Tenant, prices: None, width: int, dark: bool
) -> None:  # C8
    finance.is_staff = True
    finance.save()
    Provider.objects.create(name="simulated")
    short_calls(acme)
    idle_swarms(acme)
    assert refresh(now=ADVISED) == 3
    window = tab(finance, width=width, dark=dark)
    window.page.goto(f"{window.web.url}/admin/costs/advice/")
    picture(window, f"advice-{width}{'-dark' * dark}")
    assert window.overflow() == 0
    window.page.click("button:has-text('Use the cheaper model')")
    window.page.wait_for_selector("text=Done.")
    assert AgentOverride.objects.get().model == SMALL
    window.page.locator("[name=reason]").first.fill("They are needed at the end of the month.")
    window.page.locator("button:has-text('Dismiss')").first.click()
    window.page.wait_for_selector("text=They are needed at the end of the month.")
    picture(window, f"advice-decided-{width}{'-dark' * dark}")
    window.page.goto(f"{window.web.url}/admin/swarms/agentoverride/")
    window.page.wait_for_selector("text=simulated:small")
    picture(window, f"overrides-{width}{'-dark' * dark}")
    assert window.overflow() == 0
    assert window.complaints == []
