"""Requests to a provider, bounded in time and size: one that hangs must not hold a person or a thread for long."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import requests

CONNECT_S, READ_S, WHOLE_S = 2.0, 4.0, 6.0
"""Seconds to connect, between two pieces of an answer, and for all of it."""
MOST_BYTES = 1_000_000


class FetchFailed(Exception):
    """There is no answer that can be used; the text has no secrets. ``status`` when there was an HTTP answer."""

    def __init__(self, text: str, *, status: int = 0, error: str = "") -> None:
        super().__init__(text)
        self.status, self.error = status, error

    @property
    def is_down(self) -> bool:
        """Whether the provider is to blame: no answer, or one that says it is out of order."""
        return not 400 <= self.status < 500 or self.status == 429


def fetch_json(
    url: str,
    *,
    data: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
    signed: Callable[[str], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """The JSON object at an address: GET, or POST of a form when there is ``data``. Raises FetchFailed.

    An answer of type ``application/jwt`` is read by ``signed``, where that is given, and is refused elsewhere.
    Redirects are not followed: the addresses are published by the provider, and secrets go to them.
    """
    until = time.monotonic() + WHOLE_S
    try:
        with requests.request(
            "POST" if data is not None else "GET",
            url,
            data=data,
            headers={
                "Accept": "application/json, application/jwt" if signed else "application/json",
                **(headers or {}),
            },
            timeout=(CONNECT_S, READ_S),
            allow_redirects=False,
            stream=True,
        ) as response:
            status = response.status_code
            kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            body = _body(response, until)
    except requests.RequestException as error:
        raise FetchFailed(f"no answer ({type(error).__name__})") from error
    if status == 200 and signed and kind == "application/jwt":
        return signed(body.decode("ascii", "replace").strip())
    found = _object(body)
    if status != 200:
        code = (found or {}).get("error")
        error_code = code[:60] if isinstance(code, str) and code.isascii() and code.isprintable() else ""
        raise FetchFailed(f"answered {status} {error_code}".strip(), status=status, error=error_code)
    if found is None:
        raise FetchFailed("answered with something that is not a JSON object")
    return found


def _body(response: requests.Response, until: float) -> bytes:
    body = b""
    for piece in response.iter_content(65_536):
        body += piece
        if len(body) > MOST_BYTES:
            raise FetchFailed(f"answered with more than {MOST_BYTES} bytes")
        if time.monotonic() > until:
            raise FetchFailed(f"took longer than {WHOLE_S:g} s to answer")
    return body


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(body)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def basic(name: str, secret: str) -> str:
    """The Authorization header of a client (RFC 6749 2.3.1: both are form-encoded first, which HTTP Basic is not)."""
    joined = f"{quote(name, safe='')}:{quote(secret, safe='')}"
    return "Basic " + base64.b64encode(joined.encode()).decode()
