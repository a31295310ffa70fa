from django.apps import AppConfig


class ExecutionConfig(AppConfig):
    name = "apps.execution"
    verbose_name = "Execution"

    def ready(self) -> None:
        from apps.costs.accrual import StorageMeter, register_meter
        from apps.execution import saving
        from apps.execution.models import Archive, Artifact
        from apps.swarms import runtimes
        from apps.swarms.models import Runtime

        runtimes.available.update({Runtime.LLM, Runtime.PYTHON})
        register_meter(StorageMeter("Archives", Archive.objects.bytes_by_tenant))
        register_meter(StorageMeter("Files of agents", Artifact.objects.bytes_by_tenant))
        saving.register()
