"""Keys in HashiCorp Vault, over HTTP: KV 2, tokens that end, pods that log in, denial, and a Vault that is not well."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apps.providers.secrets.backend import AccessRefused, BackendDown, SecretMissing
from apps.providers.secrets.backends.vault import Vault as Backend
from portal.redaction import MASK, redacted
from portal.secrets_backend import parse
from tests.vault_server import Role, Vault, vault_server

KEY = "sk-test-of-vault-0123456789"
JWT = "eyJhbGciOiJSUzI1NiJ9.a-pod-says-who-it-is.signature"


@pytest.fixture
def vault() -> Iterator[Vault]:
    with vault_server() as running:
        running.put("secret/desk/OPENAI", value=KEY)
        yield running


def by_token(vault: Vault, monkeypatch: pytest.MonkeyPatch, options: str = "", **granted: Any) -> Backend:
    monkeypatch.setenv("VAULT_TOKEN", vault.grant("secret/desk/", **granted))
    return Backend(parse(f"vault:{vault.address}/secret/desk{options}"), clock=lambda: vault.clock)


@pytest.fixture
def pod(vault: Vault, tmp_path: Path) -> Backend:
    """A pod whose role may read what is below secret/desk, for ten minutes at a time and an hour at most."""
    (tmp_path / "token").write_text(JWT)
    vault.roles["agents"] = Role(JWT, ttl=600, longest=3600, paths=("secret/desk/",))
    said = f"vault:{vault.address}/secret/desk?auth=kubernetes&role=agents&jwt={tmp_path / 'token'}"
    return Backend(parse(said), clock=lambda: vault.clock)


def test_a_key_is_read_with_its_version(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = by_token(vault, monkeypatch)
    backend.health()
    reading = backend.read("OPENAI")
    assert (reading.secret.reveal(), reading.version, reading.expires_at) == (KEY, "1", None)
    vault.put("secret/desk/OPENAI", value=f"{KEY}-2")
    assert backend.read("OPENAI").version == "2"
    assert KEY not in repr((backend, reading, vars(backend)))
    assert redacted(f"it is {KEY}-2!") == f"it is {MASK}!"


def test_another_field_and_a_namespace(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    vault.put("secret/desk/OPENAI", api_key=KEY)
    backend = by_token(vault, monkeypatch, "?field=api_key&namespace=team-a", namespace="team-a")
    assert backend.read("OPENAI").secret.reveal() == KEY
    with pytest.raises(AccessRefused):
        by_token(vault, monkeypatch, "?namespace=team-b", namespace="team-a").read("OPENAI")


def test_what_is_not_there_is_told_by_name(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = by_token(vault, monkeypatch)
    with pytest.raises(SecretMissing, match=r"secret desk/NONE does not exist"):
        backend.read("NONE")
    vault.put("secret/desk/EMPTY", value=" ")
    with pytest.raises(SecretMissing, match="empty"):
        backend.read("EMPTY")
    vault.put("secret/desk/OTHER", key=KEY)
    with pytest.raises(SecretMissing, match="no field 'value'") as told:
        backend.read("OTHER")
    assert KEY not in str(told.value)
    vault.delete_latest("secret/desk/OPENAI")
    with pytest.raises(SecretMissing, match="was deleted"):
        backend.read("OPENAI")


def test_what_it_may_not_read_is_refused(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    vault.put("secret/eu/OPENAI", value=KEY)
    monkeypatch.setenv("VAULT_TOKEN", vault.grant("secret/eu/"))
    with pytest.raises(AccessRefused, match=r"read desk/OPENAI \(403: .*permission denied"):
        Backend(parse(f"vault:{vault.address}/secret/desk")).read("OPENAI")
    monkeypatch.setenv("VAULT_TOKEN", "hvs.of-another-vault-altogether")
    with pytest.raises(AccessRefused, match="the token of VAULT_TOKEN"):
        Backend(parse(f"vault:{vault.address}/secret/desk")).read("OPENAI")
    monkeypatch.delenv("VAULT_TOKEN")
    with pytest.raises(AccessRefused, match="VAULT_TOKEN is not set"):
        Backend(parse(f"vault:{vault.address}/secret/desk")).read("OPENAI")


def test_a_token_is_renewed_in_the_middle_of_its_life(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = by_token(vault, monkeypatch, ttl=100)
    backend.read("OPENAI")
    assert backend.upkeep() == 50
    for _ in range(5):
        vault.clock += 60
        assert backend.upkeep() == 50
        assert backend.read("OPENAI").secret.reveal() == KEY
    assert vault.asked["/v1/auth/token/renew-self"] == 5


def test_a_token_that_ended_is_replaced_by_the_one_in_the_file(
    vault: Vault, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(vault.grant("secret/desk/", ttl=100, renewable=False) + "\n")
    monkeypatch.setenv("VAULT_TOKEN_FILE", str(tmp_path / "token"))
    backend = Backend(parse(f"vault:{vault.address}/secret/desk"), clock=lambda: vault.clock)
    backend.read("OPENAI")
    assert backend.upkeep() is None
    vault.clock += 101
    with pytest.raises(AccessRefused):
        backend.read("OPENAI")
    (tmp_path / "token").write_text(vault.grant("secret/desk/", ttl=100) + "\n")
    assert backend.read("OPENAI").secret.reveal() == KEY


def test_a_pod_logs_in_renews_and_logs_in_again_when_its_token_cannot_get_older(vault: Vault, pod: Backend) -> None:
    login, renew = "/v1/auth/kubernetes/login", "/v1/auth/token/renew-self"
    assert pod.read("OPENAI").secret.reveal() == KEY
    logins = []
    for _ in range(30):  # two and a half hours, with a token that lives for one
        vault.clock += 300
        pause = pod.upkeep()
        assert pause is not None
        assert 0 < pause <= 300
        logins.append(vault.asked[login])
        assert pod.read("OPENAI").secret.reveal() == KEY
    assert logins[0] == 1
    assert 3 <= logins[-1] <= 5
    assert vault.asked[renew] >= 20


def test_a_pod_whose_token_was_revoked_logs_in_again(vault: Vault, pod: Backend) -> None:
    pod.read("OPENAI")
    vault.tokens.clear()
    assert pod.read("OPENAI").secret.reveal() == KEY
    assert vault.asked["/v1/auth/kubernetes/login"] == 2


def test_a_pod_that_is_not_who_it_says_or_has_no_token_is_refused(vault: Vault, pod: Backend, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{JWT}-forged")
    with pytest.raises(AccessRefused, match=r"log this pod in as the role agents \(403"):
        pod.read("OPENAI")
    (tmp_path / "token").unlink()
    with pytest.raises(AccessRefused, match=r"The pod's token .* cannot be read: No such file"):
        pod.read("OPENAI")


@pytest.mark.parametrize(
    ("ill", "told"),
    [({"sealed": True}, "sealed or in maintenance"), ({"failing": 500}, "500"), ({"failing": 429}, "429")],
)
def test_a_vault_that_is_not_well_is_down_and_not_a_denial(
    ill: dict[str, Any], told: str, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = by_token(vault, monkeypatch)
    backend.read("OPENAI")
    for name, value in ill.items():
        setattr(vault, name, value)
    for ask in (lambda: backend.read("OPENAI"), backend.health):
        with pytest.raises(BackendDown, match=told):
            ask()
    vault.sealed, vault.failing = False, 0
    assert backend.read("OPENAI").secret.reveal() == KEY


def test_a_vault_that_is_not_there_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    with vault_server() as vault:
        backend = by_token(vault, monkeypatch)
    with pytest.raises(BackendDown, match="Vault cannot be reached"):
        backend.read("OPENAI")
