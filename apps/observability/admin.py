"""What the watchdog found."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from apps.observability.models import WatchdogRun
from apps.tenants.admin_scoping import PlatformModelAdmin
from portal.admin import Card, ReadOnly, list_url
from portal.admin_columns import BAD, GOOD, NOTHING, when_column, yes_column
from portal.admin_fields import DateRangeFilter


@admin.register(WatchdogRun)
class WatchdogRunAdmin(ReadOnly, PlatformModelAdmin):
    about = "Looks, minute by minute, at whether the system is whole: leases, spending, ledger and budgets that agree."
    is_audited = False
    empty_hint = "The watchdog has not run yet. It runs in the ops workers: manage.py work --cluster ops."
    huge = True
    list_display = ("when", "result", "checks", "milliseconds")
    list_filter = ("ok", ("at", DateRangeFilter))
    ordering = ("-id",)
    fieldsets = ((None, {"fields": ("when", "result", "milliseconds", "faults")}),)
    when = when_column("at", "When")
    result = yes_column("ok", "Result", yes=("whole", GOOD), no=("not whole", BAD))

    @admin.display(description="Found by")
    def checks(self, run: WatchdogRun) -> str:
        return ", ".join(run.findings) or NOTHING

    @admin.display(description="Took", ordering="seconds")
    def milliseconds(self, run: WatchdogRun) -> str:
        return f"{run.seconds * 1000:,.0f} ms"

    @admin.display(description="What is wrong")
    def faults(self, run: WatchdogRun) -> SafeString | str:
        if not run.findings:
            return "Nothing."
        return format_html_join(
            "",
            '<p class="mb-3"><strong>{}</strong> {}</p><ul class="mb-6">{}</ul>',
            (
                (
                    check,
                    found.get("about", "") if isinstance(found, dict) else "",
                    format_html_join("", "<li>{}</li>", ((line,) for line in _lines(found))),
                )
                for check, found in run.findings.items()
            ),
        )

    def card(self, request: HttpRequest) -> Card | None:
        last = WatchdogRun.objects.order_by("-id").first()
        if last is None:
            return None
        age = (timezone.now() - last.at).total_seconds()
        detail = ", ".join(last.findings) or "every check agrees"
        tone = GOOD if last.ok else BAD
        return Card(f"Watchdog, {age / 60:.0f} min ago", "whole" if last.ok else "not whole", detail, _url(last), tone)


def _lines(found: object) -> list[str]:
    faults = found.get("faults", []) if isinstance(found, dict) else [found]
    return [str(fault) for fault in faults]


def _url(run: WatchdogRun) -> str:
    return list_url(WatchdogRun) if run.ok else list_url(WatchdogRun, "ok__exact=0")
