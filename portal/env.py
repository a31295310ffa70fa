"""Typed readers of environment variables; each also as ``NAME_FILE``, the path of a mounted secret.

A wrong value does not stop the import of the settings: it is kept in ``problems`` and reported by a system check that
names the variable, so that every problem is shown at once and no traceback hides it.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import dj_database_url

from portal import redaction
from portal.secrets_backend import SecretsBackend
from portal.secrets_backend import parse as parse_backend

T = TypeVar("T")

problems: list[tuple[str, str]] = []
"""(variable, what is wrong with it), filled while the settings load."""
read: set[str] = set()
"""Variables that the settings asked for: they are ours, and none of them is the key of a provider."""


def text(name: str, default: str = "") -> str:
    """The variable's text, or the content of the file that ``NAME_FILE`` names, without trailing line breaks.

    What a variable holds whose name says that it is secret never reaches a log.
    """
    read.add(name)
    value = _text(name, default)
    redaction.know_variable(name, value)
    return value


def _text(name: str, default: str) -> str:
    path = os.environ.get(f"{name}_FILE", "")
    if path:
        if os.environ.get(name):
            problems.append((name, f"set either {name} or {name}_FILE, not both"))
        try:
            return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
        except OSError as error:
            problems.append((f"{name}_FILE", f"cannot be read: {error.strerror}: {path}"))
            return default
    return os.environ.get(name, "") or default


def parsed(name: str, parse: Callable[[str], T], default: T, expected: str) -> T:
    """The variable parsed; ``default`` when it is empty or wrong (wrong ones are noted in ``problems``)."""
    raw = text(name)
    if not raw:
        return default
    try:
        return parse(raw)
    except (ValueError, TypeError) as error:
        why = str(error).rstrip(".")
        problems.append((name, f"expected {expected}" + (f": {why}" if why else "")))
        return default


def flag(name: str, default: bool) -> bool:
    """true/false, yes/no, on/off or 1/0."""

    def parse(raw: str) -> bool:
        lowered = raw.strip().lower()
        if lowered in {"1", "true", "yes", "on"}:
            return True
        if lowered in {"0", "false", "no", "off"}:
            return False
        raise ValueError(f"got {raw!r}")

    return parsed(name, parse, default, "true or false")


def whole(name: str, default: int, *, low: int = 1) -> int:
    """A whole number, at least ``low``."""

    def parse(raw: str) -> int:
        if not raw.strip().isdecimal() or int(raw) < low:
            raise ValueError(f"got {raw!r}")
        return int(raw)

    return parsed(name, parse, default, f"a whole number from {low} up")


def database(name: str) -> dict[str, Any]:
    """Django's description of the PostgreSQL database at a URL; empty when it is not set, or wrong."""

    def parse(raw: str) -> dict[str, Any]:
        # The text of an error never holds the value: it has a password in it.
        scheme, found, _ = raw.partition("://")
        if not found or scheme not in {"postgres", "postgresql"}:
            raise ValueError(f"it starts with {scheme}://" if found else "it has no scheme")
        try:
            description = dict(dj_database_url.parse(raw))
        except ValueError:
            raise ValueError("it cannot be read; are special characters in the password percent-encoded?") from None
        if not description.get("NAME"):
            raise ValueError("it names no database")
        return description

    return parsed(name, parse, {}, "postgresql://USER:PASSWORD@HOST:PORT/NAME")


def url(name: str) -> str:
    """An http:// or https:// address with a host; empty when it is not set, or wrong."""

    def parse(raw: str) -> str:
        parts = urlsplit(raw)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("it has no host" if parts.scheme in {"http", "https"} else "it does not start so")
        if parts.username or parts.password:
            raise ValueError("keys do not belong into it")
        return raw

    return parsed(name, parse, "", "an address that starts with http:// or https://")


def bucket(name: str) -> str:
    """The name of an S3 bucket; empty when it is not set, or wrong."""

    def parse(raw: str) -> str:
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", raw):
            raise ValueError(f"got {raw!r}")
        return raw

    return parsed(name, parse, "", "a bucket's name: 3 to 63 lower-case letters, digits, dots and hyphens")


def secrets_backend(name: str) -> SecretsBackend:
    """Where keys of providers are read; the environment when it is not set, or wrong."""
    return parsed(name, parse_backend, SecretsBackend(), "KIND:PLACE?OPTIONS")


def worker_class(name: str) -> str:
    """The class of this process; empty when it is not set, or wrong."""

    def parse(raw: str) -> str:
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,39}", raw):
            raise ValueError(f"got {raw!r}")
        return raw

    return parsed(name, parse, "", "small letters, digits and hyphens, at most 40")


def current(name: str) -> str:
    """What a variable or its file holds now, for secrets that are replaced while a process runs.

    Empty when neither is set. Raises OSError when the file cannot be read.
    """
    path = os.environ.get(f"{name}_FILE", "")
    try:
        value = Path(path).read_text(encoding="utf-8").strip() if path else os.environ.get(name, "")
    except UnicodeDecodeError:
        raise OSError(errno.EINVAL, "it is no text", path) from None
    redaction.know(value)
    return value


def items(name: str, default: Sequence[str] = ()) -> list[str]:
    """A comma-separated list."""
    raw = text(name)
    return [part.strip() for part in raw.split(",") if part.strip()] if raw else list(default)


def networks(name: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """Networks and single addresses, by commas."""

    def parse(raw: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
        return [ipaddress.ip_network(part.strip()) for part in raw.split(",") if part.strip()]

    return parsed(name, parse, [], "networks such as 10.0.0.0/8, by commas")


def choice(name: str, options: Sequence[str], default: str) -> str:
    """One of ``options``."""

    def parse(raw: str) -> str:
        if raw not in options:
            raise ValueError(f"got {raw!r}")
        return raw

    return parsed(name, parse, default, "one of " + ", ".join(options))


@dataclass(frozen=True, slots=True)
class GroupRole:
    """An entry of OIDC_GROUP_ROLES: members of a group (a pattern when it has ``*``) have a role in a tenant."""

    group: str
    tenant: str
    role: str

    def __str__(self) -> str:
        return f"{self.group}={self.tenant}:{self.role}"


def group_roles(name: str) -> list[GroupRole]:
    """``GROUP=TENANT:ROLE`` by commas, or a JSON object from group to ``TENANT:ROLE``, or to a list of those."""

    def entry(group: str, place: str) -> GroupRole:
        tenant, found, role = (part.strip() for part in place.partition(":"))
        if not (group.strip() and tenant and found and role):
            raise ValueError(f"{group}={place} does not say it so")
        return GroupRole(group.strip(), tenant, role)

    def parse(raw: str) -> list[GroupRole]:
        if raw.lstrip().startswith("{"):
            given = json.loads(raw)
            return [entry(group, str(one)) for group, all_ in given.items() for one in _listed(all_)]
        pairs = [part.rpartition("=") for part in raw.split(",") if part.strip()]
        return [entry(group, place) for group, _, place in pairs]

    return parsed(name, parse, [], 'GROUP=TENANT:ROLE by commas, or {"GROUP": "TENANT:ROLE"}')


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
