"""Keys in the environment, in mounted files, and at AWS, Google, Azure and Doppler: real files, real HTTP."""

from __future__ import annotations

import base64
import datetime as dt
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from apps.providers.secrets.backend import AccessRefused, Backend, BackendDown, SecretMissing
from apps.providers.secrets.backends import open_backend
from portal.secrets_backend import parse
from tests.mounted import swap
from tests.processes import free_port
from tests.running import wait_until
from tests.vault_server import serving

KEY, NEXT = "sk-of-a-backend-0123456789", "sk-of-a-backend-9876543210"


# -- the environment ---------------------------------------------------------------------------------------------------


def test_a_variable_or_its_file_holds_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    backend = open_backend(parse("environment"))
    monkeypatch.setenv("SOME_KEY", KEY)
    assert backend.read("SOME_KEY").secret.reveal() == KEY
    (tmp_path / "key").write_text(f"{KEY}\n")
    monkeypatch.delenv("SOME_KEY")
    monkeypatch.setenv("SOME_KEY_FILE", str(tmp_path / "key"))
    assert backend.read("SOME_KEY").secret.reveal() == KEY
    (tmp_path / "key").write_text(NEXT)  # without a restart
    assert backend.read("SOME_KEY").secret.reveal() == NEXT
    (tmp_path / "key").unlink()
    with pytest.raises(SecretMissing, match=r"SOME_KEY_FILE names .* No such file"):
        backend.read("SOME_KEY")


def test_no_setting_of_ours_can_be_taken_for_the_key_of_a_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = open_backend(parse("environment"))
    for name in ("SECRET_KEY", "VAULT_MASTER_KEY", "DATABASE_URL", "VAULT_TOKEN"):
        monkeypatch.setenv(name, KEY)
        with pytest.raises(AccessRefused, match="a setting of Swarmdesk itself"):
            backend.read(name)
    with pytest.raises(SecretMissing, match="Neither NO_SUCH_KEY nor NO_SUCH_KEY_FILE"):
        backend.read("NO_SUCH_KEY")
    with pytest.raises(SecretMissing, match="No variable can be called openai-key"):
        backend.read("openai-key")


# -- mounted files -----------------------------------------------------------------------------------------------------


def test_a_mounted_key_is_whole_at_every_moment_of_a_swap(tmp_path: Path) -> None:
    backend = open_backend(parse(f"files:{tmp_path}"))
    swap(tmp_path, 1, OPENAI=f"{KEY}\n", other="x")
    backend.health()
    reading = backend.read("OPENAI")
    assert (reading.secret.reveal(), reading.version[:2]) == (KEY, "20")
    swapping = subprocess.Popen(
        [sys.executable, "-m", "tests.mounted", str(tmp_path), "OPENAI", KEY * 2000, NEXT * 2000],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
    )
    seen: set[str] = set()
    try:
        while not {KEY * 2000, NEXT * 2000} <= seen and swapping.poll() is None:
            seen.add(backend.read("OPENAI").secret.reveal())
        assert swapping.stdin
        swapping.stdin.close()
        while swapping.poll() is None:
            seen.add(backend.read("OPENAI").secret.reveal())
    finally:
        swapping.kill()
    assert swapping.returncode == 0
    assert {KEY * 2000, NEXT * 2000} <= seen <= {KEY, KEY * 2000, NEXT * 2000}


def test_a_file_that_is_missing_denied_or_no_text_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = open_backend(parse(f"files:{tmp_path}"))
    with pytest.raises(SecretMissing, match="There is no file OPENAI"):
        backend.read("OPENAI")
    (tmp_path / "OPENAI").write_bytes(b"\xff\xfe")
    with pytest.raises(SecretMissing, match="no text file"):
        backend.read("OPENAI")
    (tmp_path / "OPENAI").write_text("\n")
    with pytest.raises(SecretMissing, match="empty"):
        backend.read("OPENAI")
    for name in ("../OPENAI", "..data"):
        with pytest.raises(SecretMissing, match="can be called"):
            backend.read(name)
    with pytest.raises(BackendDown, match="No such file"):
        open_backend(parse(f"files:{tmp_path}/gone")).read("OPENAI")


