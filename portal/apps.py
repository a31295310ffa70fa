from django.apps import AppConfig
from django.conf import settings
from django.contrib.admin import apps as django_admin  # as a module: its class in here would be taken for ours


class PortalConfig(AppConfig):
    name = "portal"

    def ready(self) -> None:
        from portal import checks, logs  # noqa: F401  (registers the system checks)

        logs.configure(settings.LOG_FORMAT)


class AdminConfig(django_admin.AdminConfig):
    """Django's admin, with our site as the default one."""

    default = False  # named in INSTALLED_APPS; "portal" alone means PortalConfig
    default_site = "portal.admin_site.Site"
