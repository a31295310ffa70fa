"""Who sees and does what in the administration: our permission strings, not Django's, limited to their tenants.

Each model's admin is one of two: rows that belong to a tenant (:class:`TenantModelAdmin`), or rows that belong to the
platform (:class:`PlatformModelAdmin`). Platform admins (superusers) may do all that the model's admin allows at all.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any, ClassVar

from django.contrib import messages
from django.contrib.admin import ModelAdmin as DjangoModelAdmin
from django.core.exceptions import PermissionDenied
from django.db import models
from django.forms import ModelForm
from django.http import HttpRequest
from django.template.response import TemplateResponse
from unfold.admin import TabularInline
from unfold.contrib.filters.admin import DropdownFilter

from apps.audit import trail
from apps.tenants.access import AccessDenied, Principal, principal_of_request
from apps.tenants.models import Tenant
from apps.tenants.roles import Permission
from portal.admin import FORM_FIELDS, ModelAdmin, named_formfield
from portal.admin_columns import value_at
from portal.money import NanoDollarField, usd_text


class Scoped:
    """What both kinds share: permissions from the principal, and choices that never reach past it."""

    read_permission: ClassVar[Permission | None] = None
    write_permission: ClassVar[Permission | None] = None

    def principal(self, request: HttpRequest) -> Principal:
        return principal_of_request(request)

    def holds(self, request: HttpRequest, permission: Permission | None, row: Any = None) -> bool:
        """Whether the person has the permission: for the row's tenant, or in any tenant when there is no row."""
        raise NotImplementedError

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.holds(request, self.read_permission, obj) or self.holds(request, self.write_permission, obj)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.holds(request, self.write_permission, obj)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.holds(request, self.write_permission, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.holds(request, self.write_permission, obj)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if "queryset" not in kwargs:
            kwargs["queryset"] = self.choices_of(request, db_field.remote_field.model)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)  # type: ignore[misc]

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if "queryset" not in kwargs:
            kwargs["queryset"] = self.choices_of(request, db_field.remote_field.model)
        return super().formfield_for_manytomany(db_field, request, **kwargs)  # type: ignore[misc]

    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        self._verify_open(request)
        response = super().changelist_view(request, *args, **kwargs)  # type: ignore[misc]
        return self._telling(request, response)

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        self._verify_open(request)
        response = super().changeform_view(request, *args, **kwargs)  # type: ignore[misc]
        return self._telling(request, response)

    def _verify_open(self, request: HttpRequest) -> None:
        """Raises PermissionDenied, naming the access policies, when it is they that keep this person out."""
        principal = self.principal(request)
        if not principal.circumstances.policies or self.has_view_permission(request):
            return
        for permission in (self.read_permission, self.write_permission):
            if permission is not None:
                try:
                    principal.verify_anywhere(permission)
                except AccessDenied as denial:
                    raise PermissionDenied(str(denial)) from denial

    def _telling(self, request: HttpRequest, response: Any) -> Any:
        """Says above a page which access policies withhold rows or acts of it."""
        if isinstance(response, TemplateResponse) and (denial := self.principal(request).withheld()):
            messages.warning(request, denial)
        return response

    def choices_of(self, request: HttpRequest, model: type[models.Model]) -> models.QuerySet[Any]:
        """The rows of another model that a form may offer and accept."""
        principal = self.principal(request)
        if issubclass(model, Tenant):
            return principal.tenants(self.write_permission or self.read_permission)
        admin = self.admin_site._registry.get(model)  # type: ignore[attr-defined]
        if admin is None or not admin.has_view_permission(request):
            return model._default_manager.all() if principal.everything else model._default_manager.none()
        rows: models.QuerySet[Any] = admin.get_queryset(request)
        return rows


class TenantScoped(Scoped):
    """Rows that belong to a tenant, found at ``tenant_path`` from the row ("swarm__tenant_id")."""

    tenant_path: ClassVar[str] = "tenant_id"
    swarm_path: ClassVar[str | None] = None
    """Where the swarm's id is, for rows that belong to a swarm: grants on it count for them."""

    def tenant_id_of(self, row: Any) -> uuid.UUID | None:
        """The tenant that a row belongs to; None for rows of the platform, which only platform admins see."""
        found: uuid.UUID | None = value_at(row, self.tenant_path)
        return found

    def holds(self, request: HttpRequest, permission: Permission | None, row: Any = None) -> bool:
        principal = self.principal(request)
        if permission is None or principal.everything:
            return principal.everything
        if row is None:
            return principal.can_anywhere(permission, on_a_swarm=self.swarm_path is not None)
        tenant_id = self.tenant_id_of(row)
        swarm_id = value_at(row, self.swarm_path) if self.swarm_path else None
        return tenant_id is not None and principal.can(permission, tenant_id, swarm_id=swarm_id)

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Any]:
        principal = self.principal(request)
        rows: models.QuerySet[Any] = super().get_queryset(request)  # type: ignore[misc]
        if principal.everything:
            return rows
        allowed: set[uuid.UUID] = set()
        swarms: set[uuid.UUID] = set()
        for permission in {self.read_permission, self.write_permission}:
            if permission is not None:
                allowed |= principal.tenant_ids(permission) or set()
                swarms |= principal.swarm_ids(permission)
        if not self.swarm_path or not swarms:
            return self.of_tenants(rows, allowed)
        return rows.filter(
            models.Q(**{f"{self.tenant_path}__in": allowed}) | models.Q(**{f"{self.swarm_path}__in": swarms})
        )

    def of_tenants(self, rows: models.QuerySet[Any], tenant_ids: Iterable[uuid.UUID]) -> models.QuerySet[Any]:
        """The rows of these tenants."""
        return rows.filter(**{f"{self.tenant_path}__in": set(tenant_ids)})


