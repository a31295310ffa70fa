"""Submitting a spec from the browser."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse

from apps.console.views.base import Page
from apps.swarms import specs
from apps.swarms.actions.submit import CannotSubmit, submit
from apps.swarms.doubts import doubts_about
from apps.tenants.access import AccessDenied
from apps.tenants.models import Tenant, User
from apps.tenants.roles import Permission

EXAMPLES = Path(settings.BASE_DIR) / "docs" / "examples"
LARGEST = 1_000_000
"""Characters of a spec."""


class Submit(Page):
    """``/submit/``: a spec and a tenant; what is wrong is listed by path, and what was typed stays."""

    template_name: ClassVar[str] = "console/submit.html"
    section = "submit"
    title = "Submit a swarm"

    @cached_property
    def choices(self) -> list[Tenant]:
        """Tenants for whom a swarm may be submitted."""
        found = [t for t in self.tenants if t.is_active and self.principal.can(Permission.SWARM_CREATE, t.pk)]
        if not found and self.tenants:
            raise AccessDenied(
                f"Submitting needs the permission {Permission.SWARM_CREATE}, which you have in no tenant."
            )
        return found

    def context(self) -> dict[str, Any]:
        found = examples()
        picked = next((e for e in found if e["name"] == self.request.GET.get("example")), None)
        return {
            "choices": self.choices,
            "examples": found,
            "source": picked["source"] if picked else "",
            "picked": self.request.GET.get("tenant", ""),
        }

    def post(self, request: HttpRequest) -> HttpResponse:
        source, slug = request.POST.get("spec", ""), request.POST.get("tenant", "")
        tenant = next((t for t in self.choices if t.slug == slug), None)
        errors: list[specs.SpecError] = []
        refused = ""
        if tenant is None:
            refused = "Pick the tenant that the swarm belongs to."
        elif not source.strip():
            refused = "Write a spec first, or load an example."
        elif len(source) > LARGEST:
            refused = f"The spec has {len(source):,} characters; at most {LARGEST:,} can be read."
        else:
            user = request.user if isinstance(request.user, User) else None
            try:
                swarm = submit(source, tenant=tenant, by=self.principal, user=user)
            except specs.SpecInvalid as invalid:
                errors = invalid.errors
            except (CannotSubmit, AccessDenied) as cannot:
                refused = str(cannot)
            else:
                messages.success(request, f"{swarm.name} is submitted.")
                for doubt in doubts_about(swarm):
                    messages.warning(request, str(doubt))
                return HttpResponseRedirect(reverse("console:swarm", args=[swarm.pk]))
        filled = {**self.context(), "source": source, "picked": slug, "errors": errors, "refused": refused}
        return render(request, self.template_name, {**self.shared(), **filled}, status=422)


def examples() -> list[dict[str, str]]:
    """The specs in ``docs/examples/``: name (of the file), title and source."""
    found = []
    for path in sorted(EXAMPLES.glob("*.y*ml")):
        source = path.read_text(encoding="utf-8")
        first = source.lstrip().splitlines()[0] if source.strip() else ""
        title = first.lstrip("# ").rstrip(".") if first.startswith("#") else path.stem.replace("-", " ").capitalize()
        found.append({"name": path.stem, "title": title, "source": source})
    return found
