"""Plain HTTP to a backend whose API is a handful of addresses, with failures as ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx2

from apps.providers.secrets.backend import BackendDown

TIMEOUT_S = 10.0


class Answer:
    """Status and JSON of an answer; what is no JSON object counts as an empty one."""

    __slots__ = ("body", "status")

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        self.status = status
        self.body = body

    def __repr__(self) -> str:  # the body may hold a secret
        return f"<Answer {self.status}>"


class Http:
    """Requests to one server. ``who`` names it in errors."""

    def __init__(self, base: str, who: str, *, ca: str = "") -> None:
        import ssl

        self._who = who
        self._client = httpx2.Client(
            base_url=base,
            timeout=TIMEOUT_S,
            verify=ssl.create_default_context(cafile=ca) if ca else True,
            trust_env=False,  # a proxy would see every key
        )

    def get(self, path: str, *, headers: Mapping[str, str], params: Mapping[str, str] | None = None) -> Answer:
        return self._ask("GET", path, headers, params=params)

    def post(self, path: str, *, headers: Mapping[str, str], body: Mapping[str, str]) -> Answer:
        return self._ask("POST", path, headers, json=body)

    def _ask(self, method: str, path: str, headers: Mapping[str, str], **what: Any) -> Answer:
        try:
            response = self._client.request(method, path, headers=dict(headers), **what)
            body = response.json()
        except httpx2.TimeoutException:
            raise BackendDown(f"{self._who} did not answer within {TIMEOUT_S:g} s.") from None
        except httpx2.HTTPError as error:
            raise BackendDown(f"{self._who} cannot be reached ({type(error).__name__}).") from None
        except ValueError:  # no JSON
            return Answer(response.status_code, {})
        return Answer(response.status_code, body if isinstance(body, dict) else {})
