from django.apps import AppConfig


class TenantsConfig(AppConfig):
    name = "apps.tenants"
    verbose_name = "Tenants and access"

    def ready(self) -> None:
        from apps.tenants import checks, sessions  # noqa: F401  (registers system checks and receivers)
