"""The one place that enqueues background work."""

from __future__ import annotations

from typing import Any

from django_q.tasks import async_task


def enqueue(task: str, *, cluster: str = "ops", **kwargs: Any) -> str:
    """Enqueues the task door at dotted path ``task`` with keyword arguments; the queue's id of it.

    Inside a transaction the row commits with it, so work is never enqueued for a change that was rolled back.
    """
    return str(async_task(task, cluster=cluster, **kwargs))
