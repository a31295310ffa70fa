"""The pages that refuse: the same for everybody but for a sentence, so each is put together once and kept."""

from __future__ import annotations

import uuid
from functools import lru_cache
from types import SimpleNamespace

from django.http import HttpRequest, HttpResponseForbidden, HttpResponseNotFound
from django.template.loader import render_to_string
from django.urls import get_script_prefix

_NONCE = uuid.uuid4().hex
"""Stands, on a page that is kept, where each answer has a nonce of its own."""


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponseForbidden:
    """That somebody may not do this, in the words of the exception when it has any."""
    return HttpResponseForbidden(_page(request, "403.html", str(exception)))


def not_found(request: HttpRequest, exception: Exception) -> HttpResponseNotFound:
    """That nothing is at an address, whatever the reason."""
    return HttpResponseNotFound(_page(request, "404.html", ""))


def _page(request: HttpRequest, template: str, sentence: str) -> str:
    nonce = str(getattr(request, "csp_nonce", ""))
    return _kept(template, sentence, get_script_prefix()).replace(_NONCE, nonce)


@lru_cache(maxsize=200)
def _kept(template: str, sentence: str, script_prefix: str) -> str:
    """The page below a prefix of addresses, which the templates know of without being told."""
    return render_to_string(template, {"exception": sentence, "request": SimpleNamespace(csp_nonce=_NONCE)})
