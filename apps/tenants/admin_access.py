"""Two pages for those who answer for access: who can do what, and why something is allowed or denied."""

from __future__ import annotations

import csv
import io
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.apps import apps
from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.widgets import (
    UnfoldAdminSelectWidget,
    UnfoldAdminSplitDateTimeWidget,
    UnfoldAdminTextInputWidget,
)

from apps.audit import trail
from apps.tenants.access import Principal, principal_of_request
from apps.tenants.explaining import explain
from apps.tenants.holders import Holder, Source, holders, policies_over
from apps.tenants.models import AccessPolicy, ApiToken, SwarmGrant, Tenant, User
from apps.tenants.roles import Permission, Resource
from portal.admin import list_url, page_url
from portal.admin_fields import UsdField
from portal.admin_site import Page, register_page

PER_PAGE = 50
ABOUT_WHO = "Who can do what in a tenant, and where each permission comes from: a role, a grant on one swarm, a token."
ABOUT_WHY = "Why something is allowed or denied: role, grant and policy, step by step, for a request that you describe."


def readable(principal: Principal) -> Any:
    """The tenants whose access a person may look into: as an auditor, or as the manager of their people."""
    if principal.everything:
        return Tenant.objects.order_by("slug")
    places = (principal.tenant_ids(Permission.AUDIT_READ) or set()) | (
        principal.tenant_ids(Permission.USER_MANAGE) or set()
    )
    return Tenant.objects.filter(pk__in=places).order_by("slug")


def may_open(request: HttpRequest) -> bool:
    principal = principal_of_request(request)
    return principal.can_anywhere(Permission.AUDIT_READ) or principal.can_anywhere(Permission.USER_MANAGE)


class WhoForm(forms.Form):
    """Which tenant, and whom or what to look for."""

    tenant = forms.ChoiceField(widget=UnfoldAdminSelectWidget)
    person = forms.CharField(required=False, widget=UnfoldAdminTextInputWidget)
    permission = forms.ChoiceField(
        required=False,
        choices=[("", "Every permission"), *((str(p), str(p)) for p in Permission)],
        widget=UnfoldAdminSelectWidget,
    )

    def __init__(self, data: Any, tenants: list[Tenant]) -> None:
        super().__init__(data)
        self.fields["tenant"].choices = [(tenant.slug, tenant.name) for tenant in tenants]  # type: ignore[attr-defined]


def who_page(request: HttpRequest) -> HttpResponse:
    """People by permissions, with what gives each; ``?download=csv`` for all of them as a file."""
    principal = principal_of_request(request)
    tenants = list(readable(principal))
    first = tenants[0].slug if tenants else ""
    form = WhoForm({"tenant": first, **request.GET.dict()}, tenants)
    given = form.cleaned_data if form.is_valid() else {"tenant": first, "person": "", "permission": ""}
    tenant = next((each for each in tenants if each.slug == given["tenant"]), None)
    found: list[Holder] = []
    if tenant:
        found = holders(tenant, now=timezone.now(), person=given["person"], permission=given["permission"])
        if request.GET.get("download") == "csv":
            return _csv(tenant, found, given["permission"], principal)
    columns = [Permission(given["permission"])] if given["permission"] else list(Permission)
    page = Paginator(found, PER_PAGE).get_page(request.GET.get("page"))
    opens = {model for model, it in admin.site._registry.items() if it.has_view_permission(request)}
    table = {
        "headers": ["Person", *map(str, columns)],
        "rows": [[_person(each, opens), *(_cell(each, column, opens) for column in columns)] for each in page],
    }
    asked = {key: value for key, value in given.items() if value}
    context = {
        **admin.site.each_context(request),
        "title": "Who can do what",
        "about": ABOUT_WHO,
        "form": form,
        "tenant": tenant,
        "table": table,
        "page": page,
        "query": urlencode(asked),
        "policies": policies_over(tenant) if tenant else 0,
        "policies_url": list_url(AccessPolicy) if AccessPolicy in opens else "",
    }
    return TemplateResponse(request, "admin/tenants/who.html", context)


def _person(holder: Holder, opens: set[Any]) -> SafeString | str:
    if User not in opens:
        return holder.user.username
    return format_html('<a href="{}" class="text-link">{}</a>', page_url(User, holder.user.pk), holder.user.username)


def _cell(holder: Holder, permission: Permission, opens: set[Any]) -> SafeString | str:
    found = holder.sources.get(permission, [])
    return format_html_join("", "<div>{}</div>", ((_source(each, opens),) for each in found)) or "–"


def _source(source: Source, opens: set[Any]) -> SafeString | str:
    text = source.text if source.kind == "role" else f"{source.kind} {source.text}"
    if source.kind == "platform admin":
        return source.kind
    model: Any = type(source.row)
    pk = source.row.pk
    if isinstance(source.row, ApiToken):
        return format_html('<a href="{}" class="text-link">{}</a>', list_url(model), text) if model in opens else text
    if isinstance(source.row, SwarmGrant):
        swarm = apps.get_model("swarms.Swarm")
        if model not in opens and swarm in opens:
            model, pk = swarm, source.row.swarm_id
    return format_html('<a href="{}" class="text-link">{}</a>', page_url(model, pk), text) if model in opens else text


