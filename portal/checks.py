"""System checks of the settings: each names the variable and what to do. Tested by id."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured

from portal import env


@register()
def environment_is_readable(**_: Any) -> list[CheckMessage]:
    """portal.E001: a variable with a value that cannot be used."""
    return [
        Error(f"{name}: {problem.rstrip('?')}.", hint="See docs/reference/environment.md.", id="portal.E001")
        for name, problem in env.problems
    ]


@register()
def secrets_are_set(**_: Any) -> list[CheckMessage]:
    """portal.E002: a variable that a server with its own DATABASE_URL must have."""
    if settings.STANDALONE:
        return []
    unreadable = {name for name, _ in env.problems}  # told already
    return [
        Error(f"{name} is not set.", hint=hint, id="portal.E002")
        for name, value, hint in (
            ("SECRET_KEY", _secret_key(), "Set SECRET_KEY (or SECRET_KEY_FILE) to 50 or more random characters."),
            ("ALLOWED_HOSTS", settings.ALLOWED_HOSTS, "Set ALLOWED_HOSTS to the host names people use, by commas."),
            (
                "VAULT_MASTER_KEY",
                settings.VAULT_MASTER_KEY,
                "It encrypts the secrets in the database. Make one with: openssl rand -base64 32. Keep it safe.",
            ),
        )
        if not value and name not in unreadable
    ]


def proxies_are_named(argv: Sequence[str]) -> list[CheckMessage]:
    """portal.E006: daphne told to believe whoever sends ``X-Forwarded-For``, and of it what the visitor wrote."""
    if "--proxy-headers" not in argv:
        return []
    hint = "Set TRUSTED_PROXIES to the proxies' addresses instead."
    return [Error("--proxy-headers believes everybody's X-Forwarded-For.", hint=hint, id="portal.E006")]


@register()
def server_is_safe(**_: Any) -> list[CheckMessage]:
    """portal.E005: a value that is fine on a machine of one person, and an open door on a server."""
    if settings.STANDALONE:
        return []
    key = _secret_key()
    return [
        Error(message, hint=hint, id="portal.E005")
        for message, hint, found in (
            ("DEBUG is on.", "Leave DEBUG out on a server: its error pages show code and data.", settings.DEBUG),
            (
                "SECRET_KEY can be guessed.",
                "Set it to 50 or more random characters, such as those of: openssl rand -base64 48",
                bool(key) and (len(key) < 50 or len(set(key)) < 10),
            ),
        )
        if found
    ]


@register(deploy=True)
def hosts_are_named(**_: Any) -> list[CheckMessage]:
    """portal.W001: any host name is taken, so links in answers can be made to lead elsewhere."""
    if settings.STANDALONE or not {"*", "."} & {host.strip() for host in settings.ALLOWED_HOSTS}:
        return []
    return [Warning("ALLOWED_HOSTS allows every host.", hint="Name the hosts that people use.", id="portal.W001")]


@register()
def webhooks_reach_little(**_: Any) -> list[CheckMessage]:
    """portal.W002: webhooks may be sent where the keys of the machine can be had, or anywhere at all."""
    metadata = [ipaddress.ip_address("169.254.169.254"), ipaddress.ip_address("fd00:ec2::254")]
    return [
        Warning(
            f"WEBHOOK_ALLOWED_NETWORKS has {network}, and with it the metadata service of cloud machines.",
            hint="Whoever makes a webhook can send requests there. Name the networks that the receivers are in.",
            id="portal.W002",
        )
        for network in settings.WEBHOOK_ALLOWED_NETWORKS
        if any(address.version == network.version and address in network for address in metadata)
    ]


@register()
def object_storage_is_named(**_: Any) -> list[CheckMessage]:
    """portal.E003: a variable of the object storage that says nothing without another one."""
    needs = (
        ("STORAGE_ENDPOINT_URL", "STORAGE_BUCKET", "Name the bucket, or leave both out to store files in DATA_DIR."),
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "Set both, or neither where the machine has a role."),
        ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "Set both, or neither where the machine has a role."),
    )
    unreadable = {name for name, _ in env.problems}  # told already
    return [
        Error(f"{needed} is not set, and {name} is.", hint=hint, id="portal.E003")
        for name, needed, hint in needs
        if getattr(settings, name) and not getattr(settings, needed) and needed not in unreadable
    ]


MOST_IN_DATABASE = 16_000_000
"""Bytes of one file in the database: it is one parameter of a statement, of which there are several copies."""


@register()
def files_have_sensible_limits(**_: Any) -> list[CheckMessage]:
    """portal.E008: limits of the files of agents that contradict each other, or the database."""
    in_database, largest = settings.ARTIFACT_DATABASE_BYTES, settings.ARTIFACT_MAX_BYTES
    found: list[CheckMessage] = []
    if in_database > MOST_IN_DATABASE:
        hint = "Larger files belong into object storage, from where they are read in pieces."
        message = f"ARTIFACT_DATABASE_BYTES is larger than {MOST_IN_DATABASE:,}."
        found.append(Error(message, hint=hint, id="portal.E008"))
    if in_database > largest:
        hint = "It says up to which size a file lies in the database; ARTIFACT_MAX_BYTES is the most that is taken."
        found.append(Error("ARTIFACT_DATABASE_BYTES is larger than ARTIFACT_MAX_BYTES.", hint=hint, id="portal.E008"))
    return found


@register()
def login_provider_is_complete(**_: Any) -> list[CheckMessage]:
    """portal.E004: a variable of the OpenID provider that is missing beside the others, or cannot be trusted."""
    names = ("OIDC_ISSUER", "OIDC_CLIENT_ID", "OIDC_CLIENT_SECRET")
    given = [name for name in (*names, "OIDC_GROUP_ROLES") if getattr(settings, name)]
    unreadable = {name.removesuffix("_FILE") for name, _ in env.problems}  # told already
    found: list[CheckMessage] = [
        Error(
            f"{name} is not set, and {given[0]} is.",
            hint="Set OIDC_ISSUER, OIDC_CLIENT_ID and OIDC_CLIENT_SECRET together, or none of them.",
            id="portal.E004",
        )
        for name in names
        if given and name not in given and name not in unreadable
    ]
    parts = urlsplit(settings.OIDC_ISSUER)
    if parts.scheme == "http" and parts.hostname not in {"127.0.0.1", "localhost", "::1"}:
        hint = "Whoever reads along could log in as anybody. Plain http:// is for a provider on this machine."
        found.append(Error("OIDC_ISSUER must start with https://.", hint=hint, id="portal.E004"))
    return found


@register()
def secrets_backend_is_complete(**_: Any) -> list[CheckMessage]:
    """portal.E007: SECRETS_BACKEND lacks its credential, or a package."""
    backend = settings.SECRETS_BACKEND
    found: list[CheckMessage] = []
    variable = backend.token_variable
    unreadable = {name.removesuffix("_FILE") for name, _ in env.problems}  # told already
    if variable and not getattr(settings, variable) and variable not in unreadable:
        hint = f"Set {variable} or {variable}_FILE to a token that may read the keys, and nothing else."
        found.append(Error(f"{variable} is not set, and SECRETS_BACKEND is {backend}.", hint=hint, id="portal.E007"))
    if missing := backend.missing_modules:
        hint = f"It is in the extra {backend.kind}: pip install --require-hashes -r requirements-secrets.txt"
        found.append(
            Error(
                f"SECRETS_BACKEND is {backend.kind}, and the package {missing[0]} is not installed.",
                hint=hint,
                id="portal.E007",
            )
        )
    return found


def _secret_key() -> str:
    try:
        return str(settings.SECRET_KEY)
    except ImproperlyConfigured:  # Django's way to say that it is empty
        return ""
