"""Settings of Swarmdesk, read from the environment (``docs/reference/environment.md``)."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.templatetags.static import static
from django.urls import reverse_lazy

from portal import env, files, keyring, redaction

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = Path(env.text("DATA_DIR") or BASE_DIR / ".portal")

DEBUG = env.flag("DEBUG", False)
DATABASE_URL = env.text("DATABASE_URL")
# Without a database of its own this is a machine of one person trying things out: work at once, on loopback only.
STANDALONE = not DATABASE_URL or env.flag("STANDALONE", False)

SECRET_KEY = env.text("SECRET_KEY")
if not SECRET_KEY and STANDALONE:
    try:
        SECRET_KEY = files.kept_text(DATA_DIR / "secret-key", lambda: secrets.token_urlsafe(50))
    except OSError:  # who needs the folder says so; nothing else can come of this process
        SECRET_KEY = secrets.token_urlsafe(50)
redaction.know(SECRET_KEY)
ALLOWED_HOSTS = env.items("ALLOWED_HOSTS", ["127.0.0.1", "localhost", "[::1]"] if STANDALONE else [])
CSRF_TRUSTED_ORIGINS = env.items("CSRF_TRUSTED_ORIGINS")
TRUSTED_PROXIES = env.networks("TRUSTED_PROXIES")

INSTALLED_APPS = [
    # Its app only makes `runserver` serve sockets, and takes a third of the time in which any other command starts.
    *(["daphne"] if sys.argv[1:2] == ["runserver"] else []),
    "unfold.apps.BasicAppConfig",
    "unfold.contrib.filters",
    "unfold.contrib.forms",
    "unfold.contrib.import_export",
    "import_export",
    "portal.apps.AdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "channels",
    "rest_framework",
    "knox",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "drf_standardized_errors",
    "django_q",
    "axes",
    "portal",
    "apps.events",
    "apps.audit",
    "apps.privacy",
    "apps.tenants",
    "apps.costs",
    "apps.providers",
    "apps.swarms",
    "apps.execution",
    "apps.webhooks",
    "apps.observability",
    "apps.api",
    "apps.console",
    "apps.demo",
]

MIDDLEWARE = [
    "portal.headers.SecurityHeaders",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "apps.api.logins.LoginLimits",
    "apps.tenants.middleware.PolicyTrail",
    "axes.middleware.AxesMiddleware",  # last: it answers in the place of a view that a lock-out refused
]

ROOT_URLCONF = "portal.urls"
ASGI_APPLICATION = "portal.asgi.application"
WEB_THREADS = env.whole("WEB_THREADS", 8)
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# -- data ------------------------------------------------------------------------------------------------------------

_database: dict[str, Any]
if DATABASE_URL:
    _database = env.database("DATABASE_URL")
else:
    _database = {"NAME": "postgres", "EMBEDDED_DIR": DATA_DIR / "postgres"}
_database["ENGINE"] = "portal.database"
_database["CONN_MAX_AGE"] = 60
_database["CONN_HEALTH_CHECKS"] = True
# Server-side cursors do not survive a transaction pooler (PgBouncer).
_database["DISABLE_SERVER_SIDE_CURSORS"] = True
_database["OPTIONS"] = {"application_name": env.text("APPLICATION_NAME", "swarmdesk"), **_database.get("OPTIONS", {})}
DATABASES = {"default": _database}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

CACHE_URL = env.text("CACHE_URL")
CACHES: dict[str, dict[str, Any]] = {
    "default": (
        {"BACKEND": "portal.cache.ForgivingRedisCache", "LOCATION": CACHE_URL, "KEY_PREFIX": "swarmdesk"}
        if CACHE_URL
        else {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "OPTIONS": {"MAX_ENTRIES": 10_000}}
    )
}

# Objects lie in S3, or in what speaks like it, when a bucket is named; else in files of this machine. Without keys
# here, boto3 looks where it always does: a role of the machine, a profile.
STORAGE_BUCKET = env.bucket("STORAGE_BUCKET")
STORAGE_ENDPOINT_URL = env.url("STORAGE_ENDPOINT_URL")
AWS_ACCESS_KEY_ID = env.text("AWS_ACCESS_KEY_ID") or None
AWS_SECRET_ACCESS_KEY = env.text("AWS_SECRET_ACCESS_KEY") or None


def _objects(folder: str, **parameters: str) -> dict[str, Any]:
    """A storage for one kind of objects: a folder of the bucket, or of ``DATA_DIR``."""
    if STORAGE_BUCKET:
        from portal.storage import bucket_options

        options = bucket_options(STORAGE_BUCKET, STORAGE_ENDPOINT_URL, location=folder, object_parameters=parameters)
        return {"BACKEND": "portal.bucket.BucketStorage", "OPTIONS": options}
    return {"BACKEND": "portal.storage.WholeFileStorage", "OPTIONS": {"location": str(DATA_DIR / folder)}}


STORAGES = {
    "default": _objects("storage"),
    "archive": _objects("archive", ContentType="application/gzip"),
    "artifacts": _objects("artifacts"),
    "staticfiles": {"BACKEND": "portal.storage.StaticFilesStorage"},
}
STATIC_URL = "static/"
STATIC_ROOT = None if STANDALONE else BASE_DIR / "staticfiles"
STATICFILES_DIRS = [BASE_DIR / "static"]
WHITENOISE_USE_FINDERS = STANDALONE  # no collectstatic step on a laptop

# -- people ----------------------------------------------------------------------------------------------------------

AUTH_USER_MODEL = "tenants.User"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",  # refuses who is locked out, before the others are asked
    "apps.tenants.authentication.LocalBackend",
    "apps.tenants.oidc.backend.OidcBackend",
]
LOGIN_URL = reverse_lazy("console:login")
LOGOUT_URL = reverse_lazy("console:logout")
LOGIN_REDIRECT_URL = reverse_lazy("console:overview")
LOGOUT_REDIRECT_URL = reverse_lazy("console:login")

OIDC_ISSUER = env.url("OIDC_ISSUER")
OIDC_CLIENT_ID = env.text("OIDC_CLIENT_ID")
OIDC_CLIENT_SECRET = env.text("OIDC_CLIENT_SECRET")
OIDC_GROUP_ROLES = env.group_roles("OIDC_GROUP_ROLES")

# Wrong passwords lock out one name from one address: whoever guesses cannot lock its owner out from elsewhere.
AXES_FAILURE_LIMIT = env.whole("LOGIN_ATTEMPTS", 5)
AXES_COOLOFF_TIME = timedelta(minutes=env.whole("LOGIN_PAUSE_MINUTES", 15))
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False  # going on guessing does not make it last longer
AXES_RESET_ON_SUCCESS = True
AXES_LOCKOUT_CALLABLE = "apps.console.views.account.locked_out"
AXES_CLIENT_IP_CALLABLE = "apps.tenants.sessions.address_of"
AXES_SENSITIVE_PARAMETERS = ["username", "ip_address", "csrfmiddlewaretoken", "next"]
AXES_DISABLE_ACCESS_LOG = True  # the audit trail has it
AXES_ENABLE_ADMIN = False  # a page of ours, with an audited way to unlock
AXES_VERBOSE = False

LANGUAGE_CODE = "en-us"
LANGUAGES = [("en", "English")]  # every page of the administration looks up the names of all
TIME_ZONE = "UTC"
USE_I18N = False  # every text is English: nothing is looked up, and dates keep their form
USE_TZ = True

# -- security --------------------------------------------------------------------------------------------------------

# Seals what must not lie in the database in clear (portal.encryption); None when it is not set, or wrong.
VAULT_MASTER_KEY = env.parsed(
    "VAULT_MASTER_KEY",
    lambda raw: keyring.Keyring(keyring.parse_keys(raw)),
    None,
    "keys of 32 random bytes in base64, by commas",
)

# Where the keys of model providers are read, how often, and for how long a key that was replaced is kept.
SECRETS_BACKEND = env.secrets_backend("SECRETS_BACKEND")
SECRETS_REFRESH_S = env.whole("SECRETS_REFRESH_S", 3600, low=5)
SECRETS_GRACE_S = env.whole("SECRETS_GRACE_S", 900, low=0)
VAULT_TOKEN = env.text("VAULT_TOKEN")
DOPPLER_TOKEN = env.text("DOPPLER_TOKEN")

# Of one form or JSON document; what may be larger says so itself (apps.api.parsers), up to portal.bodies.
DATA_UPLOAD_MAX_MEMORY_SIZE = 2_621_440
DATA_UPLOAD_MAX_NUMBER_FIELDS = 2000  # a list of the admin has a few for each of its rows
DATA_UPLOAD_MAX_NUMBER_FILES = 10

SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SESSION_ENGINE = "portal.sessions"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
if not STANDALONE:
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_SSL_REDIRECT = True
    SECURE_REDIRECT_EXEMPT = [r"^(livez|readyz|metrics)$"]
    SECURE_HSTS_SECONDS = 365 * 24 * 3600
    SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = True

# -- background work -------------------------------------------------------------------------------------------------

LEASE_SECONDS = env.parsed("LEASE_SECONDS", int, 30, "a whole number")
# What kind of process this is: it decides which keys of providers it may hold.
_named_class = env.worker_class("WORKER_CLASS")
WORKER_CLASS = (
    _named_class
    or os.environ.get("Q_CLUSTER_NAME")
    or {"orchestrate": "orchestrator", "work": "ops"}.get("".join(sys.argv[1:2]), "web")
)
# Runners are counted and replaced per node; a class of workers of its own counts its own.
NODE_NAME = ((env.text("NODE_NAME") or socket.gethostname()) + (f"/{_named_class}" if _named_class else ""))[:80]
RUNNER_CONCURRENCY = 200
RUNNER_LIFETIME_S = 3600
GRACE_SECONDS = env.parsed("GRACE_SECONDS", int, 45, "a whole number")

# Webhooks go to public addresses over https, and to these networks as well, also over plain http.
WEBHOOK_ALLOWED_NETWORKS = env.networks("WEBHOOK_ALLOWED_NETWORKS")
WEBHOOK_DAYS_KEPT = env.whole("WEBHOOK_DAYS_KEPT", 30)
# What is kept so as not to ask again. Lifetimes in seconds.
RESPONSE_CACHE_S = env.whole("RESPONSE_CACHE_S", 300)
RESPONSE_CACHE_DEGRADED_S = env.whole("RESPONSE_CACHE_DEGRADED_S", 86_400)
RESPONSE_CACHE_ENTRIES = env.whole("RESPONSE_CACHE_ENTRIES", 1000)
# Files of agents: up to how many bytes they lie in the database, the most bytes of one, and the most of a task.
ARTIFACT_DATABASE_BYTES = env.whole("ARTIFACT_DATABASE_BYTES", 1_000_000, low=0)
ARTIFACT_MAX_BYTES = env.whole("ARTIFACT_MAX_BYTES", 100_000_000)
ARTIFACTS_PER_TASK = env.whole("ARTIFACTS_PER_TASK", 100)
CONFIGURATION_CACHE_S = env.whole("CONFIGURATION_CACHE_S", 3600)
MODEL_CATALOGUE_S = env.whole("MODEL_CATALOGUE_S", 86_400, low=900)

_runner_timeout = RUNNER_LIFETIME_S + 600
Q_CLUSTER = {
    "name": "swarmdesk",
    "cluster_name": "ops",
    "orm": "default",
    "broker_class": "apps.execution.broker.NodeBroker",
    "workers": env.whole("OPS_WORKERS", 2),
    "poll": 0.5,
    "timeout": 900,
    "retry": 960,
    "max_attempts": 1,
    "ack_failures": True,
    "catch_up": False,
    "save_limit": 1000,
    "log_level": "WARNING",
    "label": "Background jobs",
    "ALT_CLUSTERS": {
        "agents": {
            "orm": "default",
            "workers": env.whole("AGENT_WORKERS", 2),
            "poll": 0.5,
            "timeout": _runner_timeout,
            "retry": _runner_timeout + 60,
            "max_attempts": 1,
            "ack_failures": True,
            "recycle": 1,
            "scheduler": False,
            "save_limit": 100,
            "log_level": "WARNING",
        }
    },
}

# -- REST API --------------------------------------------------------------------------------------------------------

REST_FRAMEWORK: dict[str, Any] = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "apps.tenants.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["apps.api.parsers.BoundedJSONParser"],
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_SCHEMA_CLASS": "apps.api.schema.AutoSchema",
    "EXCEPTION_HANDLER": "drf_standardized_errors.handler.exception_handler",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
# Requests a minute; 0: no limit. By token, by user of a session, by token or user for what agents elsewhere report, and
# by address for who is not logged in. Attempts to log in: from an address, and with a name.
RATE_LIMITS = {
    "token": env.whole("API_LIMIT_TOKEN", 1200, low=0),
    "session": env.whole("API_LIMIT_SESSION", 1200, low=0),
    "ingest": env.whole("API_LIMIT_INGEST", 6000, low=0),
    "address": env.whole("API_LIMIT_ADDRESS", 120, low=0),
    "login": env.whole("LOGIN_LIMIT_ADDRESS", 60, low=0),
    "name": env.whole("LOGIN_LIMIT_NAME", 10, low=0),
}
DRF_STANDARDIZED_ERRORS: dict[str, Any] = {
    "EXCEPTION_HANDLER_CLASS": "apps.api.errors.ExceptionHandler",
    "EXCEPTION_FORMATTER_CLASS": "apps.api.errors.Formatter",
}
REST_KNOX = {
    "TOKEN_MODEL": "tenants.ApiToken",
    "AUTH_HEADER_PREFIX": "Bearer",
    "TOKEN_TTL": timedelta(days=90),
}
KNOX_TOKEN_MODEL = "tenants.ApiToken"
SPECTACULAR_SETTINGS: dict[str, Any] = {
    "TITLE": "Swarmdesk API",
    "DESCRIPTION": "Submit, watch and steer swarms of LLM agents; read what they cost.",
    "VERSION": "1.0.0",
    "OAS_VERSION": "3.1.1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "ENUM_NAME_OVERRIDES": {
        "SwarmStatus": "apps.swarms.models.SwarmStatus",
        "TaskStatus": "apps.swarms.models.TaskStatus",
        "FailureCode": "apps.swarms.models.FailureCode",
        "WebhookStatus": "apps.webhooks.models.WebhookStatus",
        "DeliveryStatus": "apps.webhooks.models.DeliveryStatus",
    },
    "TAGS": [
        {"name": "me", "description": "Who you are and what you may do."},
        {"name": "swarms", "description": "Submitting, watching and steering swarms."},
        {"name": "tasks", "description": "Single tasks and the attempts at them."},
        {"name": "agents", "description": "The agents that swarms employ."},
        {"name": "budgets", "description": "Limits on spending, and how they stand."},
        {"name": "costs", "description": "What was spent, and what agents elsewhere spend."},
        {"name": "pool", "description": "What there is to run on, and what is taken."},
        {"name": "webhooks", "description": "Where events are sent to, and what became of each delivery."},
        {"name": "tokens", "description": "With what programs log in."},
        {"name": "audit", "description": "Who did what."},
    ],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
}

# -- admin -----------------------------------------------------------------------------------------------------------

UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "Swarmdesk",
    "SITE_HEADER": "Swarmdesk",
    "SITE_SUBHEADER": "Administration",
    "SITE_URL": "/",
    "SITE_SYMBOL": "hub",
    "SITE_FAVICONS": [
        {"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("swarmdesk.svg")},
    ],
    "SHOW_HISTORY": True,  # leads to the audit trail
    "SHOW_VIEW_ON_SITE": False,
    "SHOW_BACK_BUTTON": True,
    "ENVIRONMENT": "portal.admin_site.environment",
    "STYLES": [lambda request: static("swarmdesk.css"), lambda request: static("portal/admin.css")],
    "BORDER_RADIUS": "6px",
    "COLORS": {
        "primary": {
            "50": "oklch(97.7% .014 230)",
            "100": "oklch(95.1% .026 230)",
            "200": "oklch(90.1% .058 230)",
            "300": "oklch(82.8% .111 230)",
            "400": "oklch(74.6% .14 232)",
            "500": "oklch(65% .15 238)",
            "600": "oklch(54% .14 242)",
            "700": "oklch(47% .125 243)",
            "800": "oklch(41% .105 242)",
            "900": "oklch(36% .09 243)",
            "950": "oklch(27% .07 244)",
        },
    },
    "SIDEBAR": {"show_search": True, "navigation": "portal.admin_site.navigation"},
}

# -- logs ------------------------------------------------------------------------------------------------------------

LOG_FORMAT = env.choice("LOG_FORMAT", ["json", "console"], "console" if STANDALONE else "json")
DEFAULT_EXCEPTION_REPORTER = "portal.error_reports.Reporter"
DEFAULT_EXCEPTION_REPORTER_FILTER = "portal.error_reports.ReporterFilter"
LOGGING_CONFIG = None  # portal.logs configures logging, once, for Django and structlog alike
