from django.urls import path

from apps.console.views import account, overview, submit, swarms, tasks

app_name = "console"
urlpatterns = [
    path("", overview.Overview.as_view(), name="overview"),
    path("login/", account.Login.as_view(), name="login"),
    path("logout/", account.Logout.as_view(), name="logout"),
    path("submit/", submit.Submit.as_view(), name="submit"),
    path("swarms/", swarms.SwarmList.as_view(), name="swarms"),
    path("swarms/<uuid:pk>/", swarms.SwarmPage.as_view(), name="swarm"),
    path("swarms/<uuid:pk>/<slug:act>/", swarms.SwarmAct.as_view(), name="swarm-act"),
    path("tasks/<uuid:pk>/", tasks.TaskPage.as_view(), name="task"),
    path("tasks/<uuid:pk>/retry/", tasks.TaskRetry.as_view(), name="task-retry"),
]
