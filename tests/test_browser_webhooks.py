"""A developer's webhooks in a real browser, light and dark, on a desk and on a phone.

``SCREENSHOTS=/some/folder python -m pytest tests/test_browser_webhooks.py`` keeps pictures to look at.
"""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import pytest
from django.utils import timezone

from apps.tenants.models import Tenant, User
from apps.webhooks.models import Delivery, DeliveryAttempt, Webhook
from tests.browser import OpenTab, Tab, chromium, db, tab, web, web_of_module
from tests.test_webhook_addresses import LOOPBACK
from tests.webhooks import due, hook_of

pytestmark = [pytest.mark.browser]
__all__ = ["chromium", "db", "tab", "web", "web_of_module"]

HERE = "http://127.0.0.1:9/hooks/of/a/receiver/with/a/long/address?and=a&query=string"
SIZES = [(1280, False), (390, True)]
if os.environ.get("SCREENSHOTS"):
    SIZES += [(1280, True), (390, False)]


def picture(window: Tab, name: str) -> None:
    """Kept where SCREENSHOTS says, if it does."""
    if folder := os.environ.get("SCREENSHOTS"):
        window.page.wait_for_timeout(400)
        window.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


@pytest.fixture
def webhooks(acme: Tenant, developer: User, settings: object) -> Webhook:
    """One that works, one that fails, one that is gone."""
    settings.WEBHOOK_ALLOWED_NETWORKS = [LOOPBACK]  # type: ignore[attr-defined]
    developer.is_staff = True
    developer.save()
    now = timezone.now()
    works = hook_of(acme, HERE, "billing", ("budget.alert", "budget.exhausted", "swarm.succeeded"))
    fails, gone = hook_of(acme, HERE, "warehouse"), hook_of(acme, HERE, "old chat")
    Webhook.objects.filter(pk=fails.pk).update(failures=7, failing_since=now - dt.timedelta(hours=3))
    gone.disable(cause="gone", reason="The receiver answered 410 Gone: it wants no more.", now=now)
    gone.save()
    due(fails, 3)
    delivered, given_up = due(works, 2)
    Delivery.objects.filter(pk=delivered.pk).update(status="delivered", next_at=None, finished_at=now, attempts=1)
    Delivery.objects.filter(pk=given_up.pk).update(status="failed", next_at=None, finished_at=now, attempts=3)
    for number, (status, text, error) in enumerate(
        [
            (503, "upstream connect error or disconnect/reset before headers. reset reason: overflow " * 4, ""),
            (None, "", "No answer within 15 s."),
            (307, "", "It redirects, and redirects are not followed: give the final URL."),
        ],
        start=1,
    ):
        DeliveryAttempt.objects.create(
            delivery=given_up, number=number, status_code=status, seconds=0.2 * number, text=text, error=error
        )
    return works


@pytest.mark.parametrize(("width", "dark"), SIZES)
def test_a_developer_looks_after_webhooks(
    tab: OpenTab, developer: User, webhooks: Webhook, width: int, dark: bool
) -> None:
    window = tab(developer, width=width, dark=dark)
    admin, name = f"{window.web.url}/admin/webhooks", f"{width}{'-dark' * dark}"
    given_up = Delivery.objects.get(status="failed")
    for title, path, words in (
        ("list", "webhook/", "warehouse"),
        ("page", f"webhook/{webhooks.pk}/change/", "Signing secret"),
        ("deliveries", "delivery/", "task.succeeded"),
        ("delivery", f"delivery/{given_up.pk}/change/", "No answer within 15 s."),
        ("rotate", f"webhook/{webhooks.pk}/rotate/", "Make a new secret"),
        ("add", "webhook/add/", "None picked"),
    ):
        window.page.goto(f"{admin}/{path}")
        window.page.wait_for_selector(f"text={words} >> nth=0", state="attached")
        picture(window, f"{title}-{name}")
        assert window.overflow() == 0, title
    window.page.fill("[name=name]", "from the browser")
    window.page.fill("[name=url]", HERE)
    if window.page.locator("select[name=tenant]").count():
        window.page.select_option("select[name=tenant]", label="Acme")
    window.page.click("button[name=_save]")
    window.page.wait_for_selector("#new-secret")
    made = Webhook.objects.get(name="from the browser")
    assert made.signing_secret.matches(window.page.inner_text("#new-secret"))
    picture(window, f"secret-{name}")
    assert window.overflow() == 0

    assert window.complaints == []
