"""Where the keys of model providers are read, as ``SECRETS_BACKEND`` says it: ``KIND:PLACE?OPTION=VALUE&...``.

    environment
    files:/run/secrets/providers
    vault:https://vault.example:8200/MOUNT/PATH?auth=kubernetes&role=agents
    aws:REGION/PREFIX
    google:PROJECT?prefix=PREFIX
    azure:https://NAME.vault.azure.net
    doppler:PROJECT/CONFIG

Knows no Django, so settings may read it. It holds no credential: those are in variables of their own, or come with the
machine.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

KINDS = ("environment", "files", "vault", "aws", "google", "azure", "doppler")
_OPTIONS: dict[str, frozenset[str]] = {
    "environment": frozenset(),
    "files": frozenset(),
    "vault": frozenset({"auth", "role", "login", "namespace", "field", "jwt", "ca"}),
    "aws": frozenset({"endpoint", "field"}),
    "google": frozenset({"prefix", "endpoint"}),
    "azure": frozenset({"prefix"}),
    "doppler": frozenset({"endpoint"}),
}
EXTRAS = {"google": ("google.auth", "requests"), "azure": ("azure.identity",)}
"""Modules that a kind needs and that are not installed by default; the extra is called like the kind."""


@dataclass(frozen=True, slots=True)
class SecretsBackend:
    """A parsed ``SECRETS_BACKEND``. ``place`` is what stands between the kind and the options."""

    kind: str = "environment"
    place: str = ""
    options: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return f"{self.kind}:{self.place}" if self.place else self.kind

    @property
    def token_variable(self) -> str:
        """The variable that must hold a credential; empty when there is none."""
        if self.kind == "vault" and self.options.get("auth", "token") == "token":
            return "VAULT_TOKEN"
        return "DOPPLER_TOKEN" if self.kind == "doppler" else ""

    @property
    def missing_modules(self) -> list[str]:
        """Modules it needs that are not installed."""
        return [name for name in EXTRAS.get(self.kind, ()) if not _is_installed(name)]


def parse(raw: str) -> SecretsBackend:
    """What ``SECRETS_BACKEND`` says. Raises ValueError with what is wrong, without a value that could be a secret."""
    kind, _, rest = raw.strip().partition(":")
    if kind not in KINDS:
        raise ValueError(f"{kind[:20]!r} is none of {', '.join(KINDS)}")
    place, _, query = rest.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    if unknown := sorted(options.keys() - _OPTIONS[kind]):
        known = ", ".join(sorted(_OPTIONS[kind])) or "none"
        raise ValueError(f"{kind} has no option {unknown[0]!r}; it has: {known}")
    _CHECKS[kind](place, options)
    return SecretsBackend(kind, place.rstrip("/") or place, options)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):  # not even the package that it would be in
        return False


def _environment(place: str, options: Mapping[str, str]) -> None:
    if place:
        raise ValueError("environment has no place")


def _files(place: str, options: Mapping[str, str]) -> None:
    if not place.startswith("/"):
        raise ValueError("files needs the absolute path of a folder, such as files:/run/secrets/providers")


def _vault(place: str, options: Mapping[str, str]) -> None:
    _address(place, "vault", "vault:https://vault.example:8200/secret/swarmdesk")
    if not urlsplit(place).path.strip("/"):
        raise ValueError("vault needs the mount of a KV 2 engine after the host, such as /secret/swarmdesk")
    auth = options.get("auth", "token")
    if auth not in {"token", "kubernetes"}:
        raise ValueError("vault's auth is token or kubernetes")
    if auth == "kubernetes" and not options.get("role"):
        raise ValueError("vault's login with Kubernetes needs a role")


def _aws(place: str, options: Mapping[str, str]) -> None:
    if not re.fullmatch(r"[a-z]{2}(-[a-z]+)+-\d(/[\w/+=.@-]*)?", place):
        raise ValueError("aws needs a region, and may have a prefix: aws:eu-central-1/swarmdesk")
    _endpoint(options)


def _google(place: str, options: Mapping[str, str]) -> None:
    if not re.fullmatch(r"[a-z0-9:.-]+", place):
        raise ValueError("google needs a project: google:my-project")
    _endpoint(options)


def _azure(place: str, options: Mapping[str, str]) -> None:
    _address(place, "azure", "azure:https://NAME.vault.azure.net")


def _doppler(place: str, options: Mapping[str, str]) -> None:
    if not re.fullmatch(r"[\w-]+/[\w-]+", place):
        raise ValueError("doppler needs a project and a config: doppler:swarmdesk/prd")
    _endpoint(options)


def _endpoint(options: Mapping[str, str]) -> None:
    if options.get("endpoint"):
        _address(options["endpoint"], "the endpoint", "https://HOST")


def _address(url: str, what: str, example: str) -> None:
    """An https:// address; http:// only for what listens on this machine, as keys travel on it."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{what} needs an address, such as {example}")
    if parts.username or parts.password:
        raise ValueError("credentials do not belong into the address")
    if parts.scheme == "http" and parts.hostname not in {"127.0.0.1", "localhost", "::1"}:
        raise ValueError(f"{what} must be reached by https://: keys travel on it")


_CHECKS: dict[str, Callable[[str, Mapping[str, str]], None]] = {
    "environment": _environment,
    "files": _files,
    "vault": _vault,
    "aws": _aws,
    "google": _google,
    "azure": _azure,
    "doppler": _doppler,
}
