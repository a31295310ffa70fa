"""Access in a real browser: who can do what, why, and a policy from its form to the past.

``SCREENSHOTS=/some/folder python -m pytest tests/test_browser_access.py`` keeps pictures to look at.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from apps.tenants.access import principal_of
from apps.tenants.granting import give
from apps.tenants.models import AccessPolicy, Tenant, User
from tests.admin_rows import make_swarm
from tests.browser import OpenTab, Tab, chromium, db, tab, web, web_of_module

pytestmark = [pytest.mark.browser]
__all__ = ["chromium", "db", "tab", "web", "web_of_module"]


def picture(window: Tab, name: str) -> None:
    """Kept where SCREENSHOTS says, if it does."""
    if folder := os.environ.get("SCREENSHOTS"):
        window.page.wait_for_timeout(400)
        window.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_an_admin_looks_into_access_and_restricts_it(  # A1 A4
    tab: OpenTab, owner: User, operator: User, outsider: User, acme: Tenant, width: int, dark: bool
) -> None:
    owner.is_staff = True
    owner.save()
    swarm = make_swarm(acme, "shared")
    give(outsider, swarm.pk, acme, gives="operator", reason="Helps with the incident.", by=principal_of(owner))
    window = tab(owner, width=width, dark=dark)
    page, base = window.page, f"{window.web.url}/admin/tenants"

    page.goto(f"{base}/who-can-do-what/")
    page.get_by_text("operator").first.wait_for()
    picture(window, f"who-{width}")
    assert window.overflow() == 0

    page.goto(f"{base}/accesspolicy/add/")
    page.fill("[name=name]", "From the office")
    page.check("[name=actions][value='swarm:terminate']")
    page.fill("[name=networks]", "10.0.0.0/8")
    page.select_option("[name=tenant]", str(acme.pk))
    picture(window, f"policy-{width}")
    assert window.overflow() == 0
    page.click("[name=_save]")
    page.get_by_role("link", name="From the office").first.wait_for()
    policy = AccessPolicy.objects.get()
    page.goto(f"{base}/accesspolicy/{policy.pk}/change/")
    picture(window, f"policy-made-{width}")
    page.goto(f"{base}/accesspolicy/{policy.pk}/enable/")
    page.fill("[name=reason]", "Agreed.")
    picture(window, f"enable-{width}")
    page.get_by_role("button", name="Enable").click()
    page.get_by_text("is enabled").first.wait_for()

    page.goto(f"{base}/why/")
    page.fill("[name=person]", "operator")
    page.select_option("[name=permission]", "swarm:terminate")
    page.get_by_role("button", name="Explain").click()
    page.get_by_text("Denied", exact=True).first.wait_for()
    picture(window, f"why-{width}")
    assert window.overflow() == 0
    page.goto(f"{base}/accesspolicy/{policy.pk}/replay/")
    picture(window, f"replay-{width}")
    page.goto(f"{window.web.url}/admin/swarms/swarm/{swarm.pk}/grant/")
    picture(window, f"grant-{width}")
    assert window.overflow() == 0
    assert window.complaints == []
