"""Webhooks go to public addresses and to networks that are allowed, whatever a name resolves to, and nowhere else."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
from pathlib import Path
from typing import Any

import aiohttp.resolver
import pytest
from asgiref.sync import async_to_sync
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from apps.webhooks import addresses, posting
from apps.webhooks.addresses import UrlRefused, is_allowed, verify_url
from apps.webhooks.policies import Answer
from apps.webhooks.posting import Post, Poster
from portal import checks, env
from tests.processes import run_python
from tests.webhooks import Received, receiver

LOOPBACK = ipaddress.ip_network("127.0.0.0/8")
INNER = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",  # metadata of cloud machines
    "100.64.0.1",  # carriers
    "100.100.100.200",  # metadata at Alibaba
    "192.0.0.192",  # metadata at Oracle
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",  # 127.0.0.1 behind NAT64
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "2002:7f00:1::",  # 127.0.0.1 by 6to4
    "2002:a00:1::1",
    "2001:0:1:2:3:4:5:6",  # Teredo
    "2001:db8::1",
    "3fff::1",
    "fc00::1",
    "fd00:ec2::254",  # metadata of cloud machines
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "not an address",
    "",
]
PUBLIC = ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]


@pytest.fixture(autouse=True)
def _nothing_allowed(settings: Any) -> None:
    settings.WEBHOOK_ALLOWED_NETWORKS = []


@pytest.mark.parametrize("address", INNER)
def test_no_inner_address_is_reached(address: str) -> None:
    assert not is_allowed(address, encrypted=True)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_reached_over_https_only(address: str) -> None:
    assert is_allowed(address, encrypted=True)
    assert not is_allowed(address, encrypted=False)


@pytest.mark.parametrize(
    ("network", "reached", "not_reached"),
    [
        ("10.1.0.0/16", ["10.1.2.3", "::ffff:10.1.2.3"], ["10.2.0.1", "127.0.0.1"]),
        ("fd12::/16", ["fd12::7"], ["fd13::7", "10.0.0.1"]),
        ("192.168.7.9/32", ["192.168.7.9"], ["192.168.7.10"]),
    ],
)
def test_allowed_networks_are_reached_over_plain_http_too(
    settings: Any, network: str, reached: list[str], not_reached: list[str]
) -> None:
    settings.WEBHOOK_ALLOWED_NETWORKS = [ipaddress.ip_network(network)]
    assert all(is_allowed(each, encrypted=False) for each in reached)
    assert not any(is_allowed(each, encrypted=True) for each in not_reached)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://example.com/", "starts with https://"),
        ("example.com/hooks", "starts with https://"),
        ("https:///hooks", "names a host"),
        ("https://example.com:99999/", "cannot be read"),
        ("https://[::1/", "cannot be read"),
        ("https://user:pass@example.com/", "name and password"),
        ("https://example.com/#part", "after #"),
        ("https://example.com/a b", "no spaces"),
        ("https://example.com/\r\nX: y", "no spaces"),
        ("https://example.com/" + "x" * 500, "at most 500"),
        ("https://localhost/", "cannot be reached"),
        ("https://127.0.0.1/", "cannot be reached"),
        ("https://2130706433/", "cannot be reached"),  # 127.0.0.1 as one number
        ("https://0x7f.1/", "cannot be reached"),
        ("https://[::ffff:127.0.0.1]/", "cannot be reached"),
        ("https://169.254.169.254/latest/meta-data/", "cannot be reached"),
        ("http://1.1.1.1/", "Use https://"),
        ("https://no-such-host.invalid/", "cannot be reached"),
    ],
)
def test_a_url_is_refused_with_its_reason(url: str, says: str) -> None:
    with pytest.raises(UrlRefused, match=says):
        verify_url(url)


def test_a_refusal_does_not_tell_what_an_inner_name_resolves_to() -> None:
    def inner(host: str, port: int) -> list[str]:
        return ["10.20.30.40"]

    def nothing(host: str, port: int) -> list[str]:
        return []

    told = []
    for resolve in (inner, nothing):
        with pytest.raises(UrlRefused) as refusal:
            verify_url("https://db.internal/", resolve=resolve)
        told.append(str(refusal.value))
    assert told[0] == told[1]
    assert "10.20" not in told[0]


def test_a_public_url_is_taken() -> None:
    verify_url("https://1.1.1.1/hooks?x=1")
    verify_url("https://both.example/", resolve=lambda host, port: ["10.0.0.1", "1.1.1.1"])


# -- at the moment of connecting ---------------------------------------------------------------------------------------


def send(url: str, **options: Any) -> Answer:
    async def run() -> Answer:
        async with Poster(**options) as poster:
            return await poster.send(Post(url, b"{}", {"webhook-id": "x"}))

    return async_to_sync(run)()


def test_a_name_that_resolves_elsewhere_after_it_was_registered_leads_nowhere(
    monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    """DNS rebinding: public when it is looked up for the check, loopback when it is connected to."""
    with receiver() as here:
        port = int(here.url.split(":")[2].split("/")[0])
        verify_url(f"https://rebinding.example:{port}/", resolve=lambda host, port: ["1.1.1.1"])

        async def rebound(self: Any, host: str, port: int = 0, family: int = 0) -> list[Any]:
            return [
                {"hostname": host, "host": "127.0.0.1", "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}
            ]

        monkeypatch.setattr(aiohttp.resolver.DefaultResolver, "resolve", rebound)
        for scheme in ("http", "https"):
            answer = send(f"{scheme}://rebinding.example:{port}/")
            assert answer.status_code is None
            assert "no address that may be reached" in answer.error
            assert "127.0.0.1" not in answer.error
        assert here.received == []
        settings.WEBHOOK_ALLOWED_NETWORKS = [LOOPBACK]
        assert send(f"http://rebinding.example:{port}/").status_code == 204
        assert here.received[0].headers["host"] == f"rebinding.example:{port}"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433"])
def test_no_spelling_of_loopback_is_connected_to(host: str) -> None:
    with receiver() as here:
        answer = send(here.url.replace("127.0.0.1", host))
        assert answer.status_code is None
        assert "no address that may be reached" in answer.error or answer.error == "The URL cannot be used."
        assert here.received == []


# -- what comes back ---------------------------------------------------------------------------------------------------


@pytest.fixture
def _loopback(settings: Any) -> None:
    settings.WEBHOOK_ALLOWED_NETWORKS = [LOOPBACK]


@pytest.mark.usefixtures("_loopback")
def test_redirects_are_not_followed() -> None:
    with receiver() as target, receiver(answer=lambda request: (307, {"Location": target.url}, b"")) as here:
        answer = send(here.url)
        assert (answer.status_code, answer.is_good) == (307, False)
        assert "redirects are not followed" in answer.error
        assert target.received == []


@pytest.mark.usefixtures("_loopback")
def test_of_an_answer_the_beginning_is_kept_without_secrets() -> None:
    said = b"\x00<b>no</b>\r\n token=abcdef0123456789 \xff " + b"x" * 100_000

    def answer(request: Received) -> tuple[int, dict[str, str], bytes]:
        return 500, {"Retry-After": "120", "Set-Cookie": "a=b"}, said

    with receiver(answer=answer) as here:
        found = send(here.url)
    assert found.status_code == 500
    assert found.text.startswith("<b>no</b> token=******** ")
    assert len(found.text) == posting.KEPT_CHARACTERS + 1
    assert "\x00" not in found.text
    assert found.retry_after_s == 120


@pytest.mark.usefixtures("_loopback")
def test_what_does_not_answer_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # takes the connection and says nothing
        answer = send(f"http://127.0.0.1:{deaf.getsockname()[1]}/", total_s=0.3)
    assert answer.status_code is None
    assert answer.error == "No answer within 0.3 s."
    assert 0.2 < answer.seconds < 3


@pytest.mark.usefixtures("_loopback")
def test_what_is_no_http_is_an_answer_that_cannot_be_understood() -> None:
    import threading

    with socket.create_server(("127.0.0.1", 0)) as odd:

        def speak() -> None:
            connection, _ = odd.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"SSH-2.0-OpenSSH\r\n\r\n")

        thread = threading.Thread(target=speak, daemon=True)
        thread.start()
        answer = send(f"http://127.0.0.1:{odd.getsockname()[1]}/")
        thread.join(5)
    assert answer.status_code is None
    assert "understood" in answer.error or "lost" in answer.error


@pytest.mark.usefixtures("_loopback")
def test_a_closed_port_and_plain_text_where_tls_should_be_are_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    assert send(f"http://127.0.0.1:{port}/").error == "The connection was refused, or could not be made."
    with receiver() as here:
        answer = send(here.url.replace("http://", "https://"))
    assert answer.status_code is None
    assert answer.error.startswith("No safe connection")


PROGRAM = """
import django; django.setup()
from asgiref.sync import async_to_sync
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from apps.webhooks.posting import Post, Poster
async def run(*urls):
    async with Poster() as poster:
        for url in urls:
            answer = await poster.send(Post(url, b"{}", {}))
            print(answer.status_code, answer.error)
