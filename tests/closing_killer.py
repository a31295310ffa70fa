"""Kills a process at each line of closing a month, and finishes what it left: ``python -m tests.closing_killer ID...``.

For each distinct line that closing comes to, a forked process closes the month of the next of these tenants and is
killed (SIGKILL) right before that line; then the queued job, or where there is none a repeat, is run to its end. On
stdout, a JSON line for each: {"id", "killed", "left" (how things stood then)}; on stderr the places.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from typing import Any

import django

from tests.killer import forked, killed_at

MODULES = ("/apps/costs/statements.py", "/apps/costs/models/statement.py", "/apps/costs/periods.py")


def main(*ids: str) -> None:
    django.setup()
    from django.utils import timezone
    from django_q.models import OrmQ

    from apps.audit.models import AuditEntry
    from apps.costs.models import Statement
    from apps.costs.periods import Month
    from apps.costs.statements import close, finish
    from apps.tenants.access import principal_of_command
    from apps.tenants.models import Tenant

    month, by = Month(2026, 9), principal_of_command("killer")

    def left(tenant_id: str) -> dict[str, Any]:
        statement = Statement.objects.filter(tenant_id=tenant_id).first()
        jobs = [job.task["kwargs"]["statement_id"] for job in OrmQ.objects.all()] if statement else []
        return {
            "status": statement.status if statement else "",
            "jobs": jobs.count(str(statement.pk)) if statement else 0,
            "acts": AuditEntry.objects.filter(tenant_id=tenant_id, action="cost:update").count(),
            "lines": statement.lines.count() if statement else 0,
        }

    def work(tenant_id: str) -> Any:
        return close(Tenant.objects.get(pk=tenant_id), month, by=by, now=timezone.now())

    for number, tenant_id in enumerate(ids, start=1):
        status = forked(killed_at(number, lambda id=tenant_id: work(id), MODULES))  # type: ignore[misc]
        told = {"id": tenant_id, "killed": os.WIFSIGNALED(status), "left": left(tenant_id)}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
        if not told["killed"]:
            return
        begun = Statement.objects.filter(tenant_id=tenant_id).first()
        if begun:
            finish(begun.pk, now=timezone.now())
        else:
            close(Tenant.objects.get(pk=uuid.UUID(tenant_id)), month, by=by, now=timezone.now())
    sys.exit("there are more lines than ids")


if __name__ == "__main__":
    main(*sys.argv[1:])
