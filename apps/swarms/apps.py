from collections.abc import Collection, Mapping

from django.apps import AppConfig


class SwarmsConfig(AppConfig):
    name = "apps.swarms"
    verbose_name = "Swarms"

    def ready(self) -> None:
        from apps.costs.grouping import By, register_labels
        from apps.swarms import metering, saving

        metering.register()
        saving.register()
        register_labels(By.SWARM, self.names)

    @staticmethod
    def names(ids: Collection[str]) -> Mapping[str, str]:
        """The names of swarms, by their id as text."""
        from apps.swarms.models import Swarm

        return {str(id): name for id, name in Swarm.objects.filter(pk__in=ids).values_list("pk", "name")}
