"""An OpenID provider over HTTP for tests: a process of its own, with people, groups, keys that rotate, and faults.

``python -m tests.oidc_provider --port N`` serves discovery, an authorization page with a login form, token (PKCE and
client authentication verified, a code works once), userinfo, keys and the end of the session. ``POST /control`` with
JSON changes what it does; :class:`Provider` starts it and talks to it.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import html
import json
import secrets
import socket
import threading
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.forks import Forked
from tests.processes import free_port

CLIENT_ID, CLIENT_SECRET = "swarmdesk", "a secret & more"
LIFE_S = 300


def _part(data: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(data).encode()).rstrip(b"=").decode()


class Key:
    """A signing key with an id."""

    def __init__(self, algorithm: str) -> None:
        self.algorithm, self.kid = algorithm, secrets.token_hex(4)
        self.private: Any = (
            ec.generate_private_key(ec.SECP256R1())
            if algorithm == "ES256"
            else rsa.generate_private_key(public_exponent=65537, key_size=2048)
        )

    @property
    def public(self) -> dict[str, Any]:
        maker = jwt.get_algorithm_by_name(self.algorithm)
        described = maker.to_jwk(self.private.public_key(), as_dict=True)  # type: ignore[call-arg]
        return {**described, "kid": self.kid, "use": "sig", "alg": self.algorithm}

    def sign(self, claims: dict[str, Any]) -> str:
        return jwt.encode(claims, self.private, self.algorithm, headers={"kid": self.kid})


@dataclass
class State:
    """What the provider knows, and the faults that are switched on."""

    issuer: str
    people: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Claims by login name; ``sub`` is the name unless given."""
    faults: set[str] = field(default_factory=set)
    groups_in: str = "token"  # or "userinfo", or "nowhere"
    key: Key = field(default_factory=lambda: Key("RS256"))
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    """Requests by path."""
    ended: list[dict[str, str]] = field(default_factory=list)
    """The parameters of each request that ended a session."""
    released: threading.Event = field(default_factory=threading.Event)

    def claims(self, person: str, nonce: str) -> dict[str, Any]:
        """The claims of an ID token, with the faults that are on."""
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": person,
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + LIFE_S,
            "nonce": nonce,
            **self.people[person],
        }
        if self.groups_in != "token":
            claims.pop("groups", None)
        changes: dict[str, dict[str, Any]] = {
            "wrong audience": {"aud": "another-client"},
            "audience for two": {"aud": [CLIENT_ID, "another-client"]},
            "authorized for another": {"aud": [CLIENT_ID, "another-client"], "azp": "another-client"},
            "expired token": {"iat": now - 900, "exp": now - 600},
            "clock behind": {"iat": now - LIFE_S - 20, "exp": now - 20},
            "clock ahead": {"iat": now + 20, "nbf": now + 20},
            "far ahead": {"iat": now + 900, "exp": now + 1200},
            "not yet valid": {"nbf": now + 600},
            "wrong nonce": {"nonce": "of another login"},
            "wrong issuer": {"iss": "https://elsewhere.example"},
            "groups elsewhere": {"_claim_names": {"groups": "src1"}},
        }
        for fault in self.faults:
            claims.update(changes.get(fault, {}))
        if "no subject" in self.faults:
            claims.pop("sub")
        if "no nonce" in self.faults:
            claims.pop("nonce")
        return claims

    def id_token(self, person: str, nonce: str) -> str:
        claims = self.claims(person, nonce)
        if "algorithm none" in self.faults:
            return f"{_part({'alg': 'none', 'typ': 'JWT'})}.{_part(claims)}."
        if "signed with the client's secret" in self.faults:
            return jwt.encode(claims, CLIENT_SECRET.ljust(32), "HS256", headers={"kid": self.key.kid})
        if "foreign signature" in self.faults:
            foreign = Key(self.key.algorithm)
            foreign.kid = self.key.kid
            return foreign.sign(claims)
        if "no token" in self.faults:
            return ""
        return self.key.sign(claims)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    state: State
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Nothing: tests read ``seen``."""

    def do_GET(self) -> None:
        self.answer("GET")

    def do_POST(self) -> None:
        self.answer("POST")

    def answer(self, method: str) -> None:
        state, url = self.state, urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        if url.path == "/control":
            self.send_json(self.control(json.loads(body)))
            return
        state.seen[url.path] = state.seen.get(url.path, 0) + 1
        if "hanging" in state.faults:
            state.released.wait(30)
            self.close_connection = True
            return
        if "broken" in state.faults:
            self.send(503, "text/plain", "out of order")
            return
        if "endless" in state.faults:
            with suppress(OSError):
                self.send_response(200)
                self.end_headers()
                while not state.released.is_set():
                    self.wfile.write(b" " * 65536)
            self.close_connection = True
            return
        given = {name: values[0] for name, values in parse_qs(url.query + "&" + body).items()}
        routes = {
            "/.well-known/openid-configuration": self.discovery,
            "/keys": lambda _: self.send_json({"keys": [state.key.public]}),
            "/authorize": self.authorize if method == "GET" else self.log_in,
            "/token": self.token,
            "/userinfo": self.userinfo,
            "/logout": self.log_out,
        }
        answer = routes.get(url.path)
        if answer is None:
            self.send(404, "text/plain", "nothing here")
        else:
            answer(given)

    # -- endpoints -----------------------------------------------------------------------------------------------------

    def discovery(self, given: dict[str, str]) -> None:
        base = self.state.issuer
        issuer = "https://elsewhere.example" if "discovery of another" in self.state.faults else base
        described = {
            "issuer": issuer,
            "authorization_endpoint": f"{base}/authorize",
            "token_endpoint": f"{base}/token",
            "userinfo_endpoint": f"{base}/userinfo",
            "jwks_uri": f"{base}/keys",
            "end_session_endpoint": f"{base}/logout",
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
            "id_token_signing_alg_values_supported": ["RS256", "ES256"],
            "authorization_response_iss_parameter_supported": True,
        }
        if "secret in the form" in self.state.faults:
            described["token_endpoint_auth_methods_supported"] = ["client_secret_post"]
        if "no logout" in self.state.faults:
            del described["end_session_endpoint"]
        self.send_json(described)

    def authorize(self, given: dict[str, str]) -> None:
        """The login form, or straight back for somebody who has a session here."""
        wanted = {"response_type": "code", "client_id": CLIENT_ID, "code_challenge_method": "S256"}
        wrong = [name for name, value in wanted.items() if given.get(name) != value]
        wrong += [name for name in ("state", "nonce", "code_challenge", "redirect_uri") if not given.get(name)]
        if wrong or "openid" not in given.get("scope", "").split():
            self.send(400, "text/plain", f"wrong: {wrong}")
            return
        known = SimpleCookie(self.headers.get("Cookie", "")).get("provider_session")
        if known and known.value in self.state.people:
            self.send_back(given, known.value)
            return
        hidden = "".join(
            f'<input type="hidden" name="{html.escape(name)}" value="{html.escape(value)}">'
            for name, value in given.items()
        )
        page = f"""<!DOCTYPE html><html lang="en"><head><title>Provider</title><link rel="icon" href="data:,"></head>
