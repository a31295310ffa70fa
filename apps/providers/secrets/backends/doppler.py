"""Doppler, by its REST API: https://docs.doppler.com/reference/secrets-get, with a token that may read one config."""

from __future__ import annotations

from apps.providers.secrets.backend import AccessRefused, BackendDown, Reading, SecretMissing, reading_of
from apps.providers.secrets.backends.http import Answer, Http
from portal import env
from portal.secrets_backend import SecretsBackend

ENDPOINT = "https://api.doppler.com"


class Doppler:
    """Secrets of one config of a project. Names there are capitals, digits and underscores."""

    def __init__(self, project: str, config: str, *, endpoint: str = ENDPOINT) -> None:
        self._project, self._config, self._http = project, config, Http(endpoint, "Doppler")

    @classmethod
    def of(cls, said: SecretsBackend) -> Doppler:
        project, _, config = said.place.partition("/")
        return cls(project, config, endpoint=said.options.get("endpoint") or ENDPOINT)

    def read(self, name: str) -> Reading:
        answer = self._get("/v3/configs/config/secret", name=name)
        if answer.status == 404:
            raise SecretMissing(f"The secret {name} does not exist in Doppler's {self._project}/{self._config}.")
        _verify(answer, f"read the secret {name}")
        value = answer.body.get("value") or {}
        return reading_of(name, value.get("computed") if isinstance(value, dict) else None)

    def health(self) -> None:
        _verify(self._get("/v3/configs/config"), "see its config")

    def upkeep(self) -> None:
        return None

    def _get(self, path: str, **params: str) -> Answer:
        try:
            token = env.current("DOPPLER_TOKEN")
        except OSError as error:
            raise AccessRefused(f"The file of DOPPLER_TOKEN_FILE cannot be read: {error.strerror}.") from None
        if not token:
            raise AccessRefused("DOPPLER_TOKEN is not set.")
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        where = {"project": self._project, "config": self._config}
        return self._http.get(path, headers=headers, params={**where, **params})


def _verify(answer: Answer, what: str) -> None:
    if answer.status in (401, 403):
        raise AccessRefused(f"Doppler does not let this process {what} ({answer.status}).")
    if answer.status != 200:
        raise BackendDown(f"Doppler could not {what} ({answer.status}).")
