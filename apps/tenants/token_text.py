"""The text of an API token: ``swd_``, 36 random characters, and 6 that prove it was copied whole.

A fixed beginning, length and checksum let scanners of repositories and logs tell a leaked token from other text, and
let a mistyped one be refused without asking the database.
"""

from __future__ import annotations

import re
import secrets
import string
import zlib

PREFIX = "swd_"
ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
PATTERN = rf"{PREFIX}[0-9A-Za-z]{{42}}"
"""What scanners look for."""

_SHAPE = re.compile(PATTERN)
_WITHOUT_CHECKSUM = re.compile(rf"{PREFIX}[0-9a-f]{{64}}")
"""Tokens that have no checksum are refused by the database alone."""


def new_text() -> str:
    """A token that nobody has had before: 214 random bits."""
    random = "".join(secrets.choice(ALPHABET) for _ in range(36))
    return f"{PREFIX}{random}{_checksum(random)}"


def is_whole(text: str) -> bool:
    """Whether it can be a token: the right shape, and a checksum that is right."""
    if _SHAPE.fullmatch(text):
        return _checksum(text[len(PREFIX) : -6]) == text[-6:]
    return _WITHOUT_CHECKSUM.fullmatch(text) is not None


def _checksum(text: str) -> str:
    """CRC-32 in base 62, six digits."""
    number, digits = zlib.crc32(text.encode()), ""
    for _ in range(6):
        number, rest = divmod(number, 62)
        digits = ALPHABET[rest] + digits
    return digits
