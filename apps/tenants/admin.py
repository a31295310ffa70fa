"""Tenants, people, their roles and their tokens."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import ChoicesDropdownFilter, FieldTextFilter
from unfold.forms import AdminPasswordChangeForm, PaginationInlineFormSet, UserChangeForm, UserCreationForm
from unfold.widgets import (
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectMultipleWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
)

from apps.tenants import (  # noqa: F401  (they register what they show)
    admin_access,
    admin_grants,
    admin_identity,
    admin_logins,
    admin_policies,
)
from apps.tenants.access import PolicyDenied
from apps.tenants.actions import CannotCreateToken, create_token, revoke_token
from apps.tenants.admin_scoping import TenantFilter, TenantInline, TenantModelAdmin
from apps.tenants.models import ApiToken, Membership, Tenant, User
from apps.tenants.roles import Permission, Role
from portal.admin import Card, list_url
from portal.admin_columns import (
    BAD,
    BUSY,
    CALM,
    GOOD,
    WARN,
    Display,
    label,
    link_column,
    moment,
    when_column,
    yes_column,
)

admin.site.unregister(Group)  # roles are memberships, not Django's groups

ACTIVE: Display = yes_column("is_active", "State", yes=("active", GOOD), no=("inactive", CALM))


class MembershipFormSet(PaginationInlineFormSet):
    """Roles that a person gives on one page."""

    def clean(self) -> None:
        super().clean()
        given = [
            (form.instance.user_id, form.instance.tenant_id, form.cleaned_data["role"])
            for form in self.forms
            if form.cleaned_data.get("role") and not form.cleaned_data.get("DELETE")
        ]
        if len(given) > len(set(given)):
            raise ValidationError("The same role is given twice.")


class MembershipInline(TenantInline):
    """Who works for a tenant, on the tenant's page; where a person works, on the person's page.

    What groups gave is left out: the next login would give it again.
    """

    model = Membership
    formset = MembershipFormSet
    fields = ("user", "tenant", "role")
    read_permission = write_permission = Permission.USER_MANAGE
    verbose_name_plural = "people and their roles, given by hand"
    per_page = 20

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Membership]:
        rows: models.QuerySet[Membership] = super().get_queryset(request)
        return rows.filter(provider=None).select_related("user", "tenant").order_by("tenant__slug", "user__username")


@admin.register(Tenant)
class TenantAdmin(TenantModelAdmin):
    about = "Customers or departments. Each owns its swarms, budgets and costs, and is seen by nobody else."
    empty_hint = "Add a tenant, then a budget for it, and give people their roles in it."
    read_permission = write_permission = Permission.USER_MANAGE
    tenant_path = "id"
    list_display = ("name", "slug", "time_zone", "weight", "most_agents", "state", "created")
    list_filter = ("is_active",)
    search_fields = ("name", "slug")
    ordering = ("slug",)
    fields = ("name", "slug", "time_zone", "weight", "max_agents", "calls_at_limit", "attributes", "is_active")
    own_fields = ("calls_at_limit",)
    labels: ClassVar[dict[str, str]] = {"max_agents": "Most agents", "is_active": "Active"}
    inlines = (MembershipInline,)
    state = ACTIVE
    created = when_column("created_at", "Created")

    @admin.display(description="Most agents", ordering="max_agents")
    def most_agents(self, tenant: Tenant) -> str:
        return "no cap" if tenant.max_agents is None else str(tenant.max_agents)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Shares of the pool are the platform's to give; a tenant's own admin manages its people and its policies."""
        if self.principal(request).everything:
            return ()
        return tuple(field for field in self.fields if field not in self.own_fields)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.principal(request).everything

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # its ledger and trail stay: it is made inactive instead


class PeopleScoped(TenantModelAdmin):
    """People have no tenant of their own: they are seen where they have a role."""

    def of_tenants(self, rows: models.QuerySet[Any], tenant_ids: Iterable[Any]) -> models.QuerySet[Any]:
        return rows.filter(pk__in=Membership.objects.filter(tenant_id__in=tenant_ids).values("user_id"))

    def holds(self, request: HttpRequest, permission: Permission | None, row: Any = None) -> bool:
        if row is None or permission is None or self.principal(request).everything:
            return super().holds(request, permission)
        places = self.principal(request).tenant_ids(permission) or ()
        return Membership.objects.filter(user=row, tenant_id__in=places).exists()

    def tenant_id_of(self, row: Any) -> None:
        return None


