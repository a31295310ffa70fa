"""The admin site: its login, its first page, and the sidebar in the order in which people think."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, URLPattern, get_script_prefix, path, reverse
from django.utils.decorators import method_decorator
from django.utils.functional import SimpleLazyObject
from django.views.decorators.cache import never_cache
from unfold.settings import get_config
from unfold.sites import UnfoldAdminSite

from portal.admin import Card, ModelAdmin
from portal.admin_menu import MENU


@dataclass(frozen=True, slots=True)
class Page:
    """A page that is not the list of a model. In the sidebar its target is "admin:" and its ``name``.

    ``path`` is where it is below ``/admin/``. ``may_open`` decides about the page, its place in the sidebar and its
    card. Only a page that ``does`` something takes what a form sends; the others are read.
    """

    name: str
    path: str
    about: str
    view: Callable[[HttpRequest], HttpResponseBase]
    may_open: Callable[[HttpRequest], bool]
    card: Callable[[HttpRequest], Card | None] = lambda request: None
    does: bool = False

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if not self.may_open(request):
            raise PermissionDenied
        if not self.does and request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET", "HEAD"])
        return self.view(request)


_pages: dict[str, Page] = {}


def register_page(page: Page) -> None:
    """Adds a page to the administration; call it where admins are registered."""
    _pages[page.name] = page


def pages() -> list[Page]:
    """All pages that were registered."""
    return list(_pages.values())


class Site(UnfoldAdminSite):
    """Swarmdesk's administration."""

    index_title = "Overview"
    empty_value_display = "–"

    def __init__(self, name: str = "admin") -> None:
        super().__init__(name)
        self.disable_action("delete_selected")

    def extra_urls(self) -> list[URLPattern]:
        """The pages that are no lists."""
        return [path(page.path, self.admin_view(page), name=page.name) for page in _pages.values()]

    @method_decorator(never_cache)
    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """To the one login page; people who are logged in but not staff are told so, and where to go."""
        user = request.user
        if user.is_authenticated and user.is_active and not user.is_staff:
            context = {**self.each_context(request), "title": "No access to the administration"}
            return TemplateResponse(request, "admin/not_staff.html", context, status=403)
        after = request.GET.get(REDIRECT_FIELD_NAME) or reverse(f"{self.name}:index")
        return redirect_to_login(after, str(settings.LOGIN_URL))

    def logout(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """To the one way out, which also ends the session at the provider; the form is sent on as it is."""
        return HttpResponseRedirect(str(settings.LOGOUT_URL), preserve_request=True)

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        """Counts that matter, each with the list behind it, then every list by its group."""
        context = {"cards": self.cards(request), **(extra_context or {})}
        response: TemplateResponse = super().index(request, context)
        return response

    def _get_config(self, key: str, *args: Any) -> Any:
        """As Unfold's, which puts all settings together anew for each of the twenty that a page asks for."""
        value = _theme(self.settings_name).get(key)
        return self._get_value(value, *args) if value else None

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        context: dict[str, Any] = super().each_context(request)
        audit = self._registry.get(apps.get_model("audit.AuditEntry"))
        context["may_read_audit"] = bool(audit and self.has_permission(request) and audit.has_view_permission(request))
        return context

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> Any:
        """The models by app, found out when somebody looks: every page asks for them, and ours show the sidebar."""
        return SimpleLazyObject(partial(super().get_app_list, request, app_label))

    def get_sidebar_list(self, request: HttpRequest) -> list[dict[str, Any]]:
        return navigation(request)

    def cards(self, request: HttpRequest) -> list[Card]:
        """The numbers of the models and pages this person may see, in the order of the sidebar."""
        found = []
        for target in menu_targets():
            page = _pages.get(target.removeprefix("admin:"))
            admin = self._registry.get(apps.get_model(target)) if "." in target and _exists(target) else None
            if isinstance(admin, ModelAdmin) and admin.has_view_permission(request):
                found.append(admin.card(request))
            elif page and page.may_open(request):
                found.append(page.card(request))
        return [card for card in found if card]

    def search(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Search over the lists by name. A page that is not a number is the first."""
        if not request.GET.get("page", "1").isdigit():
            query = request.GET.copy()
            query["page"] = "1"
            request.GET = query  # type: ignore[assignment]
        response: HttpResponse = super().search(request, extra_context)
        return response


@cache
def _theme(name: str) -> dict[str, Any]:
    """A setting of Unfold's with its defaults."""
    found: dict[str, Any] = get_config(name)
    return found


def menu_targets() -> list[str]:
    """Where the sidebar leads, in its order: labels of models ("swarms.Swarm") and names of URLs."""
    return [target for _, items in MENU for _, _, target in items]


def _exists(label: str) -> bool:
    try:
        apps.get_model(label)
    except LookupError:
        return False
    return True


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """The sidebar for one person: groups of links to what they may see."""
    from django.contrib import admin

    groups: list[dict[str, Any]] = []
    for title, items in MENU:
        links = []
        for text, icon, target in items:
            if "." in target:
                model_admin = admin.site._registry.get(apps.get_model(target)) if _exists(target) else None
                if model_admin is None or not model_admin.has_view_permission(request):
                    continue
                link = _link(f"admin:{model_admin.opts.label_lower.replace('.', '_')}_changelist", get_script_prefix())
                about = getattr(model_admin, "about", "")
            else:
                page = _pages.get(target.removeprefix("admin:"))
                if page and not page.may_open(request):
                    continue
                about = page.about if page else ""
                link = _link(target, get_script_prefix())
                if not link:
                    continue
            active = (
                request.path == link if target in ("admin:index", "console:overview") else request.path.startswith(link)
            )
            links.append({"title": text, "icon": icon, "link": link, "active": active, "about": about})
        if links:
            groups.append({"title": title, "separator": bool(groups), "items": links})
    return groups


@cache
def _link(name: str, prefix: str) -> str:
    """Where the page of a URL's name is, below the server's prefix; empty when there is none."""
    try:
        return reverse(name)
    except NoReverseMatch:
        return ""


def environment(request: HttpRequest) -> list[str] | None:
    """The badge at the top: nothing on a real server, a word elsewhere."""
    if settings.DEBUG:
        return ["Debug", "danger"]
    return ["This machine", "info"] if settings.STANDALONE else None