<body><h1>Test provider</h1><form method="post">{hidden}<label>Name <input name="person"></label>
<button name="choice" value="in">Log in</button><button name="choice" value="no">Refuse</button></form></body></html>"""
        self.send(200, "text/html", page)

    def log_in(self, given: dict[str, str]) -> None:
        if given.get("choice") == "no":
            back = {"error": "access_denied", "error_description": "<b>secret detail</b>"}
            back |= {"state": given["state"], "iss": self.state.issuer}
            self.redirect(f"{given['redirect_uri']}?{urlencode(back)}")
        elif given.get("person") not in self.state.people:
            self.send(403, "text/plain", "unknown here")
        else:
            self.send_back(given, given["person"])

    def send_back(self, given: dict[str, str], person: str) -> None:
        code = secrets.token_urlsafe(16)
        self.state.codes[code] = {**given, "person": person}
        issuer = "https://elsewhere.example" if "answer of another" in self.state.faults else self.state.issuer
        back = {"code": code, "state": given["state"], "iss": issuer}
        self.redirect(f"{given['redirect_uri']}?{urlencode(back)}", f"provider_session={person}; Path=/; HttpOnly")

    def token(self, given: dict[str, str]) -> None:
        state = self.state
        grant = state.codes.pop(given.get("code", ""), None)  # a code works once
        challenge = base64.urlsafe_b64encode(hashlib.sha256(given.get("code_verifier", "").encode()).digest())
        if not self.knows_client(given):
            self.send_json({"error": "invalid_client"}, 401)
        elif (
            grant is None
            or challenge.rstrip(b"=").decode() != grant["code_challenge"]
            or given.get("redirect_uri") != grant["redirect_uri"]
        ):
            self.send_json({"error": "invalid_grant"}, 400)
        else:
            access = secrets.token_urlsafe(16)
            state.tokens[access] = grant["person"]
            id_token = state.id_token(grant["person"], grant["nonce"])
            answer = {"access_token": access, "token_type": "Bearer", "expires_in": LIFE_S, "id_token": id_token}
            self.send_json(answer)

    def knows_client(self, given: dict[str, str]) -> bool:
        if "secret in the form" in self.state.faults:
            return (given.get("client_id"), given.get("client_secret")) == (CLIENT_ID, CLIENT_SECRET)
        kind, _, text = self.headers.get("Authorization", "").partition(" ")
        name, _, secret = base64.b64decode(text).decode().partition(":") if kind == "Basic" else ("", "", "")
        return (unquote(name), unquote(secret)) == (CLIENT_ID, CLIENT_SECRET)

    def userinfo(self, given: dict[str, str]) -> None:
        person = self.state.tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
        if person is None:
            self.send_json({"error": "invalid_token"}, 401)
            return
        facts = {"sub": person, **self.state.people[person]}
        if self.state.groups_in == "nowhere":
            facts.pop("groups", None)
        if "userinfo of another" in self.state.faults:
            facts["sub"] = "somebody-else"
        if "userinfo for another client" in self.state.faults:
            facts["aud"] = "another-client"
        if "userinfo of another issuer" in self.state.faults:
            facts["iss"] = "https://elsewhere.example"
        if "userinfo expired" in self.state.faults:
            facts["exp"] = int(time.time()) - 600
        if "signed userinfo" not in self.state.faults:
            self.send_json(facts)
            return
        key = Key(self.state.key.algorithm) if "userinfo by a foreign key" in self.state.faults else self.state.key
        self.send(200, "application/jwt; charset=utf-8", key.sign(facts))

    def log_out(self, given: dict[str, str]) -> None:
        self.state.ended.append(given)
        self.redirect(given.get("post_logout_redirect_uri", "/"), "provider_session=; Path=/; Max-Age=0")

    # -- control -------------------------------------------------------------------------------------------------------

    def control(self, wanted: dict[str, Any]) -> dict[str, Any]:
        state = self.state
        if "people" in wanted:
            state.people = wanted["people"]
        if "faults" in wanted:
            state.faults = set(wanted["faults"])
            old, state.released = state.released, threading.Event()
            old.set()
        if "groups_in" in wanted:
            state.groups_in = wanted["groups_in"]
        if "rotate" in wanted:
            state.key = Key(wanted["rotate"])
        return {"seen": state.seen, "ended": state.ended, "kid": state.key.kid}

    # -- answers -------------------------------------------------------------------------------------------------------

    def send(self, status: int, kind: str, text: str) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def send_json(self, data: dict[str, Any], status: int = 200) -> None:
        self.send(status, "application/json", json.dumps(data))

    def redirect(self, url: str, cookie: str = "") -> None:
        self.send_response(302)
        self.send_header("Location", url)
        if cookie:
            self.send_header("Set-Cookie", cookie)
        self.send_header("Content-Length", "0")
        self.end_headers()


class Provider:
    """The process, on a port that stays the same when it is stopped and started again."""

    def __init__(self) -> None:
        self.port = free_port()
        self.issuer = f"http://127.0.0.1:{self.port}"
        self._process: Forked | None = None

    def start(self) -> None:
        self._process = Forked("-m", "tests.oidc_provider", "--port", str(self.port), ahead=("jwt",))
        never, deadline = threading.Event(), time.monotonic() + 60
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            assert self._process.poll() is None, "the provider did not start"
            assert time.monotonic() < deadline, "the provider did not start in time"
            never.wait(0.05)

    def stop(self) -> None:
        """Nobody listens on its port any more."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def set(self, **wanted: Any) -> dict[str, Any]:
        """Changes ``people``, ``faults`` or ``groups_in``, or rotates the key; what it has seen until now."""
        request = urllib.request.Request(f"{self.issuer}/control", json.dumps(wanted).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def seen(self, path: str) -> int:
        """How many requests for a path there were."""
        return int(self.set()["seen"].get(path, 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    Handler.state = State(f"http://127.0.0.1:{port}")
    ThreadingHTTPServer.daemon_threads = True
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
