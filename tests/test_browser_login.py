"""Logging in with a real provider in a real browser, and what a person sees when it goes wrong.

``SCREENSHOTS=/some/folder python -m pytest tests/test_browser_login.py`` keeps pictures to look at.
"""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import pytest
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.tenants.models import GroupRule, IdentityProvider, Membership, Tenant, User
from tests.browser import OpenTab, Tab, chromium, db, tab, web, web_of_module
from tests.oidc_provider import Provider
from tests.processes import free_port
from tests.signing_in import PEOPLE, idp, provider, provider_process

__all__ = ["chromium", "db", "idp", "provider", "provider_process", "tab", "web", "web_of_module"]
pytestmark = pytest.mark.browser


def picture(window: Tab, name: str) -> None:
    """Kept where SCREENSHOTS says, if it does."""
    if folder := os.environ.get("SCREENSHOTS"):
        window.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def again(window: Tab) -> None:
    """Where the button leads, for somebody who is logged in at the provider: nothing is asked."""
    window.page.goto(window.web.url + "/login/with/sso/?next=/swarms/")


def log_in(window: Tab, person: str = "ada") -> None:
    """The whole way: the button, the provider's form, and back."""
    window.page.goto(window.web.url + "/login/?next=/swarms/")
    window.page.get_by_role("link", name="Log in with Test provider").click()
    window.page.get_by_label("Name").fill(person)
    window.page.get_by_role("button", name="Log in").click()
    window.page.wait_for_url(f"{window.web.url}/**")


def log_out(window: Tab, provider: Provider) -> None:
    """Here and at the provider, which sends back to the login page."""
    window.page.get_by_role("button", name="Log out").click()
    window.page.wait_for_url("**/login/")


def refusal(window: Tab) -> str:
    """The reason on a refusal's page, which fits the window."""
    reason = window.page.locator("[data-reason]").get_attribute("data-reason")
    assert window.overflow() == 0
    assert "127.0.0.1" not in window.page.inner_text("body"), "no addresses, no claims, no errors of programs"
    return str(reason)


def longer_ago(**by: int) -> None:
    """As if so many seconds had gone by since what was fetched."""
    for row in IdentityProvider.objects.all():
        for name, seconds in by.items():
            if at := getattr(row, name):
                setattr(row, name, at - dt.timedelta(seconds=seconds))
        row.save(update_fields=list(by))


def test_a_person_logs_in_with_a_provider_and_is_told_what_went_wrong(
    tab: OpenTab, idp: IdentityProvider, provider: Provider, acme: Tenant, owner: User
) -> None:
    GroupRule.objects.create(provider=idp, group="desk-viewers", tenant=acme, role="viewer")
    window = tab()

    # Login, and logout here and there.
    window.page.goto(window.web.url + "/login/")
    assert window.overflow() == 0
    picture(window, "login")
    answers: list[str] = []
    window.page.on(
        "request", lambda request: answers.append(request.url) if "/login/callback/" in request.url else None
    )
    log_in(window)
    assert window.page.url == f"{window.web.url}/swarms/"
    assert window.page.get_by_title("Log out").is_visible()
    assert "Ada Lovelace" in window.page.inner_text(".sd-user")
    window.page.goto(answers[-1])
    assert refusal(window) == "state_unknown_or_expired", "a replayed answer"
    window.page.goto(window.web.url)
    log_out(window, provider)
    [ended] = provider.set()["ended"]
    assert ended["id_token_hint"].count(".") == 2
    assert ended["client_id"] == "swarmdesk"

    # Another group, another role.
    provider.set(people={"ada": {**PEOPLE["ada"], "groups": ["desk-viewers"]}})
    log_in(window)  # the provider asks again: its session had ended
    assert list(Membership.objects.filter(user__username="ada").values_list("role", flat=True)) == ["viewer"]
    assert window.page.locator('a[href="/submit/"]').count() == 0, "viewers do not submit"

    # The provider has other keys, then other ideas.
    provider.set(rotate="ES256")
    longer_ago(keys_at=60)
    again(window)
    window.page.wait_for_url(f"{window.web.url}/swarms/")
    for fault, reason in (("wrong audience", "wrong_audience"), ("expired token", "token_expired")):
        provider.set(faults=[fault])
        again(window)
        assert refusal(window) == reason
    picture(window, "refused")
    provider.set(faults=[])

    # The group is withdrawn: no login, and the session that is open ends.
    other = tab(width=390, dark=True)
    provider.set(people={"ada": {**PEOPLE["ada"], "groups": []}})
    log_in(other)
    assert refusal(other) == "no_role"
    picture(other, "no-role-phone")
    window.page.goto(window.web.url)
    assert "Your session has ended" in window.page.inner_text("main")

    # The provider is down: a clear page, the other ways, and the local account.
    provider.stop()
    longer_ago(discovered_at=60)
    IdentityProvider.objects.create(
        slug="second", name="Second", issuer=f"http://127.0.0.1:{free_port()}", client_id="x", order=2
    )
    again(other)
    assert refusal(other) == "provider_unreachable"
    picture(other, "unreachable-phone")
    other.page.get_by_role("link", name="Other ways to log in").click()
    assert "It did not answer a moment ago" in other.page.inner_text("main")
    other.page.get_by_text("Log in with a local account").click()
    picture(other, "login-phone")
    for _ in range(5):
        other.page.locator('input[name="username"]').fill("owner")
        other.page.locator('input[name="password"]').fill("wrong")
        other.page.get_by_role("button", name="Log in").click()
    assert refusal(other) == "locked_out"
    picture(other, "locked-out-phone")
    window.page.goto(window.web.url + "/login/")
    picture(window, "login-silent")
    window.page.locator("summary").click()
    window.page.locator('input[name="username"]').fill("root")
    User.objects.create_superuser("root", "", "correct horse battery")
    window.page.locator('input[name="password"]').fill("correct horse battery")
    window.page.get_by_role("button", name="Log in").click()
    window.page.wait_for_url(window.web.url + "/")

    # What administrators see of it.
    assert IdentityProvider.objects.get(pk=idp.pk).is_paused(timezone.now())
    for path in ("/admin/tenants/identityprovider/", "/admin/axes/accessattempt/", "/admin/tenants/grouprule/"):
        window.page.goto(window.web.url + path)
        assert window.overflow() == 0
        picture(window, path.strip("/").replace("/", "-"))
    window.page.goto(f"{window.web.url}/admin/tenants/identityprovider/{idp.pk}/change/")
    picture(window, "provider")
    refused = AuditEntry.objects.filter(action="session:refuse").order_by("id").values_list("reason", flat=True)
    assert list(refused) == [
        "state_unknown_or_expired",
        "wrong_audience",
        "token_expired",
        "no_role",
        "provider_unreachable",
    ]
    for each in (window, other):
        assert [text for text in each.complaints if "the server responded with a status of" not in text] == []