def test_a_file_of_another_class_is_denied(tmp_path: Path) -> None:
    """The way in which a mount keeps classes apart. Root, who reads everything, looks as another user."""
    (tmp_path / "OPENAI").write_text(KEY)
    if os.geteuid() != 0:
        (tmp_path / "OPENAI").chmod(0)
        with pytest.raises(AccessRefused):
            open_backend(parse(f"files:{tmp_path}")).read("OPENAI")
        return
    (tmp_path / "OPENAI").chmod(0o600)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for folder in (tmp_path, *tmp_path.parents):
                if folder.owner() == "root" and folder != Path("/"):
                    folder.chmod(folder.stat().st_mode | 0o011)
            os.setuid(65534)
            open_backend(parse(f"files:{tmp_path}")).read("OPENAI")
        except AccessRefused:
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# -- AWS ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    """moto's server, which speaks AWS's own protocol; its address."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # From the call on that comes after so many, requests are authorised like AWS does.
        env={**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": "6"},
    )
    try:
        wait_until(lambda: _listens(port), what="moto")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    import socket

    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def keys_of(answer: dict[str, Any]) -> dict[str, str]:
    return {
        "aws_access_key_id": answer["AccessKey"]["AccessKeyId"],
        "aws_secret_access_key": answer["AccessKey"]["SecretAccessKey"],
    }