class PlatformScoped(Scoped):
    """Rows that belong to the platform: changed by platform admins, seen by whoever holds ``read_permission`` anywhere.

    Without a ``read_permission`` they are for platform admins only.
    """

    def holds(self, request: HttpRequest, permission: Permission | None, row: Any = None) -> bool:
        principal = self.principal(request)
        if permission is None or permission is self.write_permission:
            return principal.everything
        return principal.can_anywhere(permission)

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Any]:
        """None for whom they are not for: a page of one answers as if it had never been."""
        rows: models.QuerySet[Any] = super().get_queryset(request)  # type: ignore[misc]
        return rows if self.has_view_permission(request) else rows.none()


class AuditedModelAdmin(ModelAdmin):
    """Each change made on these pages is an audit entry in its transaction, with values before and after.

    Values of ``unaudited`` fields are left out (the entry says only that they changed): text about people, secrets.
    """

    unaudited: ClassVar[frozenset[str]] = frozenset()
    audit_as: ClassVar[str] = ""

    def construct_change_message(self, request: HttpRequest, form: ModelForm, formsets: Any, add: bool = False) -> Any:
        details = self._changes(form)
        for formset in formsets or ():
            kind = formset.model._meta.model_name
            for obj in formset.new_objects:
                details.setdefault("added", []).append({kind: _values_of(obj)})
            for obj, _ in formset.changed_objects:
                details.setdefault("changed", []).append({kind: _values_of(obj)})
            for obj in formset.deleted_objects:
                details.setdefault("removed", []).append({kind: _values_of(obj)})
        return details

    def _changes(self, form: ModelForm) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        for name in form.changed_data:
            if name in self.unaudited or name not in {field.name for field in self.opts.fields}:
                changes[name] = "changed"
            else:
                field = self.opts.get_field(name)
                changes[name] = [_plain(field, form.initial.get(name)), _plain(field, form.cleaned_data.get(name))]
        return changes

    def audit(self, request: HttpRequest, obj: Any, verb: str, details: Any) -> None:
        if self.audits_itself:
            return
        tenant_id = self.tenant_id_of(obj) if isinstance(self, TenantScoped) else None
        trail.record(
            principal_of_request(request),
            f"{self.audit_as or self.opts.model_name}:{verb}",
            obj,
            tenant_id=tenant_id,
            details=details if isinstance(details, dict) else {},
        )


class TenantModelAdmin(TenantScoped, AuditedModelAdmin):
    """Base of the admin of a model whose rows belong to tenants."""


class PlatformModelAdmin(PlatformScoped, AuditedModelAdmin):
    """Base of the admin of a model whose rows belong to the platform."""


class TenantInline(TenantScoped, TabularInline):
    """Base of rows of a tenant that are edited on another row's page; that row's tenant decides."""

    extra = 0
    hide_title = True
    formfield_overrides: ClassVar[dict[Any, Any]] = FORM_FIELDS

    def tenant_id_of(self, row: Any) -> uuid.UUID | None:
        """The tenant of the page's row: a tenant's own id, or what its ``tenant_id`` says."""
        found: uuid.UUID | None = row.pk if isinstance(row, Tenant) else getattr(row, "tenant_id", None)
        return found

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """The choices are read once per request, not once per row of the table."""
        field = super().formfield_for_foreignkey(db_field, request, **kwargs)
        read: dict[str, Any] = request.__dict__.setdefault("_inline_choices", {})
        if field is not None:
            field.choices = read.setdefault(f"{self.model.__name__}.{db_field.name}", list(field.choices))
        return field


class PlatformInline(PlatformScoped, TabularInline):
    """Base of rows of the platform that are edited on another row's page."""

    extra = 0
    hide_title = True
    labels: ClassVar[dict[str, str]] = {}
    hints: ClassVar[dict[str, str]] = {}
    formfield_overrides: ClassVar[dict[Any, Any]] = FORM_FIELDS

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        return named_formfield(self, super().formfield_for_dbfield(db_field, request, **kwargs), db_field)


class TenantFilter(DropdownFilter):
    """By tenant, among those the person may see."""

    title = "tenant"
    parameter_name = "tenant"

    def lookups(self, request: HttpRequest, model_admin: DjangoModelAdmin) -> list[tuple[str, str]]:
        principal = principal_of_request(request)
        permission = getattr(model_admin, "read_permission", None)
        rows = principal.tenants(permission).values_list("pk", "name")[:200]
        found = [(str(pk), name) for pk, name in rows]
        return found if len(found) > 1 else []

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any]:
        try:
            wanted = uuid.UUID(self.value() or "")
        except ValueError:
            return queryset
        model_admin = getattr(self, "scoped_admin", None)
        path = model_admin.tenant_path if model_admin else "tenant_id"
        return queryset.filter(**{path: wanted})

    def __init__(self, request: HttpRequest, params: Any, model: type[models.Model], model_admin: Any) -> None:
        self.scoped_admin = model_admin if isinstance(model_admin, TenantScoped) else None
        super().__init__(request, params, model, model_admin)


def _values_of(obj: models.Model) -> dict[str, Any]:
    return {field.attname: _plain(field, getattr(obj, field.attname)) for field in obj._meta.concrete_fields}


def _plain(field: Any, value: Any) -> Any:
    """A value as the trail keeps it: numbers, truth and short text; money in USD; rows by their id."""
    if isinstance(value, models.Model):
        return str(value.pk)
    if isinstance(field, NanoDollarField) and isinstance(value, int):
        return f"{usd_text(value)} USD"
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)[:500]
