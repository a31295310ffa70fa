from django.urls import path

from apps.observability import views

app_name = "observability"
urlpatterns = [
    path("livez", views.livez, name="livez"),
    path("readyz", views.readyz, name="readyz"),
]
