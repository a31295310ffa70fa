"""The base of every admin page: constant numbers of queries, no COUNT where tables are huge, links, read-only pages.

It knows no app. Who sees which rows is decided by the classes of ``apps.tenants.admin_scoping``, which build on this.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from django.apps import apps
from django.contrib import messages
from django.contrib.admin import ShowFacets
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import NoReverseMatch, reverse
from django.utils.functional import SimpleLazyObject
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin as UnfoldModelAdmin
from unfold.paginator import InfinitePaginator
from unfold.views import ChangeList as UnfoldChangeList

from portal.admin_columns import NOTHING, short
from portal.admin_fields import SecretInput, UsdField
from portal.encryption import EncryptedTextField
from portal.money import NanoDollarField

FORM_FIELDS: dict[Any, Any] = {
    NanoDollarField: {"form_class": UsdField},
    EncryptedTextField: {"widget": SecretInput},
    models.URLField: {"assume_scheme": "https"},
}


@dataclass(frozen=True, slots=True)
class Card:
    """A number on the admin's first page: what it counts, what to know about it, and where it leads."""

    title: str
    value: str
    detail: str = ""
    url: str = ""
    tone: str = ""


class ChangeList(UnfoldChangeList):
    """A page of rows whose references are loaded together, one query per kind of reference."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        if not self.query and not self.has_active_filters:
            self.full_result_count = self.result_count  # so that nobody is offered to see all of what they see
        self.result_list: list[Any] = self.model_admin.prepared(request, self.result_list)


class ModelAdmin(UnfoldModelAdmin):
    """Base of every model's admin.

    ``about`` is a sentence above the list and the page. ``references`` maps the name of a field that holds an id
    without a foreign key to the label of the model it means ("swarms.Swarm"); ``reference_column`` shows it.
    ``search_ids`` are fields that a typed UUID is looked up in, exactly. ``huge`` turns counting off.
    ``shown_as`` maps a form field to the display that stands for it where the person may only look. ``labels`` and
    ``hints`` name and explain form fields better than the model does. ``is_audited`` rows link to their audit entries.
    """

    about: str = ""
    huge = False
    references: ClassVar[dict[str, str]] = {}
    search_ids: ClassVar[Sequence[str]] = ()
    shown_as: ClassVar[dict[str, str]] = {}
    labels: ClassVar[dict[str, str]] = {}
    hints: ClassVar[dict[str, str]] = {}
    is_audited = True
    audits_itself = False

    list_per_page = 50
    list_max_show_all = 0
    show_facets = ShowFacets.NEVER
    show_full_result_count = False
    empty_value_display = NOTHING
    list_filter_submit = True
    list_fullwidth = True
    warn_unsaved_form = True
    list_before_template = "admin/about.html"
    change_form_before_template = "admin/about.html"
    formfield_overrides: ClassVar[dict[Any, Any]] = FORM_FIELDS

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return ChangeList

    def get_paginator(self, request: HttpRequest, queryset: Any, per_page: int, *args: Any, **kwargs: Any) -> Any:
        if self.huge:
            return InfinitePaginator(queryset, per_page, *args, **kwargs)
        return super().get_paginator(request, queryset, per_page, *args, **kwargs)

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        found = super().get_object(request, object_id, from_field)
        return self.prepared(request, [found])[0] if found is not None else None

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        return named_formfield(self, super().formfield_for_dbfield(db_field, request, **kwargs), db_field)

    def row_or_none(self, request: HttpRequest, object_id: str) -> Any:
        """The row of an id as it stands in a URL, if it is one and this person may see it."""
        try:
            rows = self.get_queryset(request).filter(pk=unquote(object_id))
            return rows.select_related(*(self.list_select_related or [None])).first()
        except (ValidationError, ValueError):
            return None

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        fieldsets = super().get_fieldsets(request, obj)
        if obj is None or self.has_change_permission(request, obj) or not self.shown_as:
            return fieldsets
        return [
            (title, {**options, "fields": [self._shown(field) for field in options["fields"]]})
            for title, options in fieldsets
        ]

    def _shown(self, field: Any) -> Any:
        if isinstance(field, list | tuple):
            return tuple(self._shown(each) for each in field)
        return self.shown_as.get(field, field)

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        try:
            wanted = uuid.UUID(search_term.strip())
        except ValueError:
            found: tuple[Any, bool] = super().get_search_results(request, queryset, search_term)
            return found
        query = models.Q(pk=wanted) if isinstance(self.opts.pk, models.UUIDField) else models.Q(pk__in=[])
        for name in self.search_ids:
            query |= models.Q(**{name: wanted})
        return queryset.filter(query), False

    # -- links ---------------------------------------------------------------------------------------------------------

    def prepared(self, request: HttpRequest, rows: Iterable[Any]) -> list[Any]:
        """The rows, with what their references mean, and knowing which models' pages this person may open."""
        rows = list(rows)
        registry = self.admin_site._registry
        may_open = self._may_open(request)
        for row in rows:
            row.__dict__["_may_open"] = may_open
        for name, model_label in self.references.items():
            model = apps.get_model(model_label)
            wanted = {row.pk: self.referenced_id(row, name) for row in rows}
            ids = {key for key in wanted.values() if key}
            found: dict[Any, Any] = {}
            if ids:
                related = getattr(registry.get(model), "list_select_related", False)
                queryset = model._base_manager.all()
                found = (queryset.select_related(*related) if related and related is not True else queryset).in_bulk(
                    ids
                )
            for row in rows:
                row.__dict__.setdefault("_referenced", {})[name] = found.get(wanted[row.pk])
        return rows

    def _may_open(self, request: HttpRequest) -> Any:
        """The models whose pages this person may open, found out once for a request, when a link is to be drawn."""

        def found() -> frozenset[type[models.Model]]:
            registry = self.admin_site._registry
            return frozenset(model for model, admin in registry.items() if admin.has_view_permission(request))

        return request.__dict__.setdefault("_may_open", SimpleLazyObject(found))

    def referenced_id(self, row: Any, name: str) -> Any:
        """The id that field ``name`` of a row refers to, or None."""
        return getattr(row, name)

    def link(self, row: Any, target: models.Model | None) -> SafeString | str:
        """The name of ``target``, linked to its page when the person looking at ``row`` may open that."""
        if target is None:
            return NOTHING
        admin = self.admin_site._registry.get(type(target))
        text = admin.name_for_links(target) if isinstance(admin, ModelAdmin) else str(target)
        if type(target) not in row.__dict__.get("_may_open", ()):
            return text
        url = admin_url(target)
        return format_html('<a href="{}" class="text-link">{}</a>', url, text) if url else text

    def name_for_links(self, obj: Any) -> SafeString | str:
        """What links to an object of this model say; its own page may say more."""
        return str(obj) or short(obj.pk)

    def link_to_list(self, row: Any, model: type[models.Model] | str, query: str, text: str) -> SafeString | str:
        """A link to the rows of another model that belong to this one, when the person may see that list."""
        target = apps.get_model(model) if isinstance(model, str) else model
        if target not in row.__dict__.get("_may_open", ()):
            return text
        return format_html('<a href="{}" class="text-link">{}</a>', list_url(target, query), text)

    # -- acts ----------------------------------------------------------------------------------------------------------

    def chosen(self, request: HttpRequest) -> models.QuerySet[Any]:
        """The rows ticked in the list, with those that its filter no longer shows: what became of them is told."""
        rows: models.QuerySet[Any] = self.get_queryset(request)
        return rows.filter(pk__in=request.POST.getlist(ACTION_CHECKBOX_NAME)).select_related(
            *(self.list_select_related or [None])
        )

    def response_action(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> HttpResponse | None:
        try:
            response: HttpResponse | None = super().response_action(request, queryset)
        except ValidationError:
            self.message_user(request, "Nothing was done: what was chosen cannot be read.", messages.ERROR)
            return redirect(request.get_full_path())
        return response

    def act_on_each(
        self,
        request: HttpRequest,
        rows: Iterable[Any],
        act: Callable[[Any], object],
        *,
        refusals: tuple[type[Exception], ...],
        done: str,
    ) -> int:
        """Does one thing to each row and says how many it was done to, and why not to the others; how many.

        ``done`` is the past participle for the message: "terminated".
        """
        count = 0
        reasons: dict[str, list[str]] = {}
        for row in rows:
            try:
                act(row)
                count += 1
            except refusals as refusal:
                reasons.setdefault(str(refusal), []).append(str(row))
        name = self.opts.verbose_name if count == 1 else self.opts.verbose_name_plural
        if count:
            self.message_user(request, f"{count} {name} {done}.", messages.SUCCESS)
        for reason, names in reasons.items():
            listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            self.message_user(request, f"Not {done}: {listed}. {reason}", messages.WARNING)
        return count

    def card(self, request: HttpRequest) -> Card | None:
        """The number this model shows on the first page, if any. Called for people who may see the model."""
        return None

    # -- history: the audit trail is the only one ----------------------------------------------------------------------

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> None:
        self.audit(request, obj, "create", message)

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> None:
        self.audit(request, obj, "update", message)

    def log_deletions(self, request: HttpRequest, queryset: Iterable[Any]) -> None:
        for obj in queryset:
            self.audit(request, obj, "delete", {})

    def audit(self, request: HttpRequest, obj: Any, verb: str, details: Any) -> None:
        """Records a change made on these pages, in its transaction."""
        raise NotImplementedError

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        """The audit entries of one object; what is not there for this person leads back, as its page does."""
        obj = self.get_object(request, unquote(object_id))
        if not self.has_view_permission(request, obj):
            raise PermissionDenied
        if obj is None:
            missing: HttpResponse = self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
            return missing
        url = reverse(f"{self.admin_site.name}:audit_auditentry_changelist")
        return redirect(f"{url}?resource_kind={self.opts.model_name}&resource_id={obj.pk}")


def named_formfield(named: Any, formfield: Any, db_field: models.Field[Any, Any]) -> Any:
    """A form field with the label and the hint that an admin or inline has for it."""
    if formfield is not None:
        formfield.label = named.labels.get(db_field.name, formfield.label)
        hint = "USD" if isinstance(db_field, NanoDollarField) else formfield.help_text
        formfield.help_text = named.hints.get(db_field.name, hint)
    return formfield


class ReadOnly:
    """A model whose rows the system writes: nothing is added, changed or deleted by hand. ``about`` says why."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def admin_url(target: models.Model) -> str:
    """The admin page of an object; empty when its model has none."""
    return page_url(type(target), target.pk)


def page_url(model: type[models.Model], pk: Any) -> str:
    """The admin page of the object with this key, if there is one; empty when its model has none."""
    try:
        return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_change", args=[quote(pk)])
    except NoReverseMatch:
        return ""


def list_url(model: type[models.Model], query: str = "") -> str:
    """The admin's list of a model, with a query string."""
    url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
    return f"{url}?{query}" if query else url
