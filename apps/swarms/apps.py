from django.apps import AppConfig


class SwarmsConfig(AppConfig):
    name = "apps.swarms"
    verbose_name = "Swarms"
