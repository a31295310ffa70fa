from django.urls import path

from apps.console.views import account, artifacts, oidc, overview, providers, submit, swarms, tasks, tokens

app_name = "console"
urlpatterns = [
    path("", overview.Overview.as_view(), name="overview"),
    path("login/", account.Login.as_view(), name="login"),
    path("login/with/", oidc.First.as_view(), name="oidc-first"),
    path("login/with/<slug:slug>/", oidc.Start.as_view(), name="oidc-start"),
    path("login/callback/", oidc.Callback.as_view(), name="oidc-callback"),
    path("logout/", account.Logout.as_view(), name="logout"),
    path("providers/", providers.Providers.as_view(), name="providers"),
    path("providers/keys/refresh/", providers.RefreshKeys.as_view(), name="keys-refresh"),
    path("providers/regions/<uuid:pk>/<slug:act>/", providers.RegionAct.as_view(), name="region-act"),
    path("submit/", submit.Submit.as_view(), name="submit"),
    path("swarms/", swarms.SwarmList.as_view(), name="swarms"),
    path("swarms/<uuid:pk>/", swarms.SwarmPage.as_view(), name="swarm"),
    path("swarms/<uuid:pk>/<slug:act>/", swarms.SwarmAct.as_view(), name="swarm-act"),
    path("artifacts/<uuid:pk>/", artifacts.ArtifactDownload.as_view(), name="artifact"),
    path("tokens/", tokens.Tokens.as_view(), name="tokens"),
    path("tokens/<uuid:pk>/revoke/", tokens.TokenRevoke.as_view(), name="token-revoke"),
    path("tasks/<uuid:pk>/", tasks.TaskPage.as_view(), name="task"),
    path("tasks/<uuid:pk>/retry/", tasks.TaskRetry.as_view(), name="task-retry"),
]
