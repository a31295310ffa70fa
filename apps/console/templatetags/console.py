"""Template tags of the console: statuses with icon and word, money, times, bars, and the theme's colours."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Collection
from decimal import Decimal
from typing import Any

from django import template
from django.http import HttpRequest
from django.templatetags.static import static
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from unfold.settings import get_config
from unfold.utils import convert_color

from apps.console.sentences import FAILURES
from apps.swarms.models import Priority, Task
from portal.money import usd_label

register = template.Library()

LOOKS: dict[str, tuple[str, str]] = {
    # swarms
    "queued": ("schedule", "wait"),
    "running": ("play_circle", "busy"),
    "paused": ("pause_circle", "wait"),
    "stopping": ("front_hand", "bad"),
    "succeeded": ("check_circle", "good"),
    "failed": ("error", "bad"),
    "terminated": ("cancel", "calm"),
    # tasks
    "pending": ("more_horiz", "calm"),
    "ready": ("pending", "calm"),
    "waiting": ("hourglass_top", "wait"),
    "cancelled": ("block", "calm"),
    # attempts
    "handed_back": ("undo", "calm"),
}
"""(icon, tone) of every status."""
FILE_ICONS = {"text": "description", "image": "image", "audio": "audio_file", "video": "video_file"}


@register.simple_tag
@functools.lru_cache(maxsize=1000)
def icon(name: str, extra: str = "") -> SafeString:
    """A Material symbol; decoration, so it is hidden from screen readers."""
    return format_html('<span class="material-symbols-outlined sd-icon {}" aria-hidden="true">{}</span>', extra, name)


@register.simple_tag
def status(value: str, label: str = "") -> SafeString:
    """A status as a chip: icon and word, and a colour that only repeats them."""
    symbol, tone = LOOKS.get(value, ("help", "calm"))
    word = label or value.replace("_", " ").capitalize()
    return format_html('<span class="sd-chip sd-{}" data-status="{}">{}{}</span>', tone, value, icon(symbol), word)


@register.simple_tag
def chip(mark: Any) -> SafeString:
    """A mark as a chip: its icon, its text, a colour that only repeats them, and why on hover."""
    look = '<span class="sd-chip sd-{}" title="{}">{}{}</span>'
    return format_html(look, mark.tone, mark.why, icon(mark.icon), mark.text)


@register.filter
def percent(share: float) -> str:
    """A share from 0 to 1 as a person reads it: "0 %", "0.3 %", "12 %"; what is not quite nothing is not 0."""
    value = 100 * share
    if 0 < value < 0.1:
        return "< 0.1 %"
    return f"{value:.0f} %" if value >= 10 or not value else f"{value:.1f} %"


@register.filter
def look(value: str) -> str:
    """The tone of a status."""
    return LOOKS.get(value, ("help", "calm"))[1]


@register.filter
def symbol(value: str) -> str:
    """The icon name of a status."""
    return LOOKS.get(value, ("help", "calm"))[0]


@register.filter
def failure(code: str) -> str:
    """A failure code in words."""
    return FAILURES.get(code, code.replace("_", " "))


@register.simple_tag
def unmet(task: Task, open_steps: Collection[str]) -> list[str]:
    """The steps that a task needs and that are not complete; ``open_steps`` are those of its swarm."""
    return [need for need in task.step.needs if need in open_steps]


@register.filter
def usd(nano: int | None) -> str:
    """Nano-dollars as a person reads them; a dash for what may not be seen."""
    return "–" if nano is None else usd_label(nano)


@register.filter
def number(value: Decimal | float | None) -> str:
    """A number with separators of thousands and no needless decimals; a dash for none."""
    if value is None:
        return "–"
    return f"{Decimal(value).quantize(Decimal('0.1')).normalize():,f}"


@register.filter
def seconds(value: float | None) -> str:
    """A duration in seconds, in as many digits as matter: "420 ms", "12.3 s", "4 min 5 s", "12 min", "2 h 10 min"."""
    if value is None:
        return "–"
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    whole = int(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 > 0 and whole < 600 else f"{whole // 60} min"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


@register.filter
def between(start: dt.datetime | None, end: dt.datetime | None) -> str:
    """How long it took from ``start`` to ``end`` (now when there is no end yet)."""
    return "–" if start is None else seconds(((end or timezone.now()) - start).total_seconds())


@register.simple_tag
def when(at: dt.datetime | None, empty: str = "–") -> SafeString | str:
    """A moment as "3 min ago" or "in 2 min", with the exact time on hover; the browser keeps it current."""
    if at is None:
        return empty
    at = at.astimezone(dt.UTC)
    return format_html(
        '<time datetime="{}" title="{}" data-when>{}</time>',
        at.isoformat(timespec="milliseconds"),
        f"{at:%Y-%m-%d %H:%M:%S} UTC",
        distance((timezone.now() - at).total_seconds()),
    )


def distance(ago: float) -> str:
    """Seconds in the past (negative: in the future) in one unit. ``console.js`` says the same."""
    size = abs(ago)
    if size < 1:
        return "now"
    if size < 60:
        text = f"{int(size)} s"
    elif size < 3600:
        text = f"{int(size // 60)} min"
    elif size < 86400:
        text = f"{int(size // 3600)} h"
    else:
        text = f"{int(size // 86400)} d"
    return f"{text} ago" if ago > 0 else f"in {text}"


@register.simple_tag
def bar(percent: float | None, tone: str = "busy", label: str = "") -> SafeString:
    """A progress bar for people and screen readers; ``label`` says what it measures."""
    value = max(0, min(100, int(percent or 0)))
    return format_html(
        '<div class="sd-bar" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{}" '
        'aria-label="{}"><span class="sd-fill sd-{}" style="width:{}%"></span></div>',
        value,
        label,
        tone,
        value,
    )


@register.simple_tag
def task_bar(row: Any) -> SafeString:
    """Progress of a swarm: succeeded, failed and cancelled tasks as parts of one bar."""
    swarm = row.swarm
    total = swarm.tasks_total or 1
    parts = (
        ("good", swarm.tasks_succeeded),
        ("bad", swarm.tasks_failed),
        ("calm", swarm.tasks_cancelled),
    )
    fills = format_html_join(
        "",
        '<span class="sd-fill sd-{}" style="width:{}%"></span>',
        ((tone, f"{100 * count / total:.2f}") for tone, count in parts if count),
    )
    return format_html(
        '<div class="sd-bar" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{}" '
        'aria-label="Tasks of {} that are over">{}</div>',
        row.percent,
        swarm.name,
        fills,
    )


@register.simple_tag
def priority(value: int) -> SafeString:
    """A priority in words; those above normal with an arrow."""
    arrows = {Priority.LOW: "keyboard_arrow_down", Priority.HIGH: "keyboard_arrow_up"}
    arrows[Priority.CRITICAL] = "keyboard_double_arrow_up"
    mark = icon(arrows[Priority(value)]) if value in arrows else ""
    return format_html('<span class="sd-priority sd-priority-{}">{}{}</span>', value, mark, Priority(value).label)


@register.simple_tag(takes_context=True)
def query(context: dict[str, Any], **changes: Any) -> str:
    """The page's query string with changes: ``{% query page=2 %}``. None and "" take a key out."""
    request: HttpRequest = context["request"]
    asked = request.GET.copy()
    asked.pop("part", None)
    for key, value in changes.items():
        if value in (None, ""):
            asked.pop(key, None)
        else:
            asked[key] = str(value)
    return f"?{asked.urlencode()}"


