"""The policies in a real browser: pages of every kind work under them, and what they forbid does not run.

``EVERY_PAGE=1 python -m pytest tests/test_browser_csp.py`` walks every list and form of the administration as well.
"""

from __future__ import annotations

import os
from contextlib import suppress

import pytest
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.urls import NoReverseMatch, reverse

from apps.costs.models import LedgerEntry
from apps.swarms.models import Swarm
from apps.tenants.models import Tenant, User
from tests import desk
from tests.admin_rows import make_platform_rows, make_rows
from tests.browser import OpenTab, Tab, chromium, db, tab, web, web_of_module
from tests.running import wait_until

__all__ = ["chromium", "db", "tab", "web", "web_of_module"]
pytestmark = pytest.mark.browser

WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (e) =>
  window.violations.push(`${e.effectiveDirective} ${e.blockedURI} ${e.sourceFile}:${e.lineNumber} ${e.sample}`));
"""
FORBIDDEN = """() => {
  window.ran = [];
  window.told = [];
  document.addEventListener("securitypolicyviolation", (e) => window.told.push(e.effectiveDirective));
  document.body.insertAdjacentHTML("beforeend", '<img src="data:," onerror="window.ran.push(1)">');
  const inline = document.createElement("script");
  inline.textContent = "window.ran.push(2)";
  const foreign = document.createElement("script");
  foreign.src = "https://elsewhere.example/x.js";
  const frame = document.createElement("iframe");
  frame.src = "https://elsewhere.example/";
  document.body.append(inline, foreign, frame);
  fetch("https://elsewhere.example/").catch(() => {});
  const base = document.createElement("base");
  base.href = "https://elsewhere.example/";
  document.head.append(base);
  // Later, since the policy does not hold for what a debugger runs at once.
  setTimeout(() => {
    try { new Function("window.ran.push(3)")(); } catch { window.ran.push("refused"); }
  });
}"""
EVERY_FORM = ("changelist", "add")
FORMS = ("tenants.User", "costs.Budget", "providers.Provider")
PAGES = (
    "/admin/",
    "/admin/costs/report/?from=2026-11-01&to=2026-11-24",
    "/admin/costs/what-if/",
    "/admin/costs/advice/",
    "/admin/costs/prices-in-force/",
    "/admin/swarms/swarm/",
    "/admin/password_change/",
    "/admin/nothing/here/",
)


def admin_pages() -> list[str]:
    """Addresses of the administration: a page of every kind, or every page."""
    every = bool(os.environ.get("EVERY_PAGE"))
    found = list(PAGES)
    for model in sorted(admin.site._registry, key=lambda model: model._meta.label):
        if not every and model._meta.label not in FORMS:
            continue
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        found += [reverse(f"{name}_{kind}") for kind in EVERY_FORM]
        if (row := model._default_manager.order_by("pk").last()) is not None:
            kinds = ("change", "history", "delete") if every else ("change",)
            found += [reverse(f"{name}_{kind}", args=[quote(row.pk)]) for kind in kinds]
        with suppress(NoReverseMatch):
            if every and model is not LedgerEntry:  # which exports at once
                found.append(reverse(f"{name}_export"))
    return found


def walk(window: Tab, path: str) -> list[str]:
    """What the page complains about."""
    window.page.goto(window.web.url + path, wait_until="load")
    if path == "/api/docs/":
        window.page.wait_for_selector(".opblock")
    told: list[str] = window.page.evaluate("window.violations")
    return told


def test_pages_work_under_their_policies(tab: OpenTab, platform_admin: User, acme: Tenant, operator: User) -> None:
    desk.models_for_sale()
    desk.platform_is_up()
    swarm: Swarm = desk.started(desk.spec("market-brief", items=3, replicas=2, budget_usd=1), acme, operator)
    desk.finish(swarm)
    make_rows(acme, 1)
    make_platform_rows(1)
    task = swarm.tasks.first()
    assert task is not None
    console = ["/", "/swarms/", f"/swarms/{swarm.pk}/", f"/tasks/{task.pk}/", "/submit/", "/api/docs/", "/nothing/"]
    window = tab(platform_admin, new=True)
    window.page.add_init_script(WATCH)
    found = {path: told for path in [*console, *admin_pages()] if (told := walk(window, path))}
    assert found == {}
    assert [each for each in window.complaints if not each.endswith(("404 (Not Found)", "403 (Forbidden)"))] == []


@pytest.mark.parametrize(("path", "may_make_functions"), [("/", False), ("/admin/", True)])
def test_what_the_policy_forbids_does_not_run(
    path: str, may_make_functions: bool, tab: OpenTab, platform_admin: User
) -> None:
    desk.platform_is_up()
    window = tab(platform_admin)
    window.page.goto(window.web.url + path, wait_until="load")
    window.page.evaluate(FORBIDDEN)
    expected = {"base-uri", "connect-src", "frame-src", "script-src-attr", "script-src-elem"}
    wait_until(lambda: expected <= set(window.page.evaluate("window.told")), what="what the browser refused")
    wait_until(lambda: bool(window.page.evaluate("window.ran.length")), what="the attempt to make a function")
    assert window.page.evaluate("window.ran") == ([3] if may_make_functions else ["refused"])
