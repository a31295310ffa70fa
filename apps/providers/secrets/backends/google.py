"""Google Secret Manager, by its REST API and google-auth (the extra ``google``).

https://cloud.google.com/secret-manager/docs/reference/rest: ``projects/P/secrets/NAME/versions/latest:access``.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from apps.providers.secrets.backend import AccessRefused, BackendDown, Reading, SecretMissing, reading_of
from apps.providers.secrets.backends.http import TIMEOUT_S
from portal.secrets_backend import SecretsBackend

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
ENDPOINT = "https://secretmanager.googleapis.com"


class SecretManager:
    """Secrets of one project, named PREFIX and NAME; the newest enabled version of each."""

    def __init__(self, project: str, prefix: str = "", *, endpoint: str = ENDPOINT) -> None:
        self._project, self._prefix, self._endpoint = project, prefix, endpoint.rstrip("/")
        self._session: Any = None

    @classmethod
    def of(cls, said: SecretsBackend) -> SecretManager:
        return cls(said.place, said.options.get("prefix", ""), endpoint=said.options.get("endpoint") or ENDPOINT)

    def read(self, name: str) -> Reading:
        secret = f"{self._prefix}{name}".replace(".", "_")
        status, body = self._get(f"/v1/projects/{self._project}/secrets/{secret}/versions/latest:access")
        if status == 404:
            raise SecretMissing(f"The secret {secret} does not exist in the Google project {self._project}.")
        if status == 400:  # FAILED_PRECONDITION: its newest version is disabled or destroyed
            raise SecretMissing(f"The newest version of the secret {secret} is disabled or destroyed.")
        if status in (401, 403):
            raise AccessRefused(f"Google does not let this process read the secret {secret} ({status}).")
        if status != 200:
            raise BackendDown(f"Google Secret Manager could not answer ({status}).")
        try:
            value = base64.b64decode(body["payload"]["data"], validate=True).decode()
        except (KeyError, TypeError, ValueError, binascii.Error):
            raise SecretMissing(f"The secret {secret} is no text.") from None
        return reading_of(name, value, version=str(body.get("name", "")).rpartition("/")[2])

    def health(self) -> None:
        status, _ = self._get(f"/v1/projects/{self._project}/secrets/swarmdesk-health/versions/latest:access")
        if status >= 500:
            raise BackendDown(f"Google Secret Manager could not answer ({status}).")

    def upkeep(self) -> None:
        return None

    def _get(self, path: str) -> tuple[int, dict[str, Any]]:
        import requests
        from google.auth import exceptions

        try:
            if self._session is None:
                self._session = _session()
            answer = self._session.get(f"{self._endpoint}{path}", timeout=TIMEOUT_S)
        except (exceptions.DefaultCredentialsError, exceptions.MalformedError):
            raise AccessRefused("This process has no credentials for Google Cloud.") from None
        except exceptions.RefreshError:
            raise AccessRefused("Google does not take this process's credentials.") from None
        except (exceptions.TransportError, requests.RequestException) as error:
            raise BackendDown(f"Google Secret Manager cannot be reached ({type(error).__name__}).") from None
        try:
            body = answer.json()
        except ValueError:
            body = {}
        return answer.status_code, body if isinstance(body, dict) else {}


def _session() -> Any:
    import google.auth
    from google.auth.transport.requests import AuthorizedSession

    credentials, _ = google.auth.default(scopes=[SCOPE])
    return AuthorizedSession(credentials)