def _csv(tenant: Tenant, found: list[Holder], permission: str, by: Principal) -> HttpResponse:
    """A line for each person, permission and source. The download is an audit entry."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["tenant", "username", "email", "permission", "from", "what", "id"])
    for holder in found:
        for each, sources in holder.sources.items():
            if permission and each != permission:
                continue
            for source in sources:
                email, name = _plain(holder.user.email), _plain(holder.user.username)
                row_id = source.row.uid if isinstance(source.row, ApiToken) else source.row.pk
                writer.writerow([tenant.slug, name, email, str(each), source.kind, source.text, str(row_id)])
    trail.record(by, "access:export", tenant, tenant_id=tenant.pk, details={"people": len(found)})
    response = HttpResponse(text.getvalue(), content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="access-{tenant.slug}.csv"'
    response["Cache-Control"] = "no-store"
    return response


def _plain(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in "=+-@\t\r" else text


class WhyForm(forms.Form):
    """A request to explain."""

    tenant = forms.ChoiceField(widget=UnfoldAdminSelectWidget)
    person = forms.CharField(widget=UnfoldAdminTextInputWidget, help_text="Username.")
    permission = forms.ChoiceField(choices=[(str(p), str(p)) for p in Permission], widget=UnfoldAdminSelectWidget)
    resource = forms.ChoiceField(
        required=False,
        choices=[("", "What the permission says"), *((str(r), str(r)) for r in Resource)],
        widget=UnfoldAdminSelectWidget,
    )
    swarm = forms.UUIDField(required=False, widget=UnfoldAdminTextInputWidget, help_text="Id, for grants.")
    token = forms.CharField(
        required=False, widget=UnfoldAdminTextInputWidget, help_text="Its first characters, as the list shows them."
    )
    at = forms.SplitDateTimeField(
        required=False, widget=UnfoldAdminSplitDateTimeWidget, label="When", help_text="UTC. Empty: now."
    )
    address = forms.GenericIPAddressField(
        required=False, widget=UnfoldAdminTextInputWidget, label="From address", help_text="Empty: unknown."
    )
    amount = UsdField(required=False, min_value=0, label="At stake", help_text="USD. Empty: no money.")

    def __init__(self, data: Any, tenants: list[Tenant]) -> None:
        super().__init__(data)
        self.tenants = {tenant.slug: tenant for tenant in tenants}
        self.fields["tenant"].choices = [(tenant.slug, tenant.name) for tenant in tenants]  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        """With ``found_user`` and ``found_token``, those that may be looked into."""
        given: dict[str, Any] = super().clean() or {}
        tenant = self.tenants.get(given.get("tenant", ""))
        if tenant is None or not given.get("person"):
            return given
        user = known_people(tenant).filter(username=given["person"].strip()).first()
        if user is None:
            self.add_error("person", f"Nobody of that name has a role, a grant or a token in {tenant.slug}.")
        start = given.get("token", "").strip().rstrip("…")
        if user is not None and start:
            given["found_token"] = ApiToken.objects.filter(
                user=user, tenant=tenant, token_key__startswith=start
            ).first()
            if given["found_token"] is None:
                self.add_error("token", "This person has no such token there.")
        return {**given, "found_user": user}


def known_people(tenant: Tenant) -> Any:
    """The people who have something to do with a tenant, and platform admins."""
    has = Q(memberships__tenant=tenant) | Q(swarm_grants__tenant=tenant) | Q(is_superuser=True)
    return User.objects.filter(has).distinct()


def why_page(request: HttpRequest) -> HttpResponse:
    """The form and, once it is filled in, the steps."""
    tenants = list(readable(principal_of_request(request)))
    form = WhyForm(request.GET if "person" in request.GET else None, tenants)
    explanation = None
    if form.is_valid():
        given = form.cleaned_data
        explanation = explain(
            given["found_user"],
            form.tenants[given["tenant"]],
            Permission(given["permission"]),
            at=given["at"] or timezone.now(),
            swarm_id=given["swarm"],
            resource=Resource(given["resource"]) if given["resource"] else None,
            token=given.get("found_token"),
            address=given["address"] or None,
            amount=given["amount"],
        )
    context = {
        **admin.site.each_context(request),
        "title": "Why allowed or denied",
        "about": ABOUT_WHY,
        "form": form,
        "explanation": explanation,
    }
    return TemplateResponse(request, "admin/tenants/why.html", context)


register_page(
    Page(name="access_who", path="tenants/who-can-do-what/", about=ABOUT_WHO, view=who_page, may_open=may_open)
)
register_page(Page(name="access_why", path="tenants/why/", about=ABOUT_WHY, view=why_page, may_open=may_open))
