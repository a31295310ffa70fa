"""The month that an address of the administration means: a tenant's, by its slug, closed or open."""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass

from django.contrib import messages
from django.http import Http404, HttpRequest
from django.urls import reverse
from django.utils import timezone

from apps.costs.exports.extract import CannotExport, Extract, extract_of
from apps.costs.models import Statement
from apps.tenants.access import Principal, principal_of_request
from apps.tenants.models import Tenant, User
from apps.tenants.roles import Permission


@dataclass(frozen=True, slots=True)
class Asked:
    """A month that somebody may see. ``statement`` is None for a draft."""

    tenant: Tenant
    extract: Extract
    statement: Statement | None
    by: Principal

    @property
    def may_close(self) -> bool:
        return self.by.can(Permission.COST_UPDATE, self.tenant.pk)

    @property
    def name(self) -> str:
        return f"{month_name(self.extract.period)}, {self.extract.tenant_name}"

    @property
    def url(self) -> str:
        return statement_url(self.tenant.slug, self.extract.period)


def asked_month(request: HttpRequest, slug: str, period: str) -> Asked | None:
    """The month; None, and a message that says why, where there is none. Raises Http404 for tenants of others."""
    by = principal_of_request(request)
    tenant = by.tenants(Permission.COST_READ).filter(slug=slug).first()
    if tenant is None:
        raise Http404("There is no such tenant, or you may not see what it spends.")
    try:
        extract = extract_of(tenant, period, now=timezone.now())
    except CannotExport as cannot:
        messages.error(request, str(cannot))
        return None
    return Asked(tenant, extract, Statement.objects.filter(tenant=tenant, period=period).first(), by)


def statement_url(slug: str, period: str, page: str = "page") -> str:
    """Where the statement of a month is shown, or is closed (``page`` "close") or printed ("print")."""
    return reverse(f"admin:costs_statement_{page}", args=[slug, period])


def month_name(period: str) -> str:
    """ "October 2026" for "2026-10"."""
    return f"{dt.date.fromisoformat(f'{period}-01'):%B %Y}"


def by_clocks_of(extract: Extract, moment: dt.datetime) -> str:
    """A moment by the clocks of the month's time zone."""
    local = moment.astimezone(extract.zone)
    return f"{local:%-d %B %Y, %H:%M} ({local.tzname()})"


def name_of_actor(kind: str, ref: str) -> str:
    """Who acted, for a person: a user's name, or the command or process. At most one query."""
    if kind not in ("user", "token"):
        return f"{kind} {ref}"
    try:
        wanted = uuid.UUID(ref.split("/")[0])
    except ValueError:
        return f"{kind} {ref}"
    name = User.objects.filter(pk=wanted).values_list("username", flat=True).first() or f"user {wanted}"
    return f"{name}, by token" if kind == "token" else name
