from django.apps import AppConfig
from django.conf import settings


class PortalConfig(AppConfig):
    name = "portal"

    def ready(self) -> None:
        from portal import checks, logs  # noqa: F401  (registers the system checks)

        logs.configure(settings.LOG_FORMAT)
