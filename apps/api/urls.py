from django.urls import include, path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularSwaggerSplitView

from apps.api.views.advice import AdviceList
from apps.api.views.agents import AgentDetail, Agents
from apps.api.views.artifacts import ArtifactContent, ArtifactDetail, SwarmArtifacts
from apps.api.views.audit import AuditTrail
from apps.api.views.base import Nowhere
from apps.api.views.budgets import BudgetDetail, Budgets
from apps.api.views.cost_events import CostEvents
from apps.api.views.costs import CostReport, Ledger
from apps.api.views.platform import Me, Pool
from apps.api.views.providers import ProviderDetail, Providers
from apps.api.views.reservations import (
    ReservationDetail,
    ReservationExtend,
    ReservationRelease,
    Reservations,
    ReservationSettle,
)
from apps.api.views.schema import Schema
from apps.api.views.swarms import (
    SwarmDetail,
    SwarmEvents,
    SwarmPause,
    SwarmResume,
    SwarmRetry,
    Swarms,
    SwarmTasks,
    SwarmTerminate,
)
from apps.api.views.tasks import TaskAttempts, TaskDetail, TaskRetry
from apps.api.views.tokens import TokenDetail, Tokens
from apps.api.views.webhooks import (
    DeliveryDetail,
    DeliveryRepeat,
    WebhookDeliveries,
    WebhookDetail,
    WebhookRotate,
    Webhooks,
    WebhookTest,
)

app_name = "api"

v1 = [
    path("me/", Me.as_view(), name="me"),
    path("pool/", Pool.as_view(), name="pool"),
    path("swarms/", Swarms.as_view(), name="swarms"),
    path("swarms/<uuid:id>/", SwarmDetail.as_view(), name="swarm"),
    path("swarms/<uuid:id>/terminate/", SwarmTerminate.as_view(), name="swarm-terminate"),
    path("swarms/<uuid:id>/pause/", SwarmPause.as_view(), name="swarm-pause"),
    path("swarms/<uuid:id>/resume/", SwarmResume.as_view(), name="swarm-resume"),
    path("swarms/<uuid:id>/retry/", SwarmRetry.as_view(), name="swarm-retry"),
    path("swarms/<uuid:id>/tasks/", SwarmTasks.as_view(), name="swarm-tasks"),
    path("swarms/<uuid:id>/events/", SwarmEvents.as_view(), name="swarm-events"),
    path("swarms/<uuid:id>/artifacts/", SwarmArtifacts.as_view(), name="swarm-artifacts"),
    path("tasks/<uuid:id>/", TaskDetail.as_view(), name="task"),
    path("tasks/<uuid:id>/attempts/", TaskAttempts.as_view(), name="task-attempts"),
    path("tasks/<uuid:id>/retry/", TaskRetry.as_view(), name="task-retry"),
    path("artifacts/<uuid:id>/", ArtifactDetail.as_view(), name="artifact"),
    path("artifacts/<uuid:id>/content/", ArtifactContent.as_view(), name="artifact-content"),
    path("agents/", Agents.as_view(), name="agents"),
    path("agents/<uuid:id>/", AgentDetail.as_view(), name="agent"),
    path("budgets/", Budgets.as_view(), name="budgets"),
    path("budgets/<uuid:id>/", BudgetDetail.as_view(), name="budget"),
    path("costs/ledger/", Ledger.as_view(), name="ledger"),
    path("costs/report/", CostReport.as_view(), name="cost-report"),
    path("costs/advice/", AdviceList.as_view(), name="cost-advice"),
    path("costs/events/", CostEvents.as_view(), name="cost-events"),
    path("costs/reservations/", Reservations.as_view(), name="reservations"),
    path("costs/reservations/<uuid:id>/", ReservationDetail.as_view(), name="reservation"),
    path("costs/reservations/<uuid:id>/extend/", ReservationExtend.as_view(), name="reservation-extend"),
    path("costs/reservations/<uuid:id>/settle/", ReservationSettle.as_view(), name="reservation-settle"),
    path("costs/reservations/<uuid:id>/release/", ReservationRelease.as_view(), name="reservation-release"),
    path("webhooks/", Webhooks.as_view(), name="webhooks"),
    path("webhooks/<uuid:id>/", WebhookDetail.as_view(), name="webhook"),
    path("webhooks/<uuid:id>/rotate/", WebhookRotate.as_view(), name="webhook-rotate"),
    path("webhooks/<uuid:id>/test/", WebhookTest.as_view(), name="webhook-test"),
    path("webhooks/<uuid:id>/deliveries/", WebhookDeliveries.as_view(), name="webhook-deliveries"),
    path("deliveries/<uuid:id>/", DeliveryDetail.as_view(), name="delivery"),
    path("deliveries/<uuid:id>/repeat/", DeliveryRepeat.as_view(), name="delivery-repeat"),
    path("tokens/", Tokens.as_view(), name="tokens"),
    path("tokens/<uuid:id>/", TokenDetail.as_view(), name="token"),
    path("providers/", Providers.as_view(), name="providers"),
    path("providers/<uuid:id>/", ProviderDetail.as_view(), name="provider"),
    path("audit/", AuditTrail.as_view(), name="audit"),
]

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="api:docs")),
    path("schema/", Schema.as_view(), name="schema"),
    path("docs/", SpectacularSwaggerSplitView.as_view(url_name="api:schema"), name="docs"),
    path("v1/", include(v1)),
    path("<path:path>", Nowhere.as_view()),
]
