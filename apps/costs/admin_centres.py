"""Cost centres and the rules that say what is charged to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from apps.costs import centre_acts
from apps.costs.admin_centre_forms import CentreForm, ReasonForm, RuleForm, RuleFormSet
from apps.costs.centres import Rule, terms_of, terms_of_each
from apps.costs.charging import month_so_far
from apps.costs.models import CentreRule, CostCentre
from apps.tenants.admin_scoping import TenantFilter, TenantInline, TenantModelAdmin
from apps.tenants.roles import Permission
from portal.admin_columns import NOTHING, WARN, label, link_column, money

PREFILLED = ("kind", "agent", "model")
"""What a link to the form can fill in of a new rule."""
BETWEEN = 10
"""Room left between the positions of rules, so that one can be put between two."""


Places = dict[int, tuple[int, int, int | None]]
"""By rule: its place among the tenant's rules from 0, how many there are, and which earlier one takes all of it."""


class RuleInline(TenantInline):
    """The rules of a cost centre, on its page."""

    model = CentreRule
    tenant_path = "centre__tenant_id"
    form = RuleForm
    formset = RuleFormSet
    read_permission = Permission.COST_READ
    write_permission = Permission.COST_UPDATE
    fields = ("position", "kind", "agent", "model", "run", "person", "takes")
    readonly_fields = ("takes",)
    verbose_name, verbose_name_plural = "rule", "rules"
    ordering = ("position", "id")

    def get_extra(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> int:
        return 1 if request.method == "GET" and _prefilled(request) else 0

    def get_formset(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:
        self.places: Places = obj.__dict__["_places"] if obj else {}
        return super().get_formset(request, obj, **kwargs)

    @admin.display(description="User")
    def person(self, rule: CentreRule) -> str:
        """For those who may only look."""
        return str(rule.subject_id or "")

    @admin.display(description="Takes")
    def takes(self, rule: CentreRule) -> SafeString | str:
        """Which rule of the tenant's it is, and what of the rest it takes."""
        if rule.pk not in self.places:
            return NOTHING
        place, of, first = self.places[rule.pk]
        told = format_html("{} of {}: {}", _ordinal(place + 1), of, shortened(rule))
        if first is None:
            return told
        return format_html(
            '{} <span class="desk-aside">{} takes all of it</span>', label("never reached", WARN), f"Rule {first + 1}"
        )


@admin.register(CostCentre)
class CostCentreAdmin(TenantModelAdmin):
    about = (
        "Places in a tenant's books. Of all rules of a tenant, the first that matches an entry decides where it goes. "
        "A change holds for every month that is not closed; a closed one keeps the rules that it was closed with."
    )
    empty_hint = "Add a cost centre with a rule, or statements have one line of costs for nobody in particular."
    read_permission = Permission.COST_READ
    write_permission = Permission.COST_UPDATE
    audits_itself = True
    form = CentreForm
    inlines = (RuleInline,)
    hints: ClassVar[dict[str, str]] = {
        "code": "As the books have it, such as CC-4711. Once in a tenant.",
        "name": "What statements and exports call it.",
    }
    list_display = ("code", "name", "tenant_link", "rules_told", "this_month")
    list_filter = (TenantFilter,)
    search_fields = ("code", "name")
    list_select_related = ("tenant",)
    ordering = ("tenant__slug", "code")
    readonly_fields = ("this_month",)
    delete_confirmation_template = "admin/costs/delete_centre.html"
    tenant_link = link_column("tenant", "Tenant")

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return ((None, {"fields": ("tenant", ("code", "name"))}),)
        return ((None, {"fields": ("tenant_link", ("code", "name"), "this_month")}),)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return ("tenant_link", "this_month") if obj else ()

    # -- what is shown -----------------------------------------------------------------------------------------------

    def prepared(self, request: HttpRequest, rows: Iterable[Any]) -> list[Any]:
        prepared = super().prepared(request, rows)
        tenants = {row.tenant_id for row in prepared}
        terms = terms_of_each(tenants)
        # Rules can ask for anything of an entry, so this reads the ledger: a month of one tenant, and not of all.
        amounts = month_so_far(prepared[0].tenant, now=timezone.now()) if len(tenants) == 1 else None
        for row in prepared:
            row.__dict__["_rules"] = [rule for rule in terms[row.tenant_id].rules if rule.centre == row.code]
            row.__dict__["_amount"] = amounts.get(row.code, 0) if amounts is not None else None
        return prepared

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        found = super().get_object(request, object_id, from_field)
        if found is not None:
            found.__dict__["_places"] = _places(found)
        return found

    @admin.display(description="Rules")
    def rules_told(self, centre: CostCentre) -> SafeString | str:
        rules = centre.__dict__["_rules"]
        if not rules:
            return label("no rule", WARN, "Nothing is charged to it.")
        told = str(rules[0]) if len(rules) == 1 else f"{len(rules)} rules"
        return format_html('<span title="{}">{}</span>', "; ".join(map(str, rules[:20])), told)

    @admin.display(description="This month so far")
    def this_month(self, centre: CostCentre) -> SafeString | str:
        url = f"{reverse('admin:costs_charging')}?tenant={centre.tenant_id}"
        amount = centre.__dict__.get("_amount")
        text = "Where costs go" if amount is None else money(amount)
        return format_html('<a href="{}" class="text-link">{}</a>', url, text)

    # -- a rule that a link fills in -----------------------------------------------------------------------------------

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"tenant": request.GET.get("tenant", "")}

    def get_formset_kwargs(self, request: HttpRequest, obj: Any, inline: Any, prefix: str) -> dict[str, Any]:
        kwargs: dict[str, Any] = super().get_formset_kwargs(request, obj, inline, prefix)
        if request.method == "GET" and (rule := _prefilled(request)):
            positions = CentreRule.objects.filter(centre__tenant_id=obj.tenant_id) if obj.tenant_id else None
            last = positions.aggregate(last=models.Max("position"))["last"] if positions is not None else None
            kwargs["initial"] = [{"position": (last or 0) + BETWEEN, **rule}]
        return kwargs

    # -- acts ----------------------------------------------------------------------------------------------------------

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """The form; what only the act itself finds wrong, because somebody else was faster, is told on a fresh one."""
        try:
            response: HttpResponse = super().changeform_view(request, *args, **kwargs)
        except ValidationError as error:
            self.message_user(request, f"Nothing was changed. {' '.join(error.messages)}", messages.ERROR)
            return redirect(request.get_full_path())
        return response

    def save_model(self, request: HttpRequest, obj: CostCentre, form: Any, change: bool) -> None:
        """Saved with its rules, by one act: see ``save_related``."""

    def save_related(self, request: HttpRequest, form: Any, formsets: Sequence[Any], change: bool) -> None:
        by, given = self.principal(request), form.cleaned_data
        put, drop = [], []
        for formset in formsets:
            drop += [each.instance.pk for each in formset.deleted_forms if each.instance.pk]
            kept = (each for each in formset.forms if each not in formset.deleted_forms and each.has_changed())
            put += [each.instance for each in kept]
        if change:
            centre_acts.change_centre(
                form.instance, by=by, code=given.get("code"), name=given.get("name"), put=put, drop=drop
            )
        else:
            made = centre_acts.create_centre(
                tenant=given["tenant"], code=given["code"], name=given["name"], rules=put, by=by
            )
            form.instance.pk, form.instance._state.adding = made.pk, False
        self._tell_order(request, form.instance)

    def construct_change_message(self, request: HttpRequest, form: Any, formsets: Any, add: bool = False) -> Any:
        return {}  # the act has written down what it did

    def _tell_order(self, request: HttpRequest, centre: CostCentre) -> None:
        """What may surprise about the rules as they are now."""
        terms = terms_of(centre.tenant_id)
        for place, first in terms.never_reached().items():
            if terms.rules[place].centre == centre.code:
                told = f"Rule {place + 1} ({terms.rules[place]}) is never reached: rule {first + 1} of cost centre "
                told += f"{terms.rules[first].centre} comes first and takes {terms.rules[first]}."
                self.message_user(request, told, messages.WARNING)
        for place, rule in enumerate(terms.rules):
            if rule.centre == centre.code and rule.takes_everything and place not in terms.never_reached():
                told = f"Rule {place + 1} has nothing filled in: it takes everything that no earlier rule takes."
                self.message_user(request, told, messages.INFO)

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        """Asks for a reason, too."""
        asked = request.method == "POST" and self.has_delete_permission(request, self.row_or_none(request, object_id))
        if asked and not request.POST.get("reason", "").strip():
            self.message_user(request, "Nothing was deleted: say why, for the audit trail.", messages.ERROR)
            return redirect(request.path)
        try:
            context = {"reason_form": ReasonForm(), **(extra_context or {})}
            response: HttpResponse = super().delete_view(request, object_id, context)
        except ValidationError as error:
            self.message_user(request, " ".join(error.messages), messages.ERROR)
            return redirect(reverse("admin:costs_costcentre_changelist"))
        return response

    def delete_model(self, request: HttpRequest, obj: CostCentre) -> None:
        centre_acts.delete_centre(obj, by=self.principal(request), reason=request.POST.get("reason", ""))


def _prefilled(request: HttpRequest) -> dict[str, str]:
    """What the address fills in of a new rule."""
    return {name: request.GET[name] for name in PREFILLED if request.GET.get(name)}


def _places(centre: CostCentre) -> Places:
    rows = list(CentreRule.objects.filter(centre__tenant_id=centre.tenant_id).order_by("position", "pk").values("pk"))
    reached = terms_of(centre.tenant_id).never_reached()
    return {row["pk"]: (place, len(rows), reached.get(place)) for place, row in enumerate(rows)}


def shortened(rule: CentreRule | Rule) -> str:
    """A rule in words, with a pseudonym as it is shown elsewhere."""
    subject = str((rule.subject if isinstance(rule, Rule) else rule.subject_id) or "")
    return str(rule).replace(f"user {subject}", f"user …{subject[-8:]}") if subject else str(rule)


def _ordinal(number: int) -> str:
    ends = {1: "st", 2: "nd", 3: "rd"}
    return f"{number}{'th' if 10 <= number % 100 <= 20 else ends.get(number % 10, 'th')}"
