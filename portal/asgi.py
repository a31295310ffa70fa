import gc
import os

import django
from django.conf import settings

gc.disable()  # all that is loaded here stays: looking for garbage in it is a fifth of the start

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
django.setup(set_prefix=False)

from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from django.urls import get_resolver  # noqa: E402

from apps.console.routing import websocket_urlpatterns  # noqa: E402
from portal.addresses import ClientAddress  # noqa: E402
from portal.bodies import BodyLimit  # noqa: E402
from portal.commands import refuse_bad_environment  # noqa: E402
from portal.web import ThreadedHandler  # noqa: E402

refuse_bad_environment("web")
get_resolver().url_patterns  # noqa: B018  (imports every page: now, and not at the first request)
application = ClientAddress(
    ProtocolTypeRouter(
        {
            "http": BodyLimit(ThreadedHandler(settings.WEB_THREADS)),
            "websocket": AllowedHostsOriginValidator(AuthMiddlewareStack(URLRouter(websocket_urlpatterns))),
        }
    ),
    settings.TRUSTED_PROXIES,
)

gc.freeze()
gc.enable()
