"""Grants on single swarms: who holds which, and withdrawing them. They are given on the page of their swarm."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin import helpers
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import DropdownFilter
from unfold.decorators import action
from unfold.enums import ActionVariant
from unfold.widgets import (
    UnfoldAdminSelectWidget,
    UnfoldAdminSplitDateTimeWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
)

from apps.tenants import granting
from apps.tenants.access import AccessDenied, principal_of_request
from apps.tenants.admin_scoping import TenantFilter, TenantModelAdmin
from apps.tenants.models import SwarmGrant, Tenant
from apps.tenants.roles import Permission
from portal.admin import ReadOnly, list_url
from portal.admin_columns import BAD, label, link_column, moment, reference_column, text_column, when_column


class GrantForm(forms.Form):
    """Who may do what on a swarm, until when and why."""

    person = forms.CharField(
        max_length=254,
        widget=UnfoldAdminTextInputWidget,
        help_text="Username or e-mail address, as the person logs in. A role in the tenant is not needed.",
    )
    gives = forms.ChoiceField(choices=granting.GRANTABLE, widget=UnfoldAdminSelectWidget, label="May do")
    expires_at = forms.SplitDateTimeField(
        required=False,
        widget=UnfoldAdminSplitDateTimeWidget,
        label="Until",
        help_text="UTC. It ends by itself then. Empty: until it is withdrawn.",
    )
    reason = forms.CharField(
        max_length=500,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}),
        help_text="Kept with the grant and in the audit trail.",
    )


class WithdrawForm(forms.Form):
    """Why a grant ends."""

    reason = forms.CharField(
        max_length=500,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}),
        help_text="Kept in the audit trail.",
        error_messages={"required": "Say why it is withdrawn: the reason is kept in the audit trail."},
    )


class StateFilter(DropdownFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("in_force", "In force"), ("expired", "Expired")]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        in_force = SwarmGrant.objects.in_force(now=timezone.now())
        match self.value():
            case "in_force":
                return queryset.filter(pk__in=in_force.values("pk"))
            case "expired":
                return queryset.exclude(pk__in=in_force.values("pk"))
        return queryset


@admin.register(SwarmGrant)
class SwarmGrantAdmin(ReadOnly, TenantModelAdmin):
    about = "Permissions on single swarms, for people with or without a role in the tenant. Each ends when it expires."
    empty_hint = "Open a swarm and choose “Grant access…”."
    read_permission = Permission.USER_MANAGE
    references = {"swarm_id": "swarms.Swarm"}
    search_ids = ("swarm_id", "user_id")
    list_display = ("gives", "person", "swarm", "tenant_link", "until", "given", "reason_text")
    list_filter = (TenantFilter, StateFilter)
    search_fields = ("user__username", "user__email", "gives")
    search_help_text = "Name of a person, a permission or role, id of a swarm"
    list_select_related = ("user", "tenant", "granted_by")
    ordering = ("-id",)
    actions = ("withdraw_chosen",)
    actions_detail = ("withdraw_one",)
    fieldsets = (
        (None, {"fields": ("gives", "person", "swarm", "tenant_link")}),
        ("Given", {"fields": ("giver", "given", "reason_full", "until")}),
    )
    person = link_column("user", "Person")
    giver = link_column("granted_by", "By")
    tenant_link = link_column("tenant", "Tenant")
    swarm = reference_column("swarm_id", "Swarm")
    given = when_column("created_at", "Given")
    reason_text = text_column("reason", "Reason", limit=60)
    reason_full = text_column("reason", "Reason")

    @admin.display(description="Until", ordering="expires_at")
    def until(self, grant: SwarmGrant) -> SafeString | str:
        if grant.has_expired(now=timezone.now()):
            return label("expired", BAD, f"{grant.expires_at:%Y-%m-%d %H:%M} UTC")
        return moment(grant.expires_at) if grant.expires_at else "withdrawn"

    def has_withdraw_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self.holds(request, Permission.USER_MANAGE)

    @admin.action(description="Withdraw…", permissions=["withdraw"])
    def withdraw_chosen(self, request: HttpRequest, grants: models.QuerySet[SwarmGrant]) -> HttpResponse | None:
        return self._withdraw(request, list(self.chosen(request)), request.get_full_path(), asked="confirmed")

    @action(
        description="Withdraw…",
        url_path="withdraw",
        icon="link_off",
        permissions=["withdraw"],
        variant=ActionVariant.DANGER,
    )
    def withdraw_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        grant = self.get_object(request, object_id)
        done = self._withdraw(request, [grant], list_url(SwarmGrant)) if grant else None
        return done or redirect(list_url(SwarmGrant))

    def _withdraw(
        self, request: HttpRequest, grants: list[SwarmGrant], back: str, *, asked: str = ""
    ) -> HttpResponse | None:
        """The page that asks why; None when it was done, or there is nothing to do."""
        given = request.POST if request.method == "POST" and (not asked or asked in request.POST) else None
        form = WithdrawForm(given)
        if form.is_valid():
            by, reason = self.principal(request), form.cleaned_data["reason"]
            refusals = (granting.CannotGrant, AccessDenied)
            self.act_on_each(
                request,
                grants,
                lambda grant: granting.withdraw(grant, by=by, reason=reason),
                refusals=refusals,
                done="withdrawn",
            )
            return None
        context = {
            **self.admin_site.each_context(request),
            "title": "Withdraw a grant" if len(grants) == 1 else f"Withdraw {len(grants)} grants",
            "about": "From the next request on, it gives nothing any more.",
            "grants": self.prepared(request, grants),
            "form": form,
            "back": back,
            "button": "Withdraw",
            "danger": True,
            "chosen_name": helpers.ACTION_CHECKBOX_NAME if asked else "",
            "opts": self.opts,
        }
        return TemplateResponse(request, "admin/tenants/grant.html", context)


def grant_page(
    request: HttpRequest, context: dict[str, Any], *, swarm_id: uuid.UUID, name: str, tenant: Tenant, back: str
) -> HttpResponse:
    """The page that gives somebody access to a swarm; ``context`` is that of the admin site."""
    by = principal_of_request(request)
    by.verify(Permission.USER_MANAGE, tenant.pk)
    form = GrantForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        given = form.cleaned_data
        try:
            grant = granting.give(
                granting.person_named(given["person"]),
                swarm_id,
                tenant,
                gives=given["gives"],
                reason=given["reason"],
                expires_at=_utc(given["expires_at"]),
                by=by,
            )
        except granting.CannotGrant as refusal:
            form.add_error(None, str(refusal))
        else:
            messages.success(request, f"{grant.user.username} now has {grant.gives} on {name}.")
            return redirect(back)
    return TemplateResponse(
        request,
        "admin/tenants/grant.html",
        {
            **context,
            "title": f"Grant access to {name}",
            "about": "For this swarm only; the person sees no other by it. It counts from the next request on.",
            "form": form,
            "back": back,
            "button": "Grant access",
        },
    )


def _utc(moment: dt.datetime | None) -> dt.datetime | None:
    return moment.astimezone(dt.UTC) if moment else None
