"""One's own API tokens in a real browser: made, copied, revoked; on a desk and on a phone.

``SCREENSHOTS=/some/folder python -m pytest tests/test_browser_tokens.py`` keeps pictures to look at.
"""

from __future__ import annotations

import re

import pytest

from apps.tenants.models import ApiToken, Tenant, User
from apps.tenants.token_text import PATTERN
from tests.browser import OpenTab, chromium, db, tab, web, web_of_module
from tests.test_browser_saving import SIZES, picture

pytestmark = [pytest.mark.browser]
__all__ = ["chromium", "db", "tab", "web", "web_of_module"]


@pytest.mark.parametrize(("width", "dark"), SIZES)
def test_a_token_is_made_copied_and_revoked(
    tab: OpenTab, developer: User, acme: Tenant, width: int, dark: bool
) -> None:  # A3
    window = tab(developer, width=width, dark=dark)
    page = window.page
    page.goto(f"{window.web.url}/tokens/")
    page.fill("#name", "nightly reports")
    page.select_option("#permissions", ["swarm:create", "swarm:read"])
    page.click("button:has-text('Make the token')")
    page.click("[data-copy]")
    page.wait_for_selector("text=Copied")
    assert re.fullmatch(PATTERN, page.input_value("#new-token"))
    picture(window, f"token-made-{width}{'-dark' * dark}")
    assert window.overflow() == 0
    page.click("text=I have it")
    page.wait_for_selector("#new-token", state="detached")
    page.click("button:has-text('Revoke…')")
    picture(window, f"token-revoke-{width}{'-dark' * dark}")
    page.click("dialog button:has-text('Revoke')")
    page.wait_for_selector("text=is revoked")
    picture(window, f"tokens-none-{width}{'-dark' * dark}")
    assert window.overflow() == 0
    assert window.complaints == []
    assert not ApiToken.objects.exists()