@admin.register(User)
class UserAdmin(PeopleScoped, DjangoUserAdmin):  # type: ignore[misc]
    about = (
        "People who log in. What they may do is in their memberships; staff may also use these pages, within the same "
        "permissions. A platform admin (superuser) may do everything, everywhere."
    )
    empty_hint = "Add a user, then give them a role in a tenant."
    read_permission = Permission.USER_MANAGE  # without a write permission: accounts are the platform's
    unaudited = frozenset({"password", "username", "email", "first_name", "last_name"})
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "email", "roles", "may_use", "state", "last_seen")
    list_filter = ("is_active", "is_staff", "is_superuser")
    search_fields = ("username", "email", "first_name", "last_name")
    ordering = ("username",)
    filter_horizontal = ()
    inlines = (MembershipInline,)
    fieldsets = (
        (None, {"fields": ("username", "password")}),
        ("Person", {"fields": ("first_name", "last_name", "email")}),
        ("Access", {"fields": ("is_active", "is_staff", "is_superuser", "group_roles")}),
        ("Dates", {"fields": ("last_seen", "joined")}),
    )
    add_fieldsets = (
        (None, {"fields": ("username", "email", "usable_password", "password1", "password2", "is_staff")}),
    )
    readonly_fields = ("last_seen", "joined", "group_roles")
    shown_as: ClassVar[dict[str, str]] = {"password": "state"}
    labels: ClassVar[dict[str, str]] = {"is_staff": "Staff", "is_superuser": "Platform admin"}
    hints: ClassVar[dict[str, str]] = {
        "is_active": "An inactive account can neither log in nor use its tokens.",
        "is_staff": "May use these pages, within the permissions of their roles.",
        "is_superuser": "May do everything, in every tenant.",
    }
    state = ACTIVE
    last_seen = when_column("last_login", "Last login")
    joined = when_column("date_joined", "Joined")

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[User]:
        seen = self.principal(request).tenants(Permission.USER_MANAGE).values("pk")
        memberships = (
            Membership.objects.filter(tenant__in=seen).select_related("tenant", "provider").order_by("tenant__slug")
        )
        return super().get_queryset(request).prefetch_related(models.Prefetch("memberships", memberships, "seen_roles"))

    @admin.display(description="May use", ordering="is_staff")
    def may_use(self, user: User) -> SafeString | str:
        if user.is_superuser:
            return label("everything", WARN, "A platform admin: every tenant, every permission.")
        return label("administration", BUSY) if user.is_staff else label("console", CALM)

    @admin.display(description="Roles")
    def roles(self, user: Any) -> str:
        return ", ".join(f"{each.role} of {each.tenant.slug}" for each in user.seen_roles) or "–"

    @admin.display(description="Roles from groups")
    def group_roles(self, user: Any) -> str:
        given = [f"{each.role} of {each.tenant.slug}, by {each.provider}" for each in user.seen_roles if each.provider]
        return "; ".join(given) or "none"

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # what they did refers to them: an account is made inactive instead


@admin.register(Membership)
class MembershipAdmin(TenantModelAdmin):
    about = "Who has which role where. A role's permissions count from the next request on."
    empty_hint = "Add a membership to give a person a role in a tenant."
    read_permission = write_permission = Permission.USER_MANAGE
    list_display = ("user_link", "role", "tenant_link", "source", "since")
    list_display_links = ("role",)
    list_filter = (TenantFilter, ("role", ChoicesDropdownFilter))
    search_fields = ("user__username", "user__email")
    list_select_related = ("user", "tenant", "provider")
    ordering = ("tenant__slug", "user__username", "id")
    fields = ("user", "tenant", "role", "source")
    readonly_fields = ("source",)
    user_link = link_column("user", "Person")
    tenant_link = link_column("tenant", "Tenant")
    since = when_column("created_at", "Since")

    @admin.display(description="Given", ordering="provider")
    def source(self, membership: Membership) -> str:
        return f"by a group at {membership.provider}" if membership.provider else "by hand"

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """What a group gave, the next login would give again: group rules are the place to change it."""
        return super().has_change_permission(request, obj) and not (obj and obj.provider_id)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_delete_permission(request, obj) and not (obj and obj.provider_id)


