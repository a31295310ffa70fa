"""Taking secrets out of text before it is logged or kept: those this process was given, and what looks like one.

Two nets. *Known* values are all that ``portal.env`` read from variables that hold secrets: they are found wherever they
stand, whatever they look like. *Shapes* are what tokens, keys, headers, cookies and passwords look like, for those that
the process never read itself, such as a caller's token. Personal data is not looked for here.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

MASK = "********"
SHORTEST = 8
"""Characters. A shorter value is no secret worth the name, and would be found in the middle of words."""

_NAMES = (
    r"(?:[\w-]{0,40}[_-])?(?:password|passwd|passphrase|secret|token|api[_-]?key|apikey|private[_-]?key|master[_-]?key|"
    r"secret[_-]?key|access[_-]?key|signing[_-]?key|client[_-]?secret|credentials?|authorization|set-cookie|cookie|"
    r"sessionid|csrftoken|csrfmiddlewaretoken|signature)"
)
_SECRET_NAME = re.compile(rf"^{_NAMES}$", re.IGNORECASE)
_SECRET_VARIABLE = re.compile(r"(KEY|SECRET|TOKEN|PASSWORD|CREDENTIALS|_URL)$")
_SHAPES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), replacement)
    for pattern, replacement in (
        (r"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?(?:-----END \1-----|$)", MASK),
        # A scheme and what comes after it; of headers, all of the line.
        (r"\b(bearer|basic|digest|token)(\s+)(?=[\w.~+/=-]*[\d_.+/=-])[\w.~+/=-]{8,}", rf"\1\2{MASK}"),
        (r"""(\b(?:set-cookie|cookie)\b["']?\s*[:=]\s*["']?)[^\r\n"']+""", rf"\1{MASK}"),
        # Tokens by prefix: ours, and those of others that scanners know.
        (r"\b(?:swd_|swd1\.|whsec_|sk-|pk-|rk_|sk_|gh[pousr]_|github_pat_|xox[abeprs]-|glpat-|hf_|hvs\.|dop_v1_|npm_)"
         r"[\w.=-]{8,}", MASK),
        (r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b", MASK),
        (r"\bAIza[\w-]{30,}", MASK),
        (r"\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?", MASK),
        # The password of an address.
        (r"(\b[a-z][a-z0-9+.-]{0,20}://[^\s:/@?#\"']*:)[^\s/@\"']+(@)", rf"\1{MASK}\2"),
        # What the redirect of a login brings back.
        (r"([?&](?:code|state|id_token|access_token|refresh_token)=)[^&\s\"'#]+", rf"\1{MASK}"),
        # name=value, name: value, "name": "value", ('name', 'value')
        (rf"""(?<![\w-])({_NAMES}["']?\s*(?:[:=]|=>|,)\s*b?["'])(?:\\.|[^"'\\])+""", rf"\1{MASK}"),
        (rf"""(?<![\w-])({_NAMES}\s*[:=]\s*)(?!["'\s*]|None\b|null\b)[^\s,;&"'<>)}}\]]{{3,}}""", rf"\1{MASK}"),
    )
)  # fmt: skip
_known: set[str] = set()
_pattern: re.Pattern[str] | None = None
_lock = threading.Lock()


def know(value: str) -> None:
    """From now on this value is taken out of every text; as it stands, percent-encoded, and with its quotes escaped."""
    global _pattern
    forms = {value, quote(value, safe=""), value.replace("\\", "\\\\").replace('"', '\\"')}
    fresh = {form for form in forms if len(form) >= SHORTEST} - _known
    if not fresh:
        return
    with _lock:
        _known.update(fresh)
        _pattern = re.compile("|".join(re.escape(each) for each in sorted(_known, key=len, reverse=True)))


def know_variable(name: str, value: str) -> None:
    """Notes what an environment variable held, if its name says that it is a secret; of an address, its password."""
    if not value or not _SECRET_VARIABLE.search(name):
        return
    if not name.endswith("_URL"):
        for part in re.split(r"[\s,]+", value):
            know(part)
        return
    try:
        password = urlsplit(value).password
    except ValueError:
        password = value  # it cannot be read, so nobody knows where in it the password is
    if password:
        know(password)
        know(unquote(password))


def redacted(text: str) -> str:
    """The text without secrets. Linear in its length; safe to apply twice."""
    if _pattern is not None:
        text = _pattern.sub(MASK, text)
    for shape, replacement in _SHAPES:
        text = shape.sub(replacement, text)
    return text


def redacted_value(value: Any, depth: int = 6) -> Any:
    """The same for what a log event is made of: values under the names of secrets go, and texts are redacted."""
    if isinstance(value, str):
        return redacted(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth == 0:
        return redacted(repr(value))
    if isinstance(value, Mapping):
        return {
            key: MASK
            if isinstance(key, str) and _SECRET_NAME.match(key) and isinstance(each, str | bytes) and each
            else redacted_value(each, depth - 1)
            for key, each in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [redacted_value(each, depth - 1) for each in value]
    return redacted(str(value) if not isinstance(value, bytes) else repr(value))
