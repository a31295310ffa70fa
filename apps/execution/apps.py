from django.apps import AppConfig


class ExecutionConfig(AppConfig):
    name = "apps.execution"
    verbose_name = "Execution"

    def ready(self) -> None:
        from apps.swarms import runtimes
        from apps.swarms.models import Runtime

        runtimes.available.update({Runtime.LLM, Runtime.PYTHON})
