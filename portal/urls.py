from django.contrib import admin
from django.urls import include, path

admin.autodiscover()

handler403 = "portal.refusals.forbidden"
handler404 = "portal.refusals.not_found"

urlpatterns = [
    path("admin/", admin.site.urls),
    path("api/", include("apps.api.urls")),
    path("", include("apps.observability.urls")),
    path("", include("apps.console.urls")),
]
