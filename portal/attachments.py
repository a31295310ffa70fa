"""Files of others that are sent to be saved: under names that harm no header and no disk, as types that do nothing."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote

NAMELESS = "file"
LONGEST_NAME = 200
"""Bytes of UTF-8. Disks take 255, and some programs put something behind a name that is taken."""
LONGEST_ENDING = 20
UNKNOWN = "application/octet-stream"

_UNWRITABLE = re.compile(r'[<>:"|?*]')
_INERT = re.compile(r"(?:audio|image|video)/[a-z0-9.+-]+|application/vnd\.[a-z0-9.+-]+")
_ALSO_INERT = frozenset(
    {
        "application/gzip",
        "application/json",
        "application/pdf",
        "application/x-ndjson",
        "application/x-tar",
        "application/zip",
        "text/csv",
        "text/markdown",
        "text/plain",
        "text/tab-separated-values",
    }
)


def disposition(name: str) -> str:
    """``Content-Disposition`` (RFC 6266) that has a file saved under ``name``, or what of it can be a file's name.

    For programs that know no other letters it is told in ASCII as well.
    """
    name = file_name(name)
    plain = re.sub(r"[^ -~]|%", "_", name)
    told = f'attachment; filename="{plain}"'
    return told if plain == name else f"{told}; filename*=UTF-8''{quote(name, safe='')}"


def file_name(name: str) -> str:
    """The name of a file without its folders, and without what a disk of any kind refuses or a person cannot see."""
    name = re.split(r"[/\\]", name)[-1]
    name = "".join(letter for letter in name if unicodedata.category(letter) not in {"Cc", "Cf", "Cs", "Zl", "Zp"})
    name = _UNWRITABLE.sub("_", unicodedata.normalize("NFC", name)).strip(" .")
    if len(name.encode()) > LONGEST_NAME:
        stem, dot, ending = name.rpartition(".")
        ending = f"{dot}{ending}" if stem and len(ending.encode()) < LONGEST_ENDING else ""
        room = LONGEST_NAME - len(ending.encode())
        name = name.encode()[:room].decode(errors="ignore").rstrip(" .") + ending
    return name or NAMELESS


def served_as(media_type: str) -> str:
    """The media type as it is, where no browser runs, styles or renders what has it; else that of any bytes."""
    inert = media_type in _ALSO_INERT or _INERT.fullmatch(media_type)
    return media_type if inert and not media_type.endswith("xml") else UNKNOWN
