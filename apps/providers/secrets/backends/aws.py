"""AWS Secrets Manager, by boto3 and whatever credentials it finds: a role of the pod or machine, a profile, keys."""

from __future__ import annotations

import json
from typing import Any

from apps.providers.secrets.backend import AccessRefused, BackendDown, Reading, SecretMissing, SecretsError, reading_of
from portal.secrets_backend import SecretsBackend

_MISSING = {"ResourceNotFoundException", "InvalidRequestException"}  # the second: it is marked for deletion
_REFUSED = {
    "AccessDenied",
    "AccessDeniedException",
    "DecryptionFailure",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationTokenException",
    "NotAuthorized",
    "OptInRequired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}


class SecretsManager:
    """Secrets of one region, named PREFIX/NAME. With ``field``, each is JSON and its value in that field."""

    def __init__(self, region: str, prefix: str = "", *, endpoint: str = "", field: str = "") -> None:
        import boto3
        from botocore.config import Config

        self._region, self._field = region, field
        self._prefix = f"{prefix.rstrip('/')}/" if prefix else ""
        self._client: Any = boto3.session.Session(region_name=region).client(
            "secretsmanager",
            endpoint_url=endpoint or None,
            config=Config(connect_timeout=5, read_timeout=10, retries={"max_attempts": 2, "mode": "standard"}),
        )

    @classmethod
    def of(cls, said: SecretsBackend) -> SecretsManager:
        region, _, prefix = said.place.partition("/")
        return cls(region, prefix, endpoint=said.options.get("endpoint", ""), field=said.options.get("field", ""))

    def read(self, name: str) -> Reading:
        answer = self._ask("get_secret_value", SecretId=f"{self._prefix}{name}")
        text = answer.get("SecretString")
        if self._field:
            try:
                text = json.loads(text or "").get(self._field)
            except (ValueError, AttributeError):
                text = None
            if text is None:
                raise SecretMissing(f"The secret {self._prefix}{name} in AWS has no field {self._field!r}.")
        return reading_of(name, text, version=str(answer.get("VersionId", "")))

    def health(self) -> None:
        # Whoever may read single secrets may not list them; a refusal is an answer.
        try:
            self._ask("describe_secret", SecretId=f"{self._prefix}swarmdesk-health")
        except (SecretMissing, AccessRefused):
            return

    def upkeep(self) -> None:
        return None

    def _ask(self, operation: str, **what: Any) -> dict[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

        try:
            answer: dict[str, Any] = getattr(self._client, operation)(**what)
        except ClientError as error:
            raise _failure(error, what["SecretId"]) from None
        except (NoCredentialsError, PartialCredentialsError):
            raise AccessRefused("This process has no credentials for AWS: give its pod or machine a role.") from None
        except BotoCoreError as error:
            raise BackendDown(f"AWS Secrets Manager cannot be reached ({type(error).__name__}).") from None
        return answer


def _failure(error: Any, secret: str) -> SecretsError:
    code = error.response.get("Error", {}).get("Code", "")
    if code in _MISSING:
        why = "does not exist" if code == "ResourceNotFoundException" else "is marked for deletion"
        return SecretMissing(f"The secret {secret} {why} in AWS Secrets Manager.")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if code in _REFUSED or status in (401, 403):
        return AccessRefused(f"AWS does not let this process read the secret {secret} ({code}).")
    return BackendDown(f"AWS Secrets Manager could not answer ({code}).")
