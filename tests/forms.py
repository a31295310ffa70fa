"""What a browser would send of a form, read from its page."""

from __future__ import annotations

import re
from html import unescape
from typing import Any


def _attribute(tag: str, name: str) -> str:
    found = re.search(rf'\b{name}="([^"]*)"', tag)
    return unescape(found[1]) if found else ""


def form_of(text: str) -> dict[str, Any]:
    """What a browser would send of the largest form on a page, as it stands there."""
    forms = re.findall(r"<form\b[^>]*>(.*?)</form>", text, re.DOTALL)
    inside = max(forms, key=len, default="")
    sent: dict[str, Any] = {}
    for tag in re.findall(r"<input\b[^>]*>", inside):
        kind, name = _attribute(tag, "type"), _attribute(tag, "name")
        if not name or kind in ("submit", "button", "file") or name.startswith("csrf"):
            continue
        if kind in ("checkbox", "radio"):
            if re.search(r"\schecked\b", tag):
                sent.setdefault(name, []).append(_attribute(tag, "value") or "on")
        else:
            sent[name] = _attribute(tag, "value")
    for tag, content in re.findall(r"(<textarea\b[^>]*>)(.*?)</textarea>", inside, re.DOTALL):
        sent[_attribute(tag, "name")] = unescape(content).removeprefix("\n")
    for tag, content in re.findall(r"(<select\b[^>]*>)(.*?)</select>", inside, re.DOTALL):
        chosen = [_attribute(each, "value") for each in re.findall(r"<option\b[^>]*\sselected\b[^>]*>", content)]
        if chosen or "multiple" not in tag:
            first = re.findall(r"<option\b[^>]*>", content)
            sent[_attribute(tag, "name")] = chosen or [_attribute(first[0], "value") if first else ""]
    return {name: value for name, value in sent.items() if "__prefix__" not in name}
