"""Columns of admin lists and fields of admin pages: money, times, statuses, links, shares, JSON.

Each function here makes a display for a ``ModelAdmin`` class body: ``limit_usd = usd_column("limit", "Limit")``.
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from django.contrib.humanize.templatetags.humanize import naturaltime
from django.db import models
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from portal.money import usd_label, usd_text

NOTHING = "–"

Display = Callable[[Any, Any], Any]

GOOD, BAD, WARN, BUSY, CALM = "success", "danger", "warning", "info", ""
"""Tones of a label. The word says the same: colour never stands alone."""


def _named(display: Display, description: str, ordering: str | None) -> Display:
    display.short_description = description  # type: ignore[attr-defined]
    if ordering:
        display.admin_order_field = ordering  # type: ignore[attr-defined]
    return display


def value_at(obj: Any, path: str) -> Any:
    """What ``path`` ("swarm__tenant_id") leads to from ``obj``; None where the way ends."""
    for name in path.split("__"):
        if obj is None:
            return None
        obj = getattr(obj, name)
    return obj


@lru_cache(maxsize=1024, typed=True)  # by type as well: text that is safe as it is equals text that is to be escaped
def label(text: str, tone: str = CALM, title: str = "") -> SafeString:
    """A small coloured label with a word in it."""
    return render_to_string("unfold/helpers/label.html", {"text": text, "type": tone, "label_title": title})


def money(nano: int | None) -> SafeString | str:
    """An amount as a person reads it, with the exact one on hover."""
    if nano is None:
        return NOTHING
    return format_html('<span title="{} USD">{}</span>', usd_text(nano), usd_label(nano))


def moment(value: dt.datetime | None) -> SafeString | str:
    """How long ago (or how soon), with the exact time on hover."""
    if value is None:
        return NOTHING
    exact = timezone.localtime(value)
    return format_html(
        '<time datetime="{}" title="{}" class="whitespace-nowrap">{}</time>',
        exact.isoformat(),
        f"{exact:%Y-%m-%d %H:%M:%S} {exact.tzname()}",
        naturaltime(value),
    )


def share(
    part: float, whole: float, text: str, *, warn_at: float = 0.8, bad_at: float = 0.9, failed: float = 0
) -> SafeString:
    """A bar of part to whole with its text. The bar turns orange and red as it fills; ``failed`` adds a red end."""
    fraction = (part / whole if whole else 1.0) if part else 0.0
    tone = "bg-red-600" if fraction >= bad_at else "bg-orange-500" if fraction >= warn_at else "bg-primary-600"
    percent = min(max(fraction, 0.0), 1.0) * 100
    red = min(failed / whole * 100, 100 - percent) if whole else 0.0
    return format_html(
        '<span class="flex flex-col gap-1 whitespace-nowrap" title="{label}"><span>{text}</span>'
        '<span class="bg-base-200 flex h-1.5 overflow-hidden rounded-default w-32 dark:bg-base-700" role="img" '
        'aria-label="{label}"><span class="block h-1.5 {tone}" style="width: {percent}%"></span>'
        '<span class="block h-1.5 bg-red-600" style="width: {red}%"></span></span></span>',
        percent=f"{percent:.1f}",
        red=f"{red:.1f}",
        label=f"{fraction * 100:.0f} %",
        text=text,
        tone=tone,
    )


def preformatted(text: str) -> SafeString | str:
    """Text of several lines as it was written."""
    if not text:
        return NOTHING
    return format_html('<pre class="desk-pre">{}</pre>', text)


def short(identifier: uuid.UUID | str | None) -> SafeString | str:
    """The part of an id that tells rows apart (ids made together begin alike), the whole on hover."""
    if identifier is None or identifier == "":
        return NOTHING
    text = str(identifier)
    return format_html('<span class="desk-id" title="{}">…{}</span>', text, text[-8:]) if len(text) > 12 else text


def usd_column(path: str, description: str) -> Display:
    """An amount in nano-dollars, shown in USD."""
    return _named(lambda self, obj: money(value_at(obj, path)), description, path)


def price_column(path: str, description: str) -> Display:
    """A price in nano-dollars, shown in USD to the last digit: it is multiplied, so rounding it would mislead."""
    return _named(lambda self, obj: f"${usd_text(value_at(obj, path))}", description, path)


def usd_exact(path: str, description: str) -> Display:
    """An amount in nano-dollars, shown in USD to the last digit, for pages of one row."""

    def display(self: Any, obj: Any) -> str:
        nano = value_at(obj, path)
        return NOTHING if nano is None else f"{usd_text(nano)} USD"

    return _named(display, description, path)


def when_column(path: str, description: str) -> Display:
    """A time: how long ago, with the exact time on hover."""
    return _named(lambda self, obj: moment(value_at(obj, path)), description, path)


def status_column(path: str, description: str, tones: Mapping[Any, str]) -> Display:
    """A value with choices, as a coloured label with its word."""

    def display(self: Any, obj: Any) -> SafeString | str:
        value = value_at(obj, path)
        if value is None or value == "":
            return NOTHING
        *way, name = path.split("__")
        holder = value_at(obj, "__".join(way)) if way else obj
        word = getattr(holder, f"get_{name}_display", lambda: str(value))()
        return label(word.split(":")[0], tones.get(value, CALM), word if ":" in word else "")

    return _named(display, description, path)


def yes_column(path: str, description: str, *, yes: tuple[str, str], no: tuple[str, str]) -> Display:
    """A flag as a label; ``yes`` and ``no`` are (word, tone)."""
    return _named(lambda self, obj: label(*(yes if value_at(obj, path) else no)), description, path)


def link_column(path: str, description: str) -> Display:
    """The object that a foreign key leads to, linked where its page may be opened."""
    return _named(lambda self, obj: self.link(obj, value_at(obj, path)), description, path)


def reference_column(name: str, description: str) -> Display:
    """The object that an id without a foreign key means (see ``ModelAdmin.references``), linked like a foreign key."""

    def display(self: Any, obj: Any) -> SafeString | str:
        target: models.Model | None = obj.__dict__.get("_referenced", {}).get(name)
        return self.link(obj, target) if target is not None else short(getattr(obj, name))

    return _named(display, description, name)


def short_column(name: str, description: str) -> Display:
    """An id, shortened."""
    return _named(lambda self, obj: short(getattr(obj, name)), description, name)


def json_column(name: str, description: str) -> Display:
    """JSON, indented."""

    def display(self: Any, obj: Any) -> SafeString | str:
        value = getattr(obj, name)
        if value is None or value in ({}, [], ""):
            return NOTHING
        return preformatted(value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False))

    return _named(display, description, None)


def facts_column(name: str, description: str) -> Display:
    """A small JSON object in one line, for lists: "attempt 1, code lease_expired"."""

    def display(self: Any, obj: Any) -> str:
        facts = getattr(obj, name)
        if not isinstance(facts, dict):
            return str(facts or NOTHING)
        told = [f"{key.replace('_', ' ')} {value}" for key, value in facts.items() if value not in ("", None, [], {})]
        line = ", ".join(told)
        return (line if len(line) <= 120 else f"{line[:120]}…") or NOTHING

    return _named(display, description, None)


def text_column(name: str, description: str, *, limit: int = 0) -> Display:
    """Text of several lines; with a ``limit``, its beginning, for lists."""

    def display(self: Any, obj: Any) -> SafeString | str:
        text: str = getattr(obj, name) or ""
        if limit:
            first = " ".join(text.split())
            if len(first) <= limit:
                return first or NOTHING
            return format_html('<span title="{}">{}…</span>', first[:500], first[:limit])
        return preformatted(text)

    return _named(display, description, None)