class TokenForm(forms.Form):
    """What a new token is for."""

    user = forms.ModelChoiceField(User.objects.none(), widget=UnfoldAdminSelectWidget, help_text="It acts for them.")
    tenant = forms.ModelChoiceField(Tenant.objects.none(), widget=UnfoldAdminSelectWidget)
    role = forms.ChoiceField(
        choices=[("", "Every role the person has there"), *Role.choices],
        required=False,
        widget=UnfoldAdminSelectWidget,
        help_text="Narrows the token to one of the person's roles.",
    )
    permissions = forms.MultipleChoiceField(
        choices=[(str(name), str(name)) for name in Permission],
        required=False,
        widget=UnfoldAdminSelectMultipleWidget,
        help_text="Narrows the token to these. None picked: all that its roles may.",
    )
    name = forms.CharField(
        max_length=100, required=False, widget=UnfoldAdminTextInputWidget, help_text="What it is for."
    )
    days = forms.IntegerField(
        min_value=1, max_value=3650, initial=90, widget=UnfoldAdminIntegerFieldWidget, help_text="It expires after."
    )


@admin.register(ApiToken)
class ApiTokenAdmin(TenantModelAdmin):
    about = "Tokens for the REST API, kept as hashes. A token is shown once, when it is made; after that, only revoked."
    empty_hint = "Add a token to let a program use the REST API."
    read_permission = write_permission = Permission.USER_MANAGE
    audits_itself = True
    list_display = ("token_start", "name", "user_link", "tenant_link", "may_do", "made", "used", "expires")
    list_display_links = None
    list_filter = (TenantFilter, ("role", ChoicesDropdownFilter), ("token_key", FieldTextFilter))
    search_fields = ("token_key", "name", "user__username")
    list_select_related = ("user", "tenant")
    ordering = ("-created", "digest")
    actions = ("revoke",)
    fields = ("token_start", "name", "user_link", "tenant_link", "may_do", "made", "used", "expires")
    user_link = link_column("user", "Acts for")
    tenant_link = link_column("tenant", "In tenant")
    made = when_column("created", "Created")
    used = when_column("last_used_at", "Last used")

    @admin.display(description="Token", ordering="token_key")
    def token_start(self, token: ApiToken) -> str:
        return f"{token.token_key}…"

    @admin.display(description="May do", ordering="role")
    def may_do(self, token: ApiToken) -> str:
        role = token.role or "every role of the person"
        return f"{role}: only {', '.join(token.permissions)}" if token.permissions else role

    @admin.display(description="Expires", ordering="expiry")
    def expires(self, token: ApiToken) -> str:
        over = token.expiry is not None and token.expiry <= dt.datetime.now(dt.UTC)
        return label("expired", BAD, f"{token.expiry:%Y-%m-%d %H:%M}") if over else moment(token.expiry)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # revoking is the way, and is audited with its tenant

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return self.holds(request, self.write_permission)

    @admin.action(description="Revoke", permissions=["revoke"])
    def revoke(self, request: HttpRequest, tokens: models.QuerySet[ApiToken]) -> None:
        by, rows = self.principal(request), self.chosen(request)
        self.act_on_each(
            request, rows, lambda token: revoke_token(token, by=by), refusals=(PolicyDenied,), done="revoked"
        )

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        """Makes a token and shows its text, in this response and nowhere else."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        principal = self.principal(request)
        form = TokenForm(request.POST or None)
        people = self.choices_of(request, User).filter(is_active=True).order_by("username")
        form.fields["user"].queryset = people if principal.everything else people.filter(is_superuser=False)  # type: ignore[attr-defined]
        form.fields["tenant"].queryset = self.choices_of(request, Tenant)  # type: ignore[attr-defined]
        text = ""
        if request.method == "POST" and form.is_valid():
            given = form.cleaned_data
            try:
                _, text = create_token(
                    given["user"],
                    given["tenant"],
                    role=given["role"],
                    permissions=given["permissions"],
                    name=given["name"],
                    life=dt.timedelta(days=given["days"]),
                    by=principal,
                )
            except CannotCreateToken as refusal:
                form.add_error(None, str(refusal))
        if text:
            self.message_user(request, "The token was created. Copy it now.", messages.SUCCESS)
        response = TemplateResponse(
            request,
            "admin/tenants/apitoken/add.html",
            {
                **self.admin_site.each_context(request),
                "title": "New API token",
                "opts": self.opts,
                "form": form,
                "token": text,
                "list_url": list_url(ApiToken),
                "about": self.about,
            },
        )
        response["Cache-Control"] = "no-store"
        return response

    def card(self, request: HttpRequest) -> Card | None:
        return None
