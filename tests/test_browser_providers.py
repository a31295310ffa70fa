"""The page of providers in a real browser: a breaker is opened there, and every open page sees it without a reload.

``SCREENSHOTS=/some/folder python -m pytest tests/test_browser_providers.py`` keeps pictures to look at.
"""

from __future__ import annotations

import datetime as dt
import os
import random

import pytest
from django.utils import timezone

from apps.audit import trail
from apps.providers import switching
from apps.providers.breaker import Failure
from apps.providers.latency import BOUNDS_S, bucket
from apps.providers.models import (
    BackendState,
    Breaker,
    Provider,
    Region,
    RegionMinute,
    RegionQuota,
    RegionWindow,
    SecretState,
)
from apps.providers.quota import Quota
from apps.tenants.models import User
from tests.browser import OpenTab, Tab, chromium, db, tab, web, web_of_module
from tests.regions import make_provider, region_of
from tests.test_browser_saving import picture

pytestmark = [pytest.mark.browser]
__all__ = ["chromium", "db", "tab", "web", "web_of_module"]


@pytest.fixture
def provider(db: None) -> Provider:
    made = make_provider("east", "west", name="openai", secret_name="OPENAI_API_KEY")
    BackendState.objects.all().delete()
    SecretState.objects.all().delete()
    SecretState.objects.create(
        name="OPENAI_API_KEY",
        worker_class="agents",
        backend="vault at https://vault.internal:8200",
        fingerprint="5f0c2ad91e77",
        version="7",
        loaded_at=timezone.now() - dt.timedelta(minutes=4),
        rotated_at=timezone.now() - dt.timedelta(days=12, hours=3),
    )
    chance = random.Random(7)
    now = timezone.now()
    for region, calls, seconds in (("east", 90, 0.4), ("west", 30, 1.2)):
        row = region_of(made, region)
        for ago in range(55):
            errors = chance.randint(0, 3) if ago < 20 and region == "east" else 0
            latencies = [0] * (len(BOUNDS_S) + 1)
            answered = calls + chance.randint(-20, 20)
            latencies[bucket(seconds)] = answered - 4
            latencies[bucket(4 * seconds)] = 4
            RegionMinute.objects.create(
                region=row,
                minute=now.replace(second=0, microsecond=0) - dt.timedelta(minutes=ago),
                calls=answered + errors,
                errors=errors,
                limited=3 if ago == 7 else 0,
                latencies=latencies,
            )
        RegionWindow.objects.create(region=row, latencies=[seconds] * 100, ended=[now.timestamp()] * 100)
    Region.objects.filter(name="east").update(requests_per_minute=120, concurrency=200)
    quota = Quota({int(now.timestamp()) - 20: (104, 9000)}, {"a": (31, now.timestamp() + 3600)})
    RegionQuota.objects.create(region=region_of(made, "east"), quota=quota.as_json())
    return made


def state(window: Tab, region: Region, word: str) -> None:
    """Waits until the page says so."""
    window.page.wait_for_selector(f"#region-{region.pk} .sd-chip:has-text('{word}')")


def test_a_breaker_opened_in_one_page_shows_in_every_other_without_a_reload(
    tab: OpenTab, provider: Provider, platform_admin: User
) -> None:  # P2
    window = tab(platform_admin)
    page, east, west = window.page, region_of(provider, "east"), region_of(provider, "west")
    other = Tab(page.context.new_page(), window.web)
    other.open("/providers/")
    other.page.evaluate("window.sameAsBefore = true")
    state(other, east, "Closed")
    other.page.click(f"#table-{east.pk} summary")
    window.open("/providers/")
    # The button says what it will do, and asks why.
    page.click(f"#open-{east.pk}")
    assert "No call is sent there" in page.inner_text("#dialog-open")
    assert page.is_hidden("#dialog-open [data-note]")
    page.click("#dialog-open button.sd-button-danger")
    assert page.is_visible("#dialog-open"), "a reason is required"
    page.fill("#open-reason", "They told us of maintenance")
    page.click("#dialog-open button:has-text('Open the breaker of openai/east')")
    page.wait_for_selector(".sd-message:has-text('openai/east was opened.')")
    state(window, east, "Opened by hand")
    assert Breaker.objects.get(pk=east.pk).is_held

    state(other, east, "Opened by hand")
    other.page.wait_for_selector("#part-history .sd-event:has-text('They told us of maintenance')")
    other.page.wait_for_selector(f"#provider-{provider.pk} .sd-chip:has-text('Failed over to west')")
    assert other.page.evaluate("window.sameAsBefore") is True
    assert other.page.is_visible(f"#table-{east.pk} table"), "what was unfolded stays so"
    # Drawn anew with each update, a moment after the canvas is there.
    other.page.wait_for_function(
        "at => Chart.getChart(document.querySelector(at))?.data.labels.length === 60", arg=f"#region-{east.pk} canvas"
    )
    # Now that west is the last one, its button says so.
    other.page.click(f"#drain-{west.pk}")
    assert "it becomes critical" in other.page.inner_text("#dialog-drain [data-note]")
    other.page.click("#dialog-drain [data-close]")

    # A page that lost its socket catches up with what it missed.
    other.web.kill()
    other.page.wait_for_selector('#live[data-state="reconnecting"]')
    switching.close_by_hand(region_of(provider, "east"), by=trail.Actor("command", "test"), reason="It is over")
    other.web.start()
    state(other, east, "Closed")
    other.page.wait_for_selector("#part-history .sd-event:has-text('It is over')")
    assert other.page.evaluate("window.sameAsBefore") is True
    lost = ("WebSocket", "ERR_CONNECTION_REFUSED", "htmx:", "Failed to load")
    assert [each for each in window.complaints + other.complaints if not any(word in each for word in lost)] == []


SIZES = [(1280, False), (390, True)] + ([(1280, True), (390, False)] if os.environ.get("SCREENSHOTS") else [])


def test_it_fits_a_desk_and_a_phone_in_light_and_dark(tab: OpenTab, provider: Provider, platform_admin: User) -> None:
    east = region_of(provider, "east")
    now = timezone.now()
    switching.report_failures(east.pk, [Failure(now)] * 5, error="answered 503", now=now - dt.timedelta(seconds=40))
    switching.slow_down(region_of(provider, "west").pk, seconds=75, now=now)
    make_provider("lonely", name="local-llama")
    make_provider(name="bare")
    BackendState.objects.create(
        name="vault at https://vault.internal:8200",
        down_since=now - dt.timedelta(minutes=2),
        last_error="Vault does not answer: connection refused.",
    )
    for width, dark in SIZES:
        window = tab(platform_admin, width=width, dark=dark)
        window.open("/providers/")
        look = f"{width}{'-dark' * dark}"
        picture(window, f"providers-{look}")
        assert window.overflow() == 0
        window.page.click(f"#table-{east.pk} summary")
        window.page.click(f"#drain-{region_of(provider, 'west').pk}")
        picture(window, f"providers-drain-{look}")
        assert window.overflow() == 0
        window.page.click("#dialog-drain [data-close]")
        if width == 1280:
            window.page.click("#rotate")
            window.page.wait_for_selector("#dialog-refresh[open]")
        assert window.complaints == []
    if os.environ.get("SCREENSHOTS"):
        window = tab(platform_admin)
        window.open("/")
        picture(window, "overview-attention")
