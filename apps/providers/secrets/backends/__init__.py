"""The places that keys can be read from, by kind. Each is imported only where it is used."""

from __future__ import annotations

from apps.providers.secrets.backend import Backend
from portal.secrets_backend import SecretsBackend


def open_backend(said: SecretsBackend) -> Backend:
    """The backend that ``SECRETS_BACKEND`` names; connects to nothing yet."""
    match said.kind:
        case "files":
            from apps.providers.secrets.backends.files import Files

            return Files(said.place)
        case "vault":
            from apps.providers.secrets.backends.vault import Vault

            return Vault.of(said)
        case "aws":
            from apps.providers.secrets.backends.aws import SecretsManager

            return SecretsManager.of(said)
        case "google":
            from apps.providers.secrets.backends.google import SecretManager

            return SecretManager.of(said)
        case "azure":
            from apps.providers.secrets.backends.azure import KeyVault

            return KeyVault.of(said)
        case "doppler":
            from apps.providers.secrets.backends.doppler import Doppler

            return Doppler.of(said)
    from apps.providers.secrets.backends.environment import Environment

    return Environment()
