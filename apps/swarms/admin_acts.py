"""Steering what runs from the administration: buttons on a page, actions on a list, a page that asks why.

Nothing changes on a GET: a button leads to a page that says what will happen, and that page's form does it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin import helpers
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from unfold.widgets import UnfoldAdminTextareaWidget

from apps.audit import trail
from apps.swarms.actions import lifecycle
from apps.swarms.models import Swarm, Task
from apps.swarms.models.swarm import CannotAct
from apps.tenants.access import AccessDenied, Principal
from apps.tenants.roles import Permission
from portal.admin import admin_url, list_url


@dataclass(frozen=True, slots=True)
class Act:
    """Something that can be done to a row. ``done`` is the past participle, ``effect`` says what will happen.

    ``ends_row``: there is no such row afterwards.
    """

    verb: str
    done: str
    permission: Permission
    verify: Callable[[Any], None]
    perform: Callable[[Any, Principal, str], object]
    effect: str
    asks_reason: bool = False
    needs_reason: bool = False
    is_destructive: bool = False
    ends_row: bool = False

    @property
    def title(self) -> str:
        return self.verb.capitalize()

    def refusal(self, row: Any, by: Principal) -> str:
        """Why it cannot be done now, for a person; empty when it can."""
        try:
            by.verify(self.permission, _tenant_id(row), swarm_id=_swarm_id(row))
            self.verify(row)
        except (CannotAct, AccessDenied) as refusal:
            return str(refusal)
        return ""


TERMINATE = Act(
    "terminate",
    "terminated",
    Permission.SWARM_TERMINATE,
    lambda swarm: swarm.verify_terminate(),
    lambda swarm, by, reason: lifecycle.terminate(swarm, by=by, reason=reason),
    "Nothing new starts, calls in flight are cancelled, and the resources go back to the pool. This cannot be undone.",
    asks_reason=True,
    needs_reason=True,
    is_destructive=True,
)
PAUSE = Act(
    "pause",
    "paused",
    Permission.SWARM_UPDATE,
    lambda swarm: swarm.verify_pause(),
    lambda swarm, by, reason: lifecycle.pause(swarm, by=by, reason=reason),
    "Nothing new starts until it is resumed. Calls in flight finish, and it keeps the resources it holds.",
    asks_reason=True,
)
RESUME = Act(
    "resume",
    "resumed",
    Permission.SWARM_UPDATE,
    lambda swarm: swarm.verify_resume(),
    lambda swarm, by, reason: lifecycle.resume(swarm, by=by),
    "It goes on where it was paused, at once if it still holds its resources, else through the queue.",
)
RETRY = Act(
    "retry failed tasks of",
    "retried",
    Permission.SWARM_UPDATE,
    lambda swarm: swarm.verify_retry(),
    lambda swarm, by, reason: lifecycle.retry_failed(swarm, by=by),
    "Failed tasks run again, and what was cancelled because of them. What succeeded stays. New calls cost money.",
)


def _verify_task(task: Task) -> None:
    if task.status != "failed":
        raise CannotAct(f"Only a failed task can be retried; this one is {task.status}.")
    task.swarm.verify_retry()


RETRY_TASK = Act(
    "retry",
    "retried",
    Permission.SWARM_UPDATE,
    _verify_task,
    lambda task, by, reason: lifecycle.retry_task(task, by=by),
    "The task runs again, and what was cancelled because of it. New calls cost money.",
)


class ReasonForm(forms.Form):
    """Why; kept in the audit trail."""

    reason = forms.CharField(
        max_length=500,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}),
        help_text="Kept in the audit trail, and shown with what it is about.",
        error_messages={"required": "Say why: the reason is kept in the audit trail."},
    )


def perform(model_admin: Any, request: HttpRequest, act: Act, rows: Sequence[Any], reason: str = "") -> int:
    """Does it to each row and says what came of it; how many it was done to. A denial is audited."""
    by: Principal = model_admin.principal(request)

    def do(row: Any) -> None:
        try:
            act.perform(row, by, reason)
        except AccessDenied as denial:
            trail.record(by, act.permission, row, tenant_id=_tenant_id(row), success=False, reason=str(denial))
            raise

    return int(model_admin.act_on_each(request, rows, do, refusals=(CannotAct, AccessDenied), done=act.done))


def page(model_admin: Any, request: HttpRequest, act: Act, object_id: str) -> HttpResponse:
    """The page behind a button: what will happen, why it cannot, the reason, and the form that does it."""
    row = model_admin.get_object(request, object_id)
    if row is None:
        return redirect(list_url(model_admin.model))
    by: Principal = model_admin.principal(request)
    try:
        by.verify(act.permission, _tenant_id(row), swarm_id=_swarm_id(row))
    except AccessDenied as denial:
        raise PermissionDenied(str(denial)) from denial
    form = ReasonForm(request.POST or None) if act.asks_reason else None
    if form is not None:
        form.fields["reason"].required = act.needs_reason
    if request.method == "POST" and (form is None or form.is_valid()):
        perform(model_admin, request, act, [row], form.cleaned_data["reason"] if form else "")
        return redirect(list_url(model_admin.model) if act.ends_row else admin_url(row))
    return _rendered(model_admin, request, act, [row], form, admin_url(row))


def ask(model_admin: Any, request: HttpRequest, act: Act, rows: Sequence[Any]) -> HttpResponse | None:
    """The same for rows chosen in a list; None, when it was done, leads back to the list."""
    form = ReasonForm(request.POST if "confirmed" in request.POST else None)
    form.fields["reason"].required = act.needs_reason
    if form.is_valid():
        perform(model_admin, request, act, rows, form.cleaned_data["reason"])
        return None
    by: Principal = model_admin.principal(request)
    if all(act.refusal(row, by) for row in rows):
        for row in rows:
            model_admin.message_user(request, f"Not {act.done}: {row}. {act.refusal(row, by)}", messages.WARNING)
        return None
    return _rendered(model_admin, request, act, rows, form, request.get_full_path())


def _rendered(
    model_admin: Any, request: HttpRequest, act: Act, rows: Sequence[Any], form: forms.Form | None, back: str
) -> HttpResponse:
    by: Principal = model_admin.principal(request)
    plan = [(row, act.refusal(row, by)) for row in rows]
    possible = sum(not refusal for _, refusal in plan)
    opts = model_admin.opts
    noun = opts.verbose_name if possible == 1 else opts.verbose_name_plural
    what = str(rows[0]) if len(rows) == 1 else f"{possible} {noun}"
    return TemplateResponse(
        request,
        "admin/swarms/act.html",
        {
            **model_admin.admin_site.each_context(request),
            "title": f"{act.title} {what}",
            "opts": opts,
            "act": act,
            "what": what,
            "plan": plan,
            "possible": possible,
            "form": form,
            "back": back,
            "chosen_name": helpers.ACTION_CHECKBOX_NAME,
            "action": request.POST.get("action", ""),
        },
    )


def _tenant_id(row: Any) -> Any:
    return row.tenant_id if hasattr(row, "tenant_id") else row.swarm.tenant_id


def _swarm_id(row: Any) -> Any:
    return row.pk if isinstance(row, Swarm) else getattr(row, "swarm_id", None)
