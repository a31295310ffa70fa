"""Every door of the product, found where it is registered: URLs, admin pages, admin actions and socket messages.

What each answers to whom stands in ``tests/data/doors.txt``, one row a door.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.contrib import admin
from django.db import models
from django.urls import URLPattern, get_resolver, resolve
from django.urls.exceptions import Resolver404
from django.views.generic import RedirectView

from apps.console.consumers import ConsoleConsumer
from apps.console.routing import websocket_urlpatterns
from apps.console.views.swarms import ACTS as SWARM_ACTS
from apps.providers.acts import ACTS as REGION_ACTS

TABLE = Path(__file__).parent / "data" / "doors.txt"
PEOPLE = ("nobody", "outsider", "viewer", "developer", "operator", "finance", "compliance", "admin", "platform")
ORDER = (
    "Console, login and probes",
    "REST API",
    "Lists and pages of the administration",
    "Actions on the lists of the administration",
    "Other pages of the administration",
    "Socket messages",
)
READ = {
    f"/admin/{path}"
    for path in ("", "<app_label>/", "<url>", "search/", "autocomplete/", "jsi18n/", "r/<content_type_id>/<object_id>/",
                 "password_change/done/")
}  # fmt: skip
"""Pages of Django's own that only read, whatever the method."""
ACTS_BY_PATTERN = {
    "/swarms/<pk>/<act>/": tuple(SWARM_ACTS),
    "/providers/regions/<pk>/<act>/": tuple(REGION_ACTS),
}
"""Acts that share an address: each is a door of its own."""
GENERATED = ("changelist", "add", "change", "delete", "history")


@dataclass(frozen=True, slots=True)
class Door:
    """A door: ``name`` is its row in the table.

    ``model`` is set for the pages that the administration makes for it, which share a row; ``action`` for one of its
    list's actions; ``message`` for what a client says on a socket.
    """

    name: str
    method: str = ""
    pattern: str = ""
    model: type[models.Model] | None = None
    action: str = ""
    message: str = ""

    @property
    def about(self) -> str:
        """The part of the table that its row belongs to."""
        if self.message:
            return "Socket messages"
        if self.action:
            return "Actions on the lists of the administration"
        if self.model:
            return "Lists and pages of the administration"
        for start, title in (("/api/", "REST API"), ("/admin/", "Other pages of the administration")):
            if self.pattern.startswith(start):
                return title
        return "Console, login and probes"

    @property
    def has_object(self) -> bool:
        """Whether its address names something that belongs to somebody."""
        return "<" in self.pattern


def plain(pattern: str) -> str:
    """A URL pattern as people read it: ``/swarms/<pk>/``."""
    named = re.sub(r"\(\?P<(\w+)>(?:\[[^]]*\]|[^()])*\)", r"<\1>", pattern)
    return "/" + re.sub(r"<\w+:(\w+)>", r"<\1>", named).replace("^", "").replace("$", "")


def _walk(patterns: Any, before: str = "") -> Iterator[tuple[str, URLPattern]]:
    for each in patterns:
        route = before + str(each.pattern)
        if isinstance(each, URLPattern):
            yield plain(route), each
        else:
            yield from _walk(each.url_patterns, route)


def _methods(callback: Any) -> list[str]:
    """The methods that a view has code for; those of a plain function are not known: GET and POST."""
    view = getattr(callback, "cls", None) or getattr(callback, "view_class", None)
    if view is None:
        return ["GET", "POST"]
    if issubclass(view, RedirectView):
        return ["GET"]
    return [name.upper() for name in ("get", "post", "put", "patch", "delete") if _answers(view, name)]


def _answers(view: Any, name: str) -> bool:
    return name in view.http_method_names and hasattr(view, name)


@functools.cache
def generated() -> dict[str, type[models.Model]]:
    """The names of the URLs that the administration makes for each model."""
    return {
        f"{model._meta.app_label}_{model._meta.model_name}_{page}": model
        for model in admin.site._registry
        for page in GENERATED
    }


