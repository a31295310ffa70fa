"""A platform administrator in a real browser: regions, a breaker opened by hand, a call tried, at desk and phone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from django.utils import timezone

from apps.execution import trying
from apps.execution.models import TryStatus
from apps.execution.trying import Found
from apps.providers import switching, traffic
from apps.providers.breaker import Failure
from apps.providers.models import Provider, Region
from apps.providers.traffic import Tally
from apps.tenants.models import Tenant, User
from portal.ids import uuid7
from tests.browser import Daphne, OpenTab, Tab, chromium, db, tab, web, web_of_module, windows
from tests.regions import make_provider, region_of

pytestmark = [pytest.mark.browser]
__all__ = ["chromium", "db", "tab", "web", "web_of_module", "windows"]

SIZES = [(390, True)]
if os.environ.get("SCREENSHOTS"):
    SIZES += [(1280, False)]


def picture(window: Tab, name: str) -> None:
    """Kept where SCREENSHOTS says, if it does."""
    if folder := os.environ.get("SCREENSHOTS"):
        window.page.wait_for_timeout(400)
        window.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


@pytest.fixture
def provider(platform_admin: User) -> Provider:
    made = make_provider("us-east", "eu-west", "ap-south", name="openai")
    now = timezone.now()
    switching.report_failures(region_of(made, "us-east").pk, [Failure(now)] * 5, error="answered 503", now=now)
    Region.objects.filter(name="eu-west").update(requests_per_minute=5000, concurrency=200)
    tally = Tally()
    for number in range(40):
        tally.answered(0.4 + number / 100, now.timestamp())
    traffic.add({region_of(made, "eu-west").pk: tally}, now=now)
    return made


@pytest.mark.parametrize(("width", "dark"), SIZES)
def test_a_breaker_is_opened_by_hand_and_a_region_tried(
    tab: OpenTab, web: Daphne, platform_admin: User, acme: Tenant, provider: Provider, width: int, dark: bool
) -> None:
    window = tab(platform_admin, width=width, dark=dark)
    page, shade = window.page, f"{width}{'-dark' * dark}"
    page.goto(web.url + f"/admin/providers/provider/{provider.pk}/change/")
    picture(window, f"provider-{shade}")
    assert window.overflow() == 0
    page.goto(web.url + "/admin/providers/region/")
    assert page.locator("text=5 calls failed within 30 s").count() == 1
    picture(window, f"regions-{shade}")
    assert window.overflow() == 0
    region = region_of(provider, "ap-south")
    page.goto(web.url + f"/admin/providers/region/{region.pk}/change/")
    picture(window, f"region-{shade}")
    assert window.overflow() == 0
    address = page.locator("a[href*='/open']").first.get_attribute("href")
    assert address
    page.goto(web.url + address)
    page.fill("[name=reason]", "It answers, but with nonsense.")
    picture(window, f"open-{shade}")
    assert window.overflow() == 0
    page.click("button:has-text('Open the breaker of')")
    page.wait_for_selector("text=Done: open the breaker")
    assert region_of(provider, "ap-south").circuit.held
    picture(window, f"opened-{shade}")
    page.goto(web.url + f"/admin/providers/region/{region.pk}/try")
    page.fill("[name=model]", "gpt-4o")
    page.select_option("[name=tenant]", str(acme.pk))
    picture(window, f"try-{shade}")
    assert window.overflow() == 0
    page.click("button:has-text('Call it')")
    page.wait_for_selector("text=Waiting for a worker")
    picture(window, f"trying-{shade}")
    # The page goes on by itself when a runner tells what came of it.
    runner, now = uuid7(), timezone.now()
    (taken,), _ = trying.take(runner, "agents", 1, not_of=[], now=now)
    page.wait_for_selector("text=Calling")
    trying.tell(taken.id, runner, Found(TryStatus.WORKS, "Yes.", 0.412, 13, 1, 45_000), now=now)
    page.wait_for_selector("text=412 ms, 13 tokens in and 1 out")
    assert page.input_value("[name=model]") == "gpt-4o"
    picture(window, f"tried-{shade}")
    assert window.overflow() == 0
    assert window.complaints == []
