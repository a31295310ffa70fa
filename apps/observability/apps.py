from django.apps import AppConfig
from django.db.models.signals import post_migrate


class ObservabilityConfig(AppConfig):
    name = "apps.observability"
    verbose_name = "Observability"

    def ready(self) -> None:
        from apps.costs import rollups, statements
        from apps.execution.orchestrator import register_duty
        from apps.observability import watchdog
        from apps.observability.schedules import ensure_schedules

        register_duty("rolled_up", rollups.EVERY_S, rollups.roll)
        register_duty("closing", statements.EVERY_S, statements.hand_out)
        register_duty("watchdog", watchdog.EVERY_S, watchdog.watch)
        post_migrate.connect(ensure_schedules, sender=self, dispatch_uid="observability.schedules")
