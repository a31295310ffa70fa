"""HashiCorp Vault: keys in a KV 2 engine, by token or by the pod's service account.

The API is documented at https://developer.hashicorp.com/vault/api-docs: a read is ``GET /v1/MOUNT/data/PATH``, a token
is looked at and renewed at ``/v1/auth/token/lookup-self`` and ``renew-self``, a pod logs in at
``/v1/auth/kubernetes/login``.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import structlog

from apps.providers.secrets.backend import AccessRefused, BackendDown, Reading, SecretMissing, SecretsError, reading_of
from apps.providers.secrets.backends.http import Answer, Http
from portal import env, redaction
from portal.encryption import Secret
from portal.secrets_backend import SecretsBackend

log = structlog.get_logger(__name__)

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount/token"
RENEW_AT = 0.5
"""Part of a token's life after which it is renewed."""
LOOK_AGAIN_S = 30.0
"""After a renewal that did not go through."""


class Vault:
    """One KV 2 engine. Each secret is an entry with its value in one field."""

    def __init__(self, said: SecretsBackend, *, clock: Callable[[], float] = time.monotonic) -> None:
        parts = urlsplit(said.place)
        options = said.options
        self._mount, _, self._path = parts.path.strip("/").partition("/")
        self._field = options.get("field", "value")
        self._namespace = options.get("namespace", "")
        self._role = options.get("role", "") if options.get("auth") == "kubernetes" else ""
        self._login = options.get("login", "kubernetes").strip("/")
        self._jwt = options.get("jwt", SERVICE_ACCOUNT)
        self._http = Http(f"{parts.scheme}://{parts.netloc}", "Vault", ca=options.get("ca", ""))
        self._clock = clock
        self._token: Secret | None = None
        self._renewable = False
        self._renew_at: float | None = None
        self._life_s = 0.0

    @classmethod
    def of(cls, said: SecretsBackend) -> Vault:
        return cls(said)

    def read(self, name: str) -> Reading:
        path = quote("/".join(part for part in (self._path, name) if part))
        answer = self._authorised(f"/v1/{self._mount}/data/{path}")
        data = answer.body.get("data")
        if answer.status == 404:
            deleted = isinstance(data, dict) and (data.get("metadata") or {}).get("deletion_time")
            why = "was deleted" if deleted else "does not exist"
            raise SecretMissing(f"The secret {path} {why} in Vault's engine {self._mount}.")
        if answer.status != 200 or not isinstance(data, dict):
            raise _failure(answer, f"read {path}")
        values, facts = data.get("data"), data.get("metadata") or {}
        if not isinstance(values, dict) or self._field not in values:
            raise SecretMissing(f"The secret {path} in Vault has no field {self._field!r}.")
        return reading_of(
            name,
            values[self._field],
            version=str(facts.get("version", "")),
            expires_at=_moment(facts.get("deletion_time")),
        )

    def health(self) -> None:
        answer = self._http.get(
            "/v1/sys/health", headers=self._headers(), params={"standbyok": "true", "perfstandbyok": "true"}
        )
        if answer.status != 200:
            raise _failure(answer, "answer its health check")
        if self._token is None:
            self._log_in()

    def upkeep(self) -> float | None:
        """Renews the token in the middle of its life; a pod logs in anew when it cannot be renewed any further."""
        if self._token is None or self._renew_at is None:
            return None
        if self._clock() >= self._renew_at:
            try:
                self._renew()
            except BackendDown:
                self._renew_at = self._clock() + LOOK_AGAIN_S
                raise
        return max(self._renew_at - self._clock(), 1.0)

    # -- the token ---------------------------------------------------------------------------------------------------

    def _authorised(self, path: str) -> Answer:
        """An answer under a token that holds: one that has ended meanwhile is replaced once."""
        fresh = self._token is None
        if self._token is None:
            self._log_in()
        answer = self._http.get(path, headers=self._headers())
        if answer.status == 403 and not fresh:
            self._log_in()
            answer = self._http.get(path, headers=self._headers())
        return answer

    def _log_in(self) -> None:
        self._token = None
        if self._role:
            body = {"role": self._role, "jwt": self._service_account()}
            answer = self._http.post(f"/v1/auth/{self._login}/login", headers=self._headers(), body=body)
            if answer.status != 200:
                raise _failure(answer, f"log this pod in as the role {self._role}")
            self._hold(answer.body.get("auth"))
            return
        try:
            token = env.current("VAULT_TOKEN")
        except OSError as error:
            raise AccessRefused(f"The file of VAULT_TOKEN_FILE cannot be read: {error.strerror}.") from None
        if not token:
            raise AccessRefused("VAULT_TOKEN is not set.")
        self._token = Secret(token)
        answer = self._http.get("/v1/auth/token/lookup-self", headers=self._headers())
        if answer.status != 200:
            self._token = None
            raise _failure(answer, "look at the token of VAULT_TOKEN")
        data = answer.body.get("data") or {}
        self._hold({"client_token": token, "lease_duration": data.get("ttl"), "renewable": data.get("renewable")})

    def _renew(self) -> None:
        if self._renewable:
            answer = self._http.post("/v1/auth/token/renew-self", headers=self._headers(), body={})
            life_s = (answer.body.get("auth") or {}).get("lease_duration", 0)
            # Towards the end of its longest life a token gets less and less.
            if answer.status == 200 and (not self._role or life_s >= self._life_s * RENEW_AT):
                self._hold(answer.body["auth"], renewed=True)
                return
            if answer.status >= 500:
                raise _failure(answer, "renew the token")
        if self._role:
            self._log_in()
        else:
            # It goes on while it lasts. A new one may be in the file by then; reading it is tried when this one ends.
            log.warning("vault_token_not_renewed", hint="It ends soon: put a new one into VAULT_TOKEN_FILE.")
            self._renew_at = None

    def _hold(self, auth: Any, *, renewed: bool = False) -> None:
        auth = auth if isinstance(auth, dict) else {}
        token = auth.get("client_token")
        if isinstance(token, str) and token:
            redaction.know(token)
            self._token = Secret(token)
        elif not renewed:
            raise BackendDown("Vault answered a login without a token.")
        life_s = float(auth.get("lease_duration") or 0)  # 0: it never ends
        self._renewable = bool(auth.get("renewable"))
        if not renewed:
            self._life_s = life_s
        self._renew_at = self._clock() + life_s * RENEW_AT if life_s and (self._renewable or self._role) else None

    def _headers(self) -> dict[str, str]:
        headers = {"X-Vault-Request": "true"}
        if self._namespace:
            headers["X-Vault-Namespace"] = self._namespace
        if self._token is not None:
            headers["X-Vault-Token"] = self._token.reveal()
        return headers

    def _service_account(self) -> str:
        try:
            token = Path(self._jwt).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise AccessRefused(f"The pod's token {self._jwt} cannot be read: {error.strerror}.") from None
        redaction.know(token)
        return token


def _failure(answer: Answer, what: str) -> SecretsError:
    errors = answer.body.get("errors")
    said = redaction.redacted(" ".join("; ".join(map(str, errors)).split())[:150]) if isinstance(errors, list) else ""
    told = f": {said}" if said else ""
    if answer.status in (400, 401, 403):
        return AccessRefused(f"Vault does not let this process {what} ({answer.status}{told}).")
    if answer.status == 503:
        return BackendDown(f"Vault is sealed or in maintenance ({answer.status}{told}).")
    if answer.status == 501:
        return BackendDown("Vault is not initialised (501).")
    return BackendDown(f"Vault could not {what} ({answer.status}{told}).")


def _moment(text: object) -> dt.datetime | None:
    try:
        return dt.datetime.fromisoformat(text) if isinstance(text, str) and text else None
    except ValueError:
        return None
