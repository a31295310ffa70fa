from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.contrib import admin
from django.contrib.admin import apps as django_admin  # as a module: its class in here would be taken for ours
from django.contrib.admin.checks import check_admin_app, check_dependencies
from django.core.checks import CheckMessage, Tags, register

from portal import logs  # before any other module that logs: it says how structlog is loaded
from portal.redaction import redacted


class PortalConfig(AppConfig):
    name = "portal"

    def ready(self) -> None:
        from portal import checks  # noqa: F401  (registers the system checks)

        logs.configure(settings.LOG_FORMAT)

        from django_q.signals import post_execute_in_worker

        post_execute_in_worker.connect(_without_secrets, dispatch_uid="portal.apps.without_secrets")


def _without_secrets(task: dict[str, Any], **_: Any) -> None:
    """A job that failed keeps the traceback as its result."""
    if not task.get("success", True) and isinstance(task.get("result"), str):
        task["result"] = redacted(task["result"])


class AdminConfig(django_admin.SimpleAdminConfig):
    """Django's admin, with our site as the default one.

    The pages of all apps are looked for when the addresses of the site are (``portal.urls``), not before: to import
    them takes a quarter of the time in which a command or a worker starts, and those show none.
    """

    default = False  # named in INSTALLED_APPS; "portal" alone means PortalConfig
    default_site = "portal.admin_site.Site"

    def ready(self) -> None:
        register(_pages_are_sound, Tags.admin)


def _pages_are_sound(**kwargs: Any) -> list[CheckMessage]:
    admin.autodiscover()
    return [*check_dependencies(**kwargs), *check_admin_app(**kwargs)]
