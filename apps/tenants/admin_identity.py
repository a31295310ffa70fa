"""Identity providers, the rules from their groups to roles, and which account is whose there."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin
from django.db import models
from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import ChoicesDropdownFilter, RelatedDropdownFilter

from apps.tenants.admin_scoping import PlatformModelAdmin, TenantFilter
from apps.tenants.models import GroupRule, Identity, IdentityProvider
from apps.tenants.oidc.admitting import withdraw
from apps.tenants.oidc.discovery import discover
from apps.tenants.oidc.refusals import Refused
from portal.admin_columns import BAD, CALM, GOOD, Display, label, link_column, when_column, yes_column

OF_ENVIRONMENT = ("issuer", "client_id", "stored_secret", "client_secret_variable")
ON: Display = yes_column("is_active", "State", yes=("on", GOOD), no=("off", CALM))


@admin.register(IdentityProvider)
class IdentityProviderAdmin(PlatformModelAdmin):
    about = (
        "OpenID providers that people log in with, in the order in which they are offered. What their groups may do is "
        "in the group rules. Local accounts go on working whatever becomes of them."
    )
    empty_hint = "Add a provider, or name one in OIDC_ISSUER, to let people log in with their company account."
    list_display = ("name", "issuer", "rule_count", "state", "answers", "fetched")
    list_filter = ("is_active",)
    search_fields = ("name", "issuer")
    ordering = ("order", "name")
    actions = ("ask",)
    fieldsets = (
        (None, {"fields": ("name", "slug", "order", "is_active")}),
        ("At the provider", {"fields": ("issuer", "client_id", "stored_secret", "client_secret_variable", "scopes")}),
        ("People", {"fields": ("groups_claim", "creates_accounts", "session_hours")}),
        ("Connection", {"fields": ("answers", "fetched", "last_error", "callback")}),
    )
    readonly_fields = ("answers", "fetched", "last_error", "callback")
    labels: ClassVar[dict[str, str]] = {
        "is_active": "On",
        "client_id": "Client id",
        "client_secret_variable": "Variable of the client secret",
    }
    unaudited: ClassVar[frozenset[str]] = frozenset({"stored_secret"})
    hints: ClassVar[dict[str, str]] = {
        "issuer": "As the provider says it, to the letter. ISSUER/.well-known/openid-configuration must answer.",
    }
    state = ON
    fetched = when_column("discovered_at", "Last answered")

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[IdentityProvider]:
        rows: models.QuerySet[IdentityProvider] = super().get_queryset(request)
        return rows.annotate(rules_held=models.Count("rules"))

    @admin.display(description="Group rules", ordering="rules_held")
    def rule_count(self, provider: Any) -> SafeString | str:
        if not provider.rules_held:
            return label("none: nobody gets in", BAD)
        return self.link_to_list(provider, GroupRule, f"provider__id__exact={provider.pk}", f"{provider.rules_held:,}")

    @admin.display(description="Answers")
    def answers(self, provider: IdentityProvider) -> SafeString | str:
        if provider.last_error:
            return label("not lately", BAD, provider.last_error)
        return label("yes", GOOD) if provider.discovered_at else label("not asked yet", CALM)

    @admin.display(description="Redirect address")
    def callback(self, provider: IdentityProvider) -> str:
        return "https://HOST/login/callback/, and https://HOST/login/ after logging out"

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """What the environment says is changed there."""
        fixed = OF_ENVIRONMENT if obj is not None and obj.from_environment else ()
        return (*self.readonly_fields, *fixed)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Only what was changed: logins write to the row meanwhile."""
        if change:
            obj.save(update_fields=[name for name in form.changed_data if name in form.cleaned_data])
        else:
            obj.save()

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # accounts refer to it: it is switched off instead

    def has_ask_permission(self, request: HttpRequest) -> bool:
        return self.holds(request, self.write_permission)

    @admin.action(description="Check the connection", permissions=["ask"])
    def ask(self, request: HttpRequest, providers: models.QuerySet[IdentityProvider]) -> None:
        self.act_on_each(
            request,
            self.chosen(request),
            lambda provider: discover(provider, now=timezone.now()),
            refusals=(Refused,),
            done="reached",
        )


@admin.register(GroupRule)
class GroupRuleAdmin(PlatformModelAdmin):
    about = (
        "Which group at a provider has which role in a tenant. Rules count at the next login: it gives the roles of "
        "the person's groups, takes away those that no group gives any more, and leaves alone what was given by hand."
    )
    empty_hint = "Add a rule: without one, nobody who logs in with a provider gets in."
    list_display = ("group", "match", "role", "tenant_link", "provider_link")
    list_filter = (("provider", RelatedDropdownFilter), TenantFilter, ("role", ChoicesDropdownFilter))
    search_fields = ("group",)
    list_select_related = ("provider", "tenant")
    ordering = ("group", "id")
    fields = ("provider", "match", "group", "tenant", "role")
    tenant_link = link_column("tenant", "Tenant")
    provider_link = link_column("provider", "Provider")


@admin.register(Identity)
class IdentityAdmin(PlatformModelAdmin):
    about = (
        "Whose account is whose at a provider. A first login makes it; linking an account that exists, or another one, "
        "is done here, and gives the person at the provider everything that the account may do."
    )
    empty_hint = "Identities appear when people log in with a provider."
    unaudited: ClassVar[frozenset[str]] = frozenset({"subject"})
    list_display = ("user_link", "provider_link", "subject", "first", "last")
    list_display_links = ("subject",)
    list_filter = (("provider", RelatedDropdownFilter),)
    search_fields = ("subject", "user__username", "user__email")
    list_select_related = ("user", "provider")
    ordering = ("-created_at", "id")
    fields = ("user", "provider", "subject", "first", "last")
    readonly_fields = ("first", "last")
    autocomplete_fields = ("user",)
    hints: ClassVar[dict[str, str]] = {
        "user": "Whoever logs in as this subject acts as this user.",
    }
    user_link = link_column("user", "Account")
    provider_link = link_column("provider", "Provider")
    first = when_column("created_at", "Linked")
    last = when_column("last_login_at", "Last login")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return (*self.readonly_fields, *(("provider", "subject") if obj else ()))

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Links it; the account that it was linked to before loses what the provider's groups gave it."""
        before = Identity.objects.select_related("user").filter(pk=obj.pk).first() if change else None
        obj.issuer = obj.provider.known_issuer
        obj.save()
        if before and before.user_id != obj.user_id:
            withdraw(before.user, obj.provider, by=self.principal(request))

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        withdraw(obj.user, obj.provider, by=self.principal(request))
        obj.delete()

    def delete_queryset(self, request: HttpRequest, queryset: Any) -> None:
        for identity in queryset.select_related("user", "provider"):
            self.delete_model(request, identity)
