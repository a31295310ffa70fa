from django.apps import AppConfig


class WebhooksConfig(AppConfig):
    name = "apps.webhooks"
    verbose_name = "Webhooks"

    def ready(self) -> None:
        from apps.events import consumers
        from apps.execution.orchestrator import register_duty
        from apps.webhooks import handing_out

        consumers.expect(handing_out.CONSUMER)
        register_duty("webhooks", handing_out.EVERY_S, handing_out.hand_out)