@functools.cache
def doors() -> dict[str, Door]:
    """All doors by their name, in the order of the table."""
    found: list[Door] = []
    redirects = {f"/admin/{m._meta.app_label}/{m._meta.model_name}/<object_id>/" for m in admin.site._registry}
    for pattern, each in _walk(get_resolver().url_patterns):
        if (each.name in generated() and pattern.startswith("/admin/")) or pattern in redirects:
            continue
        for method in ["GET"] if pattern in READ else _methods(each.callback):
            for act in ACTS_BY_PATTERN.get(pattern, ("",)):
                whole = pattern.replace("<act>", act) if act else pattern
                found.append(Door(f"{method} {whole}", method, whole))
    for model, model_admin in sorted(admin.site._registry.items(), key=lambda item: item[0]._meta.label):
        pattern = f"/admin/{model._meta.app_label}/{model._meta.model_name}/"
        found.append(Door(model._meta.label, pattern=pattern, model=model))
        for name in model_admin.actions or ():
            found.append(Door(f"{model._meta.label}: {name}", "POST", pattern, model, action=str(name)))
    for route in websocket_urlpatterns:
        path = plain(str(route.pattern))
        found += [Door(f"{path} {kind}", pattern=path, message=kind) for kind in ("connect", *ConsoleConsumer.messages)]
    return {door.name: door for door in sorted(found, key=lambda door: ORDER.index(door.about))}


@functools.cache
def table() -> dict[str, dict[str, str]]:
    """What the table says: the answer by person, by door."""
    rows: dict[str, dict[str, str]] = {}
    for line in TABLE.read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if line.startswith("#") or len(cells) == 1:
            continue
        name, *answers = cells
        assert len(answers) == len(PEOPLE), f"{TABLE.name}: a row needs {len(PEOPLE)} answers: {line}"
        assert name not in rows, f"{TABLE.name}: two rows for {name}"
        rows[name] = dict(zip(PEOPLE, answers, strict=True))
    return rows


def table_text(answers: dict[str, dict[str, str]]) -> str:
    """The table of these answers, with the words above it that it has now."""
    rows = {name: said for name, said in answers.items() if name in doors() or not _same(name, answers)}
    width = max(map(len, rows), default=0)
    lines, about = [line for line in TABLE.read_text().splitlines() if line.startswith("#:")], ""
    for door in doors().values():
        if door.about != about:
            about = door.about
            lines += ["", f"# {about}", f"# {' ' * (width - 2)} | {' | '.join(PEOPLE)}"]
        lines += [_row(name, rows[name], width) for name in (door.name, f"{door.name} by token") if name in rows]
    return "\n".join(lines) + "\n"


def _same(name: str, answers: dict[str, dict[str, str]]) -> bool:
    """Whether a token is answered as a session is."""
    by_session = answers[name.removesuffix(" by token")]
    return all(by_session.get(who) == said for who, said in answers[name].items())


def _row(name: str, answers: dict[str, str], width: int) -> str:
    return " | ".join([name.ljust(width), *(answers.get(who, "").ljust(len(who)) for who in PEOPLE)]).rstrip()


@functools.cache
def door_at(path: str, method: str) -> tuple[Door, str] | None:
    """The door behind an address of this site and, on a model's own pages, which of them it is; None for no door."""
    try:
        match = resolve(path)
    except Resolver404:
        return None
    model = generated().get(match.url_name or "") if match.app_name == "admin" else None
    if model is not None and match.url_name:
        return doors()[model._meta.label], match.url_name.rpartition("_")[2]
    pattern = plain(match.route)
    if pattern in ACTS_BY_PATTERN:
        pattern = pattern.replace("<act>", match.kwargs["act"])
    door = doors().get(f"{method} {pattern}")
    return (door, "") if door else None