@register.simple_tag(takes_context=True)
def turn(context: dict[str, Any], key: str, page: int) -> str:
    """The page's query string with another page of one of its lists; ``key`` is empty for the list that is alone."""
    return query(context, **{key or "page": page})


@register.filter
def file_symbol(media_type: str) -> str:
    """The icon name of a kind of file."""
    kind, _, form = media_type.partition("/")
    if form.endswith(("zip", "tar", "compressed")):
        return "folder_zip"
    if form.endswith(("csv", "sheet", "excel", "tab-separated-values")):
        return "table"
    if form.endswith(("json", "xml", "html", "javascript", "yaml")):
        return "code"
    return FILE_ICONS.get(kind, "description" if form == "pdf" else "draft")


@register.simple_tag
@functools.cache
def theme_colours() -> SafeString:
    """The theme's colours as CSS variables, from the same setting that colours the admin."""
    colours = get_config()["COLORS"]
    rules = "".join(
        f"--color-{name}-{weight}:{convert_color(value)};"
        for name, weights in colours.items()
        if isinstance(weights, dict)
        for weight, value in weights.items()
    )
    return mark_safe(rules)


@register.simple_tag
@functools.cache
def site(name: str) -> str:
    """A text of the UNFOLD setting: SITE_TITLE, SITE_SYMBOL."""
    return str(get_config().get(name) or "")


@register.simple_tag
def theme_file(path: str) -> str:
    """The URL of a file that the theme ships."""
    return static(f"unfold/{path}")
