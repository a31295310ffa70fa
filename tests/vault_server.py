"""A HashiCorp Vault for tests: the part of its documented HTTP API that the desk uses, over real HTTP.

KV 2 reads (with versions, deletion and CAS-less writes from the test), tokens with a time to live, renewal up to a
longest life, policies as path prefixes, namespaces, login of pods, and the states sealed, standby and erring.
https://developer.hashicorp.com/vault/api-docs
"""

from __future__ import annotations

import json
import secrets
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Token:
    """A token: until when it holds, at most until when it can be renewed, and which paths it may read."""

    ends: float
    longest: float
    ttl: float
    renewable: bool
    paths: tuple[str, ...]
    namespace: str = ""


@dataclass
class Role:
    """A role that pods log in as."""

    jwt: str
    ttl: float
    longest: float
    paths: tuple[str, ...]


@dataclass
class Vault:
    """What it holds, and how it is. ``clock`` is moved by the test."""

    clock: float = 0.0
    entries: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=dict)
    roles: dict[str, Role] = field(default_factory=dict)
    sealed: bool = False
    failing: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    read_by: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Entries that were asked for, by token."""
    port: int = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def put(self, path: str, **data: str) -> int:
        """A new version of an entry ("secret/openai"); its number."""
        versions = self.entries.setdefault(path, [])
        versions.append({"data": data, "deletion_time": ""})
        return len(versions)

    def delete_latest(self, path: str) -> None:
        self.entries[path][-1].update(data=None, deletion_time="2026-11-01T00:00:00.000000Z")

    def grant(
        self,
        *paths: str,
        ttl: float = 3600,
        longest: float = 1e9,
        renewable: bool = True,
        namespace: str = "",
    ) -> str:
        """A token that may read what is below the paths."""
        name = f"hvs.{secrets.token_urlsafe(24)}"
        self.tokens[name] = Token(self.clock + ttl, self.clock + longest, ttl, renewable, paths, namespace)
        return name

    def answer(self, method: str, path: str, headers: Any, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        path, _, _ = path.partition("?")
        self.asked[path] += 1
        if path == "/v1/sys/health":
            return (503 if self.sealed else self.failing or 200), {"sealed": self.sealed, "initialized": True}
        if self.sealed:
            return 503, {"errors": ["Vault is sealed"]}
        if self.failing:
            return self.failing, {"errors": ["internal error"]}
        if headers.get("X-Vault-Request") != "true":
            return 412, {"errors": ["required 'X-Vault-Request' header is missing"]}
        if method == "POST" and path.startswith("/v1/auth/") and path.endswith("/login"):
            return self._log_in(body)
        name = headers.get("X-Vault-Token", "")
        token = self.tokens.get(name)
        if token is None or token.ends <= self.clock or headers.get("X-Vault-Namespace", "") != token.namespace:
            return 403, {"errors": ["permission denied"]}
        if path == "/v1/auth/token/lookup-self":
            ttl = int(token.ends - self.clock)
            return 200, {"data": {"ttl": ttl, "renewable": token.renewable, "id": name}}
        if path == "/v1/auth/token/renew-self" and method == "POST":
            if not token.renewable:
                return 400, {"errors": ["lease is not renewable"]}
            token.ends = min(self.clock + token.ttl, token.longest)
            return 200, {"auth": _auth(name, token.ends - self.clock, token.renewable)}
        mount, _, entry = path.removeprefix("/v1/").partition("/data/")
        self.read_by[name].add(f"{mount}/{entry}")
        return self._read(f"{mount}/{entry}", token)

    def _log_in(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        role = self.roles.get(body.get("role", ""))
        if role is None:
            return 400, {"errors": [f'invalid role name "{body.get("role")}"']}
        if body.get("jwt") != role.jwt:
            return 403, {"errors": ["permission denied"]}
        name = self.grant(*role.paths, ttl=role.ttl, longest=role.longest)
        return 200, {"auth": _auth(name, role.ttl, renewable=True)}

    def _read(self, wanted: str, token: Token) -> tuple[int, dict[str, Any]]:
        if not any(wanted.startswith(allowed) for allowed in token.paths):
            return 403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}
        versions = self.entries.get(wanted)
        if not versions:
            return 404, {"errors": []}
        newest = versions[-1]
        facts = {
            "created_time": "2026-10-01T00:00:00.000000Z",
            "deletion_time": newest["deletion_time"],
            "destroyed": False,
            "version": len(versions),
        }
        return (200 if newest["data"] else 404), {"data": {"data": newest["data"], "metadata": facts}}


def _auth(name: str, ttl: float, renewable: bool) -> dict[str, Any]:
    return {"client_token": name, "lease_duration": int(ttl), "renewable": renewable, "policies": ["default"]}


@contextmanager
def serving(answer: Any) -> Iterator[int]:
    """Serves ``answer(method, path, headers, body) -> (status, JSON)`` on loopback; its port."""

    gone = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._serve({})

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                body = json.loads(raw or b"{}")
            except ValueError:
                body = {"form": raw.decode()}
            self._serve(body)

        def _serve(self, body: dict[str, Any]) -> None:
            if gone.is_set():  # a connection that was kept
                self.close_connection = True
                return
            status, document = answer(self.command, self.path, self.headers, body)
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        gone.set()
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def vault_server() -> Iterator[Vault]:
    vault = Vault()
    with serving(vault.answer) as vault.port:
        yield vault
