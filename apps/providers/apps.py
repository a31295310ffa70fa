from django.apps import AppConfig


class ProvidersConfig(AppConfig):
    name = "apps.providers"
    verbose_name = "Model providers"

    def ready(self) -> None:
        from apps.providers import heeding

        heeding.connect()
