"""The forms of a cost centre and its rules."""

from __future__ import annotations

import uuid
from typing import Any

from django import forms
from django.forms.models import BaseInlineFormSet
from unfold.widgets import UnfoldAdminTextInputWidget

from apps.costs.models import CentreRule, CostCentre, Kind
from apps.privacy.models import DataSubject

MOST_RULES_AT_ONCE = 100
"""On one page: what a browser sends has room for no more."""


class CentreForm(forms.ModelForm):
    """Code and name; a code is there once in a tenant."""

    class Meta:
        model = CostCentre
        fields = ("tenant", "code", "name")

    def clean(self) -> dict[str, Any]:
        given: dict[str, Any] = super().clean() or self.cleaned_data
        tenant = given.get("tenant")
        tenant_id = tenant.pk if tenant else self.instance.tenant_id
        if (code := given.get("code")) and tenant_id:
            same = CostCentre.objects.filter(tenant_id=tenant_id, code=code).exclude(pk=self.instance.pk)
            if other := same.first():
                self.add_error("code", f"There is a cost centre {other} already: add rules to that one.")
        return given


class RuleForm(forms.ModelForm):
    """A rule; the person is given by the tenant's own name for them, and kept as a pseudonym."""

    person = forms.CharField(
        label="User",
        required=False,
        max_length=200,
        help_text="Your name for the person, as it was sent with the work, or the pseudonym that the ledger shows.",
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"}),
    )

    class Meta:
        model = CentreRule
        fields = ("position", "kind", "agent", "model", "run")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if kind := self.fields.get("kind"):
            kind.choices = [("", "any"), *Kind.choices]  # type: ignore[attr-defined]
        if self.instance.subject_id:
            self.initial.setdefault("person", str(self.instance.subject_id))

    def has_changed(self) -> bool:
        """A row that somebody added is meant, also when nothing is filled in: it takes everything."""
        return self.instance.pk is None or super().has_changed()


class RuleFormSet(BaseInlineFormSet):
    """The rules of a cost centre. Finds the people that they name, all in one query."""

    def clean(self) -> None:
        super().clean()
        cleaned = [form for form in self.forms if hasattr(form, "cleaned_data")]
        kept = [form for form in cleaned if not form.cleaned_data.get("DELETE")]
        if len(kept) > MOST_RULES_AT_ONCE:
            raise forms.ValidationError(
                f"A cost centre has at most {MOST_RULES_AT_ONCE} rules. Patterns such as research-* take many names."
            )
        named = [(form, form.cleaned_data.get("person") or "") for form in kept]
        people = self._people({text for _, text in named if text})
        for form, text in named:
            form.instance.subject_id = people.get(text)
            if text and text not in people and self.instance.tenant_id:
                form.add_error(
                    "person",
                    f"Nobody is known as “{text}” in this tenant. Give your own name for the person, as it was sent "
                    "with the work, or the pseudonym that the ledger shows.",
                )

    def _people(self, texts: set[str]) -> dict[str, uuid.UUID]:
        """The pseudonyms of those that the tenant knows, by what was typed."""
        if not texts or not self.instance.tenant_id:
            return {}
        of_tenant = DataSubject.objects.filter(tenant_id=self.instance.tenant_id)
        typed = {text: found for text in texts if (found := _uuid(text))}
        known = of_tenant.filter(reference__in=texts) | of_tenant.filter(pk__in=typed.values())
        rows = list(known.values_list("pk", "reference"))
        pseudonyms = {pk for pk, _ in rows}
        by_id = {text: found for text, found in typed.items() if found in pseudonyms}
        return {**by_id, **{reference: pk for pk, reference in rows if reference in texts}}


class ReasonForm(forms.Form):
    """Why a cost centre is deleted."""

    reason = forms.CharField(
        label="Why",
        max_length=200,
        help_text="Kept in the audit trail.",
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"}),
    )


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
