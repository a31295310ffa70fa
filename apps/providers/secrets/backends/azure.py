"""Azure Key Vault, by its REST API and azure-identity (the extra ``azure``).

https://learn.microsoft.com/rest/api/keyvault/secrets/get-secret: ``GET /secrets/NAME?api-version=7.4``. Names there
have no underscore, so OPENAI_API_KEY is the secret OPENAI-API-KEY.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

from apps.providers.secrets.backend import AccessRefused, BackendDown, Reading, SecretMissing, reading_of
from apps.providers.secrets.backends.http import Answer, Http
from portal import redaction
from portal.secrets_backend import SecretsBackend

SCOPE = "https://vault.azure.net/.default"
VERSION = "7.4"


class KeyVault:
    """Secrets of one vault, named PREFIX and NAME."""

    def __init__(self, address: str, prefix: str = "") -> None:
        self._http, self._prefix = Http(address, "Azure Key Vault"), prefix
        self._credential: Any = None

    @classmethod
    def of(cls, said: SecretsBackend) -> KeyVault:
        return cls(said.place, said.options.get("prefix", ""))

    def read(self, name: str) -> Reading:
        secret = re.sub(r"[^A-Za-z0-9-]", "-", f"{self._prefix}{name}")
        answer = self._get(f"/secrets/{secret}")
        if answer.status == 404:
            raise SecretMissing(f"The secret {secret} does not exist in the key vault.")
        if answer.status in (401, 403):
            code = ((answer.body.get("error") or {}).get("innererror") or {}).get("code", "")
            if code == "SecretDisabled":
                raise SecretMissing(f"The secret {secret} is disabled in the key vault.")
            raise AccessRefused(f"Azure does not let this process read the secret {secret} ({answer.status}).")
        if answer.status != 200:
            raise BackendDown(f"Azure Key Vault could not answer ({answer.status}).")
        ends = (answer.body.get("attributes") or {}).get("exp")
        return reading_of(
            name,
            answer.body.get("value"),
            version=str(answer.body.get("id", "")).rpartition("/")[2],
            expires_at=dt.datetime.fromtimestamp(ends, dt.UTC) if isinstance(ends, int) else None,
        )

    def health(self) -> None:
        status = self._get("/secrets/swarmdesk-health").status
        if status >= 500:
            raise BackendDown(f"Azure Key Vault could not answer ({status}).")

    def upkeep(self) -> None:
        return None

    def _get(self, path: str) -> Answer:
        headers = {"Authorization": f"Bearer {self._token()}"}
        return self._http.get(path, headers=headers, params={"api-version": VERSION})

    def _token(self) -> str:
        from azure.core.exceptions import ClientAuthenticationError, ServiceRequestError, ServiceResponseError

        try:
            if self._credential is None:
                from azure.identity import DefaultAzureCredential

                self._credential = DefaultAzureCredential(exclude_interactive_browser_credential=True)
            token: str = self._credential.get_token(SCOPE).token
        except ClientAuthenticationError:  # also when no credential is to be had at all
            raise AccessRefused("Azure does not take this process's credentials, or it has none.") from None
        except (ServiceRequestError, ServiceResponseError) as error:
            raise BackendDown(f"Azure's login cannot be reached ({type(error).__name__}).") from None
        redaction.know(token)
        return token