import sys
async_to_sync(run)(*sys.argv[1:])
"""


@pytest.mark.processes
@pytest.mark.usefixtures("_loopback")
def test_over_https_the_certificate_must_be_of_the_name_and_trusted(tmp_path: Path) -> None:
    certificate, key = _certificate(tmp_path, "localhost")
    names: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.sni_callback = lambda connection, name, context: names.append(name)

    with receiver(tls=context) as here:
        named = here.url.replace("127.0.0.1", "localhost")
        done = run_python(
            "-c",
            PROGRAM,
            named,
            here.url,  # another name than that of the certificate
            WEBHOOK_ALLOWED_NETWORKS="127.0.0.0/8,::1",
            SSL_CERT_FILE=str(certificate),
            DJANGO_SETTINGS_MODULE="portal.settings",
            DATABASE_URL="postgresql://nowhere/x",
            STANDALONE="true",
        )
        assert done.returncode == 0, done.stderr
        first, second = done.stdout.splitlines()
        assert first.strip() == "204"
        assert second.startswith("None No safe connection: its certificate does not hold, IP address mismatch")
        assert here.received[0].headers["host"] == named.split("/")[2]
        assert "localhost" in names
        untrusted = send(named)
        assert untrusted.error == "No safe connection: its certificate does not hold, self-signed certificate."
        assert len(here.received) == 1


def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for a name that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    (folder / "key.pem").write_bytes(pem)
    return folder / "cert.pem", folder / "key.pem"


# -- the setting -------------------------------------------------------------------------------------------------------


def test_networks_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env, "problems", [])
    monkeypatch.setenv("NETS", "10.1.0.0/16, fd12::/16,192.168.7.9")
    assert [str(each) for each in env.networks("NETS")] == ["10.1.0.0/16", "fd12::/16", "192.168.7.9/32"]
    for wrong in ("10.1.0.0/99", "intranet", "10.1.0.1/16"):
        monkeypatch.setenv("NETS", wrong)
        assert env.networks("NETS") == []
    assert [name for name, _ in env.problems] == ["NETS"] * 3


@pytest.mark.parametrize(
    ("network", "warned"),
    [("10.0.0.0/8", False), ("127.0.0.0/8", False), ("169.254.0.0/16", True), ("0.0.0.0/0", True), ("::/0", True)],
)
def test_w002_warns_of_networks_with_the_metadata_service(settings: Any, network: str, warned: bool) -> None:
    settings.WEBHOOK_ALLOWED_NETWORKS = [ipaddress.ip_network(network)]
    found = checks.webhooks_reach_little()
    assert [message.id for message in found] == (["portal.W002"] if warned else [])
    assert all(network in message.msg for message in found)


def test_a_look_up_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    released = threading.Event()

    def hangs(*args: Any, **kwargs: Any) -> list[Any]:
        released.wait(10)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    monkeypatch.setattr(addresses, "LOOKED_UP_WITHIN_S", 0.05)
    with pytest.raises(UrlRefused, match="in time"):
        verify_url("https://slow.example/")
    released.set()
