"""What lists can be narrowed to. A name that is not known is an error; a tenant one may not see has no rows."""

from __future__ import annotations

import django_filters
from django.db.models import QuerySet

from apps.costs.models import Advice, AdviceKind, AdviceStatus, Budget, Enforcement, Period, Scope
from apps.execution.models import Artifact
from apps.execution.models.artifact import ArtifactQuerySet
from apps.swarms.models import Agent, Priority, Runtime, Swarm, SwarmStatus, Task, TaskStatus
from apps.swarms.models.swarm import SwarmQuerySet
from apps.tenants.models import ApiToken
from apps.webhooks.kinds import KINDS, PING
from apps.webhooks.models import Delivery, DeliveryStatus, Webhook

PRIORITIES = [(name.lower(), name.capitalize()) for name in Priority.names]


class SwarmFilter(django_filters.FilterSet):
    status = django_filters.MultipleChoiceFilter(choices=SwarmStatus.choices, help_text="Repeat it for more than one.")
    tenant = django_filters.CharFilter(field_name="tenant__slug", help_text="Slug of a tenant.")
    priority = django_filters.MultipleChoiceFilter(
        choices=PRIORITIES, method="of_priority", help_text="Repeat it for more than one."
    )
    search = django_filters.CharFilter(method="named", help_text="Words that its name contains.")

    class Meta:
        model = Swarm
        fields = ["status", "tenant", "priority", "search"]

    def of_priority(self, rows: QuerySet[Swarm], _: str, names: list[str]) -> QuerySet[Swarm]:
        return rows.filter(priority__in=[Priority[name.upper()] for name in names]) if names else rows

    def named(self, rows: SwarmQuerySet, _: str, text: str) -> SwarmQuerySet:
        return rows.search(text)


class TaskFilter(django_filters.FilterSet):
    status = django_filters.MultipleChoiceFilter(choices=TaskStatus.choices, help_text="Repeat it for more than one.")
    step = django_filters.CharFilter(field_name="step__name")
    agent = django_filters.CharFilter(field_name="agent__name")

    class Meta:
        model = Task
        fields = ["status", "step", "agent"]


class ArtifactFilter(django_filters.FilterSet):
    task = django_filters.UUIDFilter(field_name="task_id", help_text="Id of the task that made it.")
    media_type = django_filters.CharFilter(method="of_type", help_text="text/csv, or image/* for all images.")
    search = django_filters.CharFilter(method="named", help_text="Words that its name contains.")

    class Meta:
        model = Artifact
        fields = ["task", "media_type", "search"]

    def of_type(self, rows: QuerySet[Artifact], _: str, media_type: str) -> QuerySet[Artifact]:
        kind, star, _ = media_type.lower().partition("*")
        return rows.filter(media_type__startswith=kind) if star else rows.filter(media_type=kind)

    def named(self, rows: ArtifactQuerySet, _: str, text: str) -> ArtifactQuerySet:
        return rows.search(text)


class AgentFilter(django_filters.FilterSet):
    tenant = django_filters.CharFilter(field_name="swarm__tenant__slug", help_text="Slug of a tenant.")
    swarm = django_filters.UUIDFilter(field_name="swarm_id", help_text="Id of a swarm.")
    name = django_filters.CharFilter(help_text="Its name in the spec.")
    model = django_filters.CharFilter(help_text="provider:model")
    runtime = django_filters.ChoiceFilter(choices=Runtime.choices)

    class Meta:
        model = Agent
        fields = ["tenant", "swarm", "name", "model", "runtime"]


class TokenFilter(django_filters.FilterSet):
    tenant = django_filters.CharFilter(field_name="tenant__slug", help_text="Slug of a tenant.")
    user = django_filters.CharFilter(field_name="user__username", help_text="Login name of whom it acts for.")

    class Meta:
        model = ApiToken
        fields = ["tenant", "user"]


class WebhookFilter(django_filters.FilterSet):
    tenant = django_filters.CharFilter(field_name="tenant__slug", help_text="Slug of a tenant.")
    enabled = django_filters.BooleanFilter(field_name="is_enabled")

    class Meta:
        model = Webhook
        fields = ["tenant", "enabled"]


class DeliveryFilter(django_filters.FilterSet):
    status = django_filters.MultipleChoiceFilter(
        choices=DeliveryStatus.choices, help_text="Repeat it for more than one."
    )
    event = django_filters.ChoiceFilter(field_name="kind", choices=[(kind, kind) for kind in (*KINDS, PING)])

    class Meta:
        model = Delivery
        fields = ["status", "event"]


class AdviceFilter(django_filters.FilterSet):
    tenant = django_filters.CharFilter(field_name="tenant__slug", help_text="Slug of a tenant.")
    kind = django_filters.ChoiceFilter(choices=AdviceKind.choices)
    status = django_filters.ChoiceFilter(choices=AdviceStatus.choices)

    class Meta:
        model = Advice
        fields = ["tenant", "kind", "status"]


class BudgetFilter(django_filters.FilterSet):
    tenant = django_filters.CharFilter(field_name="tenant__slug", help_text="Slug of a tenant.")
    scope = django_filters.ChoiceFilter(choices=Scope.choices)
    period = django_filters.ChoiceFilter(choices=Period.choices)
    enforcement = django_filters.ChoiceFilter(choices=Enforcement.choices)
    is_active = django_filters.BooleanFilter()

    class Meta:
        model = Budget
        fields = ["tenant", "scope", "period", "enforcement", "is_active"]
