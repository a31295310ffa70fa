"""The system checks of the settings, by id."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest

from portal import checks, env, secrets_backend


def test_e001_names_each_variable_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env, "problems", [("DEBUG", "expected true or false"), ("LOG_FORMAT", "expected json")])
    found = checks.environment_is_readable()
    assert [(message.id, message.msg) for message in found] == [
        ("portal.E001", "DEBUG: expected true or false."),
        ("portal.E001", "LOG_FORMAT: expected json."),
    ]


def test_e002_names_each_secret_a_server_must_have(settings: Any) -> None:
    settings.STANDALONE = False
    settings.SECRET_KEY = ""
    settings.ALLOWED_HOSTS = []
    settings.VAULT_MASTER_KEY = None
    found = checks.secrets_are_set()
    assert [(message.id, message.msg) for message in found] == [
        ("portal.E002", "SECRET_KEY is not set."),
        ("portal.E002", "ALLOWED_HOSTS is not set."),
        ("portal.E002", "VAULT_MASTER_KEY is not set."),
    ]
    assert all(message.hint for message in found)


def test_a_machine_of_one_person_needs_no_secrets(settings: Any) -> None:
    settings.STANDALONE = True
    settings.SECRET_KEY = ""
    assert checks.secrets_are_set() == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, []),
        ({"STORAGE_BUCKET": "desk"}, []),
        ({"STORAGE_BUCKET": "desk", "STORAGE_ENDPOINT_URL": "http://s3.example"}, []),
        ({"STORAGE_ENDPOINT_URL": "http://s3.example"}, ["STORAGE_BUCKET is not set, and STORAGE_ENDPOINT_URL is."]),
        ({"AWS_ACCESS_KEY_ID": "k"}, ["AWS_SECRET_ACCESS_KEY is not set, and AWS_ACCESS_KEY_ID is."]),
        ({"AWS_SECRET_ACCESS_KEY": "s"}, ["AWS_ACCESS_KEY_ID is not set, and AWS_SECRET_ACCESS_KEY is."]),
    ],
)
def test_e003_names_what_the_object_storage_lacks(given: dict[str, str], told: list[str], settings: Any) -> None:
    for name in ("STORAGE_BUCKET", "STORAGE_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        setattr(settings, name, given.get(name, ""))
    found = checks.object_storage_is_named()
    assert [message.msg for message in found] == told
    assert all(message.id == "portal.E003" and message.hint for message in found)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, []),
        ({"DEBUG": True}, ["DEBUG is on."]),
        ({"SECRET_KEY": "short"}, ["SECRET_KEY can be guessed."]),
        ({"SECRET_KEY": "x" * 60}, ["SECRET_KEY can be guessed."]),
        ({"DEBUG": True, "SECRET_KEY": "short", "STANDALONE": True}, []),
    ],
)
def test_e005_names_what_is_an_open_door_on_a_server(given: dict[str, Any], told: list[str], settings: Any) -> None:
    settings.STANDALONE = False
    settings.DEBUG = False
    settings.SECRET_KEY = "0123456789abcdefghijklmnopqrstuvwxyz-0123456789abcdefghijkl"
    for name, value in given.items():
        setattr(settings, name, value)
    found = checks.server_is_safe()
    assert [message.msg for message in found] == told
    assert all(message.id == "portal.E005" and message.hint for message in found)


@pytest.mark.parametrize(
    ("said", "token", "told"),
    [
        ("environment", "", []),
        ("vault:https://v/secret?auth=kubernetes&role=agents", "", []),
        ("vault:https://v/secret", "hvs.token", []),
        ("vault:https://v/secret", "", ["VAULT_TOKEN is not set, and SECRETS_BACKEND is vault:https://v/secret."]),
        ("doppler:desk/prd", "", ["DOPPLER_TOKEN is not set, and SECRETS_BACKEND is doppler:desk/prd."]),
        ("google:my-project", "", []),
    ],
)
def test_e007_names_what_the_secrets_backend_lacks(said: str, token: str, told: list[str], settings: Any) -> None:
    settings.SECRETS_BACKEND = secrets_backend.parse(said)
    settings.VAULT_TOKEN = settings.DOPPLER_TOKEN = token
    found = checks.secrets_backend_is_complete()
    assert [message.msg for message in found] == told
    assert all(message.id == "portal.E007" and message.hint for message in found)


@pytest.mark.parametrize(
    ("in_database", "largest", "told"),
    [
        (1_000_000, 100_000_000, []),
        (0, 1, []),
        (5_000, 5_000, []),
        (5_001, 5_000, ["ARTIFACT_DATABASE_BYTES is larger than ARTIFACT_MAX_BYTES."]),
        (16_000_001, 100_000_000, ["ARTIFACT_DATABASE_BYTES is larger than 16,000,000."]),
    ],
)
def test_e008_names_limits_of_files_that_cannot_be(
    in_database: int, largest: int, told: list[str], settings: Any
) -> None:
    settings.ARTIFACT_DATABASE_BYTES, settings.ARTIFACT_MAX_BYTES = in_database, largest
    found = checks.files_have_sensible_limits()
    assert [message.msg for message in found] == told
    assert all(message.id == "portal.E008" and message.hint for message in found)


def test_e007_names_the_extra_of_a_package_that_is_not_there(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.SECRETS_BACKEND = secrets_backend.parse("azure:https://name.vault.azure.net")
    monkeypatch.setitem(sys.modules, "azure.identity", None)  # as where it is not installed
    (message,) = checks.secrets_backend_is_complete()
    assert message.msg == "SECRETS_BACKEND is azure, and the package azure.identity is not installed."
    assert "extra azure" in str(message.hint)


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ("consul:x", "'consul' is none of environment, files"),
        ("environment:x", "environment has no place"),
        ("files:secrets", "needs the absolute path"),
        ("vault:https://v", "needs the mount"),
        ("vault:http://v/secret", "must be reached by https://"),
        ("vault:https://me:pw@v/secret", "credentials do not belong"),
        ("vault:https://v/secret?auth=ldap", "auth is token or kubernetes"),
        ("vault:https://v/secret?auth=kubernetes", "needs a role"),
        ("vault:https://v/secret?rolle=x", "vault has no option 'rolle'; it has: auth, ca, field"),
        ("aws:frankfurt", "needs a region"),
        ("aws:eu-central-1?endpoint=http://elsewhere", "must be reached by https://"),
        ("google:", "needs a project"),
        ("azure:name", "needs an address"),
        ("doppler:desk", "needs a project and a config"),
    ],
)
def test_a_wrong_secrets_backend_is_told(raw: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        secrets_backend.parse(raw)


@pytest.mark.parametrize(("hosts", "told"), [(["desk.example"], 0), (["*"], 1), ([".desk.example"], 0)])
def test_w001_warns_of_hosts_that_are_not_named(hosts: list[str], told: int, settings: Any) -> None:
    settings.STANDALONE = False
    settings.ALLOWED_HOSTS = hosts
    assert [message.id for message in checks.hosts_are_named()] == ["portal.W001"] * told