def test_aws_reads_rotates_and_denies(aws: str, monkeypatch: pytest.MonkeyPatch) -> None:  # P8
    anybody = {"aws_access_key_id": "anybody", "aws_secret_access_key": "anything"}
    where = {"region_name": "eu-central-1", "endpoint_url": aws}
    iam = boto3.client("iam", **where, **anybody)
    iam.create_user(UserName="agents")
    mine = keys_of(iam.create_access_key(UserName="agents"))
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": ["secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret"],
                "Resource": "*",
            },
            {"Effect": "Allow", "Action": ["secretsmanager:PutSecretValue", "iam:*"], "Resource": "*"},
        ],
    }
    iam.put_user_policy(UserName="agents", PolicyName="read", PolicyDocument=json.dumps(policy))
    store = boto3.client("secretsmanager", **where, **anybody)
    store.create_secret(Name="desk/OPENAI", SecretString=KEY)
    store.create_secret(Name="desk/JSON", SecretString=json.dumps({"key": KEY}))
    store.create_secret(Name="desk/DELETED", SecretString=KEY)
    # From here on, only what a policy allows is answered.
    for name, value in mine.items():
        monkeypatch.setenv(name.upper(), value)
    backend = open_backend(parse(f"aws:eu-central-1/desk?endpoint={aws}"))
    backend.health()
    first = backend.read("OPENAI")
    assert first.secret.reveal() == KEY
    assert open_backend(parse(f"aws:eu-central-1/desk?endpoint={aws}&field=key")).read("JSON").secret.reveal() == KEY
    with pytest.raises(SecretMissing, match="secret desk/NONE does not exist"):
        backend.read("NONE")
    boto3.client("secretsmanager", **where, **mine).put_secret_value(SecretId="desk/OPENAI", SecretString=NEXT)
    second = backend.read("OPENAI")
    assert (second.secret.reveal(), second.version != first.version) == (NEXT, True)
    policy["Statement"] = [{"Effect": "Allow", "Action": "iam:*", "Resource": "*"}]
    boto3.client("iam", **where, **mine).put_user_policy(
        UserName="agents", PolicyName="read", PolicyDocument=json.dumps(policy)
    )
    with pytest.raises(AccessRefused, match=r"read the secret desk/OPENAI \(403\)") as denied:
        backend.read("OPENAI")
    assert KEY not in str(denied.value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(AccessRefused):
        open_backend(parse(f"aws:eu-central-1/desk?endpoint={aws}")).read("OPENAI")


def test_an_aws_that_is_not_there_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    backend = open_backend(parse(f"aws:eu-central-1/desk?endpoint=http://127.0.0.1:{free_port()}"))
    for ask in (lambda: backend.read("OPENAI"), backend.health):
        with pytest.raises(BackendDown, match="EndpointConnectionError"):
            ask()


# -- Google, Azure, Doppler --------------------------------------------------------------------------------------------


class Cloud:
    """The addresses of three services that the desk uses, as their references describe them."""

    def __init__(self) -> None:
        self.keys = {"OPENAI": KEY}
        self.token = "ya29.the-token-of-this-process"
        self.status = 200
        self.takes_credentials = True
        self.port = 0

    def answer(self, method: str, path: str, headers: Any, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        path, _, query = path.partition("?")
        if path == "/token":  # where Google's service accounts and Azure's managed identities get theirs
            if not self.takes_credentials:
                return 400, {"error": "invalid_grant", "error_description": "unknown"}
            ends = int(dt.datetime.now(dt.UTC).timestamp()) + 3600
            return 200, {
                "access_token": self.token,
                "expires_in": 3600,
                "expires_on": str(ends),
                "token_type": "Bearer",
            }
        if headers.get("Authorization") != f"Bearer {self.token}":
            return 401, {"error": {"code": "Unauthorized"}}
        if self.status != 200:
            return self.status, {"error": {"code": self.status}}
        name = path.split("/")[-2] if path.endswith(":access") and "versions" in path else ""
        if path.startswith("/v1/projects/my-project/secrets/"):
            name = path.split("/")[5]
            data = base64.b64encode(self.keys.get(name, "").encode()).decode()
            found = {"name": f"projects/1/secrets/{name}/versions/7", "payload": {"data": data}}
            return (200, found) if name in self.keys else (404, {"error": {"status": "NOT_FOUND"}})
        if path.startswith("/secrets/") and query == "api-version=7.4":
            name = path.split("/")[2].replace("-", "_")
            found = {
                "value": self.keys.get(name, ""),
                "id": f"https://v.vault.azure.net/secrets/{name}/4387e9f3",
                "attributes": {"enabled": True, "exp": 1893456000},
            }
            return (200, found) if name in self.keys else (404, {"error": {"code": "SecretNotFound"}})
        if path == "/v3/configs/config" and query == "project=desk&config=prd":
            return 200, {"config": {"name": "prd"}}
        if path == "/v3/configs/config/secret" and query.startswith("project=desk&config=prd&name="):
            name = query.rpartition("=")[2]
            found = {"name": name, "value": {"raw": "${X}", "computed": self.keys.get(name)}}
            return (200, found) if name in self.keys else (404, {"success": False})
        return 418, {"error": path}


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    made = Cloud()
    with serving(made.answer) as made.port:
        yield made


def google(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Backend:
    """With a service account whose tokens come from the test's server."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account",
        "client_email": "desk@my-project.iam.gserviceaccount.com",
        "private_key_id": "1",
        "private_key": pem.decode(),
        "token_uri": f"http://127.0.0.1:{cloud.port}/token",
    }
    (folder / "account.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(folder / "account.json"))
    return open_backend(parse(f"google:my-project?endpoint=http://127.0.0.1:{cloud.port}"))


def azure(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Backend:
    """With a managed identity whose tokens come from the test's server."""
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"http://127.0.0.1:{cloud.port}/token")
    monkeypatch.setenv("IDENTITY_HEADER", "it-is-me")
    return open_backend(parse(f"azure:http://127.0.0.1:{cloud.port}"))


def doppler(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Backend:
    monkeypatch.setenv("DOPPLER_TOKEN", cloud.token)
    return open_backend(parse(f"doppler:desk/prd?endpoint=http://127.0.0.1:{cloud.port}"))


each_cloud = pytest.mark.parametrize(
    ("make", "version"), [(google, "7"), (azure, "4387e9f3"), (doppler, "")], ids=["google", "azure", "doppler"]
)
Maker = Callable[[Cloud, pytest.MonkeyPatch, Path], Backend]


@each_cloud
def test_a_cloud_gives_keys_denies_and_is_away(
    make: Maker, version: str, cloud: Cloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:  # P8
    backend = make(cloud, monkeypatch, tmp_path)
    backend.health()
    reading = backend.read("OPENAI")
    assert (reading.secret.reveal(), reading.version) == (KEY, version)
    cloud.keys["OPENAI"] = NEXT
    assert backend.read("OPENAI").secret.reveal() == NEXT
    with pytest.raises(SecretMissing, match="NONE does not exist"):
        backend.read("NONE")
    cloud.status = 403
    with pytest.raises(AccessRefused, match="does not let this process") as denied:
        backend.read("OPENAI")
    assert cloud.token not in str(denied.value)
    for cloud.status in (500, 503, 429):
        with pytest.raises(BackendDown, match=str(cloud.status)):
            backend.read("OPENAI")


@each_cloud
def test_a_cloud_that_is_not_there_is_down(
    make: Maker, version: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = Cloud()
    with serving(made.answer) as made.port:
        backend = make(made, monkeypatch, tmp_path)
        backend.read("OPENAI")
    with pytest.raises(BackendDown, match="cannot be reached"):
        backend.read("OPENAI")


@pytest.mark.parametrize("make", [google, azure])
def test_a_cloud_that_does_not_take_the_credentials_refuses(
    make: Maker, cloud: Cloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cloud.takes_credentials = False
    with pytest.raises(AccessRefused, match="does not take this process's credentials"):
        make(cloud, monkeypatch, tmp_path).read("OPENAI")


def test_what_azure_calls_a_secret_has_no_underscore_and_an_end(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cloud.keys["MY_KEY"] = NEXT
    reading = azure(cloud, monkeypatch, tmp_path).read("MY_KEY")
    assert (reading.secret.reveal(), reading.expires_at) == (NEXT, dt.datetime(2030, 1, 1, tzinfo=dt.UTC))
