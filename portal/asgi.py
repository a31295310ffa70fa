import os

from django.conf import settings
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
# Each request has a thread of its own here, and a connection belongs to its thread: one that is kept is never used
# again, it only takes up a place among the connections of the database.
settings.DATABASES["default"]["CONN_MAX_AGE"] = 0
django_application = get_asgi_application()

from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402

from apps.console.routing import websocket_urlpatterns  # noqa: E402
from portal.bodies import BodyLimit  # noqa: E402
from portal.commands import refuse_bad_environment  # noqa: E402

refuse_bad_environment("web")
application = ProtocolTypeRouter(
    {
        "http": BodyLimit(django_application),
        "websocket": AllowedHostsOriginValidator(AuthMiddlewareStack(URLRouter(websocket_urlpatterns))),
    }
)
