from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.contrib.admin import apps as django_admin  # as a module: its class in here would be taken for ours

from portal.redaction import redacted


class PortalConfig(AppConfig):
    name = "portal"

    def ready(self) -> None:
        from portal import checks, logs  # noqa: F401  (registers the system checks)

        logs.configure(settings.LOG_FORMAT)

        from django_q.signals import post_execute_in_worker

        post_execute_in_worker.connect(_without_secrets, dispatch_uid="portal.apps.without_secrets")


def _without_secrets(task: dict[str, Any], **_: Any) -> None:
    """A job that failed keeps the traceback as its result."""
    if not task.get("success", True) and isinstance(task.get("result"), str):
        task["result"] = redacted(task["result"])


class AdminConfig(django_admin.AdminConfig):
    """Django's admin, with our site as the default one."""

    default = False  # named in INSTALLED_APPS; "portal" alone means PortalConfig
    default_site = "portal.admin_site.Site"
