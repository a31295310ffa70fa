from django.apps import AppConfig


class SwarmsConfig(AppConfig):
    name = "apps.swarms"
    verbose_name = "Swarms"

    def ready(self) -> None:
        from apps.swarms import metering

        metering.register()
